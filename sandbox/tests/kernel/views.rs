//! Views of a stored tree: all four show the same, take the same changes, and end with the sandbox.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sandbox::{
    Entry, Kind, Layer, Plan, Session, Step, Stored, View,
    view::{self, ListingBuilder, Metadata, ROOT},
};

use crate::support::{Test, Tree, changes, output, script};

pub(crate) const TESTS: &[Test] = &[
    ("views::all_show_the_same", &["userns", "fuse"], all_show_the_same),
    ("views::all_take_the_same_changes", &["userns", "fuse"], all_take_the_same_changes),
    ("views::mount_points_need_not_be_there", &["userns", "fuse"], mount_points_need_not_be_there),
    ("views::what_is_asked_is_given_or_refused", &["userns", "fuse"], what_is_asked_is_given_or_refused),
    ("views::a_dead_server_ends_the_session", &["userns", "fuse"], a_dead_server_ends_the_session),
    ("views::contents_are_never_written", &["userns", "fuse"], contents_are_never_written),
    ("views::a_closed_device_is_explained", &["userns", "fuse"], a_closed_device_is_explained),
];

/// A stored tree with everything that a tree can have, and folders for a sandbox.
struct Everything {
    tree: Tree,
}

impl Everything {
    fn new() -> Self {
        let tree = Tree::new();
        let contents = tree.path().join("contents");
        fs::create_dir(&contents).expect("made");
        let mut next = 0;
        let mut content = |text: &[u8]| -> (Vec<u8>, u64) {
            next += 1;
            let name = format!("{next}.file");
            fs::write(contents.join(&name), text).expect("written");
            (name.into_bytes(), text.len() as u64)
        };
        let folder = Metadata { mode: 0o755, ..Metadata::default() };
        let file = Metadata { mode: 0o644, modified: 7, ..Metadata::default() };
        let mut builder =
            ListingBuilder::new(&Metadata { mode: 0o751, ..Metadata::default() }).expect("a builder");
        for name in ["proc", "dev", "sys", "run", "tmp", "usr"] {
            builder.folder(ROOT, name.as_bytes(), &folder).expect("added");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            let target = format!("usr/{name}");
            builder.symlink(ROOT, name.as_bytes(), &folder, target.as_bytes()).expect("added");
        }
        let var = Metadata { uid: 33, gid: 42, mode: 0o3775, modified: 1, ..Metadata::default() };
        let var = builder.folder(ROOT, b"var", &var).expect("added");
        let mut add = |builder: &mut ListingBuilder, name: &[u8], metadata: &Metadata, text: &[u8]| -> u64 {
            let (content, size) = content(text);
            builder.file(var, name, metadata, size, &content).expect("added")
        };
        add(&mut builder, b"plain", &file, b"plain\n");
        add(&mut builder, b"setuid", &Metadata { mode: 0o4755, ..file.clone() }, b"set-id\n");
        add(
            &mut builder,
            b"owned",
            &Metadata { uid: 65534, gid: 5, mode: 0o640, ..file.clone() },
            b"owned\n",
        );
        add(&mut builder, b"closed", &Metadata { mode: 0, ..file.clone() }, b"closed\n");
        add(&mut builder, b"not UTF-8 \xff\n", &file, b"odd\n");
        add(&mut builder, b"empty", &file, b"");
        add(&mut builder, b"large", &file, &b"0123456789abcdef".repeat(100_000));
        let capability = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        let list = |entries: &[(u16, u16, u32)]| {
            let entry = |&(tag, permissions, who): &(u16, u16, u32)| {
                [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &who.to_le_bytes()].concat()
            };
            [2u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
        };
        let none = u32::MAX;
        let access = list(&[(1, 6, none), (2, 4, 33), (4, 4, none), (16, 4, none), (32, 0, none)]);
        let xattrs = vec![
            (b"security.capability".to_vec(), capability),
            (b"user.colour".to_vec(), b"red\0".to_vec()),
            (b"system.posix_acl_access".to_vec(), access.clone()),
        ];
        add(&mut builder, b"labelled", &Metadata { mode: 0o640, xattrs, ..file.clone() }, b"labelled\n");
        let inherited = vec![(b"system.posix_acl_default".to_vec(), access)];
        builder.folder(var, b"inheriting", &Metadata { xattrs: inherited, ..folder.clone() }).expect("added");
        // Two files that share a content, and one file with two names.
        let (shared, size) = content(b"shared\n");
        for name in [&b"twin-1"[..], b"twin-2"] {
            builder.file(var, name, &file, size, &shared).expect("added");
        }
        let (content, size) = content(b"linked\n");
        let linked = builder.file(var, b"link-1", &file, size, &content).expect("added");
        builder.link(var, b"link-2", linked).expect("added");
        let owned = Metadata { uid: 33, gid: 33, mode: 0o777, ..Metadata::default() };
        builder.symlink(var, b"symlink", &owned, b"../no where").expect("added");
        builder
            .special(var, b"pipe", view::Kind::Fifo, &Metadata { mode: 0o600, ..file.clone() })
            .expect("added");
        let many = builder.folder(var, b"many", &folder).expect("added");
        for number in 0..1000 {
            builder.symlink(many, format!("{number}").as_bytes(), &folder, b"x").expect("added");
        }
        fs::write(tree.path().join("listing"), builder.finish().expect("a listing").as_bytes())
            .expect("written");
        Everything { tree }
    }

    fn contents(&self) -> PathBuf {
        self.tree.path().join("contents")
    }

    fn plan(&self, view: Option<View>) -> Plan {
        let mut plan = self.tree.plan();
        let listing = self.tree.path().join("listing");
        plan.layers = vec![Layer::Stored(Stored { listing, contents: self.contents() })];
        plan.view = view;
        plan
    }

    fn session(&self, view: View) -> Session {
        let session =
            Session::start(&self.plan(Some(view))).unwrap_or_else(|error| panic!("{view}: {error}"));
        assert_eq!(session.enforced().inside.view, view);
        session
    }
}

/// All that stat(2), listxattr(2) and read(2) say of /var, with its hard links by their first names.
const SEE: &str = r#"python3 - <<'END'
import hashlib, os, stat
firsts, numbers = {}, []
def see(path):
    s = os.lstat(path)
    numbers.append(s.st_ino)
    is_dir = stat.S_ISDIR(s.st_mode)
    first = firsts.setdefault((s.st_dev, s.st_ino), path)
    what = [path, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns, first]
    if not stat.S_ISLNK(s.st_mode):
        what += [(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path)) if not n.startswith('user.ostree')]
    if stat.S_ISREG(s.st_mode):
        what += [s.st_size, hashlib.sha256(open(path, 'rb').read()).hexdigest()]
    if stat.S_ISLNK(s.st_mode): what += [os.readlink(path)]
    print(*what)
    if is_dir:
        for name in sorted(os.listdir(path)): see(path + b'/' + name)
see(b'/var')
print('small numbers', max(numbers) < 1 << 32)
END"#;

fn all_show_the_same() {
    let everything = Everything::new();
    let seen: Vec<(View, String)> = View::PREFERENCE
        .map(|view| {
            let mut session = everything.session(view);
            let seen = output(&mut session, SEE);
            assert_eq!(changes(&mut session).len(), 1, "{view}: looking changes nothing");
            (view, seen)
        })
        .into();
    let of = |wanted: View| &seen.iter().find(|(view, _)| *view == wanted).expect("seen").1;
    let expected = of(View::Checkout);
    assert!(expected.lines().count() > 1015, "{expected}");
    for part in [
        "b'/var' 0o43775 33 42",
        "b'/var/setuid' 0o104755 0 0",
        "b'/var/owned' 0o100640 65534 5",
        "b'/var/twin-2' 0o100644 0 0 7000000000 b'/var/twin-2'",
        "b'/var/link-2' 0o100644 0 0 7000000000 b'/var/link-1'",
        "('security.capability', b'\\x01\\x00\\x00\\x02",
        "('system.posix_acl_default'",
        "small numbers True",
    ] {
        assert!(expected.contains(part), "{part}\n{expected}");
    }
    for (view, seen) in &seen {
        let differences: Vec<_> = seen.lines().zip(expected.lines()).filter(|(a, b)| a != b).collect();
        assert!(differences.is_empty(), "{view}: {:?}", &differences[..differences.len().min(5)]);
        assert_eq!(seen.lines().count(), expected.lines().count(), "{view}");
    }
}

fn all_take_the_same_changes() {
    let everything = Everything::new();
    let mut all = View::PREFERENCE.map(|view| {
        let mut session = everything.session(view);
        output(
            &mut session,
            r"cd /var
              chmod 600 plain; chown 33 setuid; echo more >> owned; touch -d @9 empty; rm link-1
              echo more >> link-2; mv twin-1 moved; ln twin-2 another; rm -r many; mkdir many; touch many/1
              ln -sf elsewhere symlink; rm pipe; setpriv --reuid 33 --regid 42 --clear-groups touch theirs
              touch inheriting/file; mkdir inheriting/folder
              python3 -c 'import os; os.truncate(`large`, 10 << 20); os.setxattr(`labelled`, `user.size`, b`9`)'
              if mv inheriting elsewhere 2>/dev/null; then echo moved; fi
              python3 -c '
import errno, os
try: os.rename(`elsewhere`, `again`); os.rename(`again`, `inheriting`); print(`no EXDEV`)
except OSError as e: print(errno.errorcode[e.errno])'
              truncate -s 4M sparse; printf end >> sparse
              python3 -c '
import ctypes, os
exchange = lambda a, b: ctypes.CDLL(None, use_errno=True).renameat2(-100, a, -100, b, 2) and ctypes.get_errno()
os.mkdir(`made`)
print(exchange(b`closed`, b`owned`), exchange(b`plain`, b`made`), exchange(b`made`, b`inheriting`))
open(`plain/inside`, `w`)'"
                .replace('`', "\"")
                .as_str(),
        );
        let mut list: Vec<_> = changes(&mut session);
        // Times of what was made just now are no part of a change's meaning.
        list.retain(|(change, _)| change.path != b"var/many/1");
        let described: Vec<String> = list
            .iter()
            .map(|(change, content)| {
                let path = String::from_utf8_lossy(&change.path).into_owned();
                let content = content.as_deref().map(|bytes| (bytes.len(), bytes.iter().map(|&b| u64::from(b)).sum::<u64>()));
                let what = match &change.now {
                    Entry::Removed => "removed".to_owned(),
                    Entry::Folder { metadata: m, opaque } => {
                        format!("folder {:o} {}:{} {:?} {opaque}", m.mode, m.uid, m.gid, m.xattrs)
                    }
                    Entry::File { metadata: m, size, hard_link } => {
                        format!("file {:o} {}:{} {:?} {size} {hard_link:?}", m.mode, m.uid, m.gid, m.xattrs)
                    }
                    Entry::Symlink { metadata: m, target } => format!("link {}:{} {target:?}", m.uid, m.gid),
                    Entry::Special { metadata: m, .. } => format!("special {:o}", m.mode),
                };
                format!("{path}: {what} {content:?}")
            })
            .collect();
        (view, described)
    });
    all.sort_by_key(|(view, _)| *view != View::Checkout);
    let (_, expected) = &all[0];
    for part in ["var/link-1: removed", "var/setuid: file 100755 33:0", "var/theirs: file 100644 33:42"] {
        assert!(expected.iter().any(|line| line.starts_with(part)), "{part}: {expected:#?}");
    }
    for (view, seen) in &all[1..] {
        let missing: Vec<_> = expected.iter().filter(|line| !seen.contains(line)).collect();
        let more: Vec<_> = seen.iter().filter(|line| !expected.contains(line)).collect();
        assert!(missing.is_empty() && more.is_empty(), "{view}: without {missing:#?}, with {more:#?}");
    }
}

fn mount_points_need_not_be_there() {
    let everything = Everything::new();
    let shown = everything.tree.path().join("shown");
    fs::write(&shown, "of the host\n").expect("written");
    for view in View::PREFERENCE {
        let mut plan = everything.plan(Some(view));
        for target in [&b"deep/er/file"[..], b"var/new"] {
            let source = sandbox::Source::ReadOnly(shown.clone());
            plan.mounts.push(sandbox::Mount { target: target.to_vec(), source });
        }
        let mut session = Session::start(&plan).unwrap_or_else(|error| panic!("{view}: {error}"));
        let text = output(&mut session, "cat /deep/er/file /var/new /var/plain; stat -c '%a %u:%g' /var");
        assert_eq!(text, "of the host\nof the host\nplain\n3775 33:42", "{view}");
        assert_eq!(changes(&mut session).len(), 1, "{view}: no change");
    }
}

fn what_is_asked_is_given_or_refused() {
    let everything = Everything::new();
    let session = Session::start(&everything.plan(None)).expect("one of them works");
    let enforced = session.enforced();
    assert_eq!((enforced.asked_view, enforced.inside.view), (None, View::PREFERENCE[0]));
    assert!(!enforced.inside.degraded.iter().any(|what| what.contains("view")), "{enforced:?}");
    drop(session);
    // A folder can be seen in two ways.
    let mut plan = everything.tree.folder_plan();
    for (view, works) in
        [(View::Redirect, false), (View::Fuse, false), (View::Checkout, true), (View::FuseCow, true)]
    {
        plan.view = Some(view);
        match Session::start(&plan) {
            Ok(session) => assert_eq!((session.enforced().inside.view, works), (view, true)),
            Err(error) => assert_eq!((error.kind(), works), (Kind::Plan, false), "{view}: {error}"),
        }
    }
    // A contents folder that lacks a file: only a checkout sees that at once.
    fs::remove_file(everything.contents().join("1.file")).expect("removed");
    assert!(Session::start(&everything.plan(Some(View::Checkout))).is_err());
    let mut session = everything.session(View::Fuse);
    assert!(!session.run(&script("cat /var/plain 2>/dev/null")).expect("it runs").success());
    drop(session);
    let garbage = everything.tree.path().join("listing");
    fs::write(&garbage, "garbage").expect("written");
    let Err(error) = Session::start(&everything.plan(None)) else { panic!("it started") };
    assert_eq!((error.kind(), error.step()), (Kind::Plan, Some(Step::WorkFolder)), "{error}");
}

/// The processes below this one by the name of `comm`.
fn descendants(name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let mut pending = vec![std::process::id() as i32];
    while let Some(process) = pending.pop() {
        let children =
            fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()) {
            let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if comm.trim() == name {
                found.push(child);
            }
            pending.push(child);
        }
    }
    found
}

fn a_dead_server_ends_the_session() {
    let everything = Everything::new();
    for view in [View::Redirect, View::Fuse, View::FuseCow] {
        let mut session = everything.session(view);
        output(&mut session, "echo new > /var/new");
        let server = descendants("sandbox-view");
        assert_eq!(server.len(), 1, "{view}: {server:?}");
        kill(Pid::from_raw(server[0]), Signal::SIGKILL).expect("killed");
        let error = session.run(&script("sleep 100")).expect_err("nothing runs without its files");
        assert!(
            error.to_string().contains("serves the view") || error.kind() == Kind::Bug,
            "{view}: {error}"
        );
        session.close().expect("it closes all the same");
        assert_eq!(descendants("sandbox-init").len() + descendants("sandbox-view").len(), 0, "{view}");
        assert!(everything.tree.sessions().is_empty(), "{view}");
    }
}

/// On a minimal machine /dev/fuse is root's alone: users have the views without it, and are told so. Root,
/// who can make such a machine, tests it for them.
fn a_closed_device_is_explained() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let work = tempfile::tempdir().expect("a folder for everybody");
    fs::set_permissions(work.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("opened");
    let role = ["--role=diagnose", "-", work.path().to_str().expect("UTF-8")].map(str::to_owned);
    let output = crate::support::as_user(folder.path(), "600", &role).output().expect("it starts");
    let findings: Vec<sandbox::Finding> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    for (view, works) in
        [(View::Redirect, false), (View::Fuse, false), (View::Checkout, true), (View::FuseCow, false)]
    {
        let about = |finding: &&sandbox::Finding| finding.message.contains(&format!("view {view} "));
        let finding = findings.iter().find(about).unwrap_or_else(|| panic!("{view}: {findings:?}"));
        assert_eq!(finding.severity == sandbox::Severity::Fine, works, "{finding:?}");
        if !works {
            assert!(finding.message.contains("opening /dev/fuse: Permission denied"), "{finding:?}");
            assert_eq!(finding.remedy.as_deref(), Some("sudo chmod 0666 /dev/fuse"));
        }
    }
    assert!(findings.iter().all(|finding| finding.severity != sandbox::Severity::Fatal), "{findings:?}");
}

/// No way of writing reaches the contents, not even for their owner.
fn contents_are_never_written() {
    let everything = Everything::new();
    let read = |folder: &Path| -> Vec<(PathBuf, Vec<u8>, u32)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .expect("there")
            .flatten()
            .map(|entry| {
                let mode = std::os::unix::fs::MetadataExt::mode(&entry.metadata().expect("there"));
                (entry.path(), fs::read(entry.path()).expect("readable"), mode)
            })
            .collect();
        all.sort();
        all
    };
    let before = read(&everything.contents());
    for view in View::PREFERENCE {
        let mut session = everything.session(view);
        output(
            &mut session,
            "cd /var; python3 - <<'END'
import mmap, os
f = os.open('large', os.O_RDWR)
m = mmap.mmap(f, 1 << 20); m[:5] = b'hello'; m.close()
os.pwrite(f, b'there', 1 << 20); os.fchmod(f, 0o777); os.ftruncate(f, 1 << 20)
for name in ('plain', 'empty', 'twin-1'):
    with open(name, 'r+b') as g: g.write(b'changed')
    os.chmod(name, 0o777); os.link(name, 'l-' + name); os.utime(name, (5, 5))
    r = os.open('/proc/self/fd/%d' % os.open(name, os.O_RDONLY), os.O_WRONLY | os.O_TRUNC); os.write(r, b'again')
END
             head -c 5 large; rm -rf /var/many",
        );
        drop(session);
        assert_eq!(read(&everything.contents()), before, "{view}");
    }
}
