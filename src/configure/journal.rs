//! The log of one stage 2: everything that scripts print goes to a file; the last lines are kept
//! for the message of a failure.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{Context, Result};

/// How many lines of a failed script are shown; the log has them all.
const SHOWN_LINES: usize = 20;

/// A log that is being written.
pub(super) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    tail: VecDeque<String>,
}

impl Journal {
    /// Starts the log of an image below `folder`; the one before it is overwritten.
    pub(super) fn create(folder: &Path, image: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        // That of a second run has a slash in its name.
        let path = folder.join(format!("{}.log", image.replace('/', "~")));
        // A new file, not the old one emptied: another run may still be writing that.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Journal { path, file: BufWriter::new(file), tail: VecDeque::new() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A line that a program printed.
    pub(super) fn line(&mut self, line: &str) -> Result<()> {
        if self.tail.len() == SHOWN_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        self.write(line)
    }

    /// A heading of ours, such as the command that starts; what is shown on failure starts anew.
    pub(super) fn heading(&mut self, text: &str) -> Result<()> {
        self.tail.clear();
        self.write(&format!("### {text}"))
    }

    /// Forgets the lines of the package before: the next one's are not its fault.
    pub(super) fn next_package(&mut self) {
        self.tail.clear();
    }

    /// The last lines that a program printed.
    pub(super) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Brings everything to the file.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("writing {}", self.path.display()))
    }

    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").with_context(|| format!("writing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_since_the_heading() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut journal = Journal::create(folder.path(), "x").expect("a log");
        journal.line("before").expect("written");
        journal.heading("dpkg").expect("written");
        for n in 0..30 {
            journal.line(&n.to_string()).expect("written");
        }
        journal.flush().expect("flushed");
        assert_eq!(journal.tail().first().map(String::as_str), Some("10"));
        assert_eq!(journal.tail().len(), SHOWN_LINES);
        let text = std::fs::read_to_string(journal.path()).expect("the log");
        assert!(text.starts_with("before\n### dpkg\n0\n1\n"), "{text}");
    }
}
