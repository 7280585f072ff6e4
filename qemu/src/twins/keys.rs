//! Host keys that are thrown away are small. openssh-server's script makes them, no image has them unless its
//! manifest says so, and looking for the primes of a key of today's length takes ssh-keygen(1) a second or two.
//! They are as random as others.

use super::TREE;

/// The program in the tree.
pub(super) const PROGRAM: &str = "usr/bin/ssh-keygen";

/// The one kind that takes long. Whoever allows this must not let it get into an image.
pub const KEY: &str = "/etc/ssh/ssh_host_rsa_key";

/// A file inside the sandbox that is there where [`KEY`] is thrown away.
pub const THROWN_AWAY: &str = "/.treestrap/keys-are-thrown-away";

/// What OpenSSH takes at the least, in bits (`SSH_RSA_MINIMUM_MODULUS_SIZE` in its sshkey.h). If it ever
/// is more, it makes the key that it was asked for.
const BITS: u32 = 1024;

/// The script, without its first line.
pub(super) fn script() -> String {
    format!(
        "case \" $* \" in\n\
        *' -b '*) ;;\n\
        *' -f {KEY} '*)\n\
        [ ! -e {THROWN_AWAY} ] || ! {TREE}/{PROGRAM} \"$@\" -b {BITS} </dev/null >/dev/null 2>&1 || exit 0 ;;\n\
        esac\n\
        exec {TREE}/{PROGRAM} \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::twins::scripts;

    /// The script with this machine's shell, before a program that says what it was asked for.
    #[test]
    fn only_a_key_that_is_thrown_away_is_small() {
        let folder = std::env::temp_dir().join(format!("treestrap-keys-{}", std::process::id()));
        let here = folder.display().to_string();
        let at = |path: &str| path.replace("/.treestrap", &here);
        fs::create_dir_all(at(TREE) + "/usr/bin").expect("a folder of the test's own");
        // It refuses small keys while there is a file.
        let program = format!(
            "#!/bin/sh\n[ ! -e {here}/refuse ] || case \" $* \" in *' -b 1024 '*) echo no; exit 1;; esac\n\
            echo \"$*\" >>{here}/asked\n"
        );
        let script = scripts::script(PROGRAM).expect("there is one");
        for (path, content) in [(at(TREE) + "/" + PROGRAM, program), (at("/.treestrap/script"), at(&script))]
        {
            fs::write(path.clone() + ".new", content).expect("written");
            // By a process of its own: nobody may start what another has open to write.
            let status =
                Command::new("install").args(["-m", "755", &(path.clone() + ".new"), &path]).status();
            assert!(status.expect("it starts").success());
        }
        let key = ["-q", "-f", KEY, "-N", "", "-t", "rsa"];
        let small = ["-q", "-f", KEY, "-N", "", "-t", "rsa", "-b", "1024"].join(" ");
        let (flag, refuse) = (at(THROWN_AWAY), at("/.treestrap/refuse"));
        let other = ["-q", "-f", "/etc/ssh/ssh_host_rsa_key_of_mine", "-t", "rsa"];
        let sized = ["-b", "4096", "-f", KEY, "-t", "rsa"];
        for (allowed, refused, arguments, expected) in [
            (true, false, &key[..], small.as_str()),
            (false, false, &key[..], &key.join(" ")),
            (true, true, &key[..], &key.join(" ")),
            (true, false, &other[..], &other.join(" ")),
            (true, false, &sized[..], &sized.join(" ")),
            (
                true,
                false,
                &["-l", "-f", "/etc/ssh/ssh_host_rsa_key.pub"][..],
                "-l -f /etc/ssh/ssh_host_rsa_key.pub",
            ),
        ] {
            for (path, is_there) in [(&flag, allowed), (&refuse, refused)] {
                let _ = fs::remove_file(path);
                if is_there {
                    fs::write(path, "").expect("written");
                }
            }
            let _ = fs::remove_file(at("/.treestrap/asked"));
            let output = Command::new("sh").arg(at("/.treestrap/script")).args(arguments).output();
            let output = output.expect("it starts");
            assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
            let asked = fs::read_to_string(at("/.treestrap/asked")).expect("it ran");
            assert_eq!(asked.trim_end(), expected);
        }
        fs::remove_dir_all(&folder).expect("it's the test's own");
    }
}
