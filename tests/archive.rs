//! The real archive, as this machine's apt sources name it: a foreign image through qemu and a
//! native one of another suite, by an unprivileged account, in one repository.
//!
//! The test needs a network; nothing that it downloads outlives it.

mod common;

use std::{collections::BTreeSet, fs, process::Command};

use common::{
    account::Account,
    apt2ostree, base,
    fixture::{Fixture, finish, ostree},
    tier::{Tier, needs},
};

/// What apt knows of one suite of its sources.
struct Source {
    suite: String,
    uri: String,
}

/// The suites of apt's binary sources with their URIs, by apt itself.
fn sources() -> Vec<Source> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]);
    let text = finish(command).ok().stdout;
    let source = |line: &str| {
        let (suite, uri) = line.split_once(' ')?;
        Some(Source { suite: suite.to_owned(), uri: uri.to_owned() })
    };
    text.lines().filter_map(source).collect()
}

/// The manifest: the suite bookworm for armhf, trixie for this machine's architecture.
///
/// A suite that apt's sources have is left to treestrap to find there; another one is on the same
/// mirror.
fn manifest() -> String {
    let sources = sources();
    let plain = |source: &&Source| !source.suite.contains(['-', '/']);
    let main = sources.iter().find(plain).expect("apt's sources name a suite");
    let mut text = String::new();
    for suite in ["bookworm", "trixie"] {
        text += &format!("[repos.{suite}]\nsuites = [\"{suite}\"]\n");
        if !sources.iter().any(|source| source.suite == suite) {
            text += &format!("uris = [{:?}]\n", main.uri.trim_end_matches('/'));
        }
    }
    text + &format!(
        "[images.foreign]\narch = \"armhf\"\nrepos = [\"bookworm\"]\npackages = [\"netbase\", \"libcap2-bin\"]\n\
         [images.layered]\nfrom = \"foreign\"\npackages = [\"less\"]\n\
         [images.flat]\narch = \"armhf\"\nrepos = [\"bookworm\"]\npackages = [\"netbase\", \"libcap2-bin\", \"less\"]\n\
         [images.native]\narch = {:?}\nrepos = [\"trixie\"]\npackages = [\"netbase\", \"systemd-sysv\"]\n",
        base::architecture()
    )
}

/// What a program on the network may need to be told, as the harness itself was told it.
fn proxies() -> Vec<(String, String)> {
    let proxy = |(name, _): &(String, String)| name.to_ascii_lowercase().ends_with("_proxy");
    std::env::vars().filter(proxy).collect()
}

fn host_binfmt() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn images_of_two_suites_and_architectures() {
    needs!(
        Tier::As(Account::Subordinate),
        Tier::Ostree,
        Tier::Userns,
        Tier::Overlay,
        Tier::Binfmt,
        Tier::Strace,
        Tier::Archive,
    );
    let fixture = Fixture::new(Account::Subordinate);
    fixture.write("treestrap.toml", &manifest());
    let binfmt = host_binfmt();
    let treestrap = |arguments: &[&str]| {
        let mut command = fixture.command(fixture.program());
        command.args(arguments).envs(proxies());
        finish(command)
    };
    treestrap(&["lock"]).ok();
    treestrap(&["fetch", "--keep-debs", "debs", "native"]).ok();
    treestrap(&["fetch"]).ok();

    compose_opens_no_file_object(&fixture);
    imported_packages_are_the_same(&fixture);

    let built = treestrap(&["build"]).ok();
    for image in ["foreign", "native", "layered"] {
        let checksum = fixture.rev(&format!("deb/images/{image}/configured")).expect("a configured image");
        assert!(built.stdout.lines().any(|line| line == format!("{image} {checksum}")), "{built}");
        let locked = fixture.read(&format!("{image}.lock"));
        let locked = locked.lines().filter(|line| line.starts_with("Package: ")).count();
        assert!(locked > 40, "a minimal system has more than {locked} packages");
        let query = ["run", image, "--", "dpkg-query", "-W", "-f", "${Status} ${Package}\n"];
        let statuses = treestrap(&query).ok().stdout;
        assert_eq!(statuses.lines().count(), locked, "{image}: {statuses}");
        assert!(
            statuses.lines().all(|line| line.starts_with("install ok installed ")),
            "{image}: {statuses}"
        );
        assert_eq!(treestrap(&["run", image, "--", "dpkg", "--audit"]).ok().stdout, "");
    }
    fixture.fsck();
    assert_eq!(treestrap(&["run", "foreign", "--", "uname", "-m"]).ok().stdout, "armv7l\n");
    assert_eq!(treestrap(&["run", "foreign", "--", "dpkg", "--print-architecture"]).ok().stdout, "armhf\n");
    assert_eq!(treestrap(&["--offline", "build"]).ok().stdout, built.stdout, "nothing is left to do");
    acceleration_changes_nothing(&fixture);
    layers_are_no_difference(&fixture);

    // the programs of the image are of its architecture: e_machine 40 is EM_ARM (elf(5))
    treestrap(&["export", "foreign", "--tar", "foreign.tar"]).ok();
    let header = "tar -xOf foreign.tar --wildcards '*usr/bin/dpkg' | od -A n -t u2 -j 18 -N 2";
    assert_eq!(fixture.run("sh", &["-c", header]).ok().stdout.trim(), "40");

    assert_eq!(host_binfmt(), binfmt, "the host's binfmt table is not touched");
    fixture.assert_nothing_left();
}

/// A leaf package on a finished tree, and the same packages configured at once: ostree finds no difference.
fn layers_are_no_difference(fixture: &Fixture) {
    let configured = |image: &str| format!("deb/images/{image}/configured");
    let repo = fixture.repo();
    let repo = repo.to_str().expect("UTF-8");
    let differences = ostree(&["diff", "--repo", repo, &configured("flat"), &configured("layered")]).ok();
    assert_eq!(differences.stdout, "");
    let without = ostree(&["diff", "--repo", repo, &configured("foreign"), &configured("layered")]).ok();
    assert!(without.stdout.contains("A    /usr/bin/less\n"), "{without}");
}

/// Invariant 1: the foreign image is the same with native twins of its programs and without; and what
/// ran where is told.
fn acceleration_changes_nothing(fixture: &Fixture) {
    let configured = || fixture.rev("deb/images/foreign/configured");
    let accelerated = configured();
    let configure = |arguments: &[&str]| {
        let outcome = fixture.treestrap(&[&["--offline", "configure", "foreign"], arguments].concat()).ok();
        assert_eq!(configured(), accelerated, "configure {arguments:?}: {outcome}");
        outcome
    };
    assert!(!configure(&["--json", "--accelerate", "off"]).stdout.contains("\"accelerated\""));

    let text = configure(&["--json", "--accelerate", "require"]).stdout;
    let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let ran = events.into_iter().find(|event| event["event"] == "accelerated").expect("it is told");
    let count = |field: &str| ran[field].as_u64().expect("a number");
    assert!(count("native") > 20 * count("emulated"), "{ran}");
    let programs = ran["programs"].as_array().expect("a list");
    assert!(programs.iter().all(|program| program["fallback"] == false), "{ran}");
    assert!(programs.iter().any(|program| program["path"] == "/usr/sbin/ldconfig"), "{ran}");

    // what the user takes out of the table runs in qemu, and is said to
    let manifest = fixture.read("treestrap.toml");
    let with = manifest.replace("[images.foreign]\n", "[images.foreign]\nemulate = [\"usr/bin/ch*\"]\n");
    fixture.write("treestrap.toml", &with);
    let told = configure(&["--explain-acceleration"]).stderr;
    let chmod = |line: &str| line.contains("/chmod (coreutils)") && line.ends_with(": the manifest says so");
    assert!(told.lines().any(chmod), "{told}");
    fixture.write("treestrap.toml", &manifest);
}

/// Real packages that apt2ostree has unpacked come out as when they are fetched.
fn imported_packages_are_the_same(fixture: &Fixture) {
    apt2ostree::unpack(fixture);
    let outcome = fixture.treestrap(&["import", "apt2ostree", "theirs", "--repo", "imported"]).ok();
    let (fetched, imported) =
        (apt2ostree::pool(&fixture.repo()), apt2ostree::pool(&fixture.path("imported")));
    let same = fetched.iter().filter(|(name, commit)| imported.get(*name) == Some(commit)).count();
    assert_eq!(same, imported.len(), "{outcome}");
    let debs = fs::read_dir(fixture.path("debs")).expect("a folder").count();
    assert!(same * 20 >= debs * 19, "{same} of {debs} packages: {outcome}");
}

/// Invariant 2: stage 1 reads no file content. A trace of every open(2) shows dirtrees, and not
/// one content object.
fn compose_opens_no_file_object(fixture: &Fixture) {
    let program = fixture.program();
    let program = program.to_str().expect("UTF-8");
    let traced =
        ["-f", "-qq", "-e", "trace=open,openat,openat2", "-o", "trace", program, "--offline", "compose"];
    fixture.run("strace", &traced).ok();
    let trace = fixture.read("trace");
    let opened = |suffix: &str| {
        let found =
            trace.lines().filter(|line| line.contains(&format!("{suffix}\"")) && !line.contains("ENOENT"));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!opened(".dirtree").is_empty(), "the trace shows what compose opens");
    assert_eq!(opened(".file"), Vec::<String>::new());
    for image in ["foreign", "native"] {
        assert!(fixture.rev(&format!("deb/images/{image}/unpacked")).is_some());
    }
}
