//! `import`: packages that another system has unpacked into an OSTree repository, so that they need not
//! be downloaded again.
//!
//! apt2ostree has two refs a deb that count here, named by the deb's SHA-256 and its file's name, in
//! which `+` and `~` are written as `_` (its apt.py, `image_from_lockfile`):
//!
//! ```text
//! deb/pool/AB/CD/EF…_NAME_VERSION_ARCH.deb/data      the tree of the data member
//!                                         /control   that of the control member
//! deb/images/LOCK/{unpacked,configured,complete}     its images
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Serialize;

use super::{Session, locks};
use crate::{
    Context, Error, Result,
    debian::version,
    digest::Sha256,
    error::Kind,
    ingest::{Adopted, Ingester, UnpackedDeb},
    report::{Event, Stage},
    store::{Foreign, ForeignReference, Store, records::imported_reference},
};

/// In events, in the place of an image's name.
const NAME: &str = "apt2ostree";
/// The stages of an image there.
const STAGES: [&str; 3] = ["unpacked", "configured", "complete"];
/// The first dpkg whose dpkg-deb sorts what it packs.
const SORTING_DPKG: &str = "1.18.5";

/// What of apt2ostree's repository is wanted.
#[derive(Clone, Debug)]
pub struct Import {
    /// The repository.
    pub from: PathBuf,
    /// Only the packages of these locks, if there are any.
    pub locks: Vec<PathBuf>,
    /// Images, as apt2ostree calls them: each becomes `deb/imported/IMAGE/STAGE`.
    pub images: Vec<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Packages that were taken.
    pub taken: usize,
    /// Packages that were in the repository already.
    pub present: usize,
    /// Packages of which it cannot be told what ingesting the deb would give: they are to be fetched.
    pub unclear: usize,
    /// Refs that are damaged, or not what apt2ostree writes.
    pub refused: usize,
    /// Refs of images that were taken.
    pub images: usize,
}

/// Takes what is wanted of apt2ostree's repository. What cannot be taken is reported and left out.
pub fn import(session: &Session<'_>, import: &Import) -> Result<Imported> {
    let from = Foreign::open(&import.from)?;
    let (pool, odd) = pool(from.references("deb/pool")?);
    let mut imported = Imported { refused: odd.len(), ..Imported::default() };
    odd.iter().for_each(|message| session.reporter.warn(NAME, message.clone()));
    let wanted = wanted(session, import, &pool)?;
    let pool: Vec<(Sha256, Parts)> = pool
        .into_iter()
        .filter(|(deb, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(deb)))
        .collect();
    if pool.is_empty() && import.images.is_empty() {
        return Err(Error::input(format!("{} has no package to take", import.from.display()))
            .hint("name the repository of apt2ostree, often _build/ostree"));
    }
    let total = pool.len() as u64;
    session.stage(NAME, Stage::Fetch, Some(total), "packages", || {
        take_all(session, &from, &pool, &mut imported)?;
        Ok(((), format!("{} packages taken", imported.taken)))
    })?;
    for image in &import.images {
        imported.images += take_image(session, &from, image)?;
    }
    Ok(imported)
}

/// What the refs of one deb name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// The file's name, as in the ref.
    file: String,
    control: Option<Sha256>,
    data: Option<Sha256>,
}

/// The debs among refs, by their digests, and what is wrong with other refs.
fn pool(references: Vec<ForeignReference>) -> (BTreeMap<Sha256, Parts>, Vec<String>) {
    let (mut pool, mut odd) = (BTreeMap::<Sha256, Parts>::new(), Vec::new());
    for (reference, commit) in references {
        let Some((deb, file, part)) = parse(&reference) else {
            odd.push(format!("{reference}: apt2ostree writes no such ref"));
            continue;
        };
        let known = pool.entry(deb).or_default();
        known.file = file.to_owned();
        match (part, commit) {
            ("control", Ok(commit)) => known.control = Some(commit),
            ("data", Ok(commit)) => known.data = Some(commit),
            ("control" | "data", Err(problem)) => odd.push(format!("{reference}: {problem}")),
            _ => {} // made from these two, as theirs: info, data-usrmove, data-fixed
        }
    }
    (pool, odd)
}

/// The deb's digest, its file's name, and the part.
fn parse(reference: &str) -> Option<(Sha256, &str, &str)> {
    let mut parts = reference.strip_prefix("deb/pool/")?.split('/');
    let (first, second, rest, part) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (digits, file) = rest.split_once('_')?;
    let is_known = ["control", "data", "info"].contains(&part) || part.starts_with("data-");
    if first.len() != 2 || second.len() != 2 || !file.ends_with(".deb") || !is_known || parts.next().is_some()
    {
        return None;
    }
    Some((format!("{first}{second}{digits}").parse().ok()?, file, part))
}

/// The digests in the locks, if there are locks; says which are not in the pool.
fn wanted(
    session: &Session<'_>,
    import: &Import,
    pool: &BTreeMap<Sha256, Parts>,
) -> Result<Option<BTreeSet<Sha256>>> {
    if import.locks.is_empty() {
        return Ok(None);
    }
    let mut wanted = BTreeSet::new();
    for path in &import.locks {
        let packages = locks::read(path)?.packages;
        let missing: Vec<String> =
            packages.iter().filter(|package| !pool.contains_key(&package.sha256)).map(|p| p.id()).collect();
        if let Some(first) = missing.first() {
            let (count, from) = (missing.len(), import.from.display());
            let message = format!("{}: {count} of its packages are not in {from}: {first}", path.display());
            session.reporter.note(NAME, message + if count > 1 { ", …" } else { "" });
        }
        wanted.extend(packages.iter().map(|package| package.sha256));
    }
    Ok(Some(wanted))
}

/// Takes debs one after the other.
fn take_all(
    session: &Session<'_>,
    from: &Foreign,
    pool: &[(Sha256, Parts)],
    imported: &mut Imported,
) -> Result<()> {
    let mut ingester = Ingester::new(&session.repo)?;
    let unsorted = pool.iter().find_map(|(_, parts)| unsorted_by(&parts.file));
    for (done, (deb, parts)) in (1..).zip(pool) {
        session.check_stop()?;
        let file = &parts.file;
        if ingester.has(*deb)? {
            imported.present += 1;
        } else {
            match take(&mut ingester, from, *deb, parts, unsorted.as_deref()) {
                Ok(Adopted::Taken(_)) => imported.taken += 1,
                Ok(Adopted::Unclear(reason)) => {
                    imported.unclear += 1;
                    session.reporter.note(NAME, format!("{file} is left to be fetched: {reason}"));
                }
                Err(error) if error.kind() == Kind::Input => {
                    imported.refused += 1;
                    session.reporter.warn(NAME, format!("{file} is damaged, or no package: {error}"));
                }
                Err(error) => return Err(error.context(file.clone())),
            }
        }
        let item = file.clone();
        session.reporter.event(Event::Progress { image: NAME.to_owned(), stage: Stage::Fetch, done, item });
    }
    ingester.finish()
}

fn take(
    ingester: &mut Ingester,
    from: &Foreign,
    deb: Sha256,
    parts: &Parts,
    unsorted: Option<&str>,
) -> Result<Adopted> {
    let missing = |what| Error::input(format!("there is no ref of its {what}"));
    let control = parts.control.ok_or_else(|| missing("control files"))?;
    let data = parts.data.ok_or_else(|| missing("tree"))?;
    if let Some(dpkg) = unsorted {
        let reason = format!("with {dpkg} among the packages, dpkg-deb may not have sorted what it packed");
        return Ok(Adopted::Unclear(reason));
    }
    ingester.adopt(from, &UnpackedDeb { deb, control, data }, &|name| {
        parts.file.starts_with(&(name.replace(['+', '~'], "_") + "_"))
    })
}

/// The file's name if it is of a dpkg whose dpkg-deb did not sort: packages for a release are built
/// with its own.
fn unsorted_by(file: &str) -> Option<String> {
    let (version, _) = file.strip_prefix("dpkg_")?.rsplit_once('_')?;
    // In a ref `_` stands for the others.
    let version = version.replace('_', "+");
    (version::compare(&version, SORTING_DPKG).is_lt()).then(|| file.to_owned())
}

/// Takes the refs of an image as they are; gives how many.
fn take_image(session: &Session<'_>, from: &Foreign, image: &str) -> Result<usize> {
    let prefix = format!("deb/images/{image}");
    let mut taken = 0;
    let mut transaction = Store::open_or_create(&session.repo)?.transaction()?;
    for (reference, commit) in from.references(&prefix)? {
        let Some(stage) = reference.strip_prefix(&prefix).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        if !STAGES.contains(&stage) {
            continue;
        }
        let commit = commit.map_err(Error::input).with_context(|| reference.clone())?;
        transaction.import_commit(from, commit).with_context(|| reference.clone())?;
        transaction.set_reference(&imported_reference(image, stage), commit);
        taken += 1;
    }
    if taken == 0 {
        return Err(Error::input(format!("{} has no image {image:?}", from.path().display()))
            .hint("an image of apt2ostree is called as its lock is, with _ for each slash"));
    }
    transaction.commit()?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_are_told_apart() {
        let digits = "ef".repeat(30);
        let deb: Sha256 = format!("abcd{digits}").parse().expect("a digest");
        let named = |name: &str| format!("deb/pool/ab/cd/{digits}_{name}");
        let file = "libstdc__6_12.2.0-14_deb12u1_amd64.deb";
        for (reference, expected) in [
            (named(&format!("{file}/data")), Some((deb, file, "data"))),
            (named(&format!("{file}/control")), Some((deb, file, "control"))),
            (named(&format!("{file}/data-usrmove")), Some((deb, file, "data-usrmove"))),
            (named(&format!("{file}/other")), None),
            (named(&format!("{file}/data/more")), None),
            (named("a_1_all.udeb/data"), None),
            (format!("deb/pool/ab/cd{digits}"), None),
            (format!("deb/pool/a/bcd/{digits}_{file}/data"), None),
            (format!("deb/images/x/{digits}_{file}/data"), None),
        ] {
            assert_eq!(parse(&reference), expected, "{reference}");
        }
        let commit = Sha256::of(b"commit");
        let (pool, odd) = pool(vec![
            (named(&format!("{file}/control")), Ok(commit)),
            (named(&format!("{file}/data")), Err("torn".to_owned())),
            (named(&format!("{file}/info")), Err("not looked at".to_owned())),
            ("deb/pool/mine".to_owned(), Ok(commit)),
        ]);
        let parts = Parts { file: file.to_owned(), control: Some(commit), data: None };
        assert_eq!(pool, BTreeMap::from([(deb, parts)]));
        assert_eq!(odd.len(), 2, "{odd:?}");
    }

    #[test]
    fn an_old_dpkg_is_a_warning() {
        for (file, expected) in [
            ("dpkg_1.18.4ubuntu1.7_amd64.deb", true),
            ("dpkg_1.18.4_deb8u1_armhf.deb", true),
            ("dpkg_1.18.5_amd64.deb", false),
            ("dpkg_1.21.22_amd64.deb", false),
            ("dpkg-dev_1.17.0_all.deb", false),
        ] {
            assert_eq!(unsorted_by(file).is_some(), expected, "{file}");
        }
    }
}
