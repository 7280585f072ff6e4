//! Where the cache and the logs are: the XDG Base Directory Specification, version 0.8.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// The folder of indexes: `$XDG_CACHE_HOME/treestrap`.
pub(super) fn cache() -> Result<PathBuf> {
    folder("XDG_CACHE_HOME", ".cache", |name| env::var_os(name))
}

/// The folder of logs: `$XDG_STATE_HOME/treestrap`.
pub(super) fn state() -> Result<PathBuf> {
    folder("XDG_STATE_HOME", ".local/state", |name| env::var_os(name))
}

/// The folder that `variable` names, or else `default` in the home folder. The specification has
/// relative paths in the variable ignored.
fn folder(variable: &str, default: &str, get: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(default)));
    let base = base.ok_or_else(|| {
        Error::machine(format!("neither {variable} nor HOME names a folder by its full path"))
            .hint("set HOME, as in `export HOME=/var/lib/build`")
    })?;
    Ok(base.join(Path::new("treestrap")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_defaults() {
        let found = |cache: Option<&str>, home: Option<&str>| {
            folder("XDG_CACHE_HOME", ".cache", |name| match name {
                "HOME" => home.map(OsString::from),
                _ => cache.map(OsString::from),
            })
            .map(|path| path.display().to_string())
            .map_err(|error| (error.kind(), error.to_string()))
        };
        let home = Some("/home/u");
        assert_eq!(found(Some("/c"), home), Ok("/c/treestrap".into()));
        for unset in [None, Some(""), Some("relative/c")] {
            assert_eq!(found(unset, home), Ok("/home/u/.cache/treestrap".into()), "{unset:?}");
        }
        let message = "neither XDG_CACHE_HOME nor HOME names a folder by its full path".to_owned();
        for home in [None, Some(""), Some("u")] {
            assert_eq!(found(None, home), Err((crate::error::Kind::Machine, message.clone())), "{home:?}");
        }
    }
}
