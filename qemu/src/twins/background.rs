//! A program that runs in the background: its script goes on at once, and so does dpkg, on another processor.
//!
//! That is for programs that take long, whose result no other script looks at and no image has, and whose failure
//! their scripts ignore. In the tree of twins a script stands before each of them. Of all such programs one runs
//! at a time, in no particular order: each begins after the script that started it, so it sees at least what it
//! would have seen. Before a tree is looked at, [`wait`] has to have ended. What is killed with the sandbox is not
//! made up for.
//!
//! ```text
//! LOCK   shared: those that run or wait for their turn; exclusive: whoever waits for all of them.
//!        What they print is in it
//! LOG    exclusive: the one that runs
//! ```
//!
//! Where nobody waits there is no lock, and they run as they are started.

use super::{LOG, TREE, scripts::SHELL};

/// The locked file inside the sandbox, which everybody may open.
pub const LOCK: &str = "/.treestrap/background";

/// The programs: path, and why nobody misses them.
const PROGRAMS: &[(&str, &str)] =
    &[("usr/bin/mandb", "its databases are left out of images, and only man(1) and apropos(1) read them")];

/// What the script and [`wait`] are made of.
const FLOCK: &str = "usr/bin/flock";
const CAT: &str = "usr/bin/cat";
/// Twins without which none of them runs in the background.
pub(super) const NEEDED: [&str; 2] = [FLOCK, CAT];

/// Whether a program of the tree is one of them.
pub fn has(path: &str) -> bool {
    PROGRAMS.iter().any(|(program, _)| *program == path)
}

/// The script for a program, without its first line. What shells and debconf(7) have open up to descriptor 9 does
/// not stay open.
pub(super) fn script(path: &str) -> String {
    let close: String = (3..=9).map(|number| format!(" {number}>&-")).collect();
    format!(
        "[ -e {LOCK} ] || exec {TREE}/{path} \"$@\"\n\
        exec </dev/null >>{LOCK} 2>&1{close}\n\
        exec 9<{LOCK}\n\
        {TREE}/{FLOCK} -s 9\n\
        {{ {TREE}/{FLOCK} {LOG} {TREE}/{path} \"$@\" || echo \"/{path}: exit status $?\"; }} &\n"
    )
}

/// Whether a program that is started by this path runs in the background, or waits there for its turn.
pub fn runs(path: &str) -> bool {
    let path = path.strip_prefix(TREE).and_then(|path| path.strip_prefix('/'));
    path.is_some_and(|path| path == FLOCK || has(path))
}

/// A command that ends when nothing runs in the background any more, and prints what that has printed.
pub fn wait() -> [String; 3] {
    let wait = format!("[ ! -e {LOCK} ] || exec {TREE}/{FLOCK} {LOCK} {TREE}/{CAT} {LOCK}");
    [format!("{TREE}/{SHELL}"), "-c".to_owned(), wait]
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read,
        path::Path,
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::twins::{scripts, tests::install};

    /// The script with this machine's shell and flock(1), and a program that ends when the test wants it to.
    #[test]
    fn a_script_goes_on_at_once_and_whoever_waits_sees_the_result() {
        let folder = std::env::temp_dir().join(format!("treestrap-background-{}", std::process::id()));
        let here = folder.display().to_string();
        let at = |path: &str| path.replace("/.treestrap", &here);
        fs::create_dir_all(at(TREE) + "/usr/bin").expect("a folder of the test's own");
        let succeeds = |mut child: Child| assert!(child.wait().expect("it ends").success());
        let run =
            |words: &[&str]| succeeds(Command::new(words[0]).args(&words[1..]).spawn().expect("it starts"));
        // Opening one end of a pipe waits for the other.
        for name in ["begun-1", "begun-2", "begun-3", "go-1", "go-2", "go-3"] {
            run(&["mkfifo", &format!("{here}/{name}")]);
        }
        let begun = |number| run(&["timeout", "60", "cat", &format!("{here}/begun-{number}")]);
        let go = |number| run(&["timeout", "60", "sh", "-c", &format!("echo go >{here}/go-{number}")]);
        let program = format!(
            "#!/bin/sh\ncd {here}\necho begin $1\necho >begun-$1\nread word <go-$1\necho end $1\n[ $1 != 2 ]\n"
        );
        for (path, content) in [
            (SHELL, "#!/bin/sh\nexec /bin/sh \"$@\"\n"),
            (FLOCK, "#!/bin/sh\nexec flock \"$@\"\n"),
            (CAT, "#!/bin/sh\nexec cat \"$@\"\n"),
            ("usr/bin/mandb", &program),
        ] {
            let path = format!("{}/{path}", at(TREE));
            install(Path::new(&path), content.as_bytes());
        }
        for (path, content) in
            [(LOCK, ""), (LOG, ""), ("/.treestrap/script", &scripts::script("usr/bin/mandb").expect("one"))]
        {
            fs::write(at(path), at(content)).expect("written");
        }
        let start = |number| {
            let mut command = Command::new("timeout");
            command.args(["60", "/bin/sh", &at("/.treestrap/script"), number]).stdout(Stdio::piped());
            command.spawn().expect("it starts")
        };

        // Both scripts end while neither program can.
        let mut first = start("1");
        let mut printed = String::new();
        first
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut printed)
            .expect("nobody has it open any more");
        succeeds(first);
        begun(1);
        succeeds(start("2"));
        let wait = || {
            let mut command = Command::new("timeout");
            command.arg("60").args(wait().map(|word| at(&word))).stdout(Stdio::piped());
            command.spawn().expect("it starts")
        };
        let waiting = wait();
        go(1);
        begun(2);
        go(2);
        let said = waiting.wait_with_output().expect("it ends").stdout;
        let status = "/usr/bin/mandb: exit status 1";
        assert_eq!(
            String::from_utf8_lossy(&said),
            format!("begin 1\nend 1\nbegin 2\nend 2\n{status}\n"),
            "all of it, one after the other"
        );

        // Where nobody waits, the script is the program.
        fs::remove_file(at(LOCK)).expect("removed");
        let third = start("3");
        begun(3);
        go(3);
        let said = third.wait_with_output().expect("it ends").stdout;
        assert_eq!(String::from_utf8_lossy(&said), "begin 3\nend 3\n");
        succeeds(wait());
        fs::remove_dir_all(&folder).expect("it's the test's own");
    }

    #[test]
    fn what_runs_in_the_background_is_known_by_its_path() {
        assert!(runs("/.treestrap/twins/usr/bin/mandb") && runs("/.treestrap/twins/usr/bin/flock"));
        // perl starts itself by that path.
        assert!(!runs("/usr/bin/mandb") && !runs("/.treestrap/twins/usr/bin/perl"));
    }
}
