//! The test programs' frame: running as root and as a user, skipping honestly, trees to run in.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command as Host, ExitCode},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use sandbox::{
    Change, Command, Entry, Layer, Mount, Plan, Session, Source, Status, Stdio, Stored, View,
    view::{self, ListingBuilder, ROOT, list_folder},
};
use tempfile::TempDir;

/// A test: its name, what it cannot do without, itself.
pub(crate) type Test = (&'static str, &'static [&'static str], fn());

/// Names the view that tests are run in: `folders`, or one of a stored tree. Roles inherit it.
const VIEW: &str = "TREESTRAP_TEST_VIEW";

/// How the base layer is shown: none, a folder as it is.
pub(crate) fn view() -> Option<View> {
    let name = std::env::var(VIEW).ok()?;
    View::PREFERENCE.into_iter().find(|view| view.name() == name)
}

/// Runs the tests whose names match; as root, also as a user. `groups` in every view, `once` in one.
pub(crate) fn run(arguments: &[String], groups: &[&[Test]], once: &[&[Test]]) -> ExitCode {
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        let all = groups.iter().chain(once).flat_map(|group| group.iter());
        all.for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let is_root = nix::unistd::geteuid().is_root();
    if std::env::var_os(VIEW).is_none() {
        // Each view in a process of its own, so that nothing of one is left for the next.
        let views = ["folders"].into_iter().chain(View::PREFERENCE.map(View::name));
        let ok = views.map(|view| {
            let mut again = Host::new("/proc/self/exe");
            again.args(arguments).env(VIEW, view).status().expect("it starts").success()
        });
        let ok = ok.fold(true, |all, one| all & one);
        return if ok & (!is_root || again_as_user(arguments)) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let all: Vec<&[Test]> = match view() {
        None => groups.iter().chain(once).copied().collect(),
        Some(_) => groups.to_vec(),
    };
    let who = if is_root { "root" } else { "user" };
    let who = format!("{who}, {}", view().map_or("folders", View::name));
    let must_run = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    let missing = what_is_missing();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    for (name, needs, test) in all.into_iter().flatten() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        // An older kernel exempts the host's root: there is nothing to test.
        if !process_limit_holds() && needs.contains(&"process-limit") {
            continue;
        }
        // What only root does is tested when root is.
        if !is_root && needs.contains(&"root") {
            continue;
        }
        if let Some((what, why)) = missing.iter().find(|(what, _)| needs.contains(what)) {
            if must_run.split(',').any(|must| must == "all" || must == *what) {
                println!("{who}: {name}: FAILED: it must run, but {why}");
                failed.push(*name);
            } else {
                println!("{who}: {name}: skipped: {why}");
                skipped += 1;
            }
            continue;
        }
        let started = std::time::Instant::now();
        let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
        let result = if ok { "ok" } else { "FAILED" };
        println!("{who}: {name}: {result} ({:.2} s)", started.elapsed().as_secs_f64());
        if ok { passed += 1 } else { failed.push(*name) }
    }
    println!("{who}: {passed} passed, {} failed {failed:?}, {skipped} skipped", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the kernel limits the processes of this user's sandboxes: see `Limits::processes`.
pub(crate) fn process_limit_holds() -> bool {
    !nix::unistd::geteuid().is_root() || pid_namespaces_have_limits()
}

/// Linux ≥ 6.14.
pub(crate) fn pid_namespaces_have_limits() -> bool {
    let release = nix::sys::utsname::uname().expect("it has a name").release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

/// What tests may need and this machine has not, with the reason.
fn what_is_missing() -> Vec<(&'static str, String)> {
    let mut missing = Vec::new();
    if let Err(error) = Session::start(&Tree::new().plan()) {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let is_fuse = error.step() == Some(sandbox::Step::Fuse);
        for what in if is_fuse { &["fuse", "userns"][..] } else { &["userns", "overlay", "fuse"] } {
            missing.push((*what, format!("{error}{hint}")));
        }
    } else if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        missing.push(("fuse", format!("/dev/fuse: {error}")));
    }
    if let Some(why) = no_range() {
        missing.push(("range", why));
    }
    if !Path::new("/usr/bin/python3").exists() {
        missing.push(("python", "there is no python3 on this machine".to_owned()));
    }
    if let Some(why) = crate::foreign::no_binfmt() {
        missing.push(("binfmt", why));
    }
    if let Some(why) = crate::doctor::no_apparmor() {
        missing.push(("apparmor", why));
    }
    if let Some(why) = crate::foreign::no_archive() {
        missing.push(("archive", why));
    }
    let host = qemu::host().expect("a port of Debian");
    let i386 = qemu::find("i386").expect("known");
    if !qemu::runs_natively(host, i386, &std::env::temp_dir()).expect("tried") {
        missing.push(("i386", "this kernel does not run i386 programs".to_owned()));
    }
    missing
}

/// Why this account has no tier full, if it has none.
pub(crate) fn no_range() -> Option<String> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    let try_it = || {
        let plan = Plan { tier: Some(sandbox::Tier::Full), ..Tree::new().plan() };
        let error = Session::start(&plan).err().filter(|error| error.step() == Some(sandbox::Step::Mapping));
        error.map(|error| error.to_string())
    };
    WHY.get_or_init(try_it).clone()
}

fn again_as_user(arguments: &[String]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    as_user(folder.path(), "666", arguments).status().expect("unshare starts").success()
}

/// This program as the user that tests are run as, who finds a /dev/fuse of this mode that nobody else
/// sees. For root. The program is copied to `folder`, since the build folder may be root's alone.
pub(crate) fn as_user(folder: &Path, mode: &str, arguments: &[String]) -> Host {
    let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let first = ranges.lines().filter_map(|line| line.split(':').next()).find(|name| *name != "root");
    let user = std::env::var("TREESTRAP_TEST_USER").ok().or(first.map(str::to_owned)).unwrap_or_else(|| {
        let made =
            Host::new("useradd").args(["--create-home", "treestrap-test"]).status().expect("useradd starts");
        assert!(made.success(), "useradd: {made}");
        "treestrap-test".to_owned()
    });
    let program = folder.join("kernel");
    fs::copy("/proc/self/exe", &program).expect("copied");
    for path in [folder, &program] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("readable by others");
    }
    // setpriv clears the environment, and env puts back what the tests look at.
    let must_run = std::env::var("TREESTRAP_TESTS_MUST_RUN").unwrap_or_default();
    const OWN_DEVICE: &str = r#"
        mode=$1; shift
        if [ -c /dev/fuse ]; then
            mount -t tmpfs -o mode=755,size=64k tmpfs /mnt
            mknod -m "$mode" /mnt/fuse c 10 229
            mount --bind /mnt/fuse /dev/fuse
            umount -l /mnt
        fi
        exec "$@""#;
    let mut host = Host::new("unshare");
    host.args(["--mount", "--propagation", "private", "--", "sh", "-euc", OWN_DEVICE, "sh", mode, "setpriv"])
        .args(["--reuid", &user, "--regid", &group_of(&user), "--clear-groups", "--reset-env", "env"])
        .arg(format!("TREESTRAP_TESTS_MUST_RUN={must_run}"))
        .arg(format!("TREESTRAP_TEST_CACHE={}", crate::foreign::cache().display()))
        .arg(&program)
        .args(arguments)
        .current_dir("/");
    host
}

fn group_of(user: &str) -> String {
    let output = Host::new("id").args(["-g", user]).output().expect("id starts");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A folder that is removed at the end, sessions' leftovers too.
pub(crate) struct Tree {
    folder: TempDir,
}

impl Tree {
    /// A base tree that has what programs of the host's /usr need, and things to change.
    pub(crate) fn new() -> Self {
        let tree = Tree { folder: tempfile::tempdir().expect("a folder") };
        let base = tree.base();
        for folder in ["etc", "root", "run/lock", "tmp", "usr", "var/lib/things", "proc", "dev", "home/ada"] {
            fs::create_dir_all(base.join(folder)).expect("made");
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), base.join(link)).expect("linked");
        }
        tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n");
        tree.write("etc/group", "root:x:0:\ntty:x:5:\nwww-data:x:33:\n");
        tree.write("etc/old", "old\n");
        tree.write("var/lib/things/one", "1\n");
        tree.write("var/lib/things/two", "2\n");
        tree
    }

    /// The base layer.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    /// Where sessions' folders go.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Beside both.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the base layer.
    pub(crate) fn write(&self, path: &str, content: &str) {
        fs::write(self.base().join(path), content).expect("written");
    }

    /// A plan for it.
    pub(crate) fn plan(&self) -> Plan {
        plan(&self.base(), &self.work())
    }

    /// A plan for it as a folder, whatever view is being tested.
    pub(crate) fn folder_plan(&self) -> Plan {
        let mut plan = self.plan();
        plan.layers = vec![Layer::Folder(self.base())];
        plan.view = None;
        plan
    }

    /// A session on it.
    pub(crate) fn session(&self) -> Session {
        Session::start(&self.plan()).expect("a session starts")
    }

    /// The session folders there are now.
    pub(crate) fn sessions(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.work()) else { return Vec::new() };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.is_dir()).collect()
    }
}

/// A plan for a base layer in the view that is being tested, with the host's programs.
pub(crate) fn plan(base: &Path, work: &Path) -> Plan {
    let mut plan = Plan::new(Vec::new(), work);
    plan.mounts.push(Mount { target: b"usr".to_vec(), source: Source::ReadOnly("/usr".into()) });
    plan.view = view();
    plan.layers.push(match plan.view {
        None => Layer::Folder(base.to_owned()),
        Some(_) => stored(base),
    });
    plan
}

/// A folder as a stored tree. What is the caller's there is root's inside.
pub(crate) fn stored(folder: &Path) -> Layer {
    stored_with(folder, &[])
}

/// The metadata of one path of a stored tree.
pub(crate) struct Given {
    pub(crate) path: &'static str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// The same with other metadata for some of the paths.
pub(crate) fn stored_with(folder: &Path, given: &[Given]) -> Layer {
    let listing = list_folder(folder).expect("a listing");
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let metadata = |inode, path: &[u8]| {
        let node = listing.node(inode).expect("a node");
        let mut xattrs = Vec::new();
        listing.xattrs(inode, &mut |name, value| {
            xattrs.push((name.to_vec(), value.to_vec()));
            true
        });
        let own = |id, own| if id == own { 0 } else { id };
        let given = given.iter().find(|given| given.path.as_bytes() == path);
        sandbox::view::Metadata {
            uid: given.map_or(own(node.uid, uid), |given| given.uid),
            gid: given.map_or(own(node.gid, gid), |given| given.gid),
            mode: given.map_or(node.permissions.into(), |given| given.mode),
            modified: node.modified,
            modified_nanoseconds: node.modified_nanoseconds,
            xattrs,
        }
    };
    let mut builder = ListingBuilder::new(&metadata(ROOT, b"")).expect("a builder");
    let mut made = std::collections::HashMap::from([(ROOT, ROOT)]);
    let mut paths = std::collections::HashMap::from([(ROOT, Vec::new())]);
    for entry in (0..listing.entry_count()).map(|number| listing.entry(number).expect("an entry")) {
        let (parent, name) = (made[&entry.folder], entry.name);
        if let Some(&first) = made.get(&entry.inode) {
            builder.link(parent, name, first).expect("added");
            continue;
        }
        let slash: &[u8] = if entry.folder == ROOT { b"" } else { b"/" };
        let path = [paths[&entry.folder].as_slice(), slash, name].concat();
        let (node, metadata) = (listing.node(entry.inode).expect("a node"), metadata(entry.inode, &path));
        paths.insert(entry.inode, path);
        let inode = match node.kind {
            view::Kind::Folder => builder.folder(parent, name, &metadata),
            view::Kind::File => {
                let content = listing.content_path(entry.inode).expect("a content");
                builder.file(parent, name, &metadata, node.size, content)
            }
            view::Kind::Symlink => {
                builder.symlink(parent, name, &metadata, listing.target(entry.inode).expect("a target"))
            }
            kind => builder.special(parent, name, kind, &metadata),
        };
        made.insert(entry.inode, inode.expect("added"));
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut path = folder.as_os_str().to_owned();
    path.push(format!(".{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::write(&path, builder.finish().expect("a listing").as_bytes()).expect("written");
    Layer::Stored(Stored { listing: path.into(), contents: folder.to_owned() })
}

impl Drop for Tree {
    fn drop(&mut self) {
        let left = self.sessions();
        if !left.is_empty() && !std::thread::panicking() {
            panic!("sessions left behind: {left:?}");
        }
    }
}

/// A shell script as a command whose output goes nowhere.
pub(crate) fn script(text: &str) -> Command {
    let mut command = Command::new(["sh", "-euc", text]);
    command.stdin = Stdio::Null;
    command
}

/// Runs a script; its output must come with exit status 0.
pub(crate) fn output(session: &mut Session, text: &str) -> String {
    let (status, output) = output_of(session, script(text));
    assert!(status.success(), "{text}: {status:?}: {output}");
    output
}

/// Runs a command; its output and errors together.
pub(crate) fn output_of(session: &mut Session, command: Command) -> (Status, String) {
    let (status, output) = heard(command, |command| session.run(command));
    (status.expect("it runs"), output)
}

/// Hands a command to who runs it, and gives what it says, errors too.
pub(crate) fn heard<T>(mut command: Command, run: impl FnOnce(&Command) -> T) -> (T, String) {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout = Stdio::Descriptor(writer.try_clone().expect("a copy").into());
    command.stderr = Stdio::Descriptor(writer.into());
    let collect = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("read");
        String::from_utf8_lossy(&bytes).trim().to_owned()
    });
    let result = run(&command);
    drop(command); // or the pipe would never end
    (result, collect.join().expect("read"))
}

/// All changes, with contents.
pub(crate) fn changes(session: &mut Session) -> Vec<(Change, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let result = session.changes::<sandbox::Error>(&mut |change, content| {
        let content = content.map(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("read");
            bytes
        });
        all.push((change, content));
        Ok(())
    });
    result.expect("the changes come");
    all
}

/// What is at `path` among changes.
pub(crate) fn now<'a>(changes: &'a [(Change, Option<Vec<u8>>)], path: &str) -> &'a Entry {
    let found = changes.iter().find(|(change, _)| change.path == path.as_bytes());
    &found.unwrap_or_else(|| panic!("{path} is not among {changes:?}")).0.now
}
