//! Which kernel this is, for what can only be known by its version. What can be tried is tried.

/// Whether the kernel is this release or a later one. A vendor's may have more than its version says.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let Ok(system) = nix::sys::utsname::uname() else { return false };
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(a), Some(b)) if (a, b) >= (major, minor))
}
