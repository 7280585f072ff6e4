//! In which layer each package of a lock is ([`Layer`]): what an image continues from stays as it is, and so
//! does what an earlier lock had, as long as nothing but a few packages is added.
//!
//! The result of stage 2 depends on the layers, so they are in the lock, where everybody who builds the image
//! finds the same ones. `lock --update` puts all of an image's own packages into one layer again.

use std::collections::{BTreeMap, HashMap};

use super::{agreement::Member, digest, resolve::Offer};
use crate::{
    Error, Result,
    artefacts::{Constraint, Layer, LockedPackage, Lockfile, PackageRequest, Request},
};

/// How many layers an image's own packages are in at the most: each costs a start of the sandbox and a commit
/// where nothing is there yet.
const MOST_OWN: usize = 5;

/// What is added may be this part of what is there, and else is no layer of its own: dpkg unpacks the
/// packages of upper layers file by file.
const SMALL_PART: usize = 4;

/// Packages with which `/usr` is merged (`MergedUsr` in compose): a tree is or it is not, from the beginning.
const MERGERS: [&str; 2] = ["usr-is-merged", "usrmerge"];

/// The image that another one continues from: its name and its lock.
pub type Base<'a> = (&'a str, &'a Lockfile);

/// Chooses the packages of an image, as [`Offer::resolve`] does, and their layers. All packages of `base` are
/// among them, in the same versions.
///
/// # Errors
/// As [`Offer::resolve`]; `Kind::Input` where the image cannot have what its base has.
pub fn resolve_layers(
    offer: &Offer<'_>,
    request: &Request,
    previous: Option<&Lockfile>,
    neighbours: &[Member<'_>],
    base: Option<Base<'_>>,
) -> Result<Lockfile> {
    let mut lockfile = match base {
        None => offer.resolve(request, previous, neighbours)?,
        Some((name, base)) => {
            let kept = together(base, previous);
            let resolved = offer.resolve(&with_versions(request, base), Some(&kept), neighbours);
            let lockfile = resolved.map_err(|error| {
                error.context(format!("it continues from image {name:?}, whose packages it has as they are"))
            })?;
            Lockfile { request: Some(digest(request)), ..lockfile }
        }
    };
    if let Some(base) = base {
        check_versions(&lockfile, base)?;
        let known = by_instance(&base.1.packages);
        let is_new = |package: &&LockedPackage| !known.contains_key(&instance(package));
        let is_merger = |package: &&LockedPackage| MERGERS.contains(&package.name.as_str());
        if let Some(merger) = lockfile.packages.iter().filter(is_new).find(is_merger) {
            let message = format!("{} merges /usr, which image {:?} is to have done", merger.name, base.0);
            return Err(
                Error::input(message).hint(format!("add {:?} to the packages of {}", merger.name, base.0))
            );
        }
    }
    assign(&mut lockfile.packages, base, previous);
    Ok(lockfile)
}

/// Whether a lock has all packages of its base as they are there, in the same layers, and from there no others.
///
/// # Errors
/// `Kind::Input`, naming one that is not so.
pub fn check_base(lockfile: &Lockfile, base: Base<'_>) -> Result<()> {
    check_versions(lockfile, base)?;
    let own = by_instance(&lockfile.packages);
    let is_elsewhere = |package: &&LockedPackage| {
        let layer = own.get(&instance(package)).map(|own| own.layer());
        layer.as_ref() != Some(&brought(package, base.0))
    };
    let known = by_instance(&base.1.packages);
    let has_gone =
        |package: &&LockedPackage| package.layer().from.is_some() && !known.contains_key(&instance(package));
    let gone = lockfile.packages.iter().find(has_gone).map(|package| (package, "is no longer in"));
    let elsewhere = base.1.packages.iter().find(is_elsewhere);
    match gone.or(elsewhere.map(|package| (package, "is in another layer of"))) {
        None => Ok(()),
        Some((package, how)) => {
            let message = format!("{} {how} image {:?}, from which it continues", package.id(), base.0);
            Err(Error::input(message).hint("treestrap lock    makes it anew"))
        }
    }
}

fn check_versions(lockfile: &Lockfile, (name, base): Base<'_>) -> Result<()> {
    let own = by_instance(&lockfile.packages);
    let is_same =
        |package: &LockedPackage| own.get(&instance(package)).is_some_and(|own| own.sha256 == package.sha256);
    let Some(package) = base.packages.iter().find(|package| !is_same(package)) else { return Ok(()) };
    let found = own
        .get(&instance(package))
        .map_or("is not in it".to_owned(), |own| format!("is {} in it", own.version));
    Err(Error::input(format!("{} of image {name:?}, from which it continues, {found}", package.id()))
        .hint("treestrap lock    makes it anew; or let the image ask for all of its packages, without from"))
}

/// The layer that a base's package is in where another image continues from it.
fn brought(package: &LockedPackage, base: &str) -> Layer {
    let Layer { number, from } = package.layer();
    Layer { number, from: from.or_else(|| Some(base.to_owned())) }
}

type Instance<'p> = (&'p str, &'p str);

fn instance(package: &LockedPackage) -> Instance<'_> {
    (&package.name, &package.architecture)
}

fn by_instance(packages: &[LockedPackage]) -> HashMap<Instance<'_>, &LockedPackage> {
    packages.iter().map(|package| (instance(package), package)).collect()
}

/// The request with the base's versions of all that the base has.
fn with_versions(request: &Request, base: &Lockfile) -> Request {
    let mut request = request.clone();
    for package in &base.packages {
        let native = package.architecture == "all" || package.architecture == request.architecture;
        let name = match native {
            true => package.name.clone(),
            false => format!("{}:{}", package.name, package.architecture),
        };
        let constraint = Constraint::Version(package.version.clone());
        match request.packages.iter_mut().find(|wanted| wanted.name == name) {
            Some(wanted) if wanted.constraint == Constraint::Any => wanted.constraint = constraint,
            Some(_) => {}
            None => request.packages.push(PackageRequest { name, constraint }),
        }
    }
    request
}

/// The base's packages, and the others of the lock before.
fn together(base: &Lockfile, previous: Option<&Lockfile>) -> Lockfile {
    let names = by_instance(&base.packages);
    let others = previous.into_iter().flat_map(|lockfile| &lockfile.packages);
    let others = others.filter(|package| !names.contains_key(&instance(package)));
    Lockfile { packages: base.packages.iter().chain(others).cloned().collect(), request: None }
}

/// Sets the layers of a lock's packages.
fn assign(packages: &mut [LockedPackage], base: Option<Base<'_>>, previous: Option<&Lockfile>) {
    let mut first = 0;
    let mut below = HashMap::new();
    if let Some((name, base)) = base {
        for package in &base.packages {
            let layer = brought(package, name);
            first = first.max(layer.number + 1);
            let mut entry = package.clone();
            entry.set_layer(&layer);
            below.insert((package.name.clone(), package.architecture.clone()), entry);
        }
    }
    let mut own = Vec::new();
    for (position, package) in packages.iter_mut().enumerate() {
        match below.remove(&(package.name.clone(), package.architecture.clone())) {
            // With the base's reason, too.
            Some(entry) => *package = entry,
            None => own.push(position),
        }
    }
    let kept = kept_layers(packages, &own, first, previous);
    let added = own.iter().filter(|&&position| !kept.contains_key(&position)).count();
    let highest = kept.values().max().map_or(first, |&number| if added > 0 { number + 1 } else { number });
    let is_merger = |&position: &usize| {
        !kept.contains_key(&position) && MERGERS.contains(&packages[position].name.as_str())
    };
    let is_grown = (highest - first) < MOST_OWN as u32
        && added <= (packages.len() - added) / SMALL_PART
        && !own.iter().any(is_merger);
    for position in own {
        let number = match kept.get(&position) {
            _ if !is_grown => first,
            Some(&number) => number,
            None => highest,
        };
        packages[position].set_layer(&Layer { number, from: None });
    }
}

/// The layers of the lock before, from the lowest of its own ones on, as far as all of their packages are there
/// still; by position.
fn kept_layers(
    packages: &[LockedPackage],
    own: &[usize],
    first: u32,
    previous: Option<&Lockfile>,
) -> HashMap<usize, u32> {
    let mut layers: BTreeMap<u32, Vec<&LockedPackage>> = BTreeMap::new();
    // Of a lock that another tool made, nobody has built anything.
    for package in previous.filter(|lock| lock.request.is_some()).into_iter().flat_map(|lock| &lock.packages)
    {
        if package.layer().from.is_none() {
            layers.entry(package.layer().number).or_default().push(package);
        }
    }
    let positions: HashMap<(Instance<'_>, _), usize> = own
        .iter()
        .map(|&position| ((instance(&packages[position]), packages[position].sha256), position))
        .collect();
    let mut kept = HashMap::new();
    for ((number, members), expected) in layers.into_iter().zip(first..) {
        let there: Vec<usize> = members
            .iter()
            .filter_map(|member| positions.get(&(instance(member), member.sha256)).copied())
            .collect();
        if number != expected || there.len() < members.len() {
            break;
        }
        kept.extend(there.into_iter().map(|position| (position, number)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{debian::deb822::Stanza, digest::Sha256};

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "armhf".to_owned(),
            filename: String::new(),
            size: 1,
            sha256: Sha256::of(format!("{name} {version}").as_bytes()),
            repository: None,
            stanza: Stanza::default(),
        }
    }

    /// A lock of packages `NAME` of version 1 or `NAME=VERSION`; the request stands for any.
    fn lock(names: &str) -> Lockfile {
        let packages = names.split(' ').map(|name| match name.split_once('=') {
            Some((name, version)) => package(name, version),
            None => package(name, "1"),
        });
        Lockfile { packages: packages.collect(), request: Some(Sha256::of(b"")) }
    }

    fn assigned(names: &str, base: Option<Base<'_>>, previous: Option<&Lockfile>) -> Lockfile {
        let mut lockfile = lock(names);
        assign(&mut lockfile.packages, base, previous);
        lockfile
    }

    fn layers(lockfile: &Lockfile) -> String {
        let shown = lockfile.packages.iter().map(|package| {
            let Layer { number, from } = package.layer();
            format!("{}{number}{}", package.name, from.unwrap_or_default())
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_added_is_a_layer_as_long_as_the_rest_stays() {
        let mut previous = assigned("a b c d", None, None);
        assert_eq!(layers(&previous), "a0 b0 c0 d0");
        for (names, expected) in [
            ("a b c d e", "a0 b0 c0 d0 e1"),
            ("a b c d e f", "a0 b0 c0 d0 e1 f2"),
            ("a b c d e", "a0 b0 c0 d0 e1"), // the topmost layer went
            ("a b c d f", "a0 b0 c0 d0 f1"), // and was replaced
            ("a b c d", "a0 b0 c0 d0"),
            ("a b c d e f", "a0 b0 c0 d0 e0 f0"), // too many
            ("a b c d e f g", "a0 b0 c0 d0 e0 f0 g1"),
            ("a=2 b c d e f g", "a0 b0 c0 d0 e0 f0 g0"), // another version below
            ("a=2 b c d e f", "a0 b0 c0 d0 e0 f0"),      // one less below
        ] {
            previous = assigned(names, None, Some(&previous));
            assert_eq!(layers(&previous), expected, "{names}");
        }
        let foreign = Lockfile { request: None, ..lock("a b c d") };
        assert_eq!(layers(&assigned("a b c d e", None, Some(&foreign))), "a0 b0 c0 d0 e0");
    }

    #[test]
    fn layers_do_not_grow_without_end() {
        let mut names = (0..40).map(|number| format!("p{number:02}")).collect::<Vec<_>>().join(" ");
        let mut previous = assigned(&names, None, None);
        let highest = |lock: &Lockfile| lock.packages.iter().map(|package| package.layer().number).max();
        for number in 1..MOST_OWN {
            names.push_str(&format!(" x{number}"));
            previous = assigned(&names, None, Some(&previous));
            assert_eq!(highest(&previous), Some(number as u32));
        }
        previous = assigned(&(names + " y"), None, Some(&previous));
        assert_eq!(highest(&previous), Some(0));
    }

    #[test]
    fn a_base_keeps_its_layers_and_brings_its_name() {
        let mut base = assigned("a b c d", None, None);
        base = assigned("a b c d e", None, Some(&base));
        let first = assigned("a b c d e f", Some(("base", &base)), None);
        assert_eq!(layers(&first), "a0base b0base c0base d0base e1base f2");
        let more = assigned("a b c d e f g", Some(("base", &base)), Some(&first));
        assert_eq!(layers(&more), "a0base b0base c0base d0base e1base f2 g3");
        let above = assigned("a b c d e f h", Some(("first", &first)), None);
        assert_eq!(layers(&above), "a0base b0base c0base d0base e1base f2first h3");
        check_base(&above, ("first", &first)).expect("all of it");
        let fewer = assigned("a b c d f", Some(("base", &assigned("a b c d", None, None))), None);
        let error = check_base(&above, ("first", &fewer)).expect_err("the base has lost one");
        assert_eq!(error.to_string(), "e_1_armhf is no longer in image \"first\", from which it continues");
        // The base was put into one layer again.
        let flat = assigned("a b c d e", None, None);
        let again = assigned("a b c d e f", Some(("base", &flat)), Some(&first));
        assert_eq!(layers(&again), "a0base b0base c0base d0base e0base f1");
    }

    #[test]
    fn a_base_that_moved_on_is_noticed() {
        let base = lock("a b");
        let error = check_base(&lock("a b=2 c"), ("base", &base)).expect_err("another version");
        assert_eq!(error.to_string(), "b_1_armhf of image \"base\", from which it continues, is 2 in it");
        let error = check_base(&lock("a c"), ("base", &base)).expect_err("not there");
        assert_eq!(error.to_string(), "b_1_armhf of image \"base\", from which it continues, is not in it");
    }
}
