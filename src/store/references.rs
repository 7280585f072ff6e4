//! Refs that move: files with what each is to say are written, made durable by whoever writes them together with the
//! rest, and then get their names. So a crash of the machine leaves no ref that is empty or half written.

use std::{collections::BTreeMap, fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempPath;

use crate::{
    digest::Sha256,
    error::{Context, Result},
};

/// What refs are to name; none: they are to be gone.
pub(super) type References = BTreeMap<String, Option<Sha256>>;

/// Where a repository has its refs.
const HEADS: &str = "refs/heads";

/// Whether a ref names this commit.
pub(super) fn names(repository: &Path, reference: &str, commit: Sha256) -> bool {
    let file = repository.join(HEADS).join(reference);
    fs::read_to_string(file).is_ok_and(|text| text.trim_end() == commit.to_string())
}

/// Files that lie ready for their names.
pub(super) struct Ready<'a> {
    repository: &'a Path,
    files: Vec<(String, Option<TempPath>)>,
}

impl<'a> Ready<'a> {
    /// Writes them, where libostree removes what was left for a day.
    pub(super) fn write(repository: &'a Path, references: References) -> Result<Self> {
        let file = |(reference, commit): (String, Option<Sha256>)| {
            let written = commit.map(|commit| written(repository, commit)).transpose();
            Ok((reference.clone(), written.with_context(|| format!("writing the ref {reference}"))?))
        };
        let files = references.into_iter().map(file).collect::<Result<_>>()?;
        Ok(Ready { repository, files })
    }

    /// Gives them their names.
    pub(super) fn give_names(self) -> Result<()> {
        for (reference, file) in self.files {
            let path = self.repository.join(HEADS).join(&reference);
            let moved = match file {
                Some(file) => named(file, &path),
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
            };
            moved.with_context(|| format!("moving the ref {reference}"))?;
        }
        Ok(())
    }
}

fn written(repository: &Path, commit: Sha256) -> std::io::Result<TempPath> {
    let mut builder = tempfile::Builder::new();
    // As libostree's: readable by all that the umask lets.
    builder.prefix("ref-").permissions(fs::Permissions::from_mode(0o666));
    let mut file = builder.tempfile_in(repository.join("tmp"))?;
    writeln!(file, "{commit}")?;
    Ok(file.into_temp_path()) // there may be more of them than a process can have open
}

fn named(file: TempPath, path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    file.persist(path)?;
    Ok(())
}
