//! What identifies one device and so is not in an image that many will run: machine ids, private
//! keys, random seeds. The manifest's `identity` says what becomes of it.
//!
//! | `identity` | the commit | on the device |
//! |---|---|---|
//! | `first-boot` | does not have it | made anew by a program that does so by itself, or by a script that the image gets for it |
//! | `remove` | does not have it | only what programs make by themselves |
//! | `keep` | has what package scripts made: not the same twice | as it is |
//!
//! The script is only in images that need it. systemd runs it before any service that is ordered after
//! basic.target, as all are that do not say otherwise; sysvinit at the end of rcS.

use std::fmt::Write;

use super::normalise::{Rule, matches, rewrite};
use crate::artefacts::IdentityPolicy;

/// A thing by which a device is known.
struct Identity {
    /// For the first-boot script.
    name: &'static str,
    /// Where it is: patterns in which `*` matches within one name. One that is there shows that all are.
    paths: &'static [&'static str],
    /// What becomes of the paths.
    rule: Rule,
    /// What makes it anew.
    maker: Maker,
}

enum Maker {
    /// A program does where it is missing, as its documentation says.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader, and the tests"))]
    Itself(&'static str),
    /// A command, which takes what the package's own script does when it is configured.
    Command(&'static str),
}

const IDENTITIES: &[Identity] = &[
    Identity {
        name: "machine id",
        paths: &["etc/machine-id"],
        // Not "uninitialized": with that systemd takes the next boot for the first one and enables every
        // unit of the image that has no preset (machine-id(5), "First Boot Semantics").
        rule: Rule::Empty,
        maker: Maker::Itself("systemd fills an empty one (machine-id(5))"),
    },
    Identity {
        name: "D-Bus machine id",
        paths: &["var/lib/dbus/machine-id"],
        rule: Rule::Drop,
        maker: Maker::Itself("dbus's tmpfiles.d links it to /etc/machine-id; its init script makes one"),
    },
    Identity {
        name: "random seed",
        paths: &["var/lib/systemd/random-seed", "var/lib/urandom/random-seed"],
        rule: Rule::Drop,
        maker: Maker::Itself("systemd-random-seed.service(8), or the init script urandom, writes one"),
    },
    Identity {
        name: "credential secret",
        paths: &["var/lib/systemd/credential.secret"],
        rule: Rule::Drop,
        maker: Maker::Itself("systemd-creds(1) makes it when it is needed"),
    },
    Identity {
        name: "iSCSI initiator name",
        paths: &["etc/iscsi/initiatorname.iscsi"],
        rule: Rule::Rewrite(rewrite::iscsi_initiator_name),
        maker: Maker::Itself("open-iscsi's startup-checks.sh, where the file says GenerateName=yes"),
    },
    // sshd-keygen.service (Debian 13) runs at a first boot in systemd's sense only, which none is that
    // finds /etc/machine-id.
    Identity {
        name: "SSH host keys",
        paths: &["etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub"],
        rule: Rule::Drop,
        maker: Maker::Command("ssh-keygen -A"),
    },
    Identity {
        name: "dropbear host keys",
        paths: &["etc/dropbear/dropbear_*_host_key"],
        rule: Rule::Drop,
        maker: Maker::Command(
            "for type in rsa ecdsa ed25519; do \
             dropbearkey -t $type -f /etc/dropbear/dropbear_${type}_host_key; done",
        ),
    },
    // What uses it (postgresql, postfix, dovecot) does not start, or not with TLS, before.
    Identity {
        name: "snakeoil certificate",
        paths: &["etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"],
        rule: Rule::Drop,
        maker: Maker::Command("make-ssl-cert generate-default-snakeoil"),
    },
    Identity {
        name: "BIND control key",
        paths: &["etc/bind/rndc.key"],
        rule: Rule::Drop,
        maker: Maker::Command(
            "rndc-confgen -a && chown bind:bind /etc/bind/rndc.key && chmod 0640 /etc/bind/rndc.key",
        ),
    },
    Identity {
        name: "MUNGE key",
        paths: &["etc/munge/munge.key"],
        rule: Rule::Drop,
        maker: Maker::Command("su munge -s /bin/sh -c 'mungekey -c'"),
    },
    Identity {
        name: "NVMe host name",
        paths: &["etc/nvme/hostnqn"],
        rule: Rule::Drop,
        maker: Maker::Command("nvme gen-hostnqn >/etc/nvme/hostnqn"),
    },
    Identity {
        name: "NVMe host id",
        paths: &["etc/nvme/hostid"],
        rule: Rule::Drop,
        maker: Maker::Command("uuidgen >/etc/nvme/hostid"),
    },
    Identity {
        name: "RDP keys",
        paths: &["etc/xrdp/rsakeys.ini"],
        rule: Rule::Drop,
        maker: Maker::Command("(umask 077; xrdp-keygen xrdp auto) && chown xrdp /etc/xrdp/rsakeys.ini"),
    },
    Identity {
        name: "popularity contest id",
        paths: &["etc/popularity-contest.conf", "etc/cron.d/popularity-contest"],
        rule: Rule::Drop,
        maker: Maker::Command("dpkg-reconfigure --frontend=noninteractive popularity-contest"),
    },
];

/// What becomes of a path because it identifies a device.
pub(super) fn rule(policy: IdentityPolicy, path: &[u8]) -> Option<Rule> {
    if policy == IdentityPolicy::Keep {
        return None;
    }
    let is_at = |pattern: &&str| matches(pattern.as_bytes(), path);
    IDENTITIES.iter().find(|identity| identity.paths.iter().any(is_at)).map(|i| i.rule)
}

/// The identities that need a command, and the command.
fn commanded() -> impl Iterator<Item = (&'static Identity, &'static str)> {
    IDENTITIES.iter().filter_map(|identity| match identity.maker {
        Maker::Command(command) => Some((identity, command)),
        Maker::Itself(_) => None,
    })
}

/// A shell script that prints the names of those that need a command, as package scripts have made them, or
/// those of the tree that this one continues from had, a line each; last a line `systemd` or `sysvinit`, where
/// one of them is there.
pub(super) fn search() -> String {
    let mut script = format!(
        "cd /\n\
         any() {{ for f; do if [ -e \"$f\" ]; then return; fi; done; return 1; }}\n\
         known() {{ [ -e {SCRIPT} ] && grep -qF \"'making: $1'\" {SCRIPT}; }}\n"
    );
    for (identity, _) in commanded() {
        let (path, name) = (identity.paths[0], identity.name);
        let _ = writeln!(script, "if any {path} || known '{name}'; then echo '{name}'; fi");
    }
    script.push_str(
        "if any usr/lib/systemd/systemd lib/systemd/systemd; then echo systemd\n\
         elif any usr/sbin/update-rc.d; then echo sysvinit; fi\n",
    );
    script
}

/// Where the script is that makes identities.
const SCRIPT: &str = "usr/lib/treestrap/make-identity";
const UNIT: &str = "usr/lib/systemd/system/treestrap-identity.service";
const UNIT_LINK: &str = "usr/lib/systemd/system/sysinit.target.wants/treestrap-identity.service";
const INIT_SCRIPT: &str = "etc/init.d/treestrap-identity";

/// A shell script that puts what first boot needs into the image; none if it needs nothing. `found`: the
/// lines that [`search`] printed.
pub(super) fn installation(found: &[String]) -> Option<String> {
    let is_found = |name: &str| found.iter().any(|line| line == name);
    let wanted: Vec<_> = commanded().filter(|(identity, _)| is_found(identity.name)).collect();
    if wanted.is_empty() {
        return None;
    }
    let mut script = "set -e\numask 022\ncd /\nmkdir -p usr/lib/treestrap\n".to_owned();
    write_file(&mut script, SCRIPT, &make_identity(&wanted));
    let _ = writeln!(script, "chmod 0755 {SCRIPT}");
    if is_found("systemd") {
        let _ = writeln!(script, "mkdir -p usr/lib/systemd/system/sysinit.target.wants");
        write_file(&mut script, UNIT, &unit(&wanted));
        let _ = writeln!(script, "ln -sf ../treestrap-identity.service {UNIT_LINK}");
    } else if is_found("sysvinit") {
        write_file(&mut script, INIT_SCRIPT, INIT_SCRIPT_TEXT);
        let _ = writeln!(script, "chmod 0755 {INIT_SCRIPT}\nupdate-rc.d treestrap-identity defaults");
    }
    Some(script)
}

fn write_file(script: &mut String, path: &str, content: &str) {
    let _ = write!(script, "cat >{path} <<'END OF FILE'\n{content}END OF FILE\n");
}

/// The script that makes what is missing, on the device.
fn make_identity(wanted: &[(&Identity, &str)]) -> String {
    let mut script = "\
#!/bin/sh
# Makes what identifies this device, which its image does not have. Put here by treestrap, because
# the image's packages make it only when they are configured. What is there is left alone.
missing() { for f; do if [ -e \"$f\" ]; then return 1; fi; done; }
status=0
"
    .to_owned();
    for (identity, command) in wanted {
        let (name, path) = (identity.name, identity.paths[0]);
        let _ = writeln!(
            script,
            "if missing /{path}; then echo 'making: {name}'; {{ {command}; }} || status=1; fi"
        );
    }
    script.push_str("exit $status\n");
    script
}

/// The unit that runs it. Several `|` conditions: one that holds is enough (systemd.unit(5)).
fn unit(wanted: &[(&Identity, &str)]) -> String {
    let conditions: String = wanted
        .iter()
        .map(|(identity, _)| format!("ConditionPathExistsGlob=|!/{}\n", identity.paths[0]))
        .collect();
    format!(
        "\
[Unit]
Description=Make what identifies this device
DefaultDependencies=no
RequiresMountsFor=/etc /tmp /var
After=local-fs.target systemd-random-seed.service systemd-sysusers.service systemd-tmpfiles-setup.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target
{conditions}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /{SCRIPT}
"
    )
}

/// The same for sysvinit (init-d-script(5) is not everywhere).
const INIT_SCRIPT_TEXT: &str = "\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          treestrap-identity
# Required-Start:    $local_fs
# Required-Stop:
# Should-Start:      urandom hostname
# Default-Start:     S
# Default-Stop:
# Short-Description: Make what identifies this device
### END INIT INFO
case \"$1\" in
start) exec /bin/sh /usr/lib/treestrap/make-identity ;;
stop | status) ;;
restart | force-reload) exec /bin/sh /usr/lib/treestrap/make-identity ;;
*) echo \"Usage: $0 start\" >&2; exit 1 ;;
esac
";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use qemu::twins::keys;

    use super::*;

    #[test]
    fn every_identity_says_who_makes_it_anew() {
        for identity in IDENTITIES {
            let (Maker::Itself(text) | Maker::Command(text)) = identity.maker;
            assert!(!text.is_empty() && !text.contains('\n') && !identity.name.contains('\''));
        }
    }

    #[test]
    fn policies() {
        for (path, removed) in [
            ("etc/machine-id", true),
            // It may be too small for a device.
            (keys::KEY.trim_start_matches('/'), true),
            ("etc/ssh/ssh_host_ed25519_key", true),
            ("etc/ssh/ssh_host_ed25519_key.pub", true),
            ("etc/ssh/sshd_config", false),
            ("etc/ssh/old/ssh_host_x_key", false),
        ] {
            for (policy, has_rule) in [
                (IdentityPolicy::FirstBoot, removed),
                (IdentityPolicy::Remove, removed),
                (IdentityPolicy::Keep, false),
            ] {
                assert_eq!(rule(policy, path.as_bytes()).is_some(), has_rule, "{path} {policy:?}");
            }
        }
    }

    /// The scripts in a folder that stands for the root, with a stand-in for ssh-keygen.
    #[test]
    fn what_was_there_is_made_anew_once() {
        let root = tempfile::tempdir().expect("a folder");
        let inside = |script: String| {
            let path = root.path().display().to_string();
            let script = script.replace("cd /\n", &format!("cd {path}\n"));
            let script = script.replace(" /etc/", &format!(" {path}/etc/"));
            let output = Command::new("sh")
                .args(["-c", &script])
                .env("PATH", format!("{path}/bin:/usr/bin:/bin"))
                .output()
                .expect("sh");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, content).expect("a file");
        };
        write("usr/lib/systemd/systemd", "");
        assert_eq!(installation(&inside(search())), None, "nothing was made, nothing is to be made");
        write("etc/ssh/ssh_host_rsa_key", "secret");
        let found = inside(search());
        assert_eq!(found, ["SSH host keys", "systemd"]);
        inside(installation(&found).expect("an installation"));
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).expect(path);
        assert!(read(UNIT_LINK).contains("ConditionPathExistsGlob=|!/etc/ssh/ssh_host_*_key\n"));
        assert!(!root.path().join(INIT_SCRIPT).exists());
        let key = root.path().join("etc/ssh/ssh_host_rsa_key");
        write("bin/ssh-keygen", &format!("#!/bin/sh\necho new >{}\n", key.display()));
        assert!(Command::new("chmod").arg("0755").arg(root.path().join("bin/ssh-keygen")).status().is_ok());
        assert!(inside(read(SCRIPT)).is_empty(), "what is there is left alone");
        std::fs::remove_file(&key).expect("removed");
        assert_eq!(inside(read(SCRIPT)), ["making: SSH host keys"]);
        assert_eq!(read("etc/ssh/ssh_host_rsa_key"), "new\n");
        // A tree that continues from this one, which has no key, and gets another's.
        std::fs::remove_file(&key).expect("removed");
        write("etc/nvme/hostid", "1");
        let found = inside(search());
        assert_eq!(found, ["SSH host keys", "NVMe host id", "systemd"]);
        inside(installation(&found).expect("an installation"));
        assert!(read(SCRIPT).contains("ssh-keygen -A") && read(SCRIPT).contains("uuidgen"));
    }
}
