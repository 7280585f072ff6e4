//! What stage 2 changed, without what is not the tree's: into the store for an image, into the folder for
//! one that is finished in place.

use std::{
    fs::File,
    io::{Read, Seek},
    sync::atomic::{AtomicBool, Ordering},
};

use sandbox::{Change, Entry, Session};

use super::{Adopt, Inputs, debconf, interpose, newest, normalise};
use crate::{
    Context, Error, Result,
    artefacts::{Metadata, TreeChange, TreeEntry},
    error::Kind,
    report::Reporter,
};

/// What becomes of a change.
pub(super) enum Fate {
    /// It is not the tree's: what was there before stays.
    Left,
    /// It is one that a script made of a file that stands in while scripts run.
    Interposed,
    /// It is taken as it is; of a file, the content is open at its start.
    Taken(Option<File>),
    /// It is taken with another content, of so many bytes.
    Replaced(File, u64),
}

/// Decides about changes, one after the other.
pub(super) struct Sieve<'a> {
    inputs: &'a Inputs<'a>,
    stop: &'a AtomicBool,
    questions: debconf::Database,
}

impl<'a> Sieve<'a> {
    pub(super) fn new(inputs: &'a Inputs<'a>, stop: &'a AtomicBool) -> Self {
        Sieve { inputs, stop, questions: debconf::Database::default() }
    }

    /// What becomes of a change; `content` is that of a file.
    pub(super) fn fate(&mut self, change: &Change, content: Option<File>) -> Result<Fate> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        let (inputs, path) = (self.inputs, change.path.as_slice());
        if inputs.acceleration.is_some_and(|acceleration| acceleration.hides(path)) {
            return Ok(Fate::Left);
        }
        if let Some(ours) = interpose::content(path) {
            return Ok(if is_copy(content, ours) { Fate::Left } else { Fate::Interposed });
        }
        let policy = inputs.identity;
        match &change.now {
            Entry::Removed => Ok(Fate::Taken(None)),
            _ if !normalise::keeps(policy, path) => Ok(Fate::Left),
            Entry::Symlink { target, .. } if normalise::leads_to_dropped(policy, path, target) => {
                Ok(Fate::Left)
            }
            Entry::File { size, .. } => {
                let mut content = content.ok_or_else(|| Error::bug("a file without content"))?;
                self.questions.read(path, &mut content, *size)?;
                Ok(match normalise::content(policy, path, &mut content, *size, newest(inputs))? {
                    Some((content, size)) => Fate::Replaced(content, size),
                    None => Fate::Taken(Some(content)),
                })
            }
            Entry::Folder { .. } | Entry::Symlink { .. } | Entry::Special { .. } => Ok(Fate::Taken(None)),
        }
    }

    /// Says which of the packages' questions nobody has answered.
    pub(super) fn report(self, reporter: &dyn Reporter) {
        for question in self.questions.unanswered(self.inputs.preseed) {
            reporter.note(&self.inputs.composed.image, question);
        }
    }
}

/// Streams the changes out of the sandbox into the store.
pub(super) fn adopt(
    session: &mut Session,
    adopt: &mut dyn Adopt,
    inputs: &Inputs<'_>,
    reporter: &dyn Reporter,
    stop: &AtomicBool,
) -> Result<Vec<TreeChange>> {
    let image = inputs.composed.image.as_str();
    let mut changes = Vec::new();
    let mut sieve = Sieve::new(inputs, stop);
    session.changes::<Error>(&mut |change, content| {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        let storing = || format!("storing /{path}");
        let content = match sieve.fate(&change, content).with_context(storing)? {
            Fate::Left => return Ok(()),
            Fate::Interposed => {
                let message =
                    format!("a script changed /{path}, which stands in while an image is made: left out");
                reporter.warn(image, message);
                return Ok(());
            }
            Fate::Taken(content) => content.map(|content| (content, None)),
            Fate::Replaced(content, size) => Some((content, Some(size))),
        };
        let now = match (change.now, content) {
            (Entry::Removed, _) => TreeEntry::Absent,
            (Entry::Folder { metadata, opaque }, _) => {
                TreeEntry::Folder { metadata: image_metadata(metadata), opaque }
            }
            (Entry::File { metadata, size, hard_link }, Some((mut content, replaced))) => {
                let size = replaced.unwrap_or(size);
                let checksum =
                    adopt.file(&image_metadata(metadata), &mut content, size).with_context(storing)?;
                TreeEntry::Object { checksum, hard_link }
            }
            (Entry::File { .. }, None) => return Err(Error::bug(format!("{path}: a file without content"))),
            (Entry::Symlink { metadata, target }, _) => {
                let checksum = adopt.symlink(&image_metadata(metadata), &target).with_context(storing)?;
                TreeEntry::Object { checksum, hard_link: None }
            }
            (Entry::Special { .. }, _) => {
                let message =
                    format!("/{path} is a device, pipe or socket, which OSTree cannot hold: left out");
                reporter.warn(image, message);
                TreeEntry::Absent // what it replaced is gone all the same
            }
        };
        changes.push(TreeChange { path: change.path, now });
        Ok(())
    })?;
    sieve.report(reporter);
    Ok(changes)
}

/// Whether a changed file is an interposed one that was only copied up (by chmod, say). It stays open at its
/// start.
fn is_copy(content: Option<File>, ours: &str) -> bool {
    let mut text = String::new();
    let Some(mut content) = content else { return false };
    let read = content.by_ref().take(ours.len() as u64 + 1).read_to_string(&mut text);
    read.is_ok() && content.rewind().is_ok() && text == ours
}

/// The metadata as the image has it: without what a hard-link checkout adds, and without times,
/// which OSTree does not keep.
fn image_metadata(metadata: sandbox::Metadata) -> Metadata {
    let mut xattrs = metadata.xattrs;
    // Copied up with a file that was a hard link to an object of a bare-user repository.
    xattrs.retain(|(name, _)| name != b"user.ostreemeta");
    Metadata { uid: metadata.uid, gid: metadata.gid, mode: metadata.mode, xattrs }
}
