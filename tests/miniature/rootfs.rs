//! `configure --rootfs`: folders that were unpacked without treestrap are finished in place, by every
//! account, whole or not at all.

use std::{fs, process::Command};

use crate::common::{
    account::Account,
    archive::{Archive, pool_path, write},
    base,
    fixture::{Fixture, Miniature, Outcome, finish, ostree, wait},
    tier::{Tier, needs},
};
use crate::interruption::{signal, wait_for_sleep};

/// A preinst that nobody has run, a trigger that nobody has registered, owners, modes and links.
const VARIED: &str = r#"
Package: varied
file ./usr/bin/varied-su 4755 = su
file ./usr/share/varied/one 640 33:33 = linked
link ./usr/share/varied/two -> ./usr/share/varied/one
symlink ./usr/share/varied/link -> ../nowhere
file ./usr/share/varied/gone = gone
file ./usr/share/varied/kept 2755 0:8 = kept
folder ./var/spool/varied 2775 33:8
conffile ./etc/varied.conf = x=1
control triggers
    interest-noawait /usr/share/triggering
script preinst
    echo "preinst $*" >>/var/varied
script postinst
    set -e
    [ "$1" = configure ] || { echo "triggered by $2" >>/var/varied; exit 0; }
    echo "postinst $(stat -c %u:%g:%a /usr/share/varied/two /var/spool/varied | tr '\n' ' ')" >>/var/varied
    cd /var/spool/varied
    echo data >data
    chown 33 data
    ln data data2
    mkdir -m 2750 group
    chown 5:60 group
    ln -s data link
    chown -h 33:42 link
    mv /usr/share/varied/one /usr/share/varied/three
    rm /usr/share/varied/gone
    chown 33:42 /etc/varied.conf
    chmod 600 /etc/varied.conf

Package: triggering
Depends: varied
file ./usr/share/triggering/file = file
script postinst
    dpkg-trigger --by-package=triggering /usr/share/triggering/file
"#;

/// Unpacks debs without dpkg, as multistrap does: no script runs, and no trigger is registered. `owners.tar`
/// has their owners.
const UNPACK: &str = r#"
set -eu
info=root/var/lib/dpkg/info
mkdir -p $info root/var/lib/dpkg/updates
echo 1 >root/var/lib/dpkg/info/format
for deb in "$@"; do
    dpkg-deb -x "$deb" root
    dpkg-deb --fsys-tarfile "$deb" >one.tar
    if [ -e owners.tar ]; then tar -Af owners.tar one.tar; else cp one.tar owners.tar; fi
    dpkg-deb -e "$deb" control
    name=$(dpkg-deb -f "$deb" Package)
    long=$name
    [ "$(dpkg-deb -f "$deb" Multi-Arch)" != same ] || long=$name:$(dpkg-deb -f "$deb" Architecture)
    tar -tf one.tar | sed -e 's,^\.,,' -e 's,/$,,' -e '1s,^$,/.,' >$info/$long.list
    {
        dpkg-deb -f "$deb"
        echo "Status: install ok unpacked"
        if [ -e control/conffiles ]; then
            echo "Conffiles:"
            while read -r path; do echo " $path $(md5sum <root$path | cut -c-32)"; done <control/conffiles
        fi
        echo
    } >>root/var/lib/dpkg/status
    for file in control/*; do
        [ "$file" = control/control ] || cp "$file" "$info/$long.${file#control/}"
    done
    rm -r control one.tar
done
"#;

/// A place with an unpacked folder `root`.
struct Unpacked {
    fixture: Fixture,
}

impl Unpacked {
    /// The packages in `text` and the base, unpacked by `account`.
    fn new(account: Account, text: &str) -> Self {
        let fixture = Fixture::new(account);
        let archive = Archive::with_base(text);
        let debs = fixture.folder().join("debs");
        write(&archive.publish(), &debs);
        let mut words = vec!["-c".to_owned(), UNPACK.to_owned(), "sh".to_owned()];
        // the links of /bin and /lib come first, as in a real bootstrap
        let mut paths: Vec<_> = archive.suites[0]
            .debs
            .iter()
            .map(|deb| debs.join(pool_path(deb)).display().to_string())
            .collect();
        paths.sort_by_key(|path| !path.contains("base-files"));
        words.extend(paths);
        fixture.run("sh", &words).ok();
        Unpacked { fixture }
    }

    fn finish(&self, options: &[&str]) -> Outcome {
        self.fixture.treestrap(&[&["configure", "--rootfs", "root"], options].concat())
    }

    /// Everything that can be seen of the folder from outside: what must not change unless all goes well.
    fn seen(&self) -> String {
        let find = "find root -printf '%p %i %n %m %U:%G %T@ %s %l\n' | sort; find root -type f | sort | xargs sha256sum";
        self.inside(find)
    }

    /// What a script prints, run as root of the account's subordinate ids.
    fn inside(&self, script: &str) -> String {
        let outcome = match self.fixture.account {
            Account::Root => self.fixture.run("sh", &["-ec", script]),
            _ => self.fixture.run("unshare", &["--map-root-user", "--map-auto", "sh", "-ec", script]),
        };
        outcome.ok().stdout
    }

    fn read(&self, path: &str) -> String {
        self.fixture.read(&format!("root/{path}"))
    }

    /// Names and states of packages that are not installed, by dpkg.
    fn unfinished(&self) -> Vec<String> {
        let mut query = Command::new("dpkg-query");
        query.arg(format!("--admindir={}", self.fixture.path("root/var/lib/dpkg").display()));
        query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]);
        let states = finish(query).ok().stdout;
        assert!(states.lines().count() > 10, "{states}");
        states.lines().filter(|line| !line.ends_with(" installed")).map(str::to_owned).collect()
    }
}

#[test]
fn every_account_finishes_a_folder_and_all_tars_are_the_same() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let mut cases: Vec<(&str, Account, &[&str])> = vec![
        ("full", Account::Subordinate, &["--require", "tier=full"]),
        ("asked for", Account::Subordinate, &["--tier", "single"]),
    ];
    if Account::Root.missing().is_none() {
        cases.extend([
            ("no range", Account::WithoutSubordinate, &[][..]),
            ("no_new_privs", Account::NoNewPrivileges, &[]),
            ("root", Account::Root, &[]),
        ]);
    }
    let mut expected = None;
    for (name, account, options) in cases {
        let unpacked = Unpacked::new(account, VARIED);
        let fixed = ["--owners", "owners.tar", "--output-tar", "one.tar"];
        unpacked.finish(&[&fixed, options].concat()).ok().says(&["packages configured"]);
        assert_eq!(unpacked.unfinished(), Vec::<String>::new(), "{name}");
        assert_eq!(
            unpacked.read("var/varied"),
            "preinst install\npostinst 33:33:640 33:8:2775 \ntriggered by /usr/share/triggering\n",
            "{name}"
        );
        let tar = fs::read(unpacked.fixture.path("one.tar")).expect("a tar");
        let again = unpacked.finish(&["--output-tar", "two.tar"]).ok().says(&["nothing to do"]);
        // Nothing carries the owner of a link where one id is mapped: only the run itself knows it.
        let second = unpacked.fixture.run("tar", &["-tvf", "two.tar", "--numeric-owner"]).ok().stdout;
        let is_link = |line: &&str| line.starts_with('l');
        let is_known = second.lines().filter(is_link).any(|line| line.contains(" 33/42 "));
        assert_eq!(is_known, ["full", "root"].contains(&name), "{name}: {second}");
        if is_known {
            assert!(tar == fs::read(unpacked.fixture.path("two.tar")).expect("a tar"), "{name}: {again}");
        }
        assert!(!unpacked.fixture.path(".root.treestrap").exists(), "{name}");
        unpacked.fixture.assert_nothing_left();
        let listing = unpacked.fixture.run("tar", &["-tvf", "one.tar", "--numeric-owner"]).ok().stdout;
        let listing: Vec<String> = listing.lines().map(words).collect();
        for line in [
            "-rwsr-xr-x 0/0 ./usr/bin/varied-su",
            "drwxrwsr-x 33/8 ./var/spool/varied/",
            "-rw-r--r-- 33/8 ./var/spool/varied/data",
            "hrw-r--r-- 33/8 ./var/spool/varied/data2 link to ./var/spool/varied/data",
            "drwxr-s--- 5/60 ./var/spool/varied/group/",
            "-rw------- 33/42 ./etc/varied.conf",
            "-rwxr-sr-x 0/8 ./usr/share/varied/kept",
            "drwxrwsr-x 0/8 ./var/mail/",
        ] {
            assert!(listing.iter().any(|found| found == line), "{name}: {line}: {listing:#?}");
        }
        assert!(!listing.iter().any(|line| line.contains("varied/gone") || line.contains("varied/one")));
        match &expected {
            None => expected = Some((tar, listing)),
            Some((expected, expected_listing)) => {
                let lines = expected_listing.iter().zip(&listing);
                let differ: Vec<_> = lines.filter(|(one, other)| one != other).collect();
                assert!(differ.is_empty() && listing.len() == expected_listing.len(), "{name}: {differ:#?}");
                assert!(&tar == expected, "{name}: the tars differ, and their listings do not");
            }
        }
    }
}

/// A line of tar's listing without size and time.
fn words(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    [&words[..2], &words[5..]].concat().join(" ")
}

#[test]
fn owners_are_real_on_disk_where_they_can_be() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let unpacked = Unpacked::new(Account::Subordinate, VARIED);
    unpacked.finish(&["--owners", "owners.tar"]).ok().does_not_say(&["without their groups"]);
    let stat =
        "cd root; stat -c %u:%g:%a usr/share/varied/kept var/spool/varied/data2 etc/varied.conf var/mail";
    assert_eq!(unpacked.inside(stat), "0:8:2755\n33:8:644\n33:42:600\n0:8:2775\n");
    let links = unpacked.inside("cd root/var/spool/varied; stat -c %h:%i data data2; stat -c %u:%g link");
    let links: Vec<&str> = links.lines().collect();
    assert_eq!((links[0], links[2]), (links[1], "33:42"));
}

#[test]
fn a_failing_script_leaves_the_folder_as_it_was_unless_it_is_asked_for() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let text = "
Package: first
script postinst
    echo done >/var/first

Package: troubled
Depends: first
script postinst
    exit 3
";
    let unpacked = Unpacked::new(Account::Subordinate, text);
    let before = unpacked.seen();
    unpacked.finish(&[]).exits(1).says(&["troubled", "status 3", "--in-place-now"]);
    assert_eq!(unpacked.seen(), before);
    assert!(!unpacked.fixture.path(".root.treestrap").exists());
    unpacked.finish(&["--in-place-now"]).exits(1).says(&["troubled", "status 3"]);
    assert_eq!(unpacked.read("var/first"), "done\n");
    assert_eq!(unpacked.unfinished(), ["troubled half-configured"]);
    // mended by hand, it is gone on with where that ended
    fs::write(unpacked.fixture.path("root/var/first"), "by hand\n").expect("written");
    fs::write(unpacked.fixture.path("root/var/lib/dpkg/info/troubled.postinst"), "#!/bin/sh\n")
        .expect("written");
    unpacked.finish(&[]).ok();
    assert_eq!(unpacked.read("var/first"), "by hand\n");
    assert_eq!(unpacked.unfinished(), Vec::<String>::new());
    unpacked.fixture.assert_nothing_left();
}

#[test]
fn a_signal_in_a_script_leaves_the_folder_as_it_was() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let seconds = 31_007;
    let text = format!("Package: endless\nscript postinst\n    [ -e /etc/mended ] || sleep {seconds}\n");
    let unpacked = Unpacked::new(Account::Subordinate, &text);
    let before = unpacked.seen();
    for name in ["INT", "KILL"] {
        let mut child = unpacked.fixture.start(&["configure", "--rootfs", "root"]);
        wait_for_sleep(seconds, &mut child);
        // one at a time
        unpacked.finish(&[]).exits(1).says(&["another treestrap"]);
        signal(&child, name);
        assert!(!wait(child).status.success(), "{name}");
        unpacked.fixture.assert_nothing_left();
        assert_eq!(unpacked.seen(), before, "{name}");
    }
    unpacked.fixture.write("root/etc/mended", "");
    unpacked.finish(&[]).ok();
    assert_eq!(unpacked.unfinished(), Vec::<String>::new());
    assert!(!unpacked.fixture.path(".root.treestrap").exists());
}

#[test]
fn killed_at_any_moment_the_next_run_ends_the_same() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let options = ["configure", "--rootfs", "root", "--owners", "owners.tar", "--output-tar", "one.tar"];
    let calm = Unpacked::new(Account::Subordinate, VARIED);
    calm.fixture.treestrap(&options).ok();
    for options in [&options[..], &[&options[..], &["--tier", "single"]].concat()] {
        let killed = Unpacked::new(Account::Subordinate, VARIED);
        let timed: Vec<&str> = [&["--signal=KILL", "TIME", "TREESTRAP"], options].concat();
        let program = killed.fixture.program().display().to_string();
        let mut ended = false;
        // ever longer, so that each part of a run is reached whatever this machine needs for it
        for hundredths in (5..).step_by(9) {
            let time = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            let words = timed.iter().map(|word| match *word {
                "TIME" => time.as_str(),
                "TREESTRAP" => program.as_str(),
                word => word,
            });
            let mut command = killed.fixture.command("timeout");
            command.args(words);
            let outcome = finish(command);
            killed.fixture.assert_nothing_left();
            if outcome.status.success() {
                ended = true;
                break;
            }
            outcome.ended_by(9);
        }
        assert!(ended && killed.unfinished().is_empty());
        assert!(!killed.fixture.path(".root.treestrap").exists());
        // Nothing carries the owner of a link where one id is mapped: a run that goes on does not know it.
        let listing = |unpacked: &Unpacked| {
            let list = ["-tvf", "one.tar", "--numeric-owner", "--full-time"];
            unpacked.fixture.run("tar", &list).ok().stdout.replace("33/42 ", "0/0 ")
        };
        let (expected, found) = (listing(&calm), listing(&killed));
        let (expected, found) = (expected.lines().map(words), found.lines().map(words));
        let differ: Vec<_> = expected.zip(found).filter(|(one, other)| one != other).collect();
        assert!(differ.is_empty(), "{options:?}: {differ:#?}");
        if !options.contains(&"single") {
            let tar = |unpacked: &Unpacked| fs::read(unpacked.fixture.path("one.tar")).expect("a tar");
            assert!(tar(&calm) == tar(&killed), "the tars differ");
        }
    }
}

#[test]
fn usr_is_merged_where_packages_ask_for_it() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let text = "
Package: usr-is-merged
script preinst
    [ -L /bin ] && [ -L /lib ] && [ -x /bin/apart ]

Package: apart
file ./usr/bin/apart 755 = #!/bin/sh
";
    let unpacked = Unpacked::new(Account::Subordinate, text);
    let apart = "cd root; rm bin lib; mkdir bin lib; mv usr/bin/apart usr/bin/sh usr/bin/dash bin; \
                 mv usr/lib/* lib; ln -s ../../bin/sh usr/bin/sh2";
    unpacked.fixture.run("sh", &["-ec", apart]).ok();
    let before = unpacked.seen();
    // what differs cannot become one: nothing is touched
    unpacked.fixture.write("root/usr/bin/apart", "another\n");
    unpacked.finish(&[]).exits(1).says(&["/bin/apart", "/usr/bin/apart", "remove one of the two"]);
    fs::remove_file(unpacked.fixture.path("root/usr/bin/apart")).expect("removed");
    let file_times = |seen: &str| {
        seen.lines().filter(|line| !line.starts_with("root/usr/bin ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(file_times(&unpacked.seen()), file_times(&before));
    unpacked.finish(&[]).ok();
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib")] {
        let found = fs::read_link(unpacked.fixture.path("root").join(link)).expect("a link");
        assert_eq!(found.to_str(), Some(target));
    }
    assert_eq!(unpacked.read("usr/bin/apart"), "#!/bin/sh\n");
    assert_eq!(unpacked.unfinished(), Vec::<String>::new());
}

/// What identifies a device, as in an image.
#[test]
fn what_identifies_a_device_goes_unless_it_is_kept() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let text = "
Package: identified
folder ./etc/ssh
file ./usr/lib/systemd/systemd 0755 = stand-in
script postinst
    date +%s%N >/etc/machine-id
    date +%s%N >/etc/ssh/ssh_host_rsa_key
";
    for (policy, has_key, has_unit) in
        [("first-boot", false, true), ("remove", false, false), ("keep", true, false)]
    {
        let unpacked = Unpacked::new(Account::Subordinate, text);
        unpacked.finish(&["--identity", policy]).ok();
        let exists = |path: &str| unpacked.fixture.path("root").join(path).exists();
        assert_eq!(exists("etc/ssh/ssh_host_rsa_key"), has_key, "{policy}");
        assert_eq!(exists("usr/lib/systemd/system/treestrap-identity.service"), has_unit, "{policy}");
        assert_eq!(unpacked.read("etc/machine-id").is_empty(), !has_key, "{policy}");
    }
}

#[test]
fn answers_that_multistrap_left_are_loaded() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let text = "
Package: debconf
file ./usr/bin/debconf-set-selections 0755
    #!/bin/sh
    cat >/var/answers
";
    let unpacked = Unpacked::new(Account::Subordinate, text);
    unpacked.fixture.run("mkdir", &["root/tmp/preseeds"]).ok();
    unpacked.fixture.write("root/tmp/preseeds/one", "a a/one string 1\n");
    unpacked.fixture.write("more", "a a/more string 2\n");
    unpacked.finish(&["--preseed", "more"]).ok();
    let answers = unpacked.read("var/answers");
    let answers: Vec<&str> = answers.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(answers, ["a a/one string 1", "a a/more string 2"]);
}

#[test]
fn what_cannot_be_finished_is_refused_with_the_way_out() {
    needs!(Tier::As(Account::Subordinate), Tier::Userns, Tier::Overlay);
    let unpacked = Unpacked::new(Account::Subordinate, "Package: one\n");
    let cases: &[(&str, &str, &[&str])] = &[
        ("no folder", "rm -rf root", &["root", "No such file"]),
        ("empty", "rm -rf root; mkdir root", &["root has no var/lib/dpkg/status"]),
        ("a file", "rm -rf root; touch root", &["root", "not a folder"]),
        ("garbage", "echo garbage >root/var/lib/dpkg/status", &["var/lib/dpkg/status: line 1"]),
        ("nothing", ": >root/var/lib/dpkg/status", &["dpkg knows of no package there"]),
        (
            "half installed",
            "sed -i '/^Package: one$/,/^$/s/ok unpacked/ok half-installed/' root/var/lib/dpkg/status",
            &["one: it is half unpacked", "dpkg --purge one"],
        ),
        (
            "damaged",
            "sed -i '/^Package: one$/,/^$/s/ok unpacked/reinstreq unpacked/' root/var/lib/dpkg/status",
            &["one: it is damaged", "dpkg --purge one"],
        ),
    ];
    unpacked.fixture.run("cp", &["-a", "root", "whole"]).ok();
    for (name, script, texts) in cases {
        unpacked.fixture.run("sh", &["-ec", script]).ok();
        let outcome = unpacked.finish(&[]);
        assert_eq!(outcome.status.code(), Some(1), "{name}: {outcome}");
        outcome.says(texts);
        assert!(!unpacked.fixture.path(".root.treestrap").exists(), "{name}");
        unpacked.fixture.run("sh", &["-ec", "rm -rf root; cp -a whole root"]).ok();
    }
    unpacked.finish(&["--arch", "s390x"]).exits(1).says(&["no package", "s390x", base::architecture()]);
    unpacked.finish(&["--owners", "/etc/hostname"]).exits(1).says(&["/etc/hostname"]);
    unpacked.finish(&[]).ok();
}

/// Files of a checkout are also a repository's: what the folder gets is a copy of its own.
#[test]
fn a_repository_that_the_folder_has_files_of_stays_sound() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay, Tier::Python);
    let tiny = Miniature::new(Account::Subordinate, VARIED, &["varied", "triggering"]);
    tiny.fixture.treestrap(&["build"]).ok();
    let repo = tiny.fixture.repo().display().to_string();
    for options in [&[][..], &["--view", "checkout"], &["--tier", "single"]] {
        let checkout = ["checkout", "-U", "--repo", &repo, "deb/images/tiny/unpacked", "root"];
        tiny.fixture.run("ostree", &checkout).ok();
        let finish = ["configure", "--rootfs", "root", "--output-tar", "one.tar"];
        // Of files it has noted the owners, of folders not.
        let lost = "without their groups: /var/mail, /var/spool/varied (--owners FILE says them)";
        tiny.fixture.treestrap(&[&finish, options].concat()).ok().says(&[lost]);
        ostree(&["fsck", "--quiet", "--repo", &repo]).ok();
        let foreign = format!(
            "find {repo}/objects -name '*.file' ! -user treestrap-test -o -name '*.file' -perm /7000"
        );
        assert_eq!(tiny.fixture.run("sh", &["-c", &foreign]).ok().stdout, "", "objects were changed");
        let noted = "cd root; find . -type f -links 1 | while read -r file; do \
                     python3 -c 'import os, sys; sys.exit(\"user.ostreemeta\" in os.listxattr(sys.argv[1]))' \"$file\" \
                     || echo \"$file\"; done";
        let script = ["--map-root-user", "--map-auto", "sh", "-c", noted];
        assert_eq!(tiny.fixture.run("unshare", &script).ok().stdout, "", "files of our own are not OSTree's");
        let listing = tiny.fixture.run("tar", &["-tvf", "one.tar", "--numeric-owner"]).ok().stdout;
        let listing: Vec<String> = listing.lines().map(words).collect();
        for line in [
            "-rwsr-xr-x 0/0 ./usr/bin/varied-su",
            "-rwxr-sr-x 0/8 ./usr/share/varied/kept",
            "-rw-r----- 33/33 ./usr/share/varied/three",
            "-rw------- 33/42 ./etc/varied.conf",
        ] {
            assert!(listing.iter().any(|found| found == line), "{line}: {listing:#?}");
        }
        let attributes = tiny.fixture.run("sh", &["-c", "grep -a -c ostreemeta one.tar"]).stdout;
        assert_eq!(attributes, "0\n", "they are the repository's");
        let remove = ["--map-root-user", "--map-auto", "rm", "-rf", "root"];
        tiny.fixture.run("unshare", &remove).ok();
    }
    // The repository makes the same image once more.
    let before = tiny.fixture.rev("deb/images/tiny/configured");
    tiny.fixture.treestrap(&["configure"]).ok();
    assert_eq!(tiny.fixture.rev("deb/images/tiny/configured"), before);
}
