//! A small image of the real archive beside mmdebstrap's of the same packages, by the runner of
//! `make fidelity`: no difference that `tests/fidelity/ignore` does not explain. And the comparison
//! itself, on trees that are known to differ.

mod common;

use std::{fs, path::Path, process::Command};

use common::{
    account::Account,
    fixture::{Fixture, Outcome, finish},
    tier::{Tier, needs},
};

fn tool(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fidelity").join(name))
}

#[test]
fn a_small_image_is_mmdebstraps() {
    needs!(
        Tier::As(Account::Subordinate),
        Tier::Userns,
        Tier::Overlay,
        Tier::Archive,
        Tier::Python,
        Tier::Mmdebstrap
    );
    let fixture = Fixture::new(Account::Subordinate);
    let folder = fixture.path("fidelity");
    let mut command = tool("run");
    command.arg(env!("CARGO_BIN_EXE_treestrap")).arg("--folder").arg(&folder).arg("minimal-bookworm");
    let outcome = finish(command).ok();
    let text = fs::read_to_string(folder.join("results/minimal-bookworm.json")).expect("a result");
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["left"], serde_json::json!([]), "{outcome}");
    assert!(result["packages"].as_u64() > Some(40) && result["paths"].as_u64() > Some(3000), "{text}");
    fixture.assert_nothing_left();
}

/// A file of a tree: path, mode, uid, content.
type File = (&'static str, u32, u64, &'static str);

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nsmith:x:101:0::/:/bin/sh\n";

fn tree(path: &Path, files: &[File]) {
    let mut tar = tar::Builder::new(fs::File::create(path).expect("a writable folder"));
    for &(name, mode, uid, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(0);
        match content.strip_prefix("-> ") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).expect("a link");
            }
            None => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes()).expect("a file");
            }
        }
    }
    tar.finish().expect("a tar");
}

/// Compares two trees, with lines of `ignore`.
fn compare(ours: &[File], theirs: &[File], ignore: &str) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    tree(&path("ours.tar"), ours);
    tree(&path("theirs.tar"), theirs);
    fs::write(path("ignore"), ignore).expect("a writable folder");
    let mut command = tool("compare.py");
    command.arg(path("ours.tar")).arg(path("theirs.tar")).arg("--ignore").arg(path("ignore"));
    finish(command)
}

#[test]
fn the_comparison_sees_every_kind_of_difference() {
    needs!(Tier::Python);
    let ours = [
        ("etc/passwd", 0o644, 0, PASSWD),
        ("content", 0o644, 0, "one"),
        ("mode", 0o4755, 0, ""),
        ("mine", 0o644, 0, ""),
        ("owner", 0o644, 101, ""),
        ("target", 0o777, 0, "-> a"),
        ("type", 0o644, 0, ""),
    ];
    let theirs = [
        // the same accounts, in another order and with other numbers
        ("etc/passwd", 0o644, 0, "smith:x:102:0::/:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n"),
        ("content", 0o644, 0, "two"),
        ("mode", 0o755, 0, ""),
        ("other", 0o644, 0, ""),
        ("owner", 0o644, 0, ""),
        ("target", 0o777, 0, "-> b"),
        ("type", 0o777, 0, "-> a"),
    ];
    let outcome = compare(&ours, &theirs, "");
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    let expected = [
        "content content",
        "ours mine",
        "mode mode: 0o4755 / 0o755",
        "theirs other",
        "owner owner: ('smith', 0) / ('root', 0)",
        "target target: a / b",
        "type type: file / link",
    ];
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    let mut sorted = expected.to_vec();
    sorted.sort_unstable();
    assert_eq!(lines, sorted, "{outcome}");

    let all =
        "any c?ntent # a\nany m* # b\ntheirs other # c\nowner owner # d\ntarget target # e\ntype t?pe # f\n";
    compare(&ours, &theirs, all).ok();
    let most = all.replace("theirs other", "ours other");
    assert_eq!(compare(&ours, &theirs, &most).stdout, "theirs other\n");

    let numbers = [("etc/passwd", 0o644, 0, PASSWD), ("owner", 0o644, 101, "")];
    let others = [
        ("etc/passwd", 0o644, 0, "root:x:0:0:root:/root:/bin/sh\nsmith:x:7:0::/:/bin/sh\n"),
        ("owner", 0o644, 7, ""),
    ];
    compare(&numbers, &others, "").ok();
}

#[test]
fn what_is_expected_needs_a_reason() {
    needs!(Tier::Python);
    for line in ["any etc/*\n", "any etc/* #\n", "some etc/* # why\n", "etc/* # why\n"] {
        let outcome = compare(&[], &[], line);
        assert!(outcome.stderr.contains("ignore:1: a line is WORD PATTERN # REASON"), "{line}: {outcome}");
    }
}
