//! `treestrap completions` and `treestrap man`: made from the definition of the command line, for
//! packagers and `make install`.

use std::{fs, path::PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::{arguments, outcome::Outcome, program::Program};
use crate::{Context, Result};

/// Write the completions of a shell
///
/// Example:
///   treestrap completions bash > ~/.local/share/bash-completion/completions/treestrap
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// Write the man pages
///
/// Writes treestrap.1, and a page for each verb, into a folder.
///
/// Example:
///   treestrap man /usr/local/share/man/man1
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct ManArguments {
    /// The folder, which is made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(program: &Program<'_>, arguments: &CompletionsArguments) -> Result<u8> {
    // To memory first: clap_complete panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut arguments::command(), "treestrap", &mut script);
    program.output.data(&script)?;
    Ok(0)
}

pub(super) fn man(program: &Program<'_>, arguments: &ManArguments) -> Result<u8> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, page) in pages()? {
        let path = folder.join(name);
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        program.output.outcome(&Outcome::Written { path: path.display().to_string() })?;
    }
    Ok(0)
}

/// The man pages, with their file names: the program's, and one for each verb that is not hidden.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut program = arguments::command();
    // Global options and names such as treestrap-build reach the verbs when it is built.
    program.build();
    let mut commands = vec![program.clone()];
    commands.extend(program.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned());
    let page = |command: clap::Command| {
        let file = format!("{}.1", command.get_display_name().unwrap_or(command.get_name()));
        let mut page = Vec::new();
        clap_mangen::Man::new(command).manual("treestrap").render(&mut page)?;
        Ok((file, page))
    };
    commands.into_iter().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_options() {
        let pages = pages().expect("man pages");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "treestrap.1");
        for name in ["treestrap-build.1", "treestrap-doctor.1", "treestrap-lock.1"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert!(!names.contains(&"treestrap-man.1"), "a hidden verb");
        for (name, page) in &pages {
            let page = String::from_utf8_lossy(page);
            assert!(page.contains(".SH SYNOPSIS") && page.contains("offline"), "{name}:\n{page}");
        }
    }
}
