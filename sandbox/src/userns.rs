//! Who is who inside: ranges of subordinate ids, and the maps of the user namespace.
//!
//! The namespace's 0 is the caller; 1 and up are the first sufficient range that /etc/subuid and
//! /etc/subgid give the caller (subuid(5)). A caller who may write any map (root) gives each id its
//! own number instead.

use std::{fs, path::Path, process::Command};

use nix::{
    errno::Errno,
    unistd::{Gid, Uid, User, getegid, geteuid},
};

use crate::{
    enforced::{IdRange, Mapper, Mapping},
    error::{Doing, Error, Result, Step},
};

/// Debian's static ids, `nobody` (65534) and the 16-bit limit: Debian policy 9.2.2. With the caller
/// as 0, a range needs one less.
pub(crate) const ENOUGH: u32 = 65536;

/// Users, or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// User ids.
    Users,
    /// Group ids.
    Groups,
}

impl Ids {
    /// The file with the ranges.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Ids::Users => "/etc/subuid",
            Ids::Groups => "/etc/subgid",
        }
    }

    /// The tool that writes the map.
    pub(crate) fn tool(self) -> &'static str {
        match self {
            Ids::Users => "newuidmap",
            Ids::Groups => "newgidmap",
        }
    }

    /// The map's file below /proc/PID.
    fn map(self) -> &'static str {
        match self {
            Ids::Users => "uid_map",
            Ids::Groups => "gid_map",
        }
    }

    /// The option of usermod(8) that adds a range.
    fn option(self) -> &'static str {
        match self {
            Ids::Users => "--add-subuids",
            Ids::Groups => "--add-subgids",
        }
    }
}

/// Who calls, as the ranges' files name people.
pub(crate) struct Caller {
    /// Effective user id.
    pub(crate) uid: Uid,
    /// Effective group id.
    pub(crate) gid: Gid,
    /// The account's name, or its number where it has none.
    pub(crate) name: String,
}

impl Caller {
    /// Of this process.
    pub(crate) fn current() -> Self {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Caller { uid, gid: getegid(), name }
    }
}

/// The first range in `text` (lines `name-or-uid:start:count`) that is the caller's and has at least
/// `least` ids.
fn find_range(text: &str, caller: &Caller, least: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let ours = who == caller.name || who == caller.uid.as_raw().to_string();
        // A range that holds 0, or runs past the last id, is a mistake or worse.
        (ours && count >= least && start > 0 && start.checked_add(count).is_some()).then_some((start, count))
    })
}

/// The account in whose range an id is, by the file alone.
pub(crate) fn owner_of_range(ids: Ids, id: u32) -> Option<String> {
    owner_in(&fs::read_to_string(ids.file()).ok()?, id)
}

fn owner_in(text: &str, id: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (id.checked_sub(start)? < count).then(|| who.to_owned())
    })
}

/// The caller's range, from the file or, where accounts come from a directory service, from
/// getsubids(1).
pub(crate) fn subordinate_range(ids: Ids, caller: &Caller) -> Result<(u32, u32)> {
    let least = ENOUGH - 1;
    let text = match fs::read_to_string(ids.file()) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        error => error.doing_to("reading", Path::new(ids.file()))?,
    };
    if let Some(range) = find_range(&text, caller, least) {
        return Ok(range);
    }
    // Its lines read `0: name start count`.
    let mut service = Command::new("getsubids");
    if ids == Ids::Groups {
        service.arg("-g");
    }
    if let Ok(output) = service.arg(&caller.name).output() {
        let lines = String::from_utf8_lossy(&output.stdout).replace(": ", " ").replace(' ', ":");
        let lines: Vec<_> =
            lines.lines().filter_map(|line| line.split_once(':')).map(|(_, rest)| rest).collect();
        if let Some(range) = find_range(&lines.join("\n"), caller, least) {
            return Ok(range);
        }
    }
    let message = format_args!("{} has no range of {least} ids for {}", ids.file(), caller.name).to_string();
    Err(Error::machine(message).at(Step::Mapping).with_hint(add_range(ids, caller)))
}

/// The command that gives the caller a range: behind all that anyone has.
pub(crate) fn add_range(ids: Ids, caller: &Caller) -> String {
    let text = fs::read_to_string(ids.file()).unwrap_or_default();
    let ends = text.lines().filter_map(|line| {
        let mut numbers = line.split(':').skip(1).map(|number| number.trim().parse::<u32>());
        numbers.next()?.ok()?.checked_add(numbers.next()?.ok()?)
    });
    let start = ends.max().unwrap_or(0).max(100_000);
    format!("sudo usermod {} {start}-{} {}", ids.option(), start.saturating_add(ENOUGH - 1), caller.name)
}

/// The map of the namespace that this process is in, as its parent has the numbers.
pub(crate) fn current_map(ids: Ids) -> Result<Vec<IdRange>> {
    let path = format!("/proc/self/{}", ids.map());
    fs::read_to_string(&path).doing_to("reading", Path::new(&path)).map(|text| parse_map(&text))
}

/// Parses /proc/self/uid_map.
fn parse_map(text: &str) -> Vec<IdRange> {
    let lines = text.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        Some(IdRange { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? })
    });
    lines.collect()
}

/// The part of an identity map that the caller's own namespace offers, up to [`ENOUGH`] ids.
fn identity(ids: Ids) -> Result<Vec<IdRange>> {
    let offered = current_map(ids)?;
    let parts: Vec<_> = offered
        .iter()
        .filter(|range| range.inside < ENOUGH)
        .map(|range| IdRange {
            inside: range.inside,
            outside: range.inside,
            count: range.count.min(ENOUGH - range.inside),
        })
        .collect();
    if parts.iter().map(|range| range.count).sum::<u32>() < ENOUGH - 1 {
        let message = format!(
            "this user namespace has too few ids (/proc/self/{}) to give each its own number",
            ids.map()
        );
        return Err(Error::machine(message).at(Step::Mapping));
    }
    Ok(parts)
}

/// Writes both maps of the process `pid`, which has just made its user namespace.
pub(crate) fn write_maps(pid: u32) -> Result<Mapping> {
    let caller = Caller::current();
    if may_map_anything() {
        match write_directly(pid) {
            Ok(mapping) => return Ok(mapping),
            // Containers may leave root without CAP_SETFCAP or with too few ids: the tools may do.
            Err(error) => {
                let ranges = subordinate_range(Ids::Users, &caller).is_ok();
                return if ranges { write_with_tools(pid, &caller) } else { Err(error) };
            }
        }
    }
    write_with_tools(pid, &caller)
}

/// Writes maps of the process `pid` in which the caller is 0, and nobody else is anybody: what every
/// account may do by itself (user_namespaces(7)).
pub(crate) fn write_single_maps(pid: u32) -> Result<Mapping> {
    let caller = Caller::current();
    let write = |name: &str, text: &str| -> Result<()> {
        let path = format!("/proc/{pid}/{name}");
        fs::write(&path, text).doing_to("writing", Path::new(&path)).map_err(|error| error.at(Step::Mapping))
    };
    // Without this the kernel takes no map of groups from an ordinary user.
    write("setgroups", "deny")?;
    let map = |ids: Ids, own: u32| -> Result<Vec<IdRange>> {
        write(ids.map(), &format!("0 {own} 1"))?;
        Ok(vec![IdRange { inside: 0, outside: own, count: 1 }])
    };
    let (uids, gids) = (map(Ids::Users, caller.uid.as_raw())?, map(Ids::Groups, caller.gid.as_raw())?);
    Ok(Mapping { mapper: Mapper::Direct, uids, gids })
}

/// Whether this process may write any map: it has CAP_SETUID and CAP_SETGID.
fn may_map_anything() -> bool {
    [caps::Capability::CAP_SETUID, caps::Capability::CAP_SETGID]
        .into_iter()
        .all(|capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false))
}

fn write_directly(pid: u32) -> Result<Mapping> {
    let write = |ids: Ids| -> Result<Vec<IdRange>> {
        let ranges = identity(ids)?;
        let lines: Vec<_> = ranges
            .iter()
            .map(|range| format!("{} {} {}", range.inside, range.outside, range.count))
            .collect();
        let path = format!("/proc/{pid}/{}", ids.map());
        // One write(2): the kernel takes a map once and whole.
        fs::write(&path, lines.join("\n"))
            .doing_to("writing", Path::new(&path))
            .map_err(|e| e.at(Step::Mapping))?;
        Ok(ranges)
    };
    Ok(Mapping { mapper: Mapper::Direct, uids: write(Ids::Users)?, gids: write(Ids::Groups)? })
}

fn write_with_tools(pid: u32, caller: &Caller) -> Result<Mapping> {
    let ranges = |ids: Ids, own: u32| -> Result<Vec<IdRange>> {
        let (start, count) = subordinate_range(ids, caller)?;
        let rest = IdRange { inside: 1, outside: start, count: count.min(ENOUGH - 1) };
        Ok(vec![IdRange { inside: 0, outside: own, count: 1 }, rest])
    };
    let uids = ranges(Ids::Users, caller.uid.as_raw())?;
    let gids = ranges(Ids::Groups, caller.gid.as_raw())?;
    // Both at once: each is a set-id program that starts anew.
    let tools =
        [(Ids::Users, &uids), (Ids::Groups, &gids)].map(|(ids, ranges)| (ids, spawn_tool(pid, ids, ranges)));
    for (ids, tool) in tools {
        let output = tool?.wait_with_output().doing(format_args!("waiting for {}", ids.tool()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("{} refused the map ({}): {}", ids.tool(), output.status, said.trim());
            return Err(Error::machine(message).at(Step::Mapping));
        }
    }
    Ok(Mapping { mapper: Mapper::Tools, uids, gids })
}

fn spawn_tool(pid: u32, ids: Ids, ranges: &[IdRange]) -> Result<std::process::Child> {
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    Command::new(ids.tool())
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| {
            let missing = error.raw_os_error() == Some(Errno::ENOENT as i32);
            let error = Error::machine(format_args!("starting {}: {error}", ids.tool())).at(Step::Mapping);
            if missing { error.with_hint("sudo apt-get install uidmap") } else { error }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller { uid: Uid::from_raw(1000), gid: Gid::from_raw(1000), name: "ada".into() }
    }

    #[test]
    fn the_first_sufficient_range_is_found() {
        let find = |text| find_range(text, &caller(), 65535);
        assert_eq!(find("ada:100000:65536"), Some((100_000, 65536)));
        assert_eq!(find("eve:100000:65536\n1000:165536:65536\n"), Some((165_536, 65536)), "by number");
        assert_eq!(find("ada:5:10\nada:200000:65535"), Some((200_000, 65535)), "the first is too small");
        for none in [
            "",
            "eve:100000:65536",
            "ada:100000:1000",
            "ada:x:y",
            "ada",
            "ada:0:65536",
            "ada:4294960000:65536",
        ] {
            assert_eq!(find(none), None, "{none:?}");
        }
    }

    #[test]
    fn ranges_have_owners() {
        let text = "ada:100000:65536\nno range\neve:165536:65536\n";
        for (id, owner) in
            [(99_999, None), (100_000, Some("ada")), (165_535, Some("ada")), (165_536, Some("eve"))]
        {
            assert_eq!(owner_in(text, id).as_deref(), owner, "{id}");
        }
    }

    #[test]
    fn maps_are_parsed() {
        let map = parse_map("         0       1000          1\n         1     100000      65536\n");
        let expected = [(0, 1000, 1), (1, 100_000, 65536)];
        let expected = expected.map(|(inside, outside, count)| IdRange { inside, outside, count });
        assert_eq!(map, expected);
        assert_eq!(parse_map("garbage\n0 1\n"), []);
    }
}
