//! The manifest stage: `treestrap.toml`, what the user writes → [`Image`]s, what the pipeline takes.
//!
//! Everything in it is checked here and reported with its line and column: keys and types
//! ([`document`]), repositories ([`repository`]), images ([`image`]) and package requests
//! ([`package`]). Files that it names (keyrings, preseeds) are not opened here: an image that is
//! built already needs none of them to be run or exported. [`multistrap`] reads the other language.

mod document;
mod image;
pub mod multistrap;
mod nearest;
mod package;
mod repository;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

pub use image::check_name;
pub use nearest::did_you_mean;

use crate::{Context, Error, Result, artefacts::Image};
use document::Document;

/// The manifest's usual name, looked for in the current folder.
pub const FILE_NAME: &str = "treestrap.toml";

/// A manifest that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The file.
    pub path: PathBuf,
    /// Its images, in the file's order; never empty.
    pub images: Vec<Image>,
}

impl Manifest {
    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| {
            let missing = error.kind() == ErrorKind::NotFound;
            let error = Error::from(error).context(format!("cannot read the manifest {}", path.display()));
            if missing {
                error.hint("`treestrap init` writes a starter; --manifest FILE names another")
            } else {
                error
            }
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let end = good.len();
            Document::new(path, &good).error(end..end, "this is not UTF-8")
        })?;
        Manifest::parse(path, text)
    }

    /// Checks `text`, the content of the file at `path`. Relative paths in it are relative to the
    /// file's folder.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let document = Document::new(path, text);
        let root = document.parse()?;
        let root = document.root(&root, &["repos", "images"])?;
        let repositories = repository::read_all(&root)?;
        let images = image::read_all(&root, &repositories)?;
        Ok(Manifest { path: path.to_owned(), images })
    }

    /// The images with these names, in the order of the names and each once; all of them where no
    /// name is given.
    pub fn select(&self, names: &[String]) -> Result<Vec<Image>> {
        if names.is_empty() {
            return Ok(self.images.clone());
        }
        let mut selected: Vec<Image> = Vec::new();
        for name in names {
            let image = self.image(name)?;
            if selected.iter().all(|other| other.request.image != image.request.image) {
                selected.push(image.clone());
            }
        }
        Ok(selected)
    }

    /// The image called `name`; the error names the nearest that there is.
    pub fn image(&self, name: &str) -> Result<&Image> {
        self.images.iter().find(|image| image.request.image == name).ok_or_else(|| {
            let known: Vec<&str> = self.images.iter().map(|image| image.request.image.as_str()).collect();
            let error = Error::input(format!("{} has no image {name:?}", self.path.display()));
            error.hint(did_you_mean(name, &known, "its images"))
        })
    }

    /// The folder that the manifest is in; empty for the current one.
    pub fn folder(path: &Path) -> &Path {
        path.parent().unwrap_or(Path::new(""))
    }
}

/// A path of the manifest as text, for the values of [`crate::artefacts`] that are text.
fn path_text(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::input("its folder's name is not UTF-8"));
    text.map(str::to_owned).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
