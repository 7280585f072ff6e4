//! Who a process is to itself in tier single, where to the kernel everybody is the one mapped user:
//! credentials(7), as far as calls set and show them.
//!
//! A process's credentials have to follow it through fork, exec and the death of its parents, and no
//! call tells of those. So the kernel carries them: each set of credentials has a number, and the
//! process's limit of file locks is that number. The kernel has ignored that limit since Linux 2.4.24
//! (getrlimit(2)), hands it from parent to child and keeps it at exec. Who has another limit is root.

use nix::errno::Errno;

use super::caller::Caller;
use crate::sys::process::{get_lock_limit, set_lock_limit};

/// The limit for the first set of credentials that is not root's. Nobody would set it so.
const FIRST: u64 = 0x7473_0000_0000;
/// The last id of tier full, so that both tiers refuse the same: see [`crate::userns`].
pub(super) const LAST_ID: u32 = 65535;
/// "Leave it as it is", as an argument.
pub(super) const SAME: u32 = u32::MAX;
/// setgroups(2): NGROUPS_MAX.
const MOST_GROUPS: u64 = 65536;

/// How wide ids are in a call: i386 and arm have calls of both kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 32 bits.
    Full,
    /// 16 bits.
    Short,
}

impl Width {
    /// An id that is an argument.
    pub(super) fn id(self, argument: u64) -> u32 {
        match self {
            Width::Full => argument as u32,
            Width::Short if argument as u16 == u16::MAX => SAME,
            Width::Short => (argument as u16).into(),
        }
    }

    fn bytes(self, id: u32) -> Vec<u8> {
        match self {
            Width::Full => id.to_ne_bytes().to_vec(),
            // The kernel shows 65534 for what does not fit, which cannot be here.
            Width::Short => (id as u16).to_ne_bytes().to_vec(),
        }
    }
}

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    User,
    Group,
}

/// A call that shows or sets credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// getuid, getgid.
    Real(Who),
    /// geteuid, getegid.
    Effective(Who),
    /// getresuid, getresgid.
    GetAll(Who),
    /// setuid, setgid.
    Set(Who),
    /// setreuid, setregid.
    SetTwo(Who),
    /// setresuid, setresgid.
    SetAll(Who),
    /// setfsuid, setfsgid.
    SetFileSystem(Who),
    /// getgroups.
    GetGroups,
    /// setgroups.
    SetGroups,
}

/// The ids of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) file_system: u32,
}

/// A process's credentials; root's to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Ids,
    pub(super) group: Ids,
    /// Sorted, as the kernel keeps them.
    pub(super) groups: Vec<u32>,
    /// Capabilities are to outlive a change of user (PR_SET_KEEPCAPS, SECBIT_NO_SETUID_FIXUP).
    pub(super) keep: bool,
    /// They have.
    pub(super) kept: bool,
}

impl Credentials {
    /// Whether it may become anybody: CAP_SETUID and its kin come and go with the effective user, unless
    /// a program has them kept (capabilities(7)). Which of them it keeps is not followed.
    pub(super) fn is_privileged(&self) -> bool {
        self.user.effective == 0 || self.kept
    }

    fn ids(&mut self, who: Who) -> &mut Ids {
        match who {
            Who::User => &mut self.user,
            Who::Group => &mut self.group,
        }
    }

    /// Whether it is in a group.
    pub(super) fn is_in(&self, group: u32) -> bool {
        self.group.file_system == group || self.groups.contains(&group)
    }

    /// What execve(2) makes of it, for a program that is set-id as said.
    pub(super) fn after_exec(&self, set_user: Option<u32>, set_group: Option<u32>) -> Credentials {
        let mut after = self.clone();
        for (ids, set) in [(&mut after.user, set_user), (&mut after.group, set_group)] {
            ids.effective = set.unwrap_or(ids.effective);
            (ids.saved, ids.file_system) = (ids.effective, ids.effective);
        }
        (after.keep, after.kept) = (false, false);
        after
    }
}

impl Ids {
    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2) and setgid(2).
    fn set(&mut self, id: u32, privileged: bool) -> nix::Result<()> {
        valid(id)?;
        if privileged {
            *self = Ids { real: id, effective: id, saved: id, file_system: id };
        } else if id == self.real || id == self.saved {
            (self.effective, self.file_system) = (id, id);
        } else {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// setreuid(2) and setregid(2).
    fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> nix::Result<()> {
        let before = *self;
        if real != SAME {
            valid(real)?;
            if !privileged && real != before.real && real != before.effective {
                return Err(Errno::EPERM);
            }
            self.real = real;
        }
        if effective != SAME {
            valid(effective)?;
            if !privileged && !before.has(effective) {
                *self = before;
                return Err(Errno::EPERM);
            }
            self.effective = effective;
        }
        if real != SAME || (effective != SAME && effective != before.real) {
            self.saved = self.effective;
        }
        self.file_system = self.effective;
        Ok(())
    }

    /// setresuid(2) and setresgid(2).
    fn set_all(&mut self, wanted: [u32; 3], privileged: bool) -> nix::Result<()> {
        for id in wanted.into_iter().filter(|&id| id != SAME) {
            valid(id)?;
            if !privileged && !self.has(id) {
                return Err(Errno::EPERM);
            }
        }
        for (id, wanted) in [&mut self.real, &mut self.effective, &mut self.saved].into_iter().zip(wanted) {
            if wanted != SAME {
                *id = wanted;
            }
        }
        self.file_system = self.effective;
        Ok(())
    }
}

fn valid(id: u32) -> nix::Result<()> {
    if id <= LAST_ID { Ok(()) } else { Err(Errno::EINVAL) }
}

/// All credentials that anybody has had, by number: 0 is root's.
pub(super) struct Identities(Vec<Credentials>);

impl Identities {
    pub(super) fn new() -> Self {
        Identities(vec![Credentials::default()])
    }

    /// The caller's.
    pub(super) fn of(&self, caller: &Caller<'_>) -> nix::Result<&Credentials> {
        let number = get_lock_limit(caller.thread())?.checked_sub(FIRST).map_or(0, |number| number + 1);
        let known = usize::try_from(number).ok().and_then(|number| self.0.get(number));
        Ok(known.unwrap_or(&self.0[0]))
    }

    /// Gives the caller other credentials.
    pub(super) fn set(&mut self, caller: &Caller<'_>, credentials: Credentials) -> nix::Result<()> {
        let number = self.0.iter().position(|known| *known == credentials).unwrap_or_else(|| {
            self.0.push(credentials);
            self.0.len() - 1
        });
        let limit = (number as u64).checked_sub(1).map_or(libc::RLIM_INFINITY, |number| FIRST + number);
        caller.still_waits()?;
        // EAGAIN is what setuid(2) has for limits.
        set_lock_limit(caller.thread(), limit).map_err(|_| Errno::EAGAIN)
    }

    /// Answers a call.
    pub(super) fn act(&mut self, act: Act, width: Width, caller: &Caller<'_>) -> nix::Result<i64> {
        let mut credentials = self.of(caller)?.clone();
        let privileged = credentials.is_privileged();
        let id = |index| width.id(caller.argument(index));
        match act {
            Act::Real(who) => return Ok(credentials.ids(who).real.into()),
            Act::Effective(who) => return Ok(credentials.ids(who).effective.into()),
            Act::GetAll(who) => {
                let ids = *credentials.ids(who);
                for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
                    caller.write(caller.argument(index), &width.bytes(id))?;
                }
                return Ok(0);
            }
            Act::GetGroups => return get_groups(&credentials.groups, width, caller),
            Act::Set(who) => credentials.ids(who).set(id(0), privileged)?,
            Act::SetTwo(who) => credentials.ids(who).set_two(id(0), id(1), privileged)?,
            Act::SetAll(who) => credentials.ids(who).set_all([id(0), id(1), id(2)], privileged)?,
            Act::SetFileSystem(who) => {
                let ids = credentials.ids(who);
                let (before, wanted) = (ids.file_system, id(0));
                // An error is not told: setfsuid(2).
                if valid(wanted).is_ok() && (privileged || ids.has(wanted) || wanted == before) {
                    ids.file_system = wanted;
                    self.set(caller, credentials)?;
                }
                return Ok(before.into());
            }
            Act::SetGroups => {
                if !privileged {
                    return Err(Errno::EPERM);
                }
                credentials.groups = given_groups(width, caller)?;
            }
        }
        let is_somebody_else = !credentials.user.has(0);
        credentials.kept = is_somebody_else && privileged && (credentials.keep || credentials.kept);
        self.set(caller, credentials)?;
        Ok(0)
    }

    /// prctl(2): notes what the kernel is about to note too.
    pub(super) fn keep(&mut self, caller: &Caller<'_>) -> nix::Result<()> {
        const NO_SETUID_FIXUP: u64 = 1 << 2;
        const KEEP_CAPS: u64 = 1 << 4;
        let wanted = caller.argument(1);
        let keep = match caller.int(0) {
            libc::PR_SET_KEEPCAPS => wanted == 1,
            _ => wanted & (NO_SETUID_FIXUP | KEEP_CAPS) != 0,
        };
        let before = self.of(caller)?;
        if before.keep != keep {
            let after = Credentials { keep, ..before.clone() };
            self.set(caller, after)?;
        }
        Ok(())
    }
}

fn get_groups(groups: &[u32], width: Width, caller: &Caller<'_>) -> nix::Result<i64> {
    let room = caller.int(0);
    if room != 0 {
        if usize::try_from(room).map_err(|_| Errno::EINVAL)? < groups.len() {
            return Err(Errno::EINVAL);
        }
        let list: Vec<u8> = groups.iter().flat_map(|&group| width.bytes(group)).collect();
        caller.write(caller.argument(1), &list)?;
    }
    Ok(groups.len() as i64)
}

fn given_groups(width: Width, caller: &Caller<'_>) -> nix::Result<Vec<u32>> {
    let count = caller.argument(0) as u32;
    if u64::from(count) > MOST_GROUPS {
        return Err(Errno::EINVAL);
    }
    let size = if width == Width::Full { 4 } else { 2 };
    let list =
        if count == 0 { Vec::new() } else { caller.read(caller.argument(1), count as usize * size)? };
    let mut groups = Vec::with_capacity(count as usize);
    for bytes in list.chunks_exact(size) {
        let id = match bytes {
            &[a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
            bytes => u16::from_ne_bytes([bytes[0], bytes[1]]).into(),
        };
        valid(id)?;
        groups.push(id);
    }
    groups.sort_unstable();
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, file_system: effective }
    }

    /// The tables of setuid(2), setreuid(2) and setresuid(2), and POSIX's rationale for the saved id.
    #[test]
    fn ids_change_as_the_manual_says() {
        let check =
            |before: Ids, change: &dyn Fn(&mut Ids) -> nix::Result<()>, expected: nix::Result<Ids>| {
                let mut after = before;
                assert_eq!(change(&mut after).map(|()| after), expected, "{before:?}");
            };
        let root = ids(0, 0, 0);
        check(root, &|i| i.set(33, true), Ok(ids(33, 33, 33)));
        check(ids(33, 33, 33), &|i| i.set(0, false), Err(Errno::EPERM));
        check(ids(33, 0, 0), &|i| i.set(33, false), Ok(ids(33, 33, 0)));
        check(ids(33, 33, 0), &|i| i.set(0, false), Ok(ids(33, 0, 0)));
        check(root, &|i| i.set(65536, true), Err(Errno::EINVAL));
        check(root, &|i| i.set(SAME, true), Err(Errno::EINVAL));
        check(root, &|i| i.set_two(SAME, 33, true), Ok(ids(0, 33, 33)));
        check(root, &|i| i.set_two(33, 33, true), Ok(ids(33, 33, 33)));
        check(ids(33, 0, 0), &|i| i.set_two(0, 33, true), Ok(ids(0, 33, 33)));
        check(ids(33, 33, 0), &|i| i.set_two(SAME, 0, false), Ok(ids(33, 0, 0)));
        check(ids(33, 33, 0), &|i| i.set_two(0, SAME, false), Err(Errno::EPERM));
        check(ids(33, 33, 33), &|i| i.set_two(33, 0, false), Err(Errno::EPERM));
        check(root, &|i| i.set_all([33, 33, 0], true), Ok(ids(33, 33, 0)));
        check(ids(33, 33, 0), &|i| i.set_all([SAME, 0, SAME], false), Ok(ids(33, 0, 0)));
        check(ids(33, 33, 33), &|i| i.set_all([SAME, 0, SAME], false), Err(Errno::EPERM));
        check(ids(1, 2, 3), &|i| i.set_all([3, 1, 2], false), Ok(ids(3, 1, 2)));
    }

    #[test]
    fn short_ids() {
        assert_eq!(Width::Short.id(0xffff_ffff), SAME);
        assert_eq!(Width::Short.id(0xffff), SAME);
        assert_eq!(Width::Short.id(0x1_0021), 33);
        assert_eq!(Width::Full.id(0xffff), 65535);
        assert_eq!(Width::Full.id(u64::MAX), SAME);
    }

    #[test]
    fn a_program_may_be_set_id() {
        let www = Credentials {
            user: ids(33, 33, 33),
            group: ids(33, 33, 33),
            groups: vec![33],
            ..Credentials::default()
        };
        let after = www.after_exec(Some(0), None);
        assert_eq!((after.user, after.group), (ids(33, 0, 0), ids(33, 33, 33)));
        assert_eq!(www.after_exec(None, Some(42)).group, ids(33, 42, 42));
        let half = Credentials { user: ids(0, 33, 0), ..Credentials::default() };
        assert_eq!(half.after_exec(None, None).user, ids(0, 33, 33), "the saved id is the effective one");
    }
}
