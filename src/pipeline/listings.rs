//! Listings of commits, as sandboxes take them: made once for a commit and kept beside the objects, since
//! a commit never changes. Making one asks for two attributes of every object; reading it back is one file.
//!
//! ```text
//! REPO/extensions/treestrap/listings-1/COMMIT
//!     32 bytes   SHA-256 of the commit's checksum and all that follows
//!     the rest   the listing (`sandbox::view::Listing`, which has a version of its own)
//! ```
//!
//! What is damaged, of another commit or of another version is made anew. That each object is still
//! there is not looked at again: a repository that lost some is for `ostree fsck`.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use sandbox::view::{self, Listing, ListingBuilder, ROOT};

use super::Session;
use crate::{
    Context, Error, Result,
    artefacts::Metadata,
    digest::Sha256,
    store::{self, Store, Visit, Visited},
};

/// The folder's name; another one when the files are of another form.
const FOLDER: &str = "listings-1";
/// How many are kept: the last ones that were used, the two trees of sixteen images. Each has about 130
/// bytes for every file of its image.
const MOST: usize = 32;
const DIGEST_SIZE: usize = 32;

/// The listing of a commit's tree: the kept one, or a new one, which is kept.
pub(super) fn of_commit(
    session: &Session<'_>,
    image: &str,
    store: &Store,
    commit: Sha256,
) -> Result<Listing> {
    let path = session.repo.join(store::PRIVATE_FOLDER).join(FOLDER).join(commit.to_string());
    let started = Instant::now();
    let milliseconds = || started.elapsed().as_secs_f64() * 1e3;
    if let Some(listing) = read(&path, commit) {
        let message =
            format!("the listing of {} entries read in {:.0} ms", listing.entry_count(), milliseconds());
        session.reporter.detail(image, message);
        return Ok(listing);
    }
    let listing = make(store, commit, 0, &|_| None)?;
    let message = format!("{} entries listed in {:.0} ms", listing.entry_count(), milliseconds());
    session.reporter.detail(image, message);
    // Without it the next start takes longer, and no more.
    if let Err(error) = keep(&path, commit, &listing) {
        session.reporter.detail(image, format!("the listing is not kept: {error}"));
    }
    Ok(listing)
}

/// Removes those of commits that are not there any more.
pub(super) fn remove_orphans(session: &Session<'_>, is_there: impl Fn(Sha256) -> Result<bool>) -> Result<()> {
    let folder = session.repo.join(store::PRIVATE_FOLDER).join(FOLDER);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let commit = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if !commit.map_or(Ok(false), &is_there)? {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn digest(commit: Sha256, listing: &[u8]) -> Sha256 {
    Sha256::of_parts(&[&commit.0, listing])
}

/// A kept listing, if it is there and sound.
fn read(path: &Path, commit: Sha256) -> Option<Listing> {
    let mut bytes = fs::read(path).ok()?;
    let (noted, listing) = bytes.split_first_chunk::<DIGEST_SIZE>()?;
    if digest(commit, listing).0 != *noted {
        return None;
    }
    bytes.drain(..DIGEST_SIZE);
    let listing = Listing::from_bytes(bytes).ok()?;
    // The time says when it was last used. Where it cannot be set, it is the age.
    let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    Some(listing)
}

/// Keeps a listing, in one step: others may read at the same time.
fn keep(path: &Path, commit: Sha256, listing: &Listing) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(writing)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(writing)?;
    let bytes = listing.as_bytes();
    file.write_all(&digest(commit, bytes).0).and_then(|()| file.write_all(bytes)).with_context(writing)?;
    file.persist(path).map_err(|error| error.error).with_context(writing)?;
    remove_old(folder);
    Ok(())
}

/// Removes those that were not used for longest, and what a killed run left half written: that is among
/// them some day.
fn remove_old(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(SystemTime, PathBuf)> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in files.iter().skip(MOST) {
        let _ = fs::remove_file(path); // perhaps another run has
    }
}

/// A commit's tree as the sandbox takes it. OSTree keeps no times: all are `modified`, in seconds since
/// 1970. `rename` gives the name, in the same folder, that a path's entry has instead of its own.
pub(super) fn make<'n>(
    store: &Store,
    commit: Sha256,
    modified: i64,
    rename: &dyn Fn(&str) -> Option<&'n str>,
) -> Result<Listing> {
    let convert = |metadata: &Metadata| view::Metadata {
        uid: metadata.uid,
        gid: metadata.gid,
        mode: metadata.mode,
        modified,
        xattrs: metadata.xattrs.clone(),
        ..view::Metadata::default()
    };
    let mut builder = None;
    // Folders by their paths, and files that have other names.
    let mut folders: HashMap<String, u64> = HashMap::new();
    let mut files: HashMap<String, u64> = HashMap::new();
    store.walk(commit, &mut |Visit { path, what }| {
        let Some(builder) = &mut builder else {
            let Visited::Folder(metadata) = what else { return Err(Error::bug("a root that is no folder")) };
            builder = Some(ListingBuilder::new(&convert(metadata))?);
            folders.insert(String::new(), ROOT);
            return Ok(());
        };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = *folders.get(parent).ok_or_else(|| Error::bug("a folder after what is in it"))?;
        let name = rename(path).unwrap_or(name).as_bytes();
        match what {
            Visited::Folder(metadata) => {
                folders.insert(path.to_owned(), builder.folder(parent, name, &convert(metadata))?);
            }
            Visited::File { metadata, size, object, has_links } => {
                let file = builder.file(parent, name, &convert(metadata), size, object.as_bytes())?;
                if has_links {
                    files.insert(path.to_owned(), file);
                }
            }
            Visited::Symlink { metadata, target } => {
                builder.symlink(parent, name, &convert(metadata), target)?;
            }
            Visited::HardLink { first } => {
                let first = files.get(first).ok_or_else(|| Error::bug("a link before its file"))?;
                builder.link(parent, name, *first)?;
            }
        }
        Ok(())
    })?;
    Ok(builder.ok_or_else(|| Error::bug("a tree without a root"))?.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(name: &[u8]) -> Listing {
        let mut builder = ListingBuilder::new(&view::Metadata::default()).expect("a root");
        builder.folder(ROOT, name, &view::Metadata::default()).expect("a folder");
        builder.finish().expect("a listing")
    }

    #[test]
    fn what_is_kept_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let (commit, other) = (Sha256([1; 32]), Sha256([2; 32]));
        let path = folder.path().join("listings").join(commit.to_string());
        assert!(read(&path, commit).is_none());
        keep(&path, commit, &listing(b"one")).expect("kept");
        assert_eq!(read(&path, commit).expect("sound").as_bytes(), listing(b"one").as_bytes());
        keep(&path, commit, &listing(b"two")).expect("kept");
        assert_eq!(read(&path, commit).expect("sound").as_bytes(), listing(b"two").as_bytes());
        assert!(read(&path, other).is_none(), "another commit's");
    }

    #[test]
    fn nothing_damaged_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let commit = Sha256([1; 32]);
        let path = folder.path().join(commit.to_string());
        keep(&path, commit, &listing(b"one")).expect("kept");
        let sound = fs::read(&path).expect("read");
        for length in 0..sound.len() {
            fs::write(&path, &sound[..length]).expect("written");
            assert!(read(&path, commit).is_none(), "cut to {length}");
        }
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).expect("written");
            assert!(read(&path, commit).is_none(), "changed at {at}");
        }
        let foreign = [digest(commit, b"text").0.as_slice(), b"text"].concat();
        fs::write(&path, foreign).expect("written");
        assert!(read(&path, commit).is_none(), "no listing");
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder in its place");
        assert!(read(&path, commit).is_none());
    }

    #[test]
    fn the_last_used_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let commits: Vec<_> = (0..40).map(|number| Sha256([number; 32])).collect();
        let path = |commit: Sha256| folder.path().join(commit.to_string());
        for (age, &commit) in commits.iter().enumerate() {
            keep(&path(commit), commit, &listing(b"one")).expect("kept");
            let time = SystemTime::now() - std::time::Duration::from_secs(1000 - age as u64);
            let file = fs::File::open(path(commit)).expect("opened");
            file.set_modified(time).expect("set");
            assert!(read(&path(commits[0]), commits[0]).is_some(), "it is used all the time");
        }
        let left = fs::read_dir(folder.path()).expect("read").count();
        assert_eq!(left, MOST);
        assert!(!path(commits[1]).exists() && path(commits[39]).exists());
    }
}
