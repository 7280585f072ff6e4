//! Files that stand in front of the image's own while maintainer scripts run, so that no service
//! starts. They are in a layer of their own above the composed tree: the view shows them, the
//! commit never has them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{Context, Result};

/// A path with its content and the reason why it is there.
const FILES: &[(&str, &str, &str)] = &[
    (
        "usr/sbin/policy-rc.d",
        "#!/bin/sh\n# No service starts while an image is made.\nexit 101\n",
        "invoke-rc.d(8) and deb-systemd-invoke(1p) ask it; 101 is 'action forbidden by policy'",
    ),
    (
        "usr/sbin/start-stop-daemon",
        "#!/bin/sh\n# No service starts while an image is made.\nexit 0\n",
        "scripts that start a daemon past invoke-rc.d; debootstrap(8) does the same",
    ),
];

/// What is interposed at a path of the view, which so is never the image's.
pub(super) fn content(path: &[u8]) -> Option<&'static str> {
    let is = |file: &str| path == file.as_bytes() || path == unmerged(file).as_bytes();
    FILES.iter().find(|(file, ..)| is(file)).map(|(_, content, _)| *content)
}

/// `usr/sbin/x` where `/sbin` is a folder of its own.
fn unmerged(path: &str) -> &str {
    match path {
        "usr/sbin/start-stop-daemon" => "sbin/start-stop-daemon",
        other => other,
    }
}

/// Makes the layer below `folder` for a tree whose `/sbin` is a link into `/usr` or not.
pub(super) fn make_layer(folder: &Path, merged_usr: bool) -> Result<PathBuf> {
    let layer = folder.join("interposed");
    for (path, content, _) in FILES {
        let file = layer.join(if merged_usr { path } else { unmerged(path) });
        let parent = file.parent().unwrap_or(&layer);
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        fs::write(&file, content)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    // Folders of an upper layer hide the metadata of those below: what a Debian tree has there.
    let mut folders = vec![layer.clone()];
    while let Some(next) = folders.pop() {
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("changing the mode of {}", next.display()))?;
        for entry in fs::read_dir(&next).with_context(|| format!("reading {}", next.display()))? {
            let entry = entry.with_context(|| format!("reading {}", next.display()))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_holds_what_is_interposed_and_nothing_else() {
        for (merged, expected) in [(true, "usr/sbin/start-stop-daemon"), (false, "sbin/start-stop-daemon")] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let layer = make_layer(folder.path(), merged).expect("the layer");
            assert!(layer.join(expected).is_file());
            assert!(layer.join("usr/sbin/policy-rc.d").is_file());
            assert!(content(expected.as_bytes()).is_some());
        }
        assert!(content(b"usr/sbin/invoke-rc.d").is_none());
    }
}
