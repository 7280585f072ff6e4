//! Twins of real packages: what has one, and why the rest has none, over architectures and suites.
//!
//! It downloads some hundred packages a set, through apt and from the archive that it is set up for:
//! ```sh
//! cargo test -p qemu --test packages -- --ignored --nocapture
//! ```
//! `TREESTRAP_PACKAGES=trixie/riscv64,bookworm/armhf` picks sets, `TREESTRAP_TESTS_DIR` is where they
//! go; what is there is not downloaded again. `TREESTRAP_QUESTIONS=dpkg` asks only those with that in them.

#[path = "../namespaces/mod.rs"]
mod namespaces;

mod debs;
mod truth;

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use debs::{Contents, Deb, packages, read_all};
use namespaces::{skip, unshare};
use qemu::{
    Emulator, find, host,
    twins::{Machine, Plan, Policy, Reason, plan, policy::matches, rewrite, wanted},
};

/// What an embedded image has, and packages whose scripts start much.
const PACKAGES: &str = "apt systemd-sysv udev dbus openssh-server nginx python3 network-manager \
    ca-certificates sudo rsyslog iproute2 kmod less locales man-db perl apache2 postgresql fontconfig \
    initramfs-tools dpkg-dev xz-utils zstd lz4 bzip2 shared-mime-info libglib2.0-bin file libxml2-utils \
    gsettings-desktop-schemas gtk-update-icon-cache hicolor-icon-theme libcap2-bin acl e2fsprogs";

/// Suites and architectures of Debian.
const SETS: &str = "bookworm/armhf,bookworm/arm64,bookworm/armel,bookworm/ppc64el,bookworm/s390x,\
    trixie/armhf,trixie/arm64,trixie/armel,trixie/ppc64el,trixie/riscv64,trixie/s390x";

/// Programs of packages in the table that are without a twin for another reason than a table's:
/// sets, path, reason, and why that is right.
const EXPECTED: &[(&str, &str, &str, &str)] = &[
    ("*", "usr/bin/stdbuf", "*plug-in*libstdbuf.so", "it has LD_PRELOAD load it into programs of the image"),
    ("*/s390x", "usr/*/man-db/*", "*would be in the way", "glibc stops at a library of another byte order"),
    ("*/s390x", "usr/*bin/*", "the image's own /usr/lib/man-db/* would be in the way", "the same"),
    ("*", "*", "*data that depends on the machine's words", "32 bits, or another byte order"),
    ("*/s390x", "*", "it reads or writes data in the machine's byte order", "and s390x has another one"),
];

fn fetch(folder: &Path, suite: &str, architecture: &str, packages: &[&str]) {
    let (list, done) = (packages.join("\n"), folder.join("done"));
    if fs::read_to_string(&done).is_ok_and(|of| of == list) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packages/fetch.sh");
    let status =
        Command::new("sh").arg(script).arg(folder).args([suite, architecture]).args(packages).status();
    assert!(status.expect("sh").success(), "packages of {suite} for {architecture}");
    fs::write(done, list).expect("written");
}

struct Set {
    foreign: Vec<Deb>,
    native: Vec<Deb>,
    machines: (Machine, Machine),
    plan: Plan,
}

fn prepare(folder: &Path, set: &str, uname_is_answered: bool) -> Set {
    let (suite, architecture) = set.split_once('/').expect("suite/architecture");
    let host = host().expect("a port of Debian").name;
    let machines = (Machine::of(architecture).expect("known"), Machine::of(host).expect("known"));
    let names: Vec<&str> = PACKAGES.split_whitespace().collect();
    let ours = folder.join(format!("{suite}-{architecture}"));
    fetch(&ours, suite, architecture, &names);
    let foreign = read_all(&ours);
    let policy = Policy { uname_is_answered, ..Policy::default() };
    let wanted = wanted(&packages(&foreign), &machines.0, &policy);
    let theirs = folder.join(format!("{suite}-{architecture}-{host}"));
    let names: Vec<&str> = ["--only"].into_iter().chain(wanted.keys().map(String::as_str)).collect();
    fetch(&theirs, suite, host, &names);
    let native = read_all(&theirs);
    let mut contents = Contents::new(&native);
    let both = (&machines.0, &machines.1);
    let refused = |package: &str, path: &str| {
        let content = contents.read(package, path).expect("readable");
        rewrite(path, &content, both).err().map(|why| why.to_string())
    };
    let plan = plan(&packages(&foreign), &packages(&native), both, &policy, refused);
    Set { foreign, native, machines, plan }
}

fn folder() -> PathBuf {
    let folder = env::var_os("TREESTRAP_TESTS_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    folder.join("treestrap-packages")
}

fn sets() -> Vec<String> {
    let sets = env::var("TREESTRAP_PACKAGES").unwrap_or_else(|_| SETS.to_owned());
    sets.split(',').map(|set| set.trim().to_owned()).collect()
}

#[test]
#[ignore = "downloads some hundred packages for each of many architectures"]
fn every_program_has_a_twin_or_a_good_reason() {
    let mut unexpected = Vec::new();
    for set in sets() {
        let Set { foreign, native, plan, .. } = prepare(&folder(), &set, true);
        let count =
            |reason: fn(&Reason) -> bool| plan.emulated.iter().filter(|other| reason(&other.reason)).count();
        let mut report = std::io::stderr().lock();
        let _ = writeln!(
            report,
            "{set}: {} packages, {} native; {} twins, {} programs of other packages, {} emulated by a table",
            foreign.len(),
            native.len(),
            plan.programs.len(),
            count(|reason| *reason == Reason::NotInTable),
            count(|reason| matches!(reason, Reason::Table(_))),
        );
        for other in &plan.emulated {
            if matches!(other.reason, Reason::Table(_) | Reason::NotInTable) {
                continue;
            }
            let (path, reason) = (&other.program.path, other.reason.to_string());
            let known = EXPECTED
                .iter()
                .find(|(sets, of, why, _)| matches(sets, &set) && matches(of, path) && matches(why, &reason));
            let line = format!("{set} {} /{path}: {reason}", other.program.package);
            let _ =
                writeln!(report, "  {line}{}", known.map_or(String::new(), |(.., why)| format!(" ({why})")));
            if known.is_none() {
                unexpected.push(line);
            }
        }
    }
    assert!(unexpected.is_empty(), "without a known reason:\n{}", unexpected.join("\n"));
}

#[test]
#[ignore = "downloads some hundred packages for each of many architectures"]
fn twins_answer_as_the_device_does() {
    let mut wrong = Vec::new();
    for set in sets() {
        let architecture = set.split_once('/').expect("suite/architecture").1;
        let emulator = match Emulator::on_host(find(architecture).expect("known")) {
            Ok(emulator) => emulator,
            Err(error) => {
                skip(&error.to_string());
                continue;
            }
        };
        let Set { foreign, native, machines, plan } = prepare(&folder(), &set, false);
        let folder = folder().join(format!("run-{}", set.replace('/', "-")));
        let _ = fs::remove_dir_all(&folder);
        truth::unpack(&foreign, &folder.join("unpacked"));
        let tree = folder.join("tree");
        truth::make_tree(&plan, &native, (&machines.0, &machines.1), &tree);
        let ask = |twins, mounts| {
            let command: Option<Command> = unshare().map(|(command, _)| command);
            command.map(|command| truth::ask(&folder, command, &emulator, (architecture, twins, mounts)))
        };
        let (Some((emulated, before)), Some((accelerated, after))) =
            (ask(&[], &[]), ask(&plan.twins, &truth::mounts(&plan, &tree)))
        else {
            return skip("binfmt_misc cannot be mounted in a user namespace (Linux 6.7 can)");
        };
        let mut report = std::io::stderr().lock();
        let _ = writeln!(report, "{set}, qemu {}: {}", emulator.version, truth::summary(&before));
        let _ = writeln!(report, "{set}, with twins: {}", truth::summary(&after));
        let suite = set.split('/').next().expect("a suite");
        wrong.extend(truth::failed(&after).map(|path| format!("{set}: the twin of {path} did not start")));
        wrong.extend(
            truth::compare(&emulated, &accelerated, &machines.0, suite)
                .into_iter()
                .map(|it| format!("{set}: {it}")),
        );
        let _ = fs::remove_dir_all(&folder);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
