//! Has twins look for their libraries and modules where no script of the image comes across them.
//!
//! The host's folder, `/usr/lib/x86_64-linux-gnu`, is built into the loader and into whatever loads
//! modules: glibc, perl, PAM, systemd. Mounted at its own place in the image it would be seen: hooks of
//! mkinitramfs take every `/usr/lib/*/libkmod.so.*`, and look for libnss_files.so with find(1). So
//! in the files of the twin tree the name is replaced by another one of the same length.

use super::Machine;

/// Where the folder is inside the sandbox. It must not be longer than `/lib/TRIPLET`.
pub const FOLDER: &str = "/.treestrap/lib";

/// What the name may be a part of: a longer path, which is another place (`/usr/local/lib/TRIPLET`,
/// `$ORIGIN/../lib/TRIPLET`).
const OF_A_PATH: &[u8] = b"-_.}";

/// Replaces the folder's names; whether there were any.
///
/// `/usr` becomes slashes, as many: linkers store a string that is the end of another one
/// (`/lib/TRIPLET`) as a part of it.
pub fn hide(content: &mut [u8], host: &Machine) -> bool {
    let name = format!("/lib/{}", host.triplet).into_bytes();
    let mut replacement = FOLDER.as_bytes().to_vec();
    replacement.resize(name.len().max(FOLDER.len()), b'/');
    if replacement.len() > name.len() {
        return false;
    }
    let places: Vec<usize> = memchr::memmem::find_iter(content, &name).collect();
    let mut found = false;
    for place in places {
        let usr = place.checked_sub(4).filter(|&start| &content[start..place] == b"/usr");
        let start = usr.unwrap_or(place);
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || OF_A_PATH.contains(byte);
        let before = start.checked_sub(1).and_then(|at| content.get(at)).is_some_and(is_part);
        let after = content.get(place + name.len()).is_some_and(is_part);
        if before || after {
            continue;
        }
        content[start..place].fill(b'/');
        content[place..place + name.len()].copy_from_slice(&replacement);
        found = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_hidden_and_no_other() {
        for (host, before, after) in [
            ("amd64", "/lib/x86_64-linux-gnu/security", "/.treestrap/lib///////security"),
            ("amd64", "/usr/lib/x86_64-linux-gnu\0", "/////.treestrap/lib//////\0"),
            ("arm64", "a:/usr/lib/aarch64-linux-gnu:b", "a://///.treestrap/lib///////:b"),
            ("amd64", "/usr/local/lib/x86_64-linux-gnu", "/usr/local/lib/x86_64-linux-gnu"),
            ("amd64", "$ORIGIN/../lib/x86_64-linux-gnu", "$ORIGIN/../lib/x86_64-linux-gnu"),
            ("amd64", "/usr/lib/x86_64-linux-gnux32", "/usr/lib/x86_64-linux-gnux32"),
            ("amd64", "/usr/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu"),
        ] {
            let mut content = before.as_bytes().to_vec();
            let found = hide(&mut content, &Machine::of(host).expect("known"));
            assert_eq!((String::from_utf8_lossy(&content).as_ref(), found), (after, before != after));
        }
    }

    #[test]
    fn there_is_room_in_every_hosts_name() {
        for host in crate::architecture::ARCHITECTURES.iter().filter_map(|known| Machine::of(known.name)) {
            if matches!(host.debian, "amd64" | "arm64") {
                assert!(FOLDER.len() <= "/lib/".len() + host.triplet.len(), "{}", host.debian);
            }
        }
    }
}
