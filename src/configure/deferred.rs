//! Work that packages do on every change of the system and whose result no image has: it is left for the
//! device, where an image continues from a finished tree. When a package is configured for the first time it
//! runs all the same, since only its own script can tell whether it does.

/// A file without which the work is not done, and the reason.
const SWITCHES: &[(&str, &str)] = &[(
    "/var/lib/man-db/auto-update",
    "man-db's trigger runs mandb(8) for a second; the databases that it makes are left out (normalise.rs)",
)];

/// What a switch is called while it is off.
const OFF: &str = ".treestrap-off";

/// A shell script that switches the work off.
pub(super) fn off() -> String {
    let switch = |file: &str| format!("if [ -e {file} ]; then mv {file} {file}{OFF}; fi\n");
    SWITCHES.iter().map(|(file, _)| switch(file)).collect()
}

/// A shell script that undoes that. What a script has switched on meanwhile is on.
pub(super) fn on() -> String {
    let switch = |file: &str| {
        format!(
            "if [ -e {file} ]; then rm -f {file}{OFF}; elif [ -e {file}{OFF} ]; then mv {file}{OFF} {file}; fi\n"
        )
    };
    SWITCHES.iter().map(|(file, _)| switch(file)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_off_is_on_again() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("var/lib/man-db/auto-update");
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        let run = |script: String| {
            let script = script.replace("/var", &root.path().join("var").display().to_string());
            assert!(Command::new("sh").args(["-ec", &script]).status().expect("sh").success());
            let names = std::fs::read_dir(file.parent().expect("a folder")).expect("a folder");
            names.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
        };
        assert!(run(off()).is_empty() && run(on()).is_empty(), "there is no man-db");
        std::fs::write(&file, "").expect("a file");
        assert_eq!(run(off()), ["auto-update.treestrap-off"]);
        assert_eq!(run(on()), ["auto-update"]);
        run(off());
        std::fs::write(&file, "").expect("a file");
        assert_eq!(run(on()), ["auto-update"]);
    }
}
