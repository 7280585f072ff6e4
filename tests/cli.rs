//! The command line as scripts see it: the real binary, its streams and its exit status. What needs
//! an archive, a sandbox or a network is tested elsewhere.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

const VERBS: &[&str] = &[
    "init",
    "lock",
    "fetch",
    "compose",
    "configure",
    "build",
    "run",
    "verify",
    "diff",
    "prune",
    "export",
    "multistrap",
    "import",
    "ninja",
    "doctor",
];

const MANIFEST: &str = "\
[repos.debian]
suites = [\"bookworm\"]

[images.board]
arch = \"armhf\"
packages = [\"systemd-sysv\"]
";

/// A folder of its own, which is also the home folder.
fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// treestrap in a folder, with nothing of the environment but what the loader may need.
fn treestrap(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_treestrap"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", path);
    }
    command
}

/// Runs it; gives exit status, standard output and standard error.
fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = treestrap(folder, arguments).output().expect("treestrap starts");
    shown(&output)
}

fn shown(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_verb_is_listed_and_explained() {
    let folder = folder();
    let (status, help, talk) = run(folder.path(), &["--help"]);
    assert_eq!((status, talk.as_str()), (0, ""));
    let (_, listed) = help.split_once("\nVerbs:\n").expect("a list of verbs");
    let listed: Vec<&str> = listed
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, VERBS, "in the order of the work, and no hidden one");
    for verb in VERBS {
        let (status, help, talk) = run(folder.path(), &[verb, "--help"]);
        assert_eq!((status, talk.as_str()), (0, ""), "{verb}");
        for expected in [&format!("Usage: treestrap {verb}"), "Example", "--offline", "Global options:"] {
            assert!(help.contains(expected), "{verb} --help has no {expected:?}:\n{help}");
        }
    }
    let (status, version, _) = run(folder.path(), &["--version"]);
    assert_eq!((status, version), (0, format!("treestrap {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn usage_errors_have_status_2_and_leave_stdout_alone() {
    let folder = folder();
    for (line, expected) in [
        ("", "Usage: treestrap"),
        ("bild", "a similar subcommand exists: 'build'"),
        ("build --of-line", "a similar argument exists: '--offline'"),
        ("build -q -v", "'--quiet' cannot be used with '--verbose'"),
        ("lock --update --check", "'--update' cannot be used with '--check'"),
        ("build --tier ful", "a similar value exists: 'full'"),
        ("export board", "<--tar <FILE>|--dir <DIR>>"),
        ("export board --tar a --dir b", "cannot be used with"),
        ("run", "<IMAGE>"),
        ("run board uname", "unexpected argument 'uname'"),
        ("diff a", "<B>"),
        ("--repo", "a value is required for '--repo <PATH>'"),
    ] {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let (status, data, talk) = run(folder.path(), &arguments);
        assert_eq!((status, data.as_str()), (2, ""), "{line}: {talk}");
        assert!(talk.contains(expected), "{line}:\n{talk}");
    }
}

#[test]
fn a_mistake_in_the_manifest_is_shown_with_its_place_and_a_way_out() {
    let folder = folder();
    fs::write(folder.path().join("treestrap.toml"), MANIFEST.replace("packages", "pakages"))
        .expect("written");
    for verb in ["lock", "fetch", "compose", "configure", "build"] {
        let (status, data, talk) = run(folder.path(), &[verb]);
        assert_eq!((status, data.as_str()), (1, ""), "{verb}");
        assert_eq!(
            talk,
            "error: treestrap.toml:6:1: unknown key \"pakages\" in [images.board]\nhint: did you mean \"packages\"?\n"
        );
    }
    let (status, data, talk) = run(folder.path(), &["--manifest", "none.toml", "build"]);
    assert_eq!((status, data.as_str()), (1, ""));
    assert_eq!(
        talk,
        "error: cannot read the manifest none.toml\n  caused by: No such file or directory (os error 2)\n\
         hint: `treestrap init` writes a starter; --manifest FILE names another\n"
    );
}

#[test]
fn an_unknown_image_is_named_with_the_nearest() {
    let folder = folder();
    fs::write(folder.path().join("treestrap.toml"), MANIFEST).expect("written");
    for arguments in [
        &["lock", "baord"][..],
        &["fetch", "baord"],
        &["compose", "baord"],
        &["configure", "baord"],
        &["build", "board", "baord"],
        &["run", "baord", "--", "true"],
        &["run", "baord", "--repo", "r"],
        &["export", "baord", "--tar", "-"],
    ] {
        let (status, data, talk) = run(folder.path(), arguments);
        assert_eq!((status, data.as_str()), (1, ""), "{arguments:?}");
        assert_eq!(
            talk, "error: treestrap.toml has no image \"baord\"\nhint: did you mean \"board\"?\n",
            "{arguments:?}"
        );
    }
}

#[test]
fn json_errors_are_events_on_stdout() {
    let folder = folder();
    fs::write(folder.path().join("treestrap.toml"), MANIFEST).expect("written");
    let expected = "{\"format\":1,\"event\":\"error\",\"image\":\"\",\"kind\":\"input\",\"status\":1,\
                    \"messages\":[\"treestrap.toml has no image \\\"x\\\"\"],\"hint\":\"its images: board\"}\n";
    let (status, data, talk) = run(folder.path(), &["build", "x", "--json"]);
    assert_eq!((status, data.as_str(), talk.as_str()), (1, expected, ""));
    // Where standard output is the verb's own data, events stay out of it.
    for arguments in [&["--json", "run", "x"][..], &["--json", "export", "x", "--tar", "-"]] {
        let (status, data, talk) = run(folder.path(), arguments);
        assert_eq!((status, data.as_str(), talk.as_str()), (1, "", expected), "{arguments:?}");
    }
}

#[test]
fn init_writes_a_manifest_once() {
    let folder = folder();
    let path = folder.path().join("treestrap.toml");
    assert_eq!(
        run(folder.path(), &["init", "board"]),
        (0, String::new(), "treestrap.toml written\n".to_owned())
    );
    let manifest = treestrap::manifest::Manifest::read(&path).expect("a good manifest");
    assert_eq!(manifest.images[0].request.image, "board");

    let before = fs::read(&path).expect("read");
    let (status, _, talk) = run(folder.path(), &["init", "other"]);
    assert_eq!(status, 1);
    assert_eq!(
        talk,
        "error: cannot write treestrap.toml\n  caused by: File exists (os error 17)\n\
         hint: edit it, or name another: `treestrap init --manifest FILE`\n"
    );
    assert_eq!(fs::read(&path).expect("read"), before);

    let (status, _, talk) = run(folder.path(), &["init", "a/b", "--manifest", "new.toml"]);
    assert_eq!(status, 1);
    assert!(talk.starts_with("error: \"a/b\" cannot name an image\nhint: "), "{talk}");
    assert!(!folder.path().join("new.toml").exists());
}

#[test]
fn doctor_looks_at_the_folders_that_would_be_written() {
    let folder = folder();
    let (_, data, _) = run(folder.path(), &["doctor"]);
    assert!(data.lines().any(|line| line.contains("  logs: ") && line.contains(".local/state")), "{data}");

    // procfs makes no files, even for root.
    let (status, data, talk) = run(folder.path(), &["doctor", "--repo", "/proc/repo", "--json"]);
    assert_eq!((status, talk.as_str()), (3, ""));
    let first: serde_json::Value = serde_json::from_str(data.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["format"], 1);
    assert_eq!((&first["event"], &first["check"]), (&"finding".into(), &"repository".into()));
    assert_eq!(
        (&first["state"], &first["remedy"]),
        (&"missing".into(), &"name a folder of yours: --repo PATH".into())
    );
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0, "doctor leaves nothing");
}

#[test]
fn a_missing_home_is_the_machine_s_fault() {
    let folder = folder();
    fs::write(folder.path().join("treestrap.toml"), MANIFEST).expect("written");
    let output = treestrap(folder.path(), &["build"]).env_remove("HOME").output().expect("treestrap starts");
    let (status, data, talk) = shown(&output);
    assert_eq!((status, data.as_str()), (3, ""));
    assert!(talk.starts_with("error: neither XDG_CACHE_HOME nor HOME names a folder"), "{talk}");
}

#[test]
fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is_one() {
    let folder = folder();
    let arguments = ["completions", "bash"];
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = treestrap(folder.path(), &arguments).stdout(writer).output().expect("treestrap starts");
    assert_eq!(shown(&output), (0, String::new(), String::new()));

    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = treestrap(folder.path(), &arguments).stdout(full).output().expect("treestrap starts");
    let message = "error: cannot write standard output: No space left on device (os error 28)\n";
    assert_eq!(shown(&output), (3, String::new(), message.to_owned()));
}

#[test]
fn completions_and_man_pages_know_every_verb() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, script, talk) = run(folder.path(), &["completions", shell]);
        assert_eq!((status, talk.as_str()), (0, ""), "{shell}");
        for word in VERBS.iter().chain(&["keep-debs", "accelerate"]) {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
    }
    let (status, data, _) = run(folder.path(), &["man", "share/man1", "-q"]);
    assert_eq!((status, data.as_str()), (0, ""));
    let mut pages: Vec<String> = fs::read_dir(folder.path().join("share/man1"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    pages.sort();
    let mut expected: Vec<String> = VERBS.iter().map(|verb| format!("treestrap-{verb}.1")).collect();
    expected.push("treestrap.1".to_owned());
    expected.sort();
    assert_eq!(pages, expected);
}

/// Starts `command` with a manifest that is a FIFO; gives the child, blocked in reading it, and the
/// end that it waits for. By then it has taken the signals over.
fn waiting(folder: &Path, mut command: Command) -> (Child, fs::File) {
    let made = Command::new("mkfifo").arg(folder.join("treestrap.toml")).status().expect("mkfifo");
    assert!(made.success());
    let child = command.current_dir(folder).stderr(Stdio::piped()).spawn().expect("treestrap starts");
    let writer =
        fs::OpenOptions::new().write(true).open(folder.join("treestrap.toml")).expect("a reader came");
    (child, writer)
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

#[test]
fn the_first_signal_asks_and_the_second_ends() {
    for signal in ["INT", "TERM", "HUP"] {
        let folder = folder();
        // Whoever runs the tests may ignore some of them, as nohup(1) does.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_treestrap"), "build"]);
        let (mut child, writer) = waiting(folder.path(), command);
        let mut talk = BufReader::new(child.stderr.take().expect("a pipe"));
        send(signal, &child);
        let mut line = String::new();
        talk.read_line(&mut line).expect("read");
        assert_eq!(line, "stopping, and cleaning up; a second Ctrl-C ends at once\n");
        send(signal, &child);
        let status = child.wait().expect("it ends");
        assert_eq!(status.code(), Some(130), "{signal}");
        drop(writer);
    }
}

#[test]
fn a_signal_that_nohup_ignores_stays_ignored() {
    let folder = folder();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" build", env!("CARGO_BIN_EXE_treestrap")]);
    let (child, writer) = waiting(folder.path(), command);
    send("HUP", &child);
    drop(writer);
    let output = child.wait_with_output().expect("it ends");
    let (status, _, talk) = shown(&output);
    assert_eq!(status, 1);
    assert!(talk.starts_with("error: treestrap.toml:1:1: no repository"), "{talk}");
}
