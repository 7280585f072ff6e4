//! Stage 2: maintainer scripts run as in a real installation, without services and network, and a
//! failing one is shown so that it can be mended.

use crate::common::{
    account::Account,
    fixture::{Miniature, Outcome},
    tier::{Tier, needs},
};

/// Builds the image `tiny` of `packages` as the ordinary account.
fn built(text: &str, packages: &[&str]) -> Miniature {
    let tiny = Miniature::new(Account::Subordinate, text, packages);
    tiny.fixture.treestrap(&["build"]).ok();
    tiny
}

/// Runs a shell line in the image.
fn inside(tiny: &Miniature, line: &str) -> Outcome {
    tiny.fixture.treestrap(&["run", "tiny", "--", "sh", "-c", line])
}

#[test]
fn conffiles_are_installed_and_recorded() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = built("Package: settings\nconffile ./etc/settings.conf = colour=blue\n", &["settings"]);
    let recorded = inside(&tiny, "dpkg-query -W -f '${Conffiles}\\n' settings").ok().stdout;
    // md5sum of "colour=blue\n"
    let md5 = crate::common::fixture::finish({
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo colour=blue | md5sum | cut -d' ' -f1"]);
        command
    });
    assert_eq!(recorded.trim(), format!("/etc/settings.conf {}", md5.stdout.trim()));
    assert_eq!(tiny.fixture.cat("tiny", "/etc/settings.conf"), "colour=blue\n");
    inside(&tiny, "test ! -e /etc/settings.conf.dpkg-new && dpkg --verify && dpkg --audit").ok();
}

#[test]
fn scripts_run_in_dependency_order_with_dpkgs_arguments_and_triggers() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = r#"
Package: upper
Pre-Depends: lower
file ./usr/share/upper = upper
script preinst
    echo "upper.preinst $*" >>/var/log/order
script postinst
    echo "upper.postinst $*" >>/var/log/order
    dpkg-trigger --no-await regenerate

Package: lower
file ./usr/share/lower = lower
script preinst
    echo "lower.preinst $*" >>/var/log/order
script postinst
    echo "lower.postinst $*" >>/var/log/order
control triggers
    interest-noawait regenerate
"#;
    let tiny = built(text, &["upper"]);
    let order = tiny.fixture.cat("tiny", "/var/log/order");
    let mut order: Vec<&str> = order.lines().map(str::trim_end).collect();
    let position = |order: &[&str], line: &str| {
        order.iter().position(|found| *found == line).unwrap_or_else(|| panic!("no {line:?} in {order:#?}"))
    };
    assert!(
        position(&order, "lower.preinst install") < position(&order, "upper.preinst install"),
        "{order:#?}"
    );
    assert!(
        position(&order, "lower.postinst configure") < position(&order, "upper.postinst configure"),
        "{order:#?}"
    );
    assert!(
        position(&order, "upper.postinst configure")
            < position(&order, "lower.postinst triggered regenerate"),
        "{order:#?}"
    );
    order.sort_unstable();
    order.dedup();
    assert_eq!(order.len(), 5, "each script ran once: {order:#?}");
    assert_eq!(inside(&tiny, "dpkg --audit").ok().stdout, "");
}

#[test]
fn the_environment_of_scripts_is_that_of_an_unattended_installation() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = r#"
Package: witness
script postinst
    mkdir /var/lib/witness
    cd /var/lib/witness
    echo "$DEBIAN_FRONTEND" >frontend
    cat /proc/net/dev >interfaces
    cat /proc/net/route >routes
    umask >umask
    readlink /proc/self/ns/pid >/dev/null
    echo $DPKG_MAINTSCRIPT_PACKAGE >package
    touch /dev/shm/x /tmp/litter /run/litter
    echo works >/dev/null
    head -c 4 /dev/urandom | wc -c >random
    if read answer; then echo "$answer" >answer; fi
    ls /sys /proc/sys/kernel >/dev/null
    read -r _ _ release version </proc/version
    echo "$release $version; $(cat /proc/sys/kernel/osrelease)" >kernel
"#;
    let tiny = built(text, &["witness"]);
    let cat = |name: &str| tiny.fixture.cat("tiny", &format!("/var/lib/witness/{name}"));
    assert_eq!(cat("frontend"), "noninteractive\n");
    assert_eq!(cat("umask"), "0022\n");
    assert_eq!(cat("package"), "witness\n");
    assert_eq!(cat("random").trim(), "4");
    let interfaces: Vec<String> = cat("interfaces")
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split(':').next()?.trim().to_owned()))
        .collect();
    assert_eq!(interfaces, ["lo"], "no network but loopback");
    assert_eq!(cat("routes").lines().count(), 1, "no route");
    assert_eq!(cat("kernel"), "5.11.0 #1 SMP; 5.11.0\n", "nothing of the host's kernel");
    let uname = inside(&tiny, "uname -snrv").ok().stdout;
    assert_eq!(uname, "Linux localhost 5.11.0 #1 SMP\n", "the same in `run`");
    let listing = tiny.fixture.listing("deb/images/tiny/configured");
    assert!(
        !listing.iter().any(|line| line.contains("litter")),
        "/tmp and /run are not in the commit: {listing:#?}"
    );
    assert!(
        !listing
            .iter()
            .any(|line| line.contains(" /dev/") || line.contains(" /proc/") || line.contains(" /sys/"))
    );
}

#[test]
fn no_service_starts_and_what_prevents_it_is_not_in_the_commit() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = r#"
Package: server
Depends: init-system-helpers
file ./etc/init.d/server 755
    #!/bin/sh
    touch /var/lib/started-by-init
script postinst
    invoke-rc.d server start
    start-stop-daemon --start --exec /usr/bin/touch -- /var/lib/started-by-daemon
    ! systemctl start server 2>/dev/null || true
"#;
    let tiny = built(text, &["server"]);
    let paths = |name: &str| -> Vec<String> {
        let reference = format!("deb/images/tiny/{name}");
        let lines = tiny.fixture.listing(&reference).into_iter();
        lines.filter_map(|line| line.split_once('/').map(|(_, path)| path.to_owned())).collect()
    };
    let (unpacked, configured) = (paths("unpacked"), paths("configured"));
    assert!(
        !configured.iter().any(|path| path.contains("started-by")),
        "a service was started: {configured:#?}"
    );
    for name in ["policy-rc.d", "systemctl", "start-stop-daemon", "invoke-rc.d"] {
        let in_tree =
            |paths: &[String]| paths.iter().filter(|path| path.contains(name)).cloned().collect::<Vec<_>>();
        assert_eq!(in_tree(&configured), in_tree(&unpacked), "{name} is as the packages have it");
    }
    let content = |reference: &str| {
        let repo = tiny.fixture.repo();
        let repo = repo.to_str().expect("UTF-8");
        let path = "/usr/sbin/start-stop-daemon";
        crate::common::fixture::ostree(&[
            "ls",
            "-C",
            "--repo",
            repo,
            &format!("deb/images/tiny/{reference}"),
            path,
        ])
        .ok()
        .stdout
    };
    assert_eq!(content("unpacked"), content("configured"));
}

#[test]
fn changes_of_every_kind_come_through() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = r#"
Package: changer
file ./usr/share/changer/removed = removed
file ./usr/share/changer/replaced = before
file ./usr/share/changer/folder/old = old
file ./usr/share/changer/moved = moved
file ./usr/share/changer/mode = mode
file ./usr/share/changer/same = same
file ./usr/share/changer/becomes-folder = file
file ./usr/share/changer/to-be-link = file
script postinst
    cd /usr/share/changer
    rm removed
    echo after >replaced
    rm -r folder
    mkdir folder
    echo new >folder/new
    mv moved moved-here
    chmod 4711 mode
    touch same
    rm becomes-folder
    mkdir becomes-folder
    echo inside >becomes-folder/inside
    ln -sf replaced to-be-link
    echo one >one
    ln one two
    mkfifo pipe && rm pipe
    mkdir empty
    echo spaces >'with spaces and ümlaut'
"#;
    let tiny = built(text, &["changer"]);
    let listing = tiny.fixture.listing("deb/images/tiny/configured");
    let found: Vec<String> = listing
        .iter()
        .filter_map(|line| {
            let (head, path) = line.split_once(" /usr/share/changer")?;
            let mode = head.split_whitespace().next()?;
            Some(format!("{mode} {path}"))
        })
        .collect();
    let mut found = found;
    found.sort_by_key(|line| line.split_once(' ').map(|(_, path)| path.to_owned()));
    assert_eq!(
        found,
        [
            "d00755 ",
            "d00755 /becomes-folder",
            "-00644 /becomes-folder/inside",
            "d00755 /empty",
            "d00755 /folder",
            "-00644 /folder/new",
            "-04711 /mode",
            "-00644 /moved-here",
            "-00644 /one",
            "-00644 /replaced",
            "-00644 /same",
            "l00777 /to-be-link -> replaced",
            "-00644 /two",
            "-00644 /with spaces and ümlaut",
        ]
    );
    assert_eq!(tiny.fixture.cat("tiny", "/usr/share/changer/replaced"), "after\n");
    assert_eq!(tiny.fixture.cat("tiny", "/usr/share/changer/two"), "one\n");
    tiny.fixture.fsck();
}

const FAILING: &str = r#"
Package: troubled
Version: 2.1
script postinst
    i=1
    while [ $i -le 30 ]; do echo "line $i of output"; i=$((i + 1)); done
    echo partial >/var/lib/partial
    echo the reason >&2
    exit 42
"#;

#[test]
fn a_failing_script_is_shown_with_all_that_is_needed_to_mend_it() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let mut tiny = Miniature::new(Account::Subordinate, FAILING, &["troubled"]);
    let outcome = tiny
        .fixture
        .treestrap(&["build"])
        .exits(1)
        .says(&["troubled", "post-installation script", "42", "line 30 of output", "the reason"])
        .does_not_say(&["line 5 of output\n"]);
    assert_eq!(outcome.stdout, "", "no checksum of what is not there");
    assert_eq!(tiny.fixture.rev("deb/images/tiny/configured"), None);
    assert!(tiny.fixture.rev("deb/images/tiny/unpacked").is_some());
    tiny.fixture.fsck();
    tiny.fixture.assert_nothing_left();

    // the log that it names is there, and has all of the output
    let log = outcome
        .stderr
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/'))
        .find(|word| word.starts_with('/') && word.contains("log"))
        .unwrap_or_else(|| panic!("no path of a log: {outcome}"));
    let log = std::fs::read_to_string(log).unwrap_or_else(|error| panic!("{log}: {error}"));
    assert!(log.contains("line 1 of output") && log.contains("line 30 of output"), "{log}");

    // the command that it names opens the image where the script stopped
    let (_, command) = outcome
        .stderr
        .split_once("treestrap run ")
        .unwrap_or_else(|| panic!("no command that reopens the sandbox: {outcome}"));
    let (options, _) = command.split_once("tiny").expect("the image");
    let mut arguments: Vec<&str> = vec!["run"];
    arguments.extend(options.split_whitespace());
    arguments.push("tiny");
    arguments.extend([
        "--",
        "sh",
        "-c",
        "cat /var/lib/partial; dpkg-query -W -f '${db:Status-Status}\\n' troubled",
    ]);
    let state = tiny.fixture.treestrap(&arguments).ok();
    assert_eq!(state.stdout, "partial\nhalf-configured\n");
    tiny.fixture.assert_nothing_left();

    // mended in the archive, the next build goes through
    tiny.update(|archive| {
        archive.add(crate::common::package::Package::parse("Package: troubled\nVersion: 2.2\n").build());
    });
    tiny.fixture.treestrap(&["lock", "--update"]).ok();
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.fsck();
}

#[test]
fn a_script_that_a_signal_ends_is_told_from_one_that_fails() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = "Package: crashing\nscript postinst\n    kill -SEGV $$\n";
    let tiny = Miniature::new(Account::Subordinate, text, &["crashing"]);
    let outcome = tiny.fixture.treestrap(&["build"]).exits(1).says(&["crashing", "post-installation script"]);
    let text = outcome.stderr.to_lowercase();
    assert!(text.contains("segmentation fault") || text.contains("sigsegv"), "{outcome}");
    let text = "Package: early\nscript preinst\n    exit 3\n";
    let tiny = Miniature::new(Account::Subordinate, text, &["early"]);
    tiny.fixture.treestrap(&["build"]).exits(1).says(&["early", "pre-installation script", "status 3"]);
}

/// A package that makes what identifies a device, and a stand-in for the program that makes it anew.
const IDENTIFIED: &str = r#"
Package: identified
file ./usr/lib/systemd/systemd 0755 = stand-in
file ./usr/bin/ssh-keygen 0755
    #!/bin/sh
    echo fresh >/etc/ssh/ssh_host_rsa_key
folder ./etc/ssh
conffile ./etc/ssh/sshd_config = x
script postinst
    set -e
    date +%s%N >/etc/machine-id
    date +%s%N >/etc/ssh/ssh_host_rsa_key
    chmod 0600 /etc/ssh/ssh_host_rsa_key
"#;

#[test]
fn what_identifies_a_device_is_made_by_the_device() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = built(IDENTIFIED, &["identified"]);
    assert_eq!(tiny.fixture.cat("tiny", "/etc/machine-id"), "", "systemd fills it");
    let listing = |image: &str| tiny.fixture.listing(&format!("deb/images/{image}/configured")).join("\n");
    assert!(!listing("tiny").contains("ssh_host_rsa_key"), "{}", listing("tiny"));
    let unit = tiny.fixture.cat("tiny", "/usr/lib/systemd/system/treestrap-identity.service");
    assert!(unit.contains("ConditionPathExistsGlob=|!/etc/ssh/ssh_host_*_key"), "{unit}");
    let first = "/usr/lib/treestrap/make-identity && cat /etc/ssh/ssh_host_rsa_key && ls /etc/ssh";
    assert_eq!(
        inside(&tiny, first).ok().stdout,
        "making: SSH host keys\nfresh\nssh_host_rsa_key\nsshd_config\n"
    );
    // One checksum, though each run makes others; `remove` brings nothing that makes it, `keep` keeps it.
    let before = tiny.fixture.rev("deb/images/tiny/configured");
    tiny.fixture.treestrap(&["configure"]).ok();
    assert_eq!(tiny.fixture.rev("deb/images/tiny/configured"), before);
    let manifest = tiny.fixture.read("treestrap.toml");
    for (policy, has_key, has_unit) in [("remove", false, false), ("keep", true, false)] {
        tiny.fixture.write("treestrap.toml", &format!("{manifest}identity = \"{policy}\"\n"));
        tiny.fixture.treestrap(&["build"]).ok();
        let listing = listing("tiny");
        assert_eq!(listing.contains("ssh_host_rsa_key"), has_key, "{policy}: {listing}");
        assert_eq!(listing.contains("treestrap-identity"), has_unit, "{policy}: {listing}");
    }
    assert_ne!(tiny.fixture.cat("tiny", "/etc/machine-id"), "");
}

#[test]
fn verify_names_what_differs_and_who_wrote_it() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let text = r#"
Package: steady
script postinst
    echo same >/etc/steady
    chown 7:8 /etc/steady

Package: fickle
script postinst
    echo same >/etc/same
    date '+made on %d %b %Y' >/etc/dated
    date +%s%N >/etc/fickle.new
    mv /etc/fickle.new /etc/fickle
    echo $$ >/etc/process
"#;
    let tiny = Miniature::new(Account::Subordinate, text, &["steady"]);
    tiny.fixture.treestrap(&["lock"]).ok();
    tiny.fixture.treestrap(&["verify"]).exits(1).says(&["there is no image", "treestrap build tiny"]);
    let built = tiny.fixture.treestrap(&["build"]).ok().stdout;
    let verified = tiny.fixture.treestrap(&["verify"]).ok().says(&["the same again: tier single"]);
    assert_eq!(verified.stdout, built);
    assert!(!tiny.fixture.refs().iter().any(|name| name.contains("again")), "{:?}", tiny.fixture.refs());

    let tiny = Miniature::new(Account::Subordinate, text, &["steady", "fickle"]);
    tiny.fixture.treestrap(&["build"]).ok();
    let outcome = tiny.fixture.treestrap(&["verify"]).exits(1).says(&[
        "2 paths differ",
        "tiny/again",
        "/etc/dated has the day of this run in it",
    ]);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "~ /etc/fickle");
    assert_eq!(lines[1], "    written by mv /etc/fickle.new /etc/fickle (fickle)");
    assert_eq!(lines[2], "~ /etc/process");
    assert!(
        lines[3].starts_with("    written by ") && lines[3].ends_with("postinst configure (fickle)"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    let json = tiny.fixture.treestrap(&["verify", "--json"]).exits(1).stdout;
    assert!(json.contains(r#""event":"disparity","image":"tiny","sign":"~","path":"etc/fickle""#), "{json}");
    tiny.fixture.treestrap(&["diff", "tiny", "tiny/again"]).ok().says(&[]);
    tiny.fixture.fsck();
}
