//! Has a twin ask for the loader where nothing of the image can be in its way.
//!
//! A program's loader is at a path of its architecture's ABI, such as
//! `/lib64/ld-linux-x86-64.so.2`. An image for another architecture has no such path, and must not
//! be given one: a script that finds /lib64 concludes that /usr isn't merged
//! (usr-is-merged.preinst), or removes it. So twins ask for the one in the twin tree.

use super::TREE;
use crate::program::{Elf, ElfError, INTERPRETER};

/// The twin tree's link to the loader.
pub const LINK: &str = "ld.so";

/// Why a program's loader could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// It's no ELF file.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// There's less room than the new path takes.
    #[error("the path of its loader, {0}, is too short to be replaced")]
    TooShort(String),
}

/// The program with the twin tree's loader. A static program is left as it is.
pub fn change(program: &[u8]) -> Result<Vec<u8>, NotChanged> {
    let elf = Elf::parse(program)?;
    let mut result = program.to_vec();
    let Some(old) = elf.interpreter()? else {
        return Ok(result);
    };
    let new = format!("{TREE}/{LINK}");
    if new.len() > old.len() {
        return Err(NotChanged::TooShort(String::from_utf8_lossy(old).into_owned()));
    }
    for segment in elf.segments.iter().filter(|segment| segment.kind == INTERPRETER) {
        // It's known to lie inside: `interpreter` has read it.
        if let Some(place) =
            result.get_mut(segment.offset as usize..).and_then(|rest| rest.get_mut(..old.len()))
        {
            place.fill(0);
            place[..new.len()].copy_from_slice(new.as_bytes());
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_changed_and_nothing_else() {
        let Ok(program) = std::fs::read("/bin/true") else {
            eprintln!("skipped: there is no /bin/true");
            return;
        };
        let old =
            Elf::parse(&program).expect("an ELF file").interpreter().expect("undamaged").expect("dynamic");
        let changed = change(&program).expect("there is room");
        let new = Elf::parse(&changed).expect("an ELF file").interpreter();
        assert_eq!(new, Ok(Some(&b"/.treestrap/twins/ld.so"[..])));
        let differing = program.iter().zip(&changed).filter(|(before, after)| before != after).count();
        assert!(differing <= old.len() && program.len() == changed.len(), "{differing}");
        assert_eq!(change(&changed).as_ref(), Ok(&changed));
    }
}
