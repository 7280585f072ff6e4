//! What changed: each kind of change, as it comes out.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use sandbox::{Entry, Session};

use crate::on_disk::metadata;
use crate::support::{Test, Tree, changes, now, output};

pub(crate) const TESTS: &[Test] = &[
    ("capture::nothing", &["userns"], nothing),
    ("capture::each_kind", &["userns"], each_kind),
    ("capture::order", &["userns"], order),
    ("capture::what_is_in_memory_is_no_change", &["userns"], what_is_in_memory_is_no_change),
    ("capture::capabilities_and_acls", &["userns"], capabilities_and_acls),
    ("capture::hostile_layers", &["userns"], hostile_layers),
    ("capture::thousands", &["userns"], thousands),
    ("capture::stopped_by_the_caller", &["userns"], stopped_by_the_caller),
    ("capture::marked_whiteouts", &["userns"], marked_whiteouts),
    ("capture::layers_on_layers", &["userns"], layers_on_layers),
];

fn nothing() {
    let tree = Tree::new();
    fs::set_permissions(tree.base(), fs::Permissions::from_mode(0o751)).expect("set");
    let mut session = tree.session();
    output(&mut session, "cat /etc/old; ls -lR /var >/dev/null; : 2>/dev/null < /etc/passwd");
    let all = changes(&mut session);
    assert_eq!(all.len(), 1, "the root alone: {all:?}");
    let root = metadata(now(&all, ""));
    assert_eq!((root.uid, root.gid, root.mode & 0o7777), (0, 0, 0o751));
    assert!(session.run(&sandbox::Command::new(["true"])).is_err(), "no command after the list");
}

fn each_kind() {
    let tree = Tree::new();
    let mut session = tree.session();
    output(
        &mut session,
        r"echo new > /etc/new; chown 33:5 /etc/new; chmod 6711 /etc/new
          echo more >> /etc/old
          ln -s '../no where' /etc/link; chown -h 33:33 /etc/link
          mkfifo -m 600 /etc/pipe
          mkdir -m 1777 /var/sticky
          rm /var/lib/things/one
          rm -r /home/ada && mkdir /home/ada && echo hi > /home/ada/hi
          rm -r /var/lib/things && mkdir /var/lib/things
          ln /etc/new /etc/again; ln /etc/new /var/again
          printf '\377' > /etc/$(printf 'a\377b\nc')
          truncate -s 1M /etc/sparse; printf end >> /etc/sparse
          python3 -c 'import os; os.setxattr(b`/etc/new`, `user.colour`, b`red`)'"
            .replace('`', "\"")
            .as_str(),
    );
    let all = changes(&mut session);
    let content = |path: &str| {
        all.iter().find(|(change, _)| change.path == path.as_bytes()).and_then(|(_, c)| c.as_deref())
    };

    let Entry::File { metadata: new, size: 4, hard_link: Some(group) } = now(&all, "etc/new") else {
        panic!("{:?}", now(&all, "etc/new"))
    };
    assert_eq!((new.uid, new.gid, new.mode), (33, 5, 0o106711));
    assert_eq!(new.xattrs, [(b"user.colour".to_vec(), b"red".to_vec())]);
    assert_eq!(content("etc/new"), Some(&b"new\n"[..]));
    for path in ["etc/again", "var/again"] {
        assert!(
            matches!(now(&all, path), Entry::File { hard_link: Some(other), .. } if other == group),
            "{path}"
        );
    }
    assert!(matches!(now(&all, "etc/old"), Entry::File { hard_link: None, size: 9, .. }));
    assert_eq!(content("etc/old"), Some(&b"old\nmore\n"[..]));
    let Entry::Symlink { metadata: link, target } = now(&all, "etc/link") else { panic!("no link") };
    assert_eq!((link.uid, target.as_slice()), (33, &b"../no where"[..]));
    assert!(matches!(now(&all, "etc/pipe"), Entry::Special { metadata, .. } if metadata.mode == 0o010600));
    assert!(
        matches!(now(&all, "var/sticky"), Entry::Folder { metadata, opaque: _ } if metadata.mode == 0o041777)
    );
    assert!(matches!(now(&all, "home/ada"), Entry::Folder { opaque: true, .. }));
    assert!(matches!(now(&all, "var/lib/things"), Entry::Folder { opaque: true, .. }));
    assert!(matches!(now(&all, "etc"), Entry::Folder { opaque: false, .. }));
    assert!(!all.iter().any(|(change, _)| change.path.starts_with(b"var/lib/things/")), "opaque says it all");
    let odd =
        all.iter().find(|(change, _)| change.path == b"etc/a\xffb\nc").expect("any bytes but / are a name");
    assert_eq!(odd.1.as_deref(), Some(&b"\xff"[..]));
    let sparse = content("etc/sparse").expect("a file");
    assert_eq!((sparse.len(), &sparse[1 << 20..]), ((1 << 20) + 3, &b"end"[..]));
    assert!(sparse[..1 << 20].iter().all(|&byte| byte == 0));
    // Nothing of the overlay's own.
    let names = all.iter().filter(|(change, _)| change.now != Entry::Removed);
    let mut names = names.flat_map(|(change, _)| metadata(&change.now).xattrs.iter().map(|(name, _)| name));
    assert!(names.all(|name| !name.starts_with(b"user.overlay.")));
}

fn order() {
    let tree = Tree::new();
    let mut session = tree.session();
    output(&mut session, "cd /etc; mkdir b b/b a; touch b/z b/a b.c b-c a/x 'b!' Z");
    let all = changes(&mut session);
    let paths: Vec<_> =
        all.iter().map(|(change, _)| String::from_utf8_lossy(&change.path).into_owned()).collect();
    let expected = [
        "", "etc", "etc/Z", "etc/a", "etc/a/x", "etc/b", "etc/b/a", "etc/b/b", "etc/b/z", "etc/b!",
        "etc/b-c", "etc/b.c",
    ];
    assert_eq!(paths, expected);
}

fn what_is_in_memory_is_no_change() {
    let tree = Tree::new();
    fs::remove_dir(tree.base().join("proc")).expect("a base without mount points");
    let mut session = tree.session();
    let text = output(
        &mut session,
        "ls -d /run/lock; touch /run/x /tmp/x /dev/shm/x /dev/x; mkdir /dev/folder; chmod 700 /dev
         stat -c %a /tmp /run; ls -A /sys | wc -l; test -e /proc/self/status
         for d in null zero full random urandom tty; do test -c /dev/$d; done
         echo x > /dev/null; head -c4 /dev/zero | od -An -tx1; test -w /dev/ptmx",
    );
    assert_eq!(text, "/run/lock\n1777\n755\n0\n 00 00 00 00");
    assert_eq!(changes(&mut session).len(), 1);
}

fn capabilities_and_acls() {
    let tree = Tree::new();
    let mut session = tree.session();
    output(
        &mut session,
        r#"python3 - <<'END'
import os, struct
os.mkdir("/opt")
open("/opt/ping", "w").close()
os.setxattr("/opt/ping", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
entry = lambda tag, perm, who: struct.pack("<HHI", tag, perm, who)
acl = struct.pack("<I", 2) + entry(1, 6, 0xffffffff) + entry(2, 4, 33) + entry(4, 4, 0xffffffff) + entry(16, 4, 0xffffffff) + entry(32, 0, 0xffffffff)
os.setxattr("/opt/ping", "system.posix_acl_access", acl)
END"#,
    );
    let all = changes(&mut session);
    let xattrs: BTreeMap<_, _> = metadata(now(&all, "opt/ping")).xattrs.iter().cloned().collect();
    let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    assert_eq!(xattrs.get(&b"security.capability"[..]), Some(&capability), "version 2");
    let acl = xattrs.get(&b"system.posix_acl_access"[..]).expect("an ACL");
    assert_eq!(acl[16..20], 33u32.to_le_bytes(), "the user as seen inside");
}

fn hostile_layers() {
    let tree = Tree::new();
    let secret = tree.path().join("secret");
    fs::write(&secret, "the host's").expect("written");
    let mut session = tree.session();
    // Links that lead out of the layer, for whoever follows them on the host.
    output(
        &mut session,
        &format!(
            "ln -s {0} /etc/out; mkdir /etc/d; rm -r /etc/d; ln -s {1} /etc/d; mkfifo /etc/hang",
            secret.display(),
            tree.path().display()
        ),
    );
    let all = changes(&mut session);
    assert!(matches!(now(&all, "etc/out"), Entry::Symlink { .. }));
    assert!(matches!(now(&all, "etc/d"), Entry::Symlink { .. }));
    assert!(!all.iter().any(|(_, content)| content.as_deref() == Some(b"the host's")));
}

fn thousands() {
    let tree = Tree::new();
    let mut session = tree.session();
    output(&mut session, "mkdir /etc/many; cd /etc/many; for i in $(seq 3000); do echo $i > $i; done");
    let all = changes(&mut session);
    assert_eq!(all.len(), 3003);
    for (change, content) in &all[3..] {
        let name = String::from_utf8_lossy(&change.path);
        let content = String::from_utf8_lossy(content.as_deref().expect("a file")).trim().to_owned();
        assert_eq!(name.strip_prefix("etc/many/"), Some(content.as_str()), "each has its own content");
    }
}

fn stopped_by_the_caller() {
    let tree = Tree::new();
    let mut session = tree.session();
    output(&mut session, "for i in $(seq 500); do touch /etc/$i; done");
    #[derive(Debug, PartialEq)]
    struct Enough(usize);
    impl From<sandbox::Error> for Enough {
        fn from(error: sandbox::Error) -> Self {
            panic!("{error}")
        }
    }
    let mut seen = 0;
    let result = session.changes(&mut |_, _| {
        seen += 1;
        if seen == 100 { Err(Enough(seen)) } else { Ok(()) }
    });
    assert_eq!(result, Err(Enough(100)));
    assert_eq!(changes(&mut session).len(), 502, "once more from the start");
    session.close().expect("it closes");
}

/// Marks that some file systems get instead of device nodes, put into a kept layer by hand.
fn marked_whiteouts() {
    let tree = Tree::new();
    let kept = tree.path().join("kept");
    let mut session = tree.session();
    output(&mut session, "touch /etc/other; rm /var/lib/things/one");
    session.keep(&kept).expect("kept");
    drop(session);
    let upper = kept.join("upper");
    let device = fs::symlink_metadata(upper.join("var/lib/things/one")).expect("a whiteout");
    assert_eq!((device.mode() & libc_type(), device.rdev()), (0o020000, 0), "the first form");
    fs::write(upper.join("etc/old"), "").expect("written");
    let set = |path: &str, name: &str, value: &str| {
        let done = std::process::Command::new("python3")
            .args(["-c", "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())"])
            .args([upper.join(path).as_os_str(), name.as_ref(), value.as_ref()])
            .status();
        assert!(done.expect("python starts").success());
    };
    set("etc/old", "user.overlay.whiteout", "y");
    let again = || {
        let mut plan = tree.plan();
        plan.work = sandbox::Work::Kept(kept.clone());
        changes(&mut Session::start(&plan).expect("a session"))
    };
    assert!(matches!(now(&again(), "etc/old"), Entry::File { .. }), "without the folder's mark it is none");
    set("etc", "user.overlay.opaque", "x");
    let all = again();
    assert!(matches!(now(&all, "etc/old"), Entry::Removed));
    assert!(matches!(now(&all, "etc"), Entry::Folder { opaque: false, .. }));
    assert!(matches!(now(&all, "var/lib/things/one"), Entry::Removed));
    sandbox::remove_kept(&kept).expect("removed");
}

/// S_IFMT.
fn libc_type() -> u32 {
    0o170000
}

fn layers_on_layers() {
    let tree = Tree::new();
    let above = tree.path().join("above");
    fs::create_dir_all(above.join("etc")).expect("made");
    fs::write(above.join("etc/old"), "interposed\n").expect("written");
    fs::write(above.join("etc/policy"), "interposed\n").expect("written");
    let mut plan = tree.plan();
    plan.layers.insert(0, sandbox::Layer::Folder(above));
    let mut session = Session::start(&plan).expect("a session");
    assert_eq!(output(&mut session, "cat /etc/old /etc/policy; touch /etc/x"), "interposed\ninterposed");
    let all = changes(&mut session);
    let paths: Vec<_> = all.iter().map(|(change, _)| String::from_utf8_lossy(&change.path)).collect();
    assert_eq!(paths, ["", "etc", "etc/x"], "what is interposed is no change");
}
