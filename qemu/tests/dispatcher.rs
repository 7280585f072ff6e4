//! The dispatcher as the kernel starts it: a real binfmt_misc, in namespaces of the test's own.
//!
//! The foreign machine is one that there never was, so neither qemu nor a cross compiler is
//! needed: two small C programs stand in for qemu and for the twin and say how they were started.

mod namespaces;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use namespaces::{skip, unshare};
use qemu::interpreter::{Twin, interpreter};
use treestrap_dispatcher::{
    record::{Kind, Record},
    table::Fingerprint,
};

fn compile(source: &str, program: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dispatcher").join(source);
    let result = Command::new("cc").args(["-static-pie", "-O1", "-o"]).arg(program).arg(source).output();
    result.is_ok_and(|output| output.status.success())
}

/// An ELF header for machine 0xfeed with some content that makes it this program.
fn foreign(name: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xed\xfe\x01\0\0\0".to_vec();
    bytes.extend(name.repeat(1000).bytes());
    bytes
}

#[test]
fn every_way_to_start_a_program() {
    let Some((mut command, mapped)) = unshare() else {
        return skip("binfmt_misc cannot be mounted in a user namespace (Linux 6.7 can)");
    };
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dispatcher-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the test");
    if !compile("emulator.c", &folder.join("emulator"))
        || !compile("twin.c", &folder.join("twin"))
        || !compile("start.c", &folder.join("start"))
    {
        return skip("no static programs can be compiled (libc6-dev has what it takes)");
    }
    let text = |name: &str| folder.join(name).to_str().expect("a path in UTF-8").as_bytes().to_vec();
    let mut twins = Vec::new();
    for (name, twin) in [("foreign", Some("twin")), ("alone", None), ("lost", Some("nowhere"))] {
        let content = foreign(name);
        fs::write(folder.join(name), &content).expect("a foreign program");
        let program = Fingerprint::of(&content, content.len() as u64);
        twins.extend(twin.map(|twin| Twin { program, path: text(twin) }));
    }
    let emulator = fs::read(folder.join("emulator")).expect("the emulator");
    let combined = interpreter(&emulator, &twins, &text("log")).expect("an interpreter");
    fs::write(folder.join("interpreter"), combined).expect("the interpreter");
    fs::write(folder.join("log"), "").expect("the log");
    let mut mode = Command::new("sh");
    mode.arg("-c").arg("chmod +x interpreter foreign alone lost; chmod 666 log").current_dir(&folder);
    assert!(mode.status().expect("chmod").success());

    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dispatcher/cases.sh");
    let output = command.args(["sh", cases]).current_dir(&folder).output().expect("unshare");
    let here = String::from_utf8(text(".")).expect("UTF-8").replace("/.", "");
    let got = String::from_utf8_lossy(&output.stdout).replace(&here, "HERE");
    let mut expected = include_str!("dispatcher/expected.txt");
    if mapped == "one" {
        skip("the cases with other users: this account has no range in /etc/subuid");
        expected = &expected[..expected.find("set-id:").expect("the last cases")];
    }
    assert_eq!(got, expected, "{}", String::from_utf8_lossy(&output.stderr));

    let log = fs::read(folder.join("log")).expect("the log");
    let mut rest = &log[..];
    let mut counts = BTreeMap::new();
    while let Some(record) = Record::read(&mut rest) {
        *counts.entry((record.kind, record.detail)).or_insert(0) += 1;
        if record.kind == Kind::Fallback {
            let lost = foreign("lost");
            let program = Fingerprint::of(&lost, lost.len() as u64);
            assert_eq!((record.key, record.size, record.path), (program.key, program.size, &b"./lost"[..]));
        }
    }
    assert!(rest.is_empty(), "the log has {} bytes that are no record", rest.len());
    const ENOENT: u32 = 2;
    // Those in other roots are not noted: the log cannot be seen from there. `lost` is noted twice.
    // And the one that must not have another process has no watcher.
    let (mut twins, mut emulated, mut privileged, mut unwatched) = (16, 12, 0, 0);
    if mapped == "many" {
        (twins, emulated, privileged, unwatched) = (17, 14, 2, 1);
    }
    let mut expected = BTreeMap::from([
        ((Kind::Twin, 0), twins),
        ((Kind::Emulated, 0), emulated),
        ((Kind::Privileged, 0), privileged),
        ((Kind::Fallback, ENOENT), 1),
    ]);
    expected.retain(|_, count| *count > 0);
    let ends: BTreeMap<u32, u64> = counts
        .iter()
        .filter(|((kind, _), _)| *kind == Kind::Ended)
        .map(|((_, status), count)| (*status, *count))
        .collect();
    counts.retain(|(kind, _), _| *kind != Kind::Ended);
    assert_eq!(counts, expected);
    // Every program that qemu ran has ended: most with 42, one as the twin that it has become, one
    // by a signal. Before Linux 6.15 the kernel does not tell.
    let watched = emulated + 1 + privileged - unwatched;
    let known = BTreeMap::from([(42 << 8, watched - 2), (7 << 8, 1), (9, 1)]);
    let unknown = BTreeMap::from([(u32::MAX, watched)]);
    assert!(ends == known || ends == unknown, "{ends:?}, not {known:?}");
    fs::remove_dir_all(&folder).expect("the folder is the test's own");
}
