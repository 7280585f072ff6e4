//! A deb that another system has unpacked into an OSTree repository: its control files and its tree
//! are there, the deb is not. What comes out is the commit that the deb itself would have given; where
//! that cannot be told, nothing.
//!
//! A tree of OSTree says what each file is, but not:
//!
//! - *in which order* the deb's tar has them, which dpkg's list of the package's files keeps. dpkg-deb
//!   has sorted them since 1.18.5, links last (`file_treewalk_feed` in its build.c);
//! - *which equal files are one*, by hard links. The control file's Installed-Size counts each file
//!   once (deb-substvars(5), `Installed-Size`), so it tells; equal empty files are taken for several;
//! - *times*, which nothing depends on.
//!
//! That tree and control files are of one package shows in the package's md5sums, if it has some.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    io::{self, Read as _},
};

use md5::Digest as _;

use super::{
    Ingester, Wanted,
    control::Control,
    data::{Data, digits, normal_path},
};
use crate::{
    artefacts::{IngestedPackage, Layer, Metadata},
    debian::{changelog::Changelog, deb822},
    digest::Sha256,
    error::{Context, Error, Result},
    store::{Folder, Foreign, Node, records::pool_reference},
};

/// When dpkg 1.18.5 came out, in seconds since 1970 (its changelog).
const SORTED_SINCE: u64 = 1_462_155_297;

/// What became of a deb of another repository.
#[derive(Debug)]
pub enum Adopted {
    /// It is what ingesting the deb gives.
    Taken(IngestedPackage),
    /// What ingesting the deb would give cannot be told, for this reason.
    Unclear(String),
}

/// A deb in another repository.
#[derive(Clone, Copy, Debug)]
pub struct UnpackedDeb {
    /// The deb's SHA-256.
    pub deb: Sha256,
    /// The commit of its control files.
    pub control: Sha256,
    /// The commit of its tree.
    pub data: Sha256,
}

impl Ingester {
    /// Whether a deb is in the repository.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn has(&self, deb: Sha256) -> Result<bool> {
        match self.store.resolve(&pool_reference(deb))? {
            Some(commit) => Ok(self.store.package_record(commit)?.is_some()),
            None => Ok(false),
        }
    }

    /// Takes a deb from another repository, if `is_name` takes its package's name. As with
    /// [`Ingester::ingest`], it is durable and has its ref only after [`Ingester::flush`].
    ///
    /// # Errors
    /// `Kind::Input` if an object is missing or corrupt, or a part of it is not that of a deb;
    /// `Kind::Machine` for a full disk.
    pub fn adopt(
        &mut self,
        from: &Foreign,
        unpacked: &UnpackedDeb,
        is_name: &dyn Fn(&str) -> bool,
    ) -> Result<Adopted> {
        let control = Control::of(control_files(from, unpacked.control).context("control files")?)?;
        if !is_name(&control.name) {
            return Err(Error::input(format!("its control files are those of {}", control.name)));
        }
        let mut root = from.root(unpacked.data)?;
        let data = match self.tree(from, &mut root.clone(), &control)? {
            Ok(data) => data,
            Err(reason) => return Ok(Adopted::Unclear(reason)),
        };
        if self.batch.is_none() {
            self.batch = Some(self.store.transaction()?);
        }
        let batch = self.batch.as_mut().ok_or_else(|| Error::bug("a transaction that was just begun"))?;
        batch.import_tree(from, &mut root)?;
        let data = Data { root: from.root(unpacked.data)?, ..data };
        let deb = unpacked.deb;
        let (commit, bytes) = self.write_commit(deb, &control, data)?;
        self.finished(deb, commit, bytes)?;
        let Control { name, version, architecture, .. } = control;
        Ok(Adopted::Taken(IngestedPackage {
            name,
            version,
            architecture,
            deb,
            commit,
            layer: Layer::default(),
        }))
    }

    /// What the data member's reader would know of a tree; or why that cannot be told.
    fn tree(&self, from: &Foreign, root: &mut Folder, control: &Control) -> Result<Result<Data, String>> {
        let mut tree = Tree {
            from,
            wanted: Wanted {
                md5sums: !control.has("md5sums"),
                changelog: Changelog::of(&control.name, &control.architecture),
            },
            data: Data::empty(root.clone()),
            last_lines: String::new(),
            equal: HashMap::new(),
            files: Vec::new(),
            kibibytes: 0,
            expected: expected_md5sums(control),
            other: None,
        };
        tree.folder(root, "")?;
        let Tree { mut data, last_lines, equal, files, kibibytes, wanted, mut expected, other, .. } = tree;
        if let Some(path) = other.or_else(|| expected.pop_first().map(|(path, _)| path)) {
            return Ok(Err(format!("its md5sums are not those of its files: {path}")));
        }
        data.list.push_str(&last_lines);
        data.newest = wanted.changelog.date();
        if (1..SORTED_SINCE).contains(&data.newest) {
            return Ok(Err("it was made before dpkg-deb sorted what it packs".to_owned()));
        }
        let groups: Vec<Equal> = files
            .iter()
            .filter_map(|checksum| equal.get(checksum))
            .filter(|equal| equal.size > 0 && equal.paths.len() > 1)
            .cloned()
            .collect();
        let scripts: u64 = control.files.iter().filter(|(name, ..)| !is_made_later(name)).map(packed).sum();
        let Some(links) = hard_links(&groups, kibibytes + 1 + scripts, installed_size(control)) else {
            let names = groups.first().map_or(String::new(), |group| group.paths[..2].join(" and "));
            return Ok(Err(format!("whether {names} are one file, by a hard link, cannot be told")));
        };
        data.bytes -= links.iter().map(|group| group.size * (group.paths.len() as u64 - 1)).sum::<u64>();
        data.hard_links = links.into_iter().map(|group| group.paths.clone()).collect();
        Ok(Ok(data))
    }
}

/// Files of the same object, in the tar's order.
#[derive(Clone, Debug)]
struct Equal {
    size: u64,
    paths: Vec<String>,
    /// Which entry of the tar the second of them is: groups are known in that order.
    second: usize,
}

/// Walks a tree in dpkg-deb's order.
struct Tree<'a> {
    from: &'a Foreign,
    wanted: Wanted,
    data: Data,
    /// Lines of the list for symbolic links, which are last.
    last_lines: String,
    equal: HashMap<Sha256, Equal>,
    /// The objects of files, each once, in order.
    files: Vec<Sha256>,
    /// As dpkg-gencontrol counts, if there are no hard links.
    kibibytes: u64,
    /// What the package's md5sums say of files that have not come yet.
    expected: BTreeMap<String, String>,
    /// A file that is not what they say.
    other: Option<String>,
}

impl Tree<'_> {
    fn folder(&mut self, folder: &mut Folder, path: &str) -> Result<()> {
        let _ = writeln!(self.data.list, "/{}", if path.is_empty() { "." } else { path });
        self.kibibytes += 1;
        let from = self.from;
        for (name, node) in from.entries(folder)? {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if normal_path(below.as_bytes())? != below {
                return Err(Error::input(format!("{below:?} is no path of a deb")));
            }
            match node {
                Node::Folder(child) => self.folder(child, &below)?,
                Node::Object { checksum, .. } => {
                    self.object(*checksum, &below).with_context(|| below.clone())?;
                }
            }
        }
        Ok(())
    }

    fn object(&mut self, checksum: Sha256, path: &str) -> Result<()> {
        let mut object = self.from.object(checksum)?;
        self.kibibytes += object.size.div_ceil(1024);
        if object.is_symlink() {
            let mut target = String::new();
            object.content.read_to_string(&mut target)?;
            let _ = writeln!(self.last_lines, "/{path}");
            self.data.symlinks.push((path.to_owned(), target));
            return Ok(());
        }
        let _ = writeln!(self.data.list, "/{path}");
        self.data.bytes += object.size;
        let entry = self.data.list.len();
        let equal = self.equal.entry(checksum).or_insert_with(|| {
            self.files.push(checksum);
            Equal { size: object.size, paths: Vec::new(), second: 0 }
        });
        equal.paths.push(path.to_owned());
        if equal.paths.len() == 2 {
            equal.second = entry;
        }
        if self.wanted.changelog.wants(path, object.size) {
            let mut content = Vec::new();
            object.content.read_to_end(&mut content)?;
            self.wanted.changelog.file(path, &content);
            object.content = Box::new(io::Cursor::new(content));
        }
        let expected = self.expected.remove(path);
        if self.wanted.md5sums || expected.is_some() {
            let mut hasher = md5::Md5::new();
            let mut buffer = vec![0; 128 << 10];
            loop {
                let count = object.content.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
            }
            let md5 = digits(hasher);
            if expected.is_some_and(|expected| expected != md5) {
                self.other.get_or_insert_with(|| path.to_owned());
            }
            if self.wanted.md5sums {
                let _ = writeln!(self.data.md5sums, "{md5}  {path}");
            }
        }
        Ok(())
    }
}

/// What a package says of its files' MD5 digests, by path. Configuration files are often not among them
/// (dh_md5sums(1)).
fn expected_md5sums(control: &Control) -> BTreeMap<String, String> {
    let text = control.files.iter().find(|(name, ..)| name == "md5sums");
    let text = text.map(|(_, _, content)| String::from_utf8_lossy(content)).unwrap_or_default();
    let line = |line: &str| {
        let (md5, path) = line.split_at_checked(32)?;
        let path = path.strip_prefix("  ").or_else(|| path.strip_prefix(" *"))?;
        Some((normal_path(path.as_bytes()).ok()?, md5.to_ascii_lowercase()))
    };
    text.lines().filter_map(line).collect()
}

/// Which of the groups are hard links of one file, by the sum of all files' kibibytes if there were no
/// links and the sum that the package declares; none where they do not tell. In the tar's order.
fn hard_links(groups: &[Equal], without: u64, declared: Option<u64>) -> Option<Vec<&Equal>> {
    /// More than a few groups make sums that come about in several ways.
    const MOST: usize = 12;
    if groups.is_empty() {
        return Some(Vec::new());
    }
    let missing = without.checked_sub(declared?)?;
    if missing == 0 {
        return Some(Vec::new());
    }
    if groups.len() > MOST {
        return None;
    }
    let mut ways = Vec::new();
    explain(groups, missing, &mut Vec::new(), &mut ways);
    let [way] = ways.as_slice() else { return None };
    let mut linked = Vec::new();
    for (group, &links) in groups.iter().zip(way) {
        match links {
            0 => {}
            // Of some that are linked it is not known which.
            links if links + 1 < group.paths.len() as u64 => return None,
            _ => linked.push(group),
        }
    }
    linked.sort_by_key(|group| group.second);
    Some(linked)
}

/// The ways in which a number of links in each group explains what is missing; two are enough.
fn explain(groups: &[Equal], missing: u64, links: &mut Vec<u64>, ways: &mut Vec<Vec<u64>>) {
    let Some(group) = groups.get(links.len()) else {
        if missing == 0 && ways.len() < 2 {
            ways.push(links.clone());
        }
        return;
    };
    let each = group.size.div_ceil(1024);
    for count in 0..group.paths.len() as u64 {
        if count * each > missing || ways.len() > 1 {
            break;
        }
        links.push(count);
        explain(groups, missing - count * each, links, ways);
        links.pop();
    }
}

/// Control files that are not there yet when dpkg-gencontrol counts (dh(1)'s sequence).
fn is_made_later(name: &str) -> bool {
    matches!(name, "control" | "md5sums")
}

fn packed((_, _, content): &(String, Metadata, Vec<u8>)) -> u64 {
    (content.len() as u64).div_ceil(1024)
}

fn installed_size(control: &Control) -> Option<u64> {
    let field = deb822::field(control.stanza.as_bytes(), "Installed-Size")?;
    String::from_utf8_lossy(field).trim().parse().ok()
}

/// The files of a control member.
fn control_files(from: &Foreign, commit: Sha256) -> Result<Vec<(String, Metadata, Vec<u8>)>> {
    let mut root = from.root(commit)?;
    let mut files = Vec::new();
    for (name, node) in from.entries(&mut root)? {
        let object = match node {
            Node::Object { checksum, .. } => from.object(*checksum)?,
            Node::Folder(_) => return Err(Error::input(format!("{name:?} is not a file"))),
        };
        if object.is_symlink() {
            return Err(Error::input(format!("{name:?} is not a file")));
        }
        let mut content = Vec::new();
        let mut reader = object.content.take(super::control::SIZE_LIMIT + 1);
        reader.read_to_end(&mut content).with_context(|| name.clone())?;
        files.push((name.clone(), object.metadata, content));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_tell_links_from_copies() {
        let group = |size: u64, count: usize, second: usize| Equal {
            size,
            paths: (0..count).map(|number| format!("{size}-{number}")).collect(),
            second,
        };
        // (groups, all files' kibibytes, declared) → sizes of the groups that are links
        for (groups, without, declared, expected) in [
            (vec![], 100, None, Some(vec![])),
            (vec![group(5000, 2, 1)], 100, Some(100), Some(vec![])),
            (vec![group(5000, 2, 1)], 100, Some(95), Some(vec![5000])),
            (vec![group(5000, 2, 1)], 100, Some(96), None),
            (vec![group(5000, 2, 1)], 100, Some(101), None),
            (vec![group(5000, 2, 1)], 100, None, None),
            // two of three are linked, but which?
            (vec![group(1024, 3, 1)], 100, Some(99), None),
            (vec![group(1024, 3, 1)], 100, Some(98), Some(vec![1024])),
            (vec![group(1024, 2, 2), group(4096, 2, 1)], 100, Some(96), Some(vec![4096])),
            (vec![group(1024, 2, 2), group(4096, 2, 1)], 100, Some(95), Some(vec![4096, 1024])),
            // either of the two
            (vec![group(1024, 2, 1), group(1000, 2, 2)], 100, Some(99), None),
            (vec![group(1024, 2, 1); 13], 100, Some(87), None),
        ] {
            let found = hard_links(&groups, without, declared);
            let found = found.map(|links| links.iter().map(|group| group.size).collect::<Vec<_>>());
            assert_eq!(found, expected, "{groups:?} {without} {declared:?}");
        }
    }
}
