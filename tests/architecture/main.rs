//! The fences of ARCHITECTURE.md, held by a test: which module may import what, who prints, where
//! unsafe code and network addresses may stand. A rule that must change is changed here, with a
//! reason.
//!
//! What the compiler and clippy hold (`forbid(unsafe_code)`, banned methods) is not repeated.

mod tokens;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use tokens::{Kind, Token, paths, tokens};

/// The stages: none imports another, and nobody but the listed modules imports one.
const STAGES: &[(&str, &[&str])] = &[
    // The front ends read the manifest; the pipeline orders the rest.
    ("manifest", &["pipeline", "cli", "doctor"]),
    ("lock", &["pipeline"]),
    ("fetch", &["pipeline"]),
    ("ingest", &["pipeline"]),
    ("compose", &["pipeline"]),
    ("rootfs", &["pipeline"]),
    ("twins", &["pipeline"]),
    ("configure", &["pipeline"]),
    ("commit", &["pipeline"]),
    ("export", &["pipeline"]),
    // No stages, but above all of them in the same way.
    ("pipeline", &["cli"]),
    ("doctor", &["cli"]),
    ("cli", &["main"]),
];

/// Libraries that stay behind one module: the library, the paths that may name it, and why.
const LIBRARIES: &[(&[&str], &[&str], &str)] = &[
    (&["ostree", "gio", "glib"], &["src/store/"], "the repository has one door"),
    (&["ureq"], &["src/acquire/"], "only lock and fetch reach a network, and only through acquire"),
    (&["nix", "caps", "libc", "fuser"], &["sandbox/"], "the sandbox owns the kernel's interfaces"),
    (
        &["clap", "clap_complete", "clap_mangen", "indicatif", "signal_hook"],
        &["src/cli/"],
        "the library has no terminal",
    ),
    (
        &["sandbox"],
        // main, because the program is also the sandbox's helper, and must become that first of all.
        // error.rs, because what a sandbox reports becomes the pipeline's error in one place.
        // Folders of the host are read in a user namespace, by rootfs to finish them and by export.
        &[
            "src/configure/",
            "src/pipeline/",
            "src/doctor/",
            "src/rootfs/",
            "src/export/folder_tar.rs",
            "src/main.rs",
            "src/error.rs",
            "sandbox/",
        ],
        "configure translates Debian's rules into a sandbox plan",
    ),
    (
        &["qemu"],
        // The sandbox's tests run foreign programs; the crate itself knows no emulator.
        &[
            "src/configure/",
            "src/pipeline/",
            "src/doctor/",
            "src/rootfs/",
            "src/twins/",
            "qemu/",
            "sandbox/tests/",
        ],
        "configure brings emulation and sandbox together",
    ),
    (
        &["treestrap"],
        &["src/main.rs", "tests/", "examples/", "fuzz/"],
        "the crates below know nothing of Debian",
    ),
];

/// Where unsafe code may stand, and why it has to.
const UNSAFE: &[(&str, &str)] = &[
    ("sandbox/src/sys/", "system calls that nix has no safe form of"),
    ("qemu/dispatcher/src/start.rs", "runs before any library, on the stack that the kernel made"),
    ("qemu/dispatcher/src/system.rs", "has no C library to make system calls for it"),
    ("qemu/dispatcher/src/watch.rs", "leaves a process of no library behind"),
    ("qemu/dispatcher/src/image.rs", "reads what was appended to the program in memory"),
];

/// What `src/debian/` may use of the rest: it is pure.
const DEBIAN_USES: &[&str] = &["debian", "digest"];

/// Hosts that may stand in a file, next to reserved names (RFC 2606) and this machine: places of
/// documents, from which nothing is downloaded.
const HOSTS: &[&str] = &[
    "bugs.debian.org",
    "bugs.launchpad.net",
    "docs.kernel.org",
    "docs.rs",
    "git.kernel.org",
    "github.com",
    "keepachangelog.com",
    "man7.org",
    "no-color.org",
    "reproducible-builds.org",
    "ostreedev.github.io",
    "rustup.rs",
    "semver.org",
    "specifications.freedesktop.org",
    "www.w3.org", // names the vocabulary of SVG
    "wiki.debian.org",
    "www.apache.org",
    "www.debian.org",
    "www.freedesktop.org",
    "www.gnu.org",
    "www.kernel.org",
    "www.rfc-editor.org",
];

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The rules of a Rust file; `file` is its path in the repository.
fn check_rust(file: &str, text: &str) -> Vec<Violation> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut report = |line: usize, message: String| {
        let violation = Violation { file: file.to_owned(), line, message };
        if !found.contains(&violation) {
            found.push(violation);
        }
    };
    if !text.starts_with("//!") {
        report(1, "opens without //!: say what the file is for".to_owned());
    }
    for path in paths(&tokens) {
        for message in broken_import(file, &path.segments) {
            report(path.line, message);
        }
    }
    let production = without_tests(&tokens);
    // A module that only tests use is called test-something by convention, and may tell why it skips.
    let is_test = file.rsplit('/').next().is_some_and(|name| name.starts_with("test"));
    let programs = ["src/cli/", "tests/", "sandbox/tests/", "qemu/tests/", "qemu/build.rs", "examples/"];
    if !is_test && !programs.iter().any(|place| file.starts_with(place)) {
        for pair in production.windows(2) {
            let macros = ["print", "println", "eprint", "eprintln", "dbg"];
            if pair[1].is('!') && macros.iter().any(|name| pair[0].is_word(name)) {
                report(pair[0].line, "prints: only src/cli does, all else tells a Reporter".to_owned());
            }
        }
    }
    if !UNSAFE.iter().any(|(place, _)| file.starts_with(place)) {
        for token in tokens.iter().filter(|token| token.is_word("unsafe")) {
            report(token.line, "unsafe code: it lives in sandbox/src/sys and the dispatcher".to_owned());
        }
    }
    found
}

/// The rules that naming a path in a file breaks.
fn broken_import(file: &str, path: &[String]) -> Vec<String> {
    let mut broken = Vec::new();
    // A word of its own may be a variable; a library is imported by a path.
    if path.len() > 1 {
        for (names, allowed, reason) in LIBRARIES {
            if names.contains(&path[0].as_str()) && !allowed.iter().any(|place| file.starts_with(place)) {
                broken.push(format!("names {}: {reason}", path[0]));
            }
        }
    }
    let (Some(importer), Some(imported)) = (owner(file), target(file, path)) else { return broken };
    if let Some((_, importers)) = STAGES.iter().find(|(stage, _)| *stage == imported)
        && importer != imported
        && !importers.contains(&importer.as_str())
    {
        let importers = importers.join(", ");
        broken.push(format!(
            "{importer} imports {imported}, which only {importers} may: share through artefacts"
        ));
    }
    if importer == "debian" && !DEBIAN_USES.contains(&imported.as_str()) && is_module(&imported) {
        broken
            .push(format!("debian imports {imported}: it is pure, and uses only {}", DEBIAN_USES.join(", ")));
    }
    broken
}

/// The module at the top of `src/` that a file belongs to; none elsewhere, and for the map itself.
fn owner(file: &str) -> Option<String> {
    let module = file.strip_prefix("src/")?.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    (module != "lib").then(|| module.to_owned())
}

/// The module at the top of `src/` that a path leads to; none for what does not start at this crate.
fn target(file: &str, path: &[String]) -> Option<String> {
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" | "treestrap" => rest = &rest[1..],
        "super" => {
            // src/lock/mod.rs is the module lock itself; src/lock/index.rs lies one below.
            let inner = file.strip_prefix("src/")?;
            let mut depth = inner.trim_end_matches("/mod.rs").split('/').count();
            while rest.first().is_some_and(|segment| segment == "super") {
                (depth, rest) = (depth.checked_sub(1)?, &rest[1..]);
            }
            // Modules within a file (tests) are deeper than it looks: their supers stay inside.
            if depth > 0 {
                return None;
            }
        }
        _ => return None,
    }
    rest.first().cloned()
}

/// Whether a name is that of a module, rather than of a type or a function at the crate's root.
fn is_module(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// The tokens outside `#[cfg(test)] mod … { }`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let attribute = "# [ cfg ( test ) ] mod".split(' ').collect::<Vec<_>>();
    let matches = |at: usize| {
        tokens.len() >= at + attribute.len()
            && attribute.iter().zip(&tokens[at..]).all(|(expected, token)| match &token.kind {
                Kind::Word(word) => word == expected,
                Kind::Punctuation(character) => expected.chars().eq([*character]),
                Kind::Literal | Kind::PathSeparator => false,
            })
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if matches(at) {
            let mut depth = 0;
            while let Some(token) = tokens.get(at) {
                at += 1;
                depth += i32::from(token.is('{')) - i32::from(token.is('}'));
                if (token.is('}') || token.is(';')) && depth == 0 {
                    break;
                }
            }
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Network addresses in any text file: nothing names a mirror or a registry, for which the host's
/// own configuration is asked.
fn check_hosts(file: &str, text: &str) -> Vec<Violation> {
    let address = Regex::new(r"(?i)\b(?:https?|ftp|rsync)://(?:[^\s/@]*@)?([a-z0-9.-]+|\[[0-9a-f:]+\])")
        .expect("a regex");
    let mirror = Regex::new(
        r"(?i)\b((?:deb|ftp|security|snapshot|archive|ports|cdn|mirrors?|index|registry|static|proxy)[0-9]?(?:\.[a-z0-9-]+){1,3}\.(?:org|net|com|io|dev))\b",
    )
    .expect("a regex");
    let harmless = |host: &str| {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let reserved = [".example", ".invalid", ".test"].iter().any(|end| host.ends_with(end));
        let local = !host.contains('.') || host.starts_with("127.");
        local || reserved || HOSTS.contains(&host.as_str())
    };
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let hosts = address.captures_iter(line).chain(mirror.captures_iter(line));
        for host in hosts.map(|captures| captures[1].to_owned()).filter(|host| !harmless(host)) {
            let message = format!("names the host {host}: use mirror.example, or the host's apt sources");
            let violation = Violation { file: file.to_owned(), line: number + 1, message };
            if !found.contains(&violation) {
                found.push(violation);
            }
        }
    }
    found
}

/// The repository's text files, relative to its root.
fn files(root: &Path) -> Vec<PathBuf> {
    // Built, fetched or generated; Cargo.lock names its registry by cargo's own doing.
    let skipped = ["target", ".git", ".treestrap", "corpus", "artifacts", "Cargo.lock"];
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).expect("a folder of the repository").map(|entry| entry.expect("an entry"))
        {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            if skipped.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path.strip_prefix(root).expect("it is below the root").to_owned());
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_fences_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut violations = Vec::new();
    let mut rust = 0;
    for path in files(root) {
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        let file = path.to_str().expect("names here are UTF-8");
        if file.ends_with(".rs") {
            rust += 1;
            violations.extend(check_rust(file, &text));
        }
        violations.extend(check_hosts(file, &text));
    }
    assert!(rust > 20, "only {rust} Rust files were found");
    let lines: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(lines.is_empty(), "{} broken rules:\n{}", lines.len(), lines.join("\n"));
}

/// Files that break a rule: path, content after the first line, and what is said (line 2), or nothing.
const SAMPLES: &[(&str, &str, &str)] = &[
    (
        "src/lock/resolve.rs",
        "use crate::fetch::Fetch;",
        "lock imports fetch, which only pipeline may: share through artefacts",
    ),
    (
        "src/lock/mod.rs",
        "use crate::{artefacts::Request, compose::{self}};",
        "lock imports compose, which only pipeline may: share through artefacts",
    ),
    (
        "src/lock/mod.rs",
        "use super::export::tar;",
        "lock imports export, which only pipeline may: share through artefacts",
    ),
    (
        "src/lock/deep/er.rs",
        "super::super::super::fetch::all();",
        "lock imports fetch, which only pipeline may: share through artefacts",
    ),
    (
        "src/fetch.rs",
        "crate::ingest::deb();",
        "fetch imports ingest, which only pipeline may: share through artefacts",
    ),
    (
        "src/store/mod.rs",
        "use crate::pipeline::Session;",
        "store imports pipeline, which only cli may: share through artefacts",
    ),
    (
        "src/cli/lock.rs",
        "use crate::lock::resolve;",
        "cli imports lock, which only pipeline may: share through artefacts",
    ),
    (
        "src/manifest/mod.rs",
        "use crate::cli;",
        "manifest imports cli, which only main may: share through artefacts",
    ),
    (
        "src/debian/deb.rs",
        "use crate::error::Result;",
        "debian imports error: it is pure, and uses only debian, digest",
    ),
    ("src/commit/mod.rs", "use ostree::Repo;", "names ostree: the repository has one door"),
    (
        "src/lock/mod.rs",
        "let agent = ureq::agent();",
        "names ureq: only lock and fetch reach a network, and only through acquire",
    ),
    ("src/configure/mod.rs", "use nix::unistd;", "names nix: the sandbox owns the kernel's interfaces"),
    (
        "qemu/src/lib.rs",
        "use sandbox::Plan;",
        "names sandbox: configure translates Debian's rules into a sandbox plan",
    ),
    ("src/report.rs", "use clap::Parser;", "names clap: the library has no terminal"),
    (
        "src/store/mod.rs",
        "fn f() { println!(\"x\"); }",
        "prints: only src/cli does, all else tells a Reporter",
    ),
    ("sandbox/src/child.rs", "eprintln!();", "prints: only src/cli does, all else tells a Reporter"),
    ("sandbox/src/child.rs", "unsafe { f() }", "unsafe code: it lives in sandbox/src/sys and the dispatcher"),
    ("tests/cli.rs", "unsafe { f() }", "unsafe code: it lives in sandbox/src/sys and the dispatcher"),
    // what is allowed
    ("src/pipeline/", "use crate::{lock, fetch::Fetch}; use sandbox::Plan;", ""),
    (
        "src/lock/mod.rs",
        "use crate::lock::index; use super::debian; use self::fetch::x; let fetch = lock.fetch();",
        "",
    ),
    ("src/lock/resolve.rs", "use super::fetch::x; // crate::fetch::y\nlet s = \"use crate::fetch;\";", ""),
    ("src/debian/deb.rs", "use crate::{debian::version, digest::Sha256};", ""),
    (
        "src/store/mod.rs",
        "use ostree::Repo;\n#[cfg(test)]\nmod tests { fn f() { { println!(\"x\"); } } }",
        "",
    ),
    ("src/cli/output/mod.rs", "println!();", ""),
    ("src/lock/test_archive.rs", "eprintln!();", ""),
    ("sandbox/src/sys/mod.rs", "use libc::c_int; unsafe { f() }", ""),
    ("src/lib.rs", "pub mod lock; pub mod cli;", ""),
];

#[test]
fn each_rule_can_fail() {
    for (file, code, expected) in SAMPLES {
        let found = check_rust(file, &format!("//! A sample.\n{code}\n"));
        let messages: Vec<&str> = found.iter().map(|violation| violation.message.as_str()).collect();
        let expected: &[&str] = if expected.is_empty() { &[] } else { &[expected] };
        assert_eq!(messages, expected, "{file}: {code}");
        assert!(found.iter().all(|violation| violation.line == 2), "{found:?}");
    }
    let found = check_rust("src/lock/mod.rs", "// no module comment\n");
    assert_eq!(found[0].to_string(), "src/lock/mod.rs:1: opens without //!: say what the file is for");
    let after = "//! x\nmod a {}\n#[cfg(test)]\nmod tests;\nfn f() { dbg!(1) }\n";
    assert_eq!(
        check_rust("src/store/mod.rs", after)[0].line,
        5,
        "a test module in its own file ends at once"
    );
}

#[test]
fn hosts_are_found() {
    // Put together here, so that no such name stands in this file.
    for host in [["deb", "something", "org"], ["ftp2", "something", "net"], ["static", "something", "io"]] {
        let host = host.join(".");
        for text in [format!("fetch {host}/x"), format!("uri = \"{}://{host}/\"", "http")] {
            let found = check_hosts("README.md", &format!("\n{text}\n"));
            let message =
                format!("README.md:2: names the host {host}: use mirror.example, or the host's apt sources");
            assert_eq!(found.iter().map(Violation::to_string).collect::<Vec<_>>(), [message], "{text}");
        }
    }
    assert_eq!(check_hosts("a.md", &format!("{}://user@somewhere.org/", "https")).len(), 1);
    for text in [
        "http://mirror.example/debian",
        "http://127.0.0.1:80/",
        "https://www.debian.org/doc/",
        "{}://",
        "http://{host}/",
    ] {
        assert_eq!(check_hosts("README.md", text), [], "{text}");
    }
}
