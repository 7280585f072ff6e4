//! Writes tar members exactly as told, also those that no decent archiver would write.
//!
//! The `tar` crate's builder refuses `..` and absolute names, which the tests need; its header
//! type is used for the field encodings alone.

/// The kinds of tar members (the typeflag of tar(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Folder,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharacterDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Folder => b'5',
            Kind::Fifo => b'6',
        }
    }
}

/// One member of a tar file.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// The name as it is written: `./usr/bin/x`, and whatever an evil deb has.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// What a link points to.
    pub(crate) target: String,
    pub(crate) data: Vec<u8>,
    /// Extended attributes, written as PAX records (`SCHILY.xattr.NAME`).
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Member {
    /// A member of `kind` that root owns.
    pub(crate) fn new(kind: Kind, name: &str, mode: u32) -> Self {
        let (target, data, xattrs) = Default::default();
        Member { name: name.to_owned(), kind, mode, uid: 0, gid: 0, target, data, xattrs }
    }
}

/// The modification time of every member: any constant but 0, so that a reader which keeps
/// mtimes is told from one that does not.
pub(crate) const MTIME: u64 = 1_700_000_000;

/// Owners that have a name in tar headers; dpkg goes by the number unless the name is known.
fn owner_name(id: u64) -> &'static str {
    match id {
        0 => "root",
        _ => "",
    }
}

fn header(flag: u8, name: &[u8], target: &[u8], member: &Member, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[156] = flag;
    let bytes = header.as_old_mut();
    let (name, target) = (&name[..name.len().min(100)], &target[..target.len().min(100)]);
    bytes.name[..name.len()].copy_from_slice(name);
    bytes.linkname[..target.len()].copy_from_slice(target);
    header.set_mode(member.mode);
    header.set_uid(member.uid);
    header.set_gid(member.gid);
    header.set_mtime(MTIME);
    header.set_size(size);
    header.set_username(owner_name(member.uid)).expect("a short name");
    header.set_groupname(owner_name(member.gid)).expect("a short name");
    if matches!(member.kind, Kind::CharacterDevice | Kind::BlockDevice) {
        header.set_device_major(1).expect("a GNU header");
        header.set_device_minor(3).expect("a GNU header");
    }
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// One PAX record, `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let digits = |length: usize| length.to_string().len();
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// The tar file of these members, in this order.
pub(crate) fn tar(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        let records: Vec<u8> = member
            .xattrs
            .iter()
            .flat_map(|(name, value)| pax_record(&format!("SCHILY.xattr.{name}"), value))
            .collect();
        if !records.is_empty() {
            out.extend(header(b'x', b"./PaxHeaders/x", b"", member, records.len() as u64));
            padded(&mut out, &records);
        }
        // names longer than the header's field go before it, as GNU tar and dpkg write them
        for (flag, text) in [(b'L', &member.name), (b'K', &member.target)] {
            if text.len() > 100 {
                let data = [text.as_bytes(), b"\0"].concat();
                out.extend(header(flag, b"././@LongLink", b"", member, data.len() as u64));
                padded(&mut out, &data);
            }
        }
        let (name, target) = (member.name.as_bytes(), member.target.as_bytes());
        out.extend(header(member.kind.flag(), name, target, member, member.data.len() as u64));
        padded(&mut out, &member.data);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An `ar` archive of these members, as deb(5) wants it.
pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, data) in members {
        let line = format!("{name:<16}{MTIME:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, "100644", data.len());
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(data);
        if data.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}
