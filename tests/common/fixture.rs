//! A place of its own for a test: home, manifest, repository, and the program run in it as an
//! account. What was left behind is looked for at the end, and removed.

use std::{
    ffi::OsStr,
    fmt, fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::common::{
    account::{Account, own_uid},
    archive::{Archive, Files, write},
    base,
    server::Server,
};

/// How long one run of the program may take before it counts as hung. Far above what any takes.
const PATIENCE: &str = "900";

/// A home, a work folder and the program.
pub(crate) struct Fixture {
    pub(crate) account: Account,
    folder: PathBuf,
}

/// How a command ended.
pub(crate) struct Outcome {
    command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fixture {
    /// A fixture that belongs to `account`.
    pub(crate) fn new(account: Account) -> Self {
        // On disk and enterable by every account: /tmp is often a tmpfs, target/ below a home.
        let parent = std::env::var_os("TREESTRAP_TESTS_DIR").unwrap_or_else(|| "/var/tmp".into());
        let folder = tempfile::Builder::new()
            .prefix("treestrap-test-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .expect("a folder for the test")
            .keep();
        let fixture = Fixture { account, folder };
        for name in ["home", "work"] {
            let (uid, gid) = account.ids();
            let path = fixture.folder.join(name);
            fs::create_dir(&path).expect("a new folder");
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("a folder of our own");
        }
        // cp, because a file that this process wrote may be "busy": another test's fork holds it
        let copied = Command::new("sh")
            .args([
                "-c",
                "cp --link \"$1\" \"$2\" 2>/dev/null || cp \"$1\" \"$2\"",
                "sh",
                env!("CARGO_BIN_EXE_treestrap"),
            ])
            .arg(fixture.program())
            .status();
        assert!(copied.expect("sh").success(), "the program cannot be copied");
        fixture
    }

    /// A fixture with a manifest for one archive behind `uri`: the image `tiny` of `packages`.
    pub(crate) fn with_archive(account: Account, archive: &Archive, uri: &str, packages: &[&str]) -> Self {
        let fixture = Fixture::new(account);
        fixture.trust(archive);
        fixture.write("treestrap.toml", &fixture.manifest(uri, &[("tiny", packages)]));
        fixture
    }

    /// Puts an archive's public key where the manifest names it.
    pub(crate) fn trust(&self, archive: &Archive) {
        fs::write(self.folder.join("archive.asc"), archive.key.public_armored()).expect("a writable folder");
    }

    /// The text of a manifest: one repository `mini`, and images with their packages.
    pub(crate) fn manifest(&self, uri: &str, images: &[(&str, &[&str])]) -> String {
        let key = self.folder.join("archive.asc");
        let mut text = format!(
            "[repos.mini]\nuris = [{uri:?}]\nsuites = [\"mini\"]\ncomponents = [\"main\"]\nsigned-by = {key:?}\n"
        );
        for (image, packages) in images {
            text +=
                &format!("\n[images.{image}]\narch = {:?}\npackages = {packages:?}\n", base::architecture());
        }
        text
    }

    /// The folder of the test; the account cannot write into it, but for `home` and `work`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program, where every account can run it.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("treestrap")
    }

    /// A path below the work folder, where the manifest is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join("work").join(name)
    }

    /// The repository that the manifest's folder defaults to.
    pub(crate) fn repo(&self) -> PathBuf {
        self.path(".treestrap/repo")
    }

    /// Writes a file of the account's into the work folder.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::write(&path, content).expect("a writable folder");
        let (uid, gid) = self.account.ids();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("a file of our own");
    }

    /// Reads a file of the work folder.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Writes an archive as files; gives its `file:` URI.
    pub(crate) fn write_archive(&self, files: &Files) -> String {
        let folder = self.folder.join("archive");
        write(files, &folder);
        format!("file:{}", folder.display())
    }

    /// A command in the work folder, as the account.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.account.command(program, &self.folder.join("home"));
        command.current_dir(self.folder.join("work"));
        command
    }

    /// Runs any program in the work folder, as the account.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[S]) -> Outcome {
        let mut command = self.command("timeout");
        command.args(["--kill-after=10", PATIENCE]).arg(program).args(arguments);
        finish(command)
    }

    /// Runs treestrap in the work folder, as the account.
    pub(crate) fn treestrap<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome {
        self.run(self.program(), arguments)
    }

    /// Starts treestrap in the background; the child's id is treestrap's own.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Child {
        let mut command = self.command(self.program());
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }

    /// The checksum that a ref names, by the ostree program; none where there is no such ref.
    pub(crate) fn rev(&self, name: &str) -> Option<String> {
        let output = ostree(&["rev-parse", "--repo", self.repo().to_str().expect("UTF-8"), name]);
        output.status.success().then(|| output.stdout.trim().to_owned())
    }

    /// All refs, by the ostree program.
    pub(crate) fn refs(&self) -> Vec<String> {
        let output = ostree(&["refs", "--repo", self.repo().to_str().expect("UTF-8")]).ok();
        output.stdout.lines().map(str::to_owned).collect()
    }

    /// Asserts that the ostree program finds every object of the repository sound.
    pub(crate) fn fsck(&self) {
        ostree(&["fsck", "--quiet", "--repo", self.repo().to_str().expect("UTF-8")]).ok();
    }

    /// The content of a file in the configured image, by the ostree program.
    pub(crate) fn cat(&self, image: &str, path: &str) -> String {
        let reference = format!("deb/images/{image}/configured");
        ostree(&["cat", "--repo", self.repo().to_str().expect("UTF-8"), &reference, path]).ok().stdout
    }

    /// All paths of a ref, by the ostree program: `(mode, uid, gid, path with the link's target)`.
    pub(crate) fn listing(&self, reference: &str) -> Vec<String> {
        let output =
            ostree(&["ls", "-R", "--repo", self.repo().to_str().expect("UTF-8"), reference, "/"]).ok();
        output.stdout.lines().map(str::to_owned).collect()
    }

    /// What the kernel still has of this fixture: mounts and processes, of any namespace.
    ///
    /// Root sees every process; another user its own, which are all there can be.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let needle = self.folder.to_str().expect("UTF-8");
        let mut left = Vec::new();
        for process in fs::read_dir("/proc").expect("a mounted /proc").flatten() {
            let path = process.path();
            let is_process = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
            if !is_process || path.ends_with(std::process::id().to_string()) {
                continue;
            }
            // a sandbox's processes have an environment of their own, but its mounts name us
            let named = ["cmdline", "environ", "mountinfo"].iter().find(|file| {
                let text = fs::read(path.join(file)).unwrap_or_default();
                String::from_utf8_lossy(&text).contains(needle)
            });
            if let Some(file) = named {
                let name = fs::read(path.join("cmdline")).unwrap_or_default();
                let name = String::from_utf8_lossy(&name).replace('\0', " ");
                left.push(format!("process {} ({file}): {name}", path.display()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a mounted /proc");
        left.extend(mounts.lines().filter(|line| line.contains(needle)).map(|line| format!("mount {line}")));
        left
    }

    /// Asserts that the repository has no mount below it but this one, which a test made itself.
    pub(crate) fn assert_only_mount(&self, path: &Path) {
        let path = path.to_str().expect("UTF-8");
        let left =
            self.left_behind().into_iter().filter(|line| !(line.starts_with("mount") && line.contains(path)));
        // every process of the host sees that mount: look at command lines and environments alone
        let left: Vec<String> = left.filter(|line| !line.contains("(mountinfo)")).collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// All objects of the repository, by name.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> = fs::read_dir(self.repo().join("objects"))
            .expect("a repository")
            .flatten()
            .flat_map(|folder| fs::read_dir(folder.path()).expect("a folder of objects").flatten())
            .map(|entry| entry.path())
            .collect();
        out.sort();
        out
    }

    /// Asserts that nothing is left behind, allowing what was killed a moment to go.
    pub(crate) fn assert_nothing_left(&self) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let left = self.left_behind();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < limit, "left behind: {left:#?}");
            pause();
        }
    }
}

/// A moment, between two looks at something that reports nothing by itself.
#[allow(clippy::disallowed_methods, reason = "/proc cannot be waited for")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::env::var_os("TREESTRAP_TESTS_KEEP").is_some() {
            eprintln!("kept: {}", self.folder.display());
            return;
        }
        // a folder with something mounted in it is not removed: that something may be the host's
        let needle = self.folder.to_str().expect("UTF-8");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounted = mounts.contains(needle);
        if !mounted && fs::remove_dir_all(&self.folder).is_err() && own_uid() != 0 {
            // files of subordinate ids: only their namespace's root can remove them
            let arguments = ["--map-root-user", "--map-auto", "rm", "-rf", "--", needle];
            drop(Command::new("unshare").args(arguments).status());
        }
        if !std::thread::panicking() {
            assert!(!mounted, "something is still mounted below {needle}");
        }
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Outcome {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    Outcome {
        command: shown,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for a process that [`Fixture::start`] started.
pub(crate) fn wait(child: Child) -> Outcome {
    let output = child.wait_with_output().expect("a child of ours");
    Outcome {
        command: "treestrap in the background".to_owned(),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The ostree program.
pub(crate) fn ostree(arguments: &[&str]) -> Outcome {
    let mut command = Command::new("ostree");
    command.args(arguments);
    finish(command)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n{}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
}

impl Outcome {
    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Asserts this exit status.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert!(self.status.code() == Some(code), "exit status {code} expected: {self}");
        self
    }

    /// Asserts an end by this signal, or the exit status that shells and treestrap show it as.
    #[track_caller]
    pub(crate) fn ended_by(self, signal: i32) -> Self {
        let shown = self.status.signal() == Some(signal) || self.status.code() == Some(128 + signal);
        assert!(shown, "signal {signal} expected: {self}");
        self
    }

    /// Asserts that stderr has all these texts.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} expected on stderr: {self}");
        }
        self
    }

    /// Asserts that stderr has none of these texts.
    #[track_caller]
    pub(crate) fn does_not_say(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(!self.stderr.contains(text), "{text:?} not expected on stderr: {self}");
        }
        self
    }
}

/// A fixture with the archive that its manifest names, served over HTTP.
pub(crate) struct Miniature {
    pub(crate) archive: Archive,
    pub(crate) server: Server,
    pub(crate) fixture: Fixture,
}

impl Miniature {
    /// An archive of the packages in `text` beside the base, and the image `tiny` of `packages`.
    pub(crate) fn new(account: Account, text: &str, packages: &[&str]) -> Self {
        Miniature::of(account, Archive::with_base(text), packages)
    }

    /// The image `tiny` of `packages` from this archive.
    pub(crate) fn of(account: Account, archive: Archive, packages: &[&str]) -> Self {
        let server = Server::new(archive.publish());
        let fixture = Fixture::with_archive(account, &archive, &server.uri(), packages);
        Miniature { archive, server, fixture }
    }

    /// Publishes the archive anew, a minute later than before, as an archive's own update does.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Archive)) {
        self.archive.suite().date += Duration::from_secs(60);
        change(&mut self.archive);
        self.server.publish(self.archive.publish());
    }

    /// Rewrites the manifest with these images.
    pub(crate) fn images(&self, images: &[(&str, &[&str])]) {
        self.fixture.write("treestrap.toml", &self.fixture.manifest(&self.server.uri(), images));
    }
}
