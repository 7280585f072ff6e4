//! Scripts that stand before programs in the tree of twins, because the program need not do all that it is asked for:
//! nobody waits for its end ([`background`]), or nothing keeps what it makes ([`keys`]). Each of them starts the
//! program as it was started itself, but for `argv[0]`, unless whoever has set up the sandbox lets it do less.

use super::{TREE, background, keys};

/// The folder of the scripts in the tree.
const FOLDER: &str = "scripts";

/// The interpreter of all scripts. Without its twin there are none.
pub(super) const SHELL: &str = "usr/bin/dash";

/// The twins that the script before a program starts; none where there is no script for it.
pub(super) fn needs(path: &str) -> Option<&'static [&'static str]> {
    match path {
        path if background::has(path) => Some(&background::NEEDED),
        keys::PROGRAM => Some(&[]),
        _ => None,
    }
}

/// Where the script before a program is in the tree.
pub fn place(path: &str) -> String {
    format!("{FOLDER}/{}", path.rsplit('/').next().unwrap_or(path))
}

/// The script before a program; none where there is none.
pub fn script(path: &str) -> Option<String> {
    let body = match path {
        path if background::has(path) => background::script(path),
        keys::PROGRAM => keys::script(),
        _ => return None,
    };
    Some(format!("#!{TREE}/{SHELL}\n{body}"))
}
