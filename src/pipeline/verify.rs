//! `verify`: makes an image again, under other conditions, and says what came out otherwise.
//!
//! What is made again are stages 1 and 2, at the refs `deb/images/IMAGE/again/…`. They go when it came
//! out the same, and else stay, for `treestrap diff IMAGE IMAGE/again`. That a deb is ingested the same
//! way twice is for tests to show: its objects are named by their contents.

use std::{io::Read, time::SystemTime};

use super::{Session, StageTwo, dates, layers, locks, pool, stage_two};
use crate::{
    Context, Error, Result,
    artefacts::{Composed, Configured, Image, Lockfile, TreeEntry},
    compose,
    configure::Trial,
    digest::Sha256,
    store::{
        Content, Store,
        records::{configured_reference, unpacked_reference},
    },
};

/// What `verify` found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The image as it is.
    pub commit: Sha256,
    /// The image as it came out again.
    pub again: Sha256,
    /// What was otherwise the second time, in words.
    pub conditions: String,
    /// What differs.
    pub differences: Vec<Disparity>,
}

/// A path that came out otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disparity {
    /// `+` only the second time, `-` only the first time, `~` both, and not the same.
    pub sign: char,
    /// The path, without a leading slash.
    pub path: Vec<u8>,
    /// Which programs opened it for writing or gave it its name the second time, and for which package.
    pub writers: Vec<String>,
}

/// Larger files, in bytes, are not looked into for dates.
const LARGEST: u64 = 64 << 20;

/// Makes an image again.
pub fn verify(session: &Session<'_>, image: &Image, options: &StageTwo) -> Result<Verified> {
    let name = &image.request.image;
    let lockfile = locks::read(&image.lock)?;
    let store = Store::open_or_create(&session.repo)?;
    let made = || format!("treestrap build {name}");
    let composed = compose::load(&store, name)?;
    let finished =
        composed.as_ref().map(|composed| stage_two::finished(&store, image, composed)).transpose()?;
    let (Some(composed), Some(committed)) = (composed, finished.flatten()) else {
        let message = format!("{name}: there is no image of what the manifest and the lock say now");
        return Err(Error::input(message).hint(made()));
    };
    let mut again = image.clone();
    again.request.image = format!("{name}/again");
    let again_name = &again.request.image;
    let references = [unpacked_reference(again_name), configured_reference(again_name)];
    store.remove_references(&references)?;
    let verified = make_again(session, &store, &again, options, (&lockfile, &composed, committed.commit));
    if verified.as_ref().map_or(true, |verified| verified.commit == verified.again) {
        store.remove_references(&references)?;
    }
    verified
}

/// Makes the image under its name for a second run, and compares it with what there is.
fn make_again(
    session: &Session<'_>,
    store: &Store,
    image: &Image,
    options: &StageTwo,
    (lockfile, composed, commit): (&Lockfile, &Composed, Sha256),
) -> Result<Verified> {
    let request = &image.request;
    let ingested = pool::ingested(session, lockfile)?;
    let composed_again = compose::compose(store, &request.image, &request.architecture, &ingested, None)?;
    if composed_again.commit != composed.commit {
        let differences = differences(store, composed.commit, composed_again.commit, None)?;
        let conditions = "stage 1 alone: its lock, or treestrap, is another than when it was made".to_owned();
        return Ok(Verified {
            commit: composed.commit,
            again: composed_again.commit,
            conditions,
            differences,
        });
    }
    let begun = SystemTime::now();
    let trial = Trial::new(&session.work())?;
    let (committed, configured) = layers::again(session, image, options, &composed_again, &trial)?;
    let again = committed.commit;
    let differences = differences(store, commit, again, Some(&trial))?;
    for (path, date) in dated(store, &configured, &dates::texts(begun, SystemTime::now()))? {
        let message =
            format!("{path} has the day of this run in it ({date}): it may be another one tomorrow");
        session.reporter.warn(&request.image, message);
    }
    Ok(Verified { commit, again, conditions: conditions(&configured), differences })
}

/// What was otherwise, as far as the sandbox says so.
fn conditions(configured: &Configured) -> String {
    let of = |name: &str| configured.enforced[name].as_str().unwrap_or_default();
    format!(
        "tier {}, view {}, one processor, other process numbers, another time and folder",
        of("tier"),
        of("view")
    )
}

/// The files that stage 2 made in which one of these texts is. What is compressed does not show.
fn dated(store: &Store, configured: &Configured, texts: &[String]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for change in &configured.changes {
        let TreeEntry::Object { checksum, .. } = change.now else { continue };
        let (_, Content::File(mut file)) = store.object(checksum)? else { continue };
        if file.size > LARGEST {
            continue;
        }
        let mut bytes = Vec::new();
        let path = format!("/{}", String::from_utf8_lossy(&change.path));
        file.read_to_end(&mut bytes).with_context(|| format!("reading {path}"))?;
        let is_in = |text: &&String| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
        if let Some(text) = texts.iter().find(is_in) {
            found.push((path, text.trim_end().to_owned()));
        }
    }
    Ok(found)
}

fn differences(store: &Store, a: Sha256, b: Sha256, trial: Option<&Trial>) -> Result<Vec<Disparity>> {
    if a == b {
        return Ok(Vec::new());
    }
    let mut writers = trial.map(Trial::writers).transpose()?.unwrap_or_default();
    let found = store.diff(a, b)?.into_iter().map(|difference| {
        let writers = writers.remove(&difference.path).unwrap_or_default();
        Disparity { sign: difference.change.sign(), path: difference.path, writers }
    });
    Ok(found.collect())
}
