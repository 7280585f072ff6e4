//! `treestrap multistrap`: the folder, the order of scripts and hooks, the owners that they see, the tarball.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
};

use crate::common::{
    account::Account,
    archive::Archive,
    base,
    fixture::{Fixture, Outcome, finish, pause, wait},
    server::Server,
    tier::{Tier, needs},
};

const PACKAGES: &str = r#"
Package: greeter
Version: 1:1.0-1
Depends: greetings
file ./usr/bin/greet
    #!/bin/sh
    cat /usr/share/greetings/hello
conffile ./etc/greeter.conf = greeting=hello
script preinst
    mkdir -p /var/log
    echo "preinst $1 $2" >>/var/log/greeter
script postinst
    mkdir -p /var/lib/greeter
    echo "postinst $1 $2 $(cat /etc/greeter.conf)" >>/var/log/greeter
    chown 33:8 /var/lib/greeter
    ln -s nowhere /var/lib/greeter/link
    chown -h 33:42 /var/lib/greeter/link

Package: greetings
Version: 1.2
file ./usr/share/greetings/hello = hello, world
script postinst
    echo "greetings $1 $2" >>/var/log/greetings

Package: farewells
Version: 2.0
Depends: sighs
script postinst
    echo "farewells after $(cat /var/log/greeter | wc -l)" >/var/log/farewells

Package: sighs
file ./usr/share/sighs = alas
"#;

/// Notes who it is, with which arguments it runs, and the owner of a folder that a package's script gives
/// away.
const HOOK: &str = "#!/bin/sh
echo \"${0##*/} ${1#\"$PWD\"} $2 $(id -u) $(stat -c %u:%g \"$1/var/lib/greeter\" 2>/dev/null)\" >>\"$HOME/scripts\"
";

/// A fixture with an archive, and a configuration with scripts and hooks.
struct Old {
    fixture: Fixture,
    uri: String,
    /// The archive's key.
    key: PathBuf,
}

impl Old {
    fn new(account: Account, archive: &Archive, server: &Server) -> Self {
        let fixture = Fixture::new(account);
        fixture.trust(archive);
        let key = fixture.folder().join("archive.asc");
        let old = Old { fixture, uri: server.uri(), key };
        fs::create_dir(old.fixture.path("hooks")).expect("a folder");
        for hook in ["hooks/download-a", "hooks/native-b", "hooks/native-a", "hooks/completion-a", "setup.sh"]
        {
            old.script(hook, HOOK);
        }
        old.script("config.sh", "#!/bin/sh\nexit 9\n");
        old.fixture.write("hooks/native-not-executable", "");
        old
    }

    fn script(&self, name: &str, text: &str) {
        self.fixture.write(name, text);
        fs::set_permissions(self.fixture.path(name), fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// Writes `old.conf`: lines for both sections.
    fn configure(&self, general: &str, section: &str) {
        let text = format!(
            "[General]\narch={}\ndirectory=root\nbootstrap=Mini\naptsources=Mini\n{general}\n\n\
             [Mini]\nsource=[signed-by={}] {}\nsuite=mini\nomitdebsrc=true\n{section}\n",
            base::architecture(),
            self.key.display(),
            self.uri
        );
        self.fixture.write("old.conf", &text);
    }

    fn multistrap(&self, options: &[&str]) -> Outcome {
        self.fixture.treestrap(&[&["multistrap", "-f", "old.conf"], options].concat())
    }

    /// What the scripts noted, a line each.
    fn noted(&self) -> Vec<String> {
        let path = self.fixture.folder().join("home/scripts");
        let text = fs::read_to_string(&path).unwrap_or_default();
        if !text.is_empty() {
            assert_eq!(
                fs::metadata(&path).expect("a file").uid(),
                self.fixture.account.ids().0,
                "not the user's"
            );
        }
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// `tar -tv` of a file, a line each: mode, owners, path.
    fn tar_listing(&self, name: &str) -> Vec<String> {
        let mut command = Command::new("tar");
        command.args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(self.fixture.path(name));
        let text = finish(command).ok().stdout;
        let show = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[1], words[5..].join(" "))
        };
        text.lines().map(show).collect()
    }
}

/// Every account with the tier that it gets.
const ACCOUNTS: [(Account, &str); 3] =
    [(Account::Subordinate, "full"), (Account::WithoutSubordinate, "single"), (Account::Root, "full")];

#[test]
fn a_configuration_is_made_in_its_own_order_by_every_account() {
    needs!(Tier::Userns, Tier::Overlay);
    let archive = Archive::with_base(PACKAGES);
    let server = Server::new(archive.publish());
    let key = tempfile::Builder::new()
        .suffix(".asc")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in("/var/tmp")
        .expect("a file");
    fs::write(key.path(), archive.key.public_armored()).expect("a writable file");
    let mut tarballs: Vec<Vec<u8>> = Vec::new();
    let mut lock = String::new();
    for (account, tier) in ACCOUNTS {
        needs!(Tier::As(account));
        let mut old = Old::new(account, &archive, &server);
        old.key = key.path().to_owned(); // it is named in the image
        old.script(
            "setup.sh",
            &format!(
                "{HOOK}echo \"greeting=$(grep -c hello \"$1/etc/greeter.conf\")\" >\"$1/etc/greeter.conf\"\n"
            ),
        );
        old.configure(
            "markauto=true\nsetupscript=setup.sh\nconfigscript=config.sh\nhookdir=hooks",
            "packages=greeter\nadditional=farewells\nreinstall=greetings",
        );
        if !lock.is_empty() {
            old.fixture.write("old.lock", &lock);
        }
        let require = format!("tier={tier}");
        let options = if tier == "full" { ["--require", &require] } else { ["--tier", tier] };
        old.multistrap(&[&["--lock", "old.lock"], &options[..]].concat())
            .ok()
            .says(&["native-not-executable cannot be executed"]);
        let root = |path: &str| old.fixture.read(&format!("root/{path}"));
        let architecture = base::architecture();
        assert_eq!(
            old.noted(),
            [
                &format!("setup.sh /root/ {architecture} 0") as &str,
                "download-a /root/  0",
                "native-a /root/ start 0",
                "native-b /root/ start 0",
                "native-a /root/ end 0 33:8",
                "native-b /root/ end 0 33:8",
                "native-a /root/ start 0 33:8",
                "native-b /root/ start 0 33:8",
                "native-a /root/ end 0 33:8",
                "native-b /root/ end 0 33:8",
                "completion-a /root/  0 33:8",
            ],
            "{account:?}"
        );
        // The setup script found the configuration file at its place, and what it made of it stayed.
        assert_eq!(root("etc/greeter.conf"), "greeting=1\n");
        assert_eq!(root("var/log/greeter"), "preinst install \npostinst configure  greeting=1\n");
        assert_eq!(root("var/log/greetings"), "greetings configure \ngreetings configure 1.2\n", "once more");
        assert_eq!(root("var/log/farewells"), "farewells after 2\n", "in a second round");
        let status = root("var/lib/dpkg/status");
        assert_eq!(
            status.matches("Status: install ok installed").count(),
            status.matches("Package: ").count()
        );
        let shipped = "d2d4b3c8a0d1";
        assert!(!status.contains("newconffile") && !status.contains(shipped), "{status}");
        let sources = root("etc/apt/sources.list.d/multistrap-mini.list");
        assert_eq!(
            sources,
            format!("deb [arch={architecture} signed-by={}] {} mini main\n", old.key.display(), old.uri)
        );
        let automatic = root("var/lib/apt/extended_states");
        assert!(
            automatic
                .contains(&format!("Package: greetings\nArchitecture: {architecture}\nAuto-Installed: 1\n"))
        );
        for asked in ["greeter", "dash", "farewells", "sighs"] {
            assert!(!automatic.contains(&format!("Package: {asked}\n")), "{asked}: {automatic}");
        }
        let deb = "root/var/cache/apt/archives/greeter_1%3a1.0-1_all.deb";
        assert!(old.fixture.path(deb).is_file(), "packages stay under apt's names");
        let config = fs::metadata(old.fixture.path("root/config.sh")).expect("copied");
        assert_eq!(config.permissions().mode() & 0o7777, 0o755);
        let again = old.multistrap(&["--lock", "old.lock"]);
        again.exits(1).says(&["root has a system in it already", "configure --rootfs"]);

        // The same as a tarball, which has the owners whoever makes it.
        old.configure(
            "hookdir=hooks\nsetupscript=setup.sh\ntarballname=old.tgz\ncleanup=true\ndirectory=other",
            "packages=greeter\nadditional=farewells\nreinstall=greetings",
        );
        let conf = old.fixture.read("old.conf").replace("directory=root\n", "");
        old.fixture.write("old.conf", &conf);
        old.multistrap(&[&["--lock", "old.lock"], &options[..]].concat()).ok();
        assert_eq!(fs::read_dir(old.fixture.path("other")).expect("a folder").count(), 0, "it is emptied");
        let listing = old.tar_listing("old.tgz");
        for line in [
            "drwxr-xr-x 33/8 ./var/lib/greeter/",
            "lrwxrwxrwx 33/42 ./var/lib/greeter/link -> nowhere",
            "drwxrwsr-x 0/8 ./var/mail/",
            "-rw-r--r-- 0/0 ./etc/greeter.conf",
        ] {
            assert!(listing.iter().any(|found| found == line), "{account:?}: {line} in {listing:#?}");
        }
        assert!(
            !listing.iter().any(|line| line.ends_with(".deb") || line.contains("/lists/mirror")),
            "tidied up"
        );
        tarballs.push(fs::read(old.fixture.path("old.tgz")).expect("a tarball"));
        lock = old.fixture.read("old.lock");
        old.fixture.assert_nothing_left();
    }
    // One lock, one tarball.
    assert!(tarballs.windows(2).all(|pair| pair[0] == pair[1]), "another account or tier, another tarball");
}

#[test]
fn scripts_that_fail_are_told_and_the_rest_is_done() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let archive = Archive::with_base(PACKAGES);
    let server = Server::new(archive.publish());
    let old = Old::new(Account::Subordinate, &archive, &server);
    old.script("hooks/native-a", "#!/bin/sh\nexit 3\n");
    old.configure("hookdir=hooks\nsetupscript=gone.sh\nCleanup=true", "packages=greeter\nfoo=1");
    old.multistrap(&[]).exits(1).says(&[
        "native-a start ended with exit status 3",
        "native-a end ended with exit status 3",
        "old.conf:7: setupscript: gone.sh cannot be executed",
        "old.conf:8: [general] has no key \"Cleanup\": ignored, as by multistrap; did you mean \"cleanup\"?",
        "[mini] has no key \"foo\"",
    ]);
    assert!(old.noted().iter().any(|line| line.starts_with("completion-a")), "{:?}", old.noted());
    assert!(old.fixture.read("root/var/log/greeter").contains("postinst configure"));
}

#[test]
fn a_run_that_was_killed_is_begun_anew_and_two_at_once_are_not_let() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let archive = Archive::with_base(PACKAGES);
    let server = Server::new(archive.publish());
    let old = Old::new(Account::Subordinate, &archive, &server);
    old.script("setup.sh", "#!/bin/sh\n: >\"$HOME/begun\"\nexec sleep 1000\n");
    old.configure("setupscript=setup.sh", "packages=greeter");
    let begun = old.fixture.folder().join("home/begun");
    for signal in ["TERM", "KILL"] {
        let mut child = old.fixture.start(&["multistrap", "-f", "old.conf"]);
        while !begun.exists() {
            assert!(child.try_wait().expect("a child of ours").is_none(), "it ended");
            pause();
        }
        old.multistrap(&[]).exits(1).says(&["another treestrap is at work on this folder"]);
        let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
        match signal {
            "TERM" => wait(child).exits(130),
            _ => wait(child).ended_by(9),
        };
        old.fixture.assert_nothing_left();
        assert!(old.fixture.path("root/var/lib/dpkg/status").is_file(), "it had begun");
        old.fixture.write("root/left-over", "");
        fs::remove_file(&begun).expect("it was there");
    }
    old.configure("", "packages=greeter");
    old.multistrap(&[]).ok().says(&["the folder is begun anew"]);
    assert!(!old.fixture.path("root/left-over").exists(), "what was in the folder was the killed run's");
    assert!(old.fixture.read("root/var/log/greeter").contains("postinst configure"));
    let beside: Vec<_> =
        fs::read_dir(old.fixture.path(".")).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().contains("treestrap")), "{beside:?}");
}

#[test]
fn what_is_not_to_be_done_is_not_done() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let archive = Archive::with_base(PACKAGES);
    let server = Server::new(archive.publish());
    let old = Old::new(Account::Subordinate, &archive, &server);
    old.configure(
        "hookdir=hooks\nignorenativearch=true\ncleanup=true",
        "packages=greeter\nadditional=farewells",
    );
    old.multistrap(&["-d", "unpacked"]).ok();
    let status = old.fixture.read("unpacked/var/lib/dpkg/status");
    assert_eq!(status.matches("Status: install ok unpacked").count(), status.matches("Package: ").count());
    assert!(status.contains("Package: farewells\n"), "{status}");
    assert_eq!(old.noted().len(), 2, "no native hooks: {:?}", old.noted());
    assert!(!old.fixture.path("unpacked/var/log/greeter").exists());
    // dpkg itself agrees that what is there is what it takes: the digest is that of the file.
    let digest = finish({
        let mut command = Command::new("md5sum");
        command.arg(old.fixture.path("unpacked/etc/greeter.conf"));
        command
    });
    let digest = digest.ok().stdout[..32].to_owned();
    assert!(status.contains(&format!(" /etc/greeter.conf {digest}\n")), "{status}");
    let archives = fs::read_dir(old.fixture.path("unpacked/var/cache/apt/archives")).expect("a folder");
    assert!(archives.flatten().all(|entry| entry.file_name() == "partial"), "cleanup=true");

    old.configure("unpack=false", "packages=greeter");
    old.multistrap(&["--dir", "downloaded"]).ok();
    assert!(!old.fixture.path("downloaded/usr/bin").exists());
    let archives = fs::read_dir(old.fixture.path("downloaded/var/cache/apt/archives")).expect("a folder");
    assert!(archives.flatten().any(|entry| entry.file_name() == "greetings_1.2_all.deb"));

    old.configure("omitpreinst=true", "packages=greeter");
    // The base's preinst makes the file that its postinst looks for.
    let outcome = old.multistrap(&["-d", "no-preinst"]).exits(1);
    outcome.says(&["package base-passwd", "/etc/group: No such file"]);
}

#[test]
fn nobody_vouches_for_an_archive_unless_asked() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let archive = Archive::with_base(PACKAGES);
    let server = Server::new(archive.publish());
    let old = Old::new(Account::Subordinate, &archive, &server);
    let text = format!(
        "[General]\narch={}\ndirectory=root\nbootstrap=Mini\n[Mini]\nsource={}\nsuite=mini\npackages=greeter\n",
        base::architecture(),
        server.uri()
    );
    old.fixture.write("old.conf", &text);
    old.multistrap(&[])
        .exits(1)
        .says(&["mini", "keyring=PACKAGE, or source=[signed-by=FILE] …, in [mini]"])
        .does_not_say(&["repos."]);
    old.multistrap(&["--no-auth"]).ok().says(&["WITHOUT checking any signature"]);
}

#[test]
fn a_program_called_multistrap_simulates_as_multistrap_does() {
    needs!(Tier::As(Account::Subordinate));
    let archive = Archive::without_base("Package: greeter\n");
    let server = Server::new(archive.publish());
    let old = Old::new(Account::Subordinate, &archive, &server);
    old.configure("noauth=true", "packages=greeter adduser");
    let link = old.fixture.path("multistrap");
    std::os::unix::fs::symlink(old.fixture.program(), &link).expect("a link");
    let outcome = old.fixture.run(&link, &["--simulate", "-f", "old.conf"]).ok();
    for line in [
        "include:\t\tNo included configuration files.",
        "Section name:\tmini",
        "\tpackages:\tadduser greeter",
        "Section to install:\tmini",
        "noauth:\t\t\tallow the use of unauthenticated repositories: true",
        "dir:\t\t\tOutput directory: 'root'",
    ] {
        assert!(outcome.stdout.lines().any(|found| found == line), "{line}: {outcome}");
    }
    for words in [&["-?"][..], &["--version"], &["-h"]] {
        let help = old.fixture.run(&link, words).ok();
        assert!(help.stdout.contains("--source-dir"), "{help}");
    }
    old.fixture.run(&link, &["--simulate"]).exits(2);
    old.fixture
        .run(&link, &["--simulate", "-s", "no-such-shortcut"])
        .exits(1)
        .says(&["no-such-shortcut.conf"]);
}
