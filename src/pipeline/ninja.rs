//! `ninja`: what of images and repository a `build.ninja` has to say, and the stamp of `fetch`.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{Session, locks, pool, replace_file, stage_two};
use crate::{
    Context, Error, Result,
    artefacts::{Image, Layer, Preseed, StageTwo},
    digest::Sha256,
    ninja::{self, Description, ImageDescription},
    store::records::FORMAT,
};

/// How a `build.ninja` is written.
#[derive(Clone, Debug)]
pub struct Ninja {
    /// The program, and the options that stand before any verb.
    pub treestrap: Vec<String>,
    /// The words after these that write the same again.
    pub again: Vec<String>,
    /// Where it goes.
    pub output: PathBuf,
    /// The manifest, and the program where that is known: it is written again when they change.
    pub sources: Vec<PathBuf>,
    /// The repository, as the user names it.
    pub repo: PathBuf,
    /// The manifest's folder; empty for the current one.
    pub folder: PathBuf,
    /// Where tar files of images go, if they are wanted.
    pub tars: Option<PathBuf>,
    /// Whether it is for `subninja`.
    pub is_fragment: bool,
    /// Options of stage 2.
    pub options: StageTwo,
}

/// Writes it, unless it is there already, byte for byte; gives whether it was written.
pub fn ninja(images: &[Image], ninja: &Ninja) -> Result<bool> {
    let images = images.iter().map(describe).collect::<Result<Vec<_>>>()?;
    let text = ninja::text(&Description {
        treestrap: ninja.treestrap.clone(),
        again: ninja.again.clone(),
        output: text_of(&ninja.output)?,
        sources: ninja.sources.iter().map(|source| text_of(source)).collect::<Result<_>>()?,
        repo: text_of(&ninja.repo)?,
        folder: text_of(&ninja.folder)?,
        tars: ninja.tars.as_deref().map(text_of).transpose()?,
        is_fragment: ninja.is_fragment,
        options: ninja::options(&ninja.options),
        images,
    });
    write_if_changed(&ninja.output, &text.with_context(|| ninja.output.display().to_string())?)
}

fn describe(image: &Image) -> Result<ImageDescription> {
    let (mut preseeds, mut settings) = (Vec::new(), Vec::new());
    for image in std::iter::once(image).chain(image.bases()) {
        let mut answers = None;
        match &image.preseed {
            Some(Preseed::File(path)) => preseeds.push(text_of(path)?),
            Some(Preseed::Lines(lines)) => answers = Some(lines),
            None => {}
        }
        // A file of answers is an input of its own. What decides in stage 1 is in the stamp.
        let own = serde_json::to_vec(&(FORMAT, stage_two::settings(image), answers)).map_err(Error::bug)?;
        settings.extend(own);
    }
    preseeds.dedup();
    Ok(ImageDescription {
        name: image.request.image.clone(),
        lock: text_of(&image.lock)?,
        preseeds,
        base: image.request.from.clone(),
        settings: Sha256::of(&settings),
    })
}

fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::input(format!("{}: this is not UTF-8", path.display())));
    text.map(str::to_owned)
}

/// Writes what the composed trees of images will be made from, unless that stands there: each image's
/// architecture and packages, as they are in the repository.
pub fn stamp(session: &Session<'_>, images: &[Image], path: &Path) -> Result<bool> {
    let mut text = String::new();
    for image in images {
        let request = &image.request;
        let ingested = pool::ingested(session, &locks::read(&image.lock)?)?;
        let _ = writeln!(text, "{} {}", request.image, request.architecture);
        for package in &ingested.packages {
            let (name, version, architecture) = (&package.name, &package.version, &package.architecture);
            let _ = write!(text, "{} {name}_{version}_{architecture}", package.commit);
            let Layer { number, from } = &package.layer;
            match package.layer.is_lowest() {
                true => text.push('\n'),
                false => {
                    let _ = writeln!(text, " layer {number} {}", from.as_deref().unwrap_or_default());
                }
            }
        }
    }
    write_if_changed(path, &text)
}

/// Writes a file unless it is there already, byte for byte; gives whether it was written.
pub(super) fn write_if_changed(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    replace_file(path, |file| Ok(file.write_all(text.as_bytes())?))?;
    Ok(true)
}
