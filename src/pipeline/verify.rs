//! `verify`: makes an image again, under other conditions, and says what came out otherwise.
//!
//! What is made again are stages 1 and 2, at the refs `deb/images/IMAGE/again/…`. They go when it came
//! out the same, and else stay, for `treestrap diff IMAGE IMAGE/again`. That a deb is ingested the same
//! way twice is for tests to show: its objects are named by their contents.

use super::{Session, StageTwo, locks, pool, stage_two};
use crate::{
    Error, Result,
    artefacts::{Configured, Image},
    compose,
    configure::Trial,
    digest::Sha256,
    store::{
        Change, Store,
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
    let ingested = pool::ingested(session, &lockfile)?;
    let composed_again = compose::compose(&store, again_name, &image.request.architecture, &ingested, None)?;
    if composed_again.commit != composed.commit {
        let differences = differences(&store, composed.commit, composed_again.commit, None)?;
        let conditions = "stage 1 alone: its lock, or treestrap, is another than when it was made".to_owned();
        return Ok(Verified {
            commit: composed.commit,
            again: composed_again.commit,
            conditions,
            differences,
        });
    }
    let trial = Trial::new(&session.work_made()?)?;
    let (committed_again, configured) =
        stage_two::run_stage_two(session, &again, options, &composed_again, Some(&trial))?;
    let (commit, again) = (committed.commit, committed_again.commit);
    let differences = differences(&store, commit, again, Some(&trial))?;
    if commit == again {
        store.remove_references(&references)?;
    }
    Ok(Verified { commit, again, conditions: conditions(&configured), differences })
}

/// What was otherwise, as far as the sandbox says so.
fn conditions(configured: &Configured) -> String {
    let of = |name: &str| {
        let find =
            |value: &serde_json::Value| value.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        find(&configured.enforced).or_else(|| find(configured.enforced.get("inside")?)).unwrap_or_default()
    };
    format!(
        "tier {}, view {}, one processor, other process numbers, another time and folder",
        of("tier"),
        of("view")
    )
}

fn differences(store: &Store, a: Sha256, b: Sha256, trial: Option<&Trial>) -> Result<Vec<Disparity>> {
    if a == b {
        return Ok(Vec::new());
    }
    let mut writers = trial.map(Trial::writers).transpose()?.unwrap_or_default();
    let found = store.diff(a, b)?.into_iter().map(|difference| {
        let sign = match difference.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed | Change::Replaced => '~',
        };
        let writers = writers.remove(&difference.path).unwrap_or_default();
        Disparity { sign, path: difference.path, writers }
    });
    Ok(found.collect())
}
