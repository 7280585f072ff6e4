//! Programs that run in the background: their scripts go on at once, and so does dpkg, on another processor.
//!
//! That is for programs that take long, whose result no other script looks at, and whose failure their scripts
//! ignore. In the tree of twins a script stands before each of them. Of all such programs one runs at a
//! time, in no particular order: each begins after the script that started it, so it sees at least what it would
//! have seen. Before a tree is looked at, [`wait`] has to have ended.
//!
//! ```text
//! LOCK   shared: those that run or wait for their turn; exclusive: whoever waits for all of them
//! LOG    exclusive: the one that runs
//! ```
//!
//! Where nobody waits there is no lock, and they run as they are started.

use super::{LOG, TREE};

/// The locked file inside the sandbox, which everybody may open.
pub const LOCK: &str = "/.treestrap/background";

/// The folder of the scripts in the twin tree.
const FOLDER: &str = "background";

/// The programs: path, and why nobody misses them.
const PROGRAMS: &[(&str, &str)] = &[
    ("usr/bin/mandb", "man-db's databases are for man(1) and apropos(1); its scripts ignore how it ends"),
    (
        "usr/bin/systemd-hwdb",
        "udevd reads what it makes, when the device runs; udev's scripts ignore how it ends",
    ),
];

/// What the script and [`wait`] are made of.
const SHELL: &str = "usr/bin/dash";
const FLOCK: &str = "usr/bin/flock";
const TRUE: &str = "usr/bin/true";
/// Twins without which none of them runs in the background.
pub(super) const NEEDED: [&str; 3] = [SHELL, FLOCK, TRUE];

/// Where the script for a program is in the tree; none where it does not run in the background.
pub(super) fn place(path: &str) -> Option<String> {
    let (path, _) = PROGRAMS.iter().find(|(program, _)| *program == path)?;
    Some(format!("{FOLDER}/{}", path.rsplit('/').next().unwrap_or(path)))
}

/// The script for a program. No pipe or lock of whoever started it stays open (debconf(7) and dpkg have such).
pub fn script(path: &str) -> String {
    let close: String = (3..=9).map(|number| format!(" {number}>&-")).collect();
    format!(
        "#!{TREE}/{SHELL}\n\
        [ -e {LOCK} ] || exec {TREE}/{path} \"$@\"\n\
        exec </dev/null >/dev/null 2>&1{close}\n\
        exec 9<{LOCK}\n\
        {TREE}/{FLOCK} -s 9\n\
        {TREE}/{FLOCK} {LOG} {TREE}/{path} \"$@\" &\n"
    )
}

/// Whether a program that is started by this path runs in the background, or waits there for its turn.
pub fn runs(path: &str) -> bool {
    let path = path.strip_prefix(TREE).and_then(|path| path.strip_prefix('/'));
    path.is_some_and(|path| path == FLOCK || PROGRAMS.iter().any(|(program, _)| *program == path))
}

/// A command that ends when nothing runs in the background any more.
pub fn wait() -> [String; 3] {
    [format!("{TREE}/{FLOCK}"), LOCK.to_owned(), format!("{TREE}/{TRUE}")]
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read,
        os::unix::fs::PermissionsExt,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// The script with this machine's shell and flock(1), and a program that ends when the test wants it to.
    #[test]
    fn a_script_goes_on_at_once_and_whoever_waits_sees_the_result() {
        let folder = std::env::temp_dir().join(format!("treestrap-background-{}", std::process::id()));
        let here = folder.display().to_string();
        let at = |path: &str| path.replace("/.treestrap", &here);
        fs::create_dir_all(at(TREE) + "/usr/bin").expect("a folder of the test's own");
        let told = folder.join("told");
        let succeeds = |mut child: Child| assert!(child.wait().expect("it ends").success());
        // Opening one end of a pipe waits for the other.
        let pipes = ["begun-1", "begun-2", "begun-3", "go-1", "go-2", "go-3"].map(|name| folder.join(name));
        succeeds(Command::new("mkfifo").args(&pipes).spawn().expect("it starts"));
        let program = format!(
            "#!/bin/sh\ncd {here}\necho begin $1 >>told\necho >begun-$1\nread word <go-$1\necho end $1 >>told\n"
        );
        let begun = |number| fs::read(folder.join(format!("begun-{number}"))).map(drop).expect("it begins");
        let go = |number| fs::write(folder.join(format!("go-{number}")), "go\n").expect("it goes on");
        let waited = format!("#!/bin/sh\necho waited >>{here}/told\n");
        for (path, content) in [
            (SHELL, "#!/bin/sh\nexec /bin/sh \"$@\"\n"),
            (FLOCK, "#!/bin/sh\nexec flock \"$@\"\n"),
            (TRUE, &waited),
            ("usr/bin/mandb", &program),
        ] {
            let path = format!("{}/{path}", at(TREE));
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        }
        for (path, content) in [(LOCK, ""), (LOG, ""), ("/.treestrap/script", &script("usr/bin/mandb"))] {
            fs::write(at(path), at(content)).expect("written");
        }
        let start = |number| {
            let mut command = Command::new("/bin/sh");
            command.arg(at("/.treestrap/script")).arg(number).stdout(Stdio::piped());
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
        let [flock, words @ ..] = wait().map(|word| at(&word));
        let waiting = Command::new(flock).args(words).spawn().expect("it starts");
        go(1);
        begun(2);
        go(2);
        succeeds(waiting);
        let said = || fs::read_to_string(&told).expect("it is there");
        assert_eq!(said(), "begin 1\nend 1\nbegin 2\nend 2\nwaited\n");

        // Where nobody waits, the script is the program.
        fs::remove_file(at(LOCK)).expect("removed");
        let third = start("3");
        begun(3);
        go(3);
        succeeds(third);
        assert!(said().ends_with("waited\nbegin 3\nend 3\n"));
        fs::remove_dir_all(&folder).expect("it's the test's own");
    }

    #[test]
    fn what_runs_in_the_background_is_known_by_its_path() {
        assert!(runs("/.treestrap/twins/usr/bin/mandb") && runs("/.treestrap/twins/usr/bin/flock"));
        // perl starts itself by that path.
        assert!(!runs("/usr/bin/mandb") && !runs("/.treestrap/twins/usr/bin/perl"));
    }
}
