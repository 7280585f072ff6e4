//! Host keys that are thrown away are small. openssh-server's script makes them, no image has them unless its
//! manifest says so, and looking for the primes of a key of today's length takes ssh-keygen(1) a second or two.
//! They are as random as others. Only what that script asks for is changed, to the letter, and not where a link may lead
//! the key to another place than the one that is left out of images.

use super::TREE;

/// The program in the tree.
pub const PROGRAM: &str = "usr/bin/ssh-keygen";

/// The one kind that takes long. Whoever allows this must not let it get into an image.
pub const KEY: &str = "/etc/ssh/ssh_host_rsa_key";

/// The folder that it is in.
const FOLDER: &str = "/etc/ssh";

/// A file inside the sandbox that is there where [`KEY`] is thrown away.
pub const THROWN_AWAY: &str = "/.treestrap/keys-are-thrown-away";

/// What OpenSSH takes at the least, in bits (`SSH_RSA_MINIMUM_MODULUS_SIZE` in its sshkey.h). If it ever
/// is more, it makes the key that it was asked for.
const BITS: u32 = 1024;

/// The script, without its first line.
pub(super) fn script() -> String {
    format!(
        "if [ \"$*\" = '-q -f {KEY} -N  -t rsa' ] && [ -e {THROWN_AWAY} ] && [ ! -L {KEY} ] && [ ! -L {FOLDER} ] &&\n\
        {TREE}/{PROGRAM} \"$@\" -b {BITS} </dev/null >/dev/null 2>&1\n\
        then exit 0; fi\n\
        exec {TREE}/{PROGRAM} \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

    use super::*;
    use crate::twins::{scripts, tests::install};

    /// The script with this machine's shell, before a program that says what it was asked for.
    #[test]
    fn only_a_key_that_is_thrown_away_is_small() {
        let folder = std::env::temp_dir().join(format!("treestrap-keys-{}", std::process::id()));
        let here = folder.display().to_string();
        let at = |path: &str| path.replace("/.treestrap", &here).replace("/etc", &here);
        fs::create_dir_all(at(TREE) + "/usr/bin").expect("a folder of the test's own");
        // It refuses small keys while there is a file.
        let program = format!(
            "#!/bin/sh\n[ ! -e {here}/refuse ] || case \" $* \" in *' -b 1024 '*) echo no; exit 1;; esac\n\
            echo \"$*\" >>{here}/asked\n"
        );
        let script = scripts::script(PROGRAM).expect("there is one");
        for (path, content) in [(at(TREE) + "/" + PROGRAM, program), (at("/.treestrap/script"), at(&script))]
        {
            install(Path::new(&path), content.as_bytes());
        }
        let key = at(KEY);
        let asked = |arguments: &[&str]| {
            let _ = fs::remove_file(at("/.treestrap/asked"));
            let output = Command::new("sh").arg(at("/.treestrap/script")).args(arguments).output();
            let output = output.expect("it starts");
            assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
            fs::read_to_string(at("/.treestrap/asked")).expect("it ran").trim_end().to_owned()
        };
        let usual = ["-q", "-f", &key, "-N", "", "-t", "rsa"];
        let (small, full) = (usual.join(" ") + " -b 1024", usual.join(" "));
        fs::create_dir(at(FOLDER)).expect("made");
        assert_eq!(asked(&usual), full, "nobody throws it away");
        fs::write(at(THROWN_AWAY), "").expect("written");
        assert_eq!(asked(&usual), small);
        for other in [
            &["-l", "-f", &key][..],
            &["-y", "-f", &key],
            &["-q", "-f", &key, "-N", "", "-t", "rsa", "-b", "4096"],
            &["-q", "-b4096", "-f", &key, "-N", "", "-t", "rsa"],
            &["-q", "-f", &(key.clone() + "_of_mine"), "-N", "", "-t", "rsa"],
            &["-q", "-f", &key, "-N", "a word", "-t", "rsa"],
        ] {
            assert_eq!(asked(other), other.join(" "));
        }
        symlink("elsewhere", &key).expect("a link");
        assert_eq!(asked(&usual), full, "the key is at another place");
        fs::remove_file(&key).expect("removed");
        fs::rename(at(FOLDER), at(FOLDER) + "-moved").expect("renamed");
        symlink(at(FOLDER) + "-moved", at(FOLDER)).expect("a link");
        assert_eq!(asked(&usual), full, "the folder is at another place");
        fs::remove_file(at(FOLDER)).expect("removed");
        fs::write(at("/.treestrap/refuse"), "").expect("written");
        assert_eq!(asked(&usual), full, "it takes no small ones");
        fs::remove_dir_all(&folder).expect("it's the test's own");
    }
}
