//! perl's own view of its machine: `$Config{archname}`, which has to be the image's in a twin.
//!
//! It is data, in Config.pm and Config_heavy.pl beside perl's compiled modules, and so the host's. Only
//! the name is changed: sizes and byte order are told there, too, and code that packs structures needs
//! those of the program that runs it. Nothing in perl looks for files by this name: @INC and lib.pm
//! have theirs built in.

use super::{Machine, policy::matches};

/// Where the name is; paths as in [`Machine::neutral`].
const FILES: &[&str] = &[
    "usr/lib/{triplet}/perl-base/Config.pm",
    "usr/lib/{triplet}/perl-base/Config_heavy.pl",
    "usr/lib/{triplet}/perl/5.*/Config.pm",
    "usr/lib/{triplet}/perl/5.*/Config_heavy.pl",
];

/// Whether a file of the host's package may have the name in it.
pub fn has_name(path: &str, host: &Machine) -> bool {
    let path = host.neutral(path);
    FILES.iter().any(|pattern| matches(pattern, &path))
}

/// The file with the image's name in place of the host's; none where the host's is not there once.
pub fn rename(content: &[u8], machine: &Machine, host: &Machine) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    // As Config.pm has it, and as Config_heavy.pl does.
    let lines = |machine: &Machine| {
        let name = archname(machine);
        [format!("\n    archname => '{name}',\n"), format!("\narchname='{name}'\n")]
    };
    let mut found =
        lines(host).into_iter().zip(lines(machine)).filter(|(old, _)| text.matches(old).count() == 1);
    let ((old, new), None) = (found.next()?, found.next()) else { return None };
    Some(text.replace(&old, &new).into_bytes())
}

/// As Debian's build names it (debian/config.over in perl's source): threads everywhere, and integers
/// of 64 bits.
fn archname(machine: &Machine) -> String {
    let triplet = if machine.debian == "i386" { "i686-linux-gnu" } else { machine.triplet };
    let integers = if machine.identity.wide { "" } else { "-64int" };
    format!("{triplet}-thread-multi{integers}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_changed_and_nothing_else() {
        let machine = |name| Machine::of(name).expect("known");
        let host = machine("amd64");
        let short = "tie %Config, 'Config', {\n    archlibexp => '/usr/lib/x86_64-linux-gnu/perl/5.40',\n    \
            archname => 'x86_64-linux-gnu-thread-multi',\n    intsize => '4',\n";
        let heavy = "\narchname='x86_64-linux-gnu-thread-multi'\nmyarchname='x86_64-linux'\n";
        for (image, name) in [
            ("armhf", "arm-linux-gnueabihf-thread-multi-64int"),
            ("i386", "i686-linux-gnu-thread-multi-64int"),
            ("riscv64", "riscv64-linux-gnu-thread-multi"),
        ] {
            for content in [short, heavy] {
                let renamed = rename(content.as_bytes(), &machine(image), &host).expect("it's there");
                let expected = content.replace("x86_64-linux-gnu-thread-multi", name);
                assert_eq!(String::from_utf8_lossy(&renamed), expected);
            }
        }
        assert_eq!(rename(b"\npackage Encode::Config;\n", &machine("armhf"), &host), None);
        assert_eq!(rename(&[heavy, heavy].concat().into_bytes(), &machine("armhf"), &host), None);
        assert!(has_name("usr/lib/x86_64-linux-gnu/perl/5.36.0/Config.pm", &host));
        assert!(!has_name("usr/lib/x86_64-linux-gnu/perl/5.36.0/Config.pod", &host));
    }
}
