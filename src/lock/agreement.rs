//! Whether the locks of several images agree: images that take packages from the same repositories
//! with the same pins have one version of each package that they share.
//!
//! What a request itself says of a version (`name=version`, `name/suite`) may differ, and with it what
//! only that version leads to. Images of different architectures share packages of `all`; of others they can
//! only be compared by the versions of their sources, since archives build architectures at different times.
//!
//! Nothing here chooses: `resolve` asks for what other images have to go by it, and the pipeline says
//! what is told and what is refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use crate::{
    artefacts::{Constraint, LockedPackage, Lockfile, Request},
    debian::relation,
};

/// So many packages are named; of the others the number is told.
const NAMED: usize = 5;

/// So many images are named that have one version.
const NAMED_IMAGES: usize = 3;

/// The relations by which one version can need, or forbid, versions of another package; whether they
/// forbid.
const RELATIONS: [(&str, bool); 4] =
    [("Pre-Depends", false), ("Depends", false), ("Conflicts", true), ("Breaks", true)];

/// An image with its lock.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// What it asks for.
    pub request: &'a Request,
    /// What it has.
    pub lockfile: &'a Lockfile,
}

/// A package of which images have several versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Its name.
    pub package: String,
    /// Its architecture; none where those of several are compared.
    pub architecture: Option<String>,
    /// The versions, each with the images that have it, in the order of the images.
    pub versions: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.package)?;
        if let Some(architecture) = &self.architecture {
            write!(f, " ({architecture})")?;
        }
        for (at, (version, images)) in self.versions.iter().enumerate() {
            let verb = if at == 0 { " is" } else { ", and" };
            let named = images.iter().take(NAMED_IMAGES).map(String::as_str).collect::<Vec<_>>().join(", ");
            write!(f, "{verb} {version} in {named}")?;
            match images.len().saturating_sub(NAMED_IMAGES) {
                0 => {}
                more => write!(f, " and {more} more")?,
            }
        }
        Ok(())
    }
}

/// How the locks of several images compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What should be of one version and is not, sorted by name.
    pub disagreements: Vec<Disagreement>,
    /// What has other source versions in images of another architecture, sorted by name.
    pub other_architectures: Vec<Disagreement>,
}

impl Comparison {
    /// The disagreements, a line each; of many the first ones and how many more there are.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.disagreements.iter().take(NAMED).map(Disagreement::to_string).collect();
        let more = self.disagreements.len().saturating_sub(NAMED);
        lines.extend((more > 0).then(|| format!("and {more} more")));
        lines
    }
}

/// Whether two images are to agree: where their packages come from, and what is pinned, is the same.
pub fn comparable(a: &Request, b: &Request) -> bool {
    a.pins == b.pins
        && a.repositories.len() == b.repositories.len()
        && a.repositories.iter().zip(&b.repositories).all(|(a, b)| {
            (&a.name, &a.uris, &a.suites, &a.components) == (&b.name, &b.uris, &b.suites, &b.components)
        })
}

/// Compares the locks of images; of pairs only those that `concerns` one of.
pub fn compare(members: &[Member<'_>], concerns: impl Fn(usize) -> bool) -> Comparison {
    let mut table = Table::new(members);
    let mut comparison = Comparison::default();
    let mut same: BTreeMap<(&str, &str), Vec<Entry<'_>>> = BTreeMap::new();
    let mut named: BTreeMap<&str, Vec<Entry<'_>>> = BTreeMap::new();
    for (image, member) in members.iter().enumerate() {
        for package in &member.lockfile.packages {
            let entry = Entry { image, package };
            same.entry((&package.name, &package.architecture)).or_default().push(entry);
            if package.architecture != "all" {
                named.entry(&package.name).or_default().push(entry);
            }
        }
    }
    for ((name, architecture), entries) in &same {
        let version = |package: &LockedPackage| package.version.clone();
        let versions = table.several(entries, &concerns, version);
        if !versions.is_empty() {
            let (package, architecture) = ((*name).to_owned(), Some((*architecture).to_owned()));
            comparison.disagreements.push(Disagreement { package, architecture, versions });
        }
    }
    let told: HashSet<String> = comparison.disagreements.iter().map(|told| told.package.clone()).collect();
    for (name, entries) in named.iter().filter(|(name, _)| !told.contains(**name)) {
        // Within one architecture all is said: a version is compared with those of others alone.
        let architectures: BTreeSet<&str> = entries.iter().map(|e| e.package.architecture.as_str()).collect();
        if architectures.len() > 1 {
            let versions = table.several(entries, &concerns, |package| package.source_version().to_owned());
            if !versions.is_empty() {
                let package = (*name).to_owned();
                comparison.other_architectures.push(Disagreement { package, architecture: None, versions });
            }
        }
    }
    comparison
}

/// A package of an image.
#[derive(Clone, Copy)]
struct Entry<'a> {
    image: usize,
    package: &'a LockedPackage,
}

/// What is found out once of images and pairs of them.
struct Table<'m, 'a> {
    members: &'m [Member<'a>],
    /// The first image that each is to agree with: it stands for all of them.
    kinds: Vec<usize>,
    /// What of an image is its own business beside another one.
    own: HashMap<(usize, usize), HashSet<(String, String)>>,
}

impl<'m, 'a> Table<'m, 'a> {
    fn new(members: &'m [Member<'a>]) -> Self {
        let kind = |member: &Member<'_>| {
            members.iter().position(|other| comparable(other.request, member.request)).unwrap_or_default()
        };
        Table { members, kinds: members.iter().map(kind).collect(), own: HashMap::new() }
    }

    /// The versions of a package, with the images that have them, of all images that differ from another
    /// one without a reason; none if there are none.
    fn several(
        &mut self,
        entries: &[Entry<'_>],
        concerns: &impl Fn(usize) -> bool,
        version: impl Fn(&LockedPackage) -> String,
    ) -> Vec<(String, Vec<String>)> {
        let versions: Vec<String> = entries.iter().map(|entry| version(entry.package)).collect();
        if versions.iter().all(|version| *version == versions[0]) {
            return Vec::new();
        }
        let mut differ = vec![false; entries.len()];
        for (a, first) in entries.iter().enumerate() {
            for (b, second) in entries.iter().enumerate().skip(a + 1) {
                if versions[a] != versions[b]
                    && self.kinds[first.image] == self.kinds[second.image]
                    && (concerns(first.image) || concerns(second.image))
                    && !self.is_own(first, second.image)
                    && !self.is_own(second, first.image)
                {
                    (differ[a], differ[b]) = (true, true);
                }
            }
        }
        let mut several: Vec<(String, Vec<String>)> = Vec::new();
        for (at, version) in versions.into_iter().enumerate().filter(|&(at, _)| differ[at]) {
            let image = self.members[entries[at].image].request.image.clone();
            match several.iter_mut().find(|(known, _)| *known == version) {
                Some((_, images)) => images.push(image),
                None => several.push((version, vec![image])),
            }
        }
        several
    }

    /// Whether an image has a reason of its own for not having the version of `other`.
    fn is_own(&mut self, entry: &Entry<'_>, other: usize) -> bool {
        let members = self.members;
        let own = self.own.entry((entry.image, other)).or_insert_with(|| {
            let theirs: HashMap<(&str, &str), &LockedPackage> = members[other]
                .lockfile
                .packages
                .iter()
                .map(|package| ((package.name.as_str(), package.architecture.as_str()), package))
                .collect();
            own_versions(&members[entry.image], |package| {
                let other = theirs.get(&(package.name.as_str(), package.architecture.as_str()))?;
                Some(Alternative::of(&other.version, |field| other.stanza.get(field).map(str::to_owned)))
            })
        });
        own.contains(&(entry.package.name.clone(), entry.package.architecture.clone()))
    }
}

/// Another version that an image could have of a package.
pub(super) struct Alternative {
    version: String,
    /// Its relations' fields, and whether they forbid.
    relations: Vec<(String, bool)>,
}

impl Alternative {
    /// A version with its fields.
    pub(super) fn of(version: &str, field: impl Fn(&str) -> Option<String>) -> Self {
        let relation = |(name, forbids)| field(name).map(|text| (text, forbids));
        Alternative {
            version: version.to_owned(),
            relations: RELATIONS.into_iter().filter_map(relation).collect(),
        }
    }

    /// Whether it cannot be beside this version of another package.
    fn excludes(&self, name: &str, version: &str) -> bool {
        self.relations.iter().any(|(text, forbids)| {
            // What is no list of relations has none: the resolver tells of it.
            relation::alternatives(text.as_bytes()).map_while(Result::ok).any(|relation| {
                let accepts = relation.constraint.is_none_or(|set| set.accepts(version.as_bytes()));
                relation.name == name.as_bytes() && accepts == *forbids
            })
        })
    }
}

/// The packages, by name and architecture, whose versions are an image's own business: those that its
/// request says something of, and those that could not have the version of `other` beside them.
pub(super) fn own_versions(
    member: &Member<'_>,
    other: impl Fn(&LockedPackage) -> Option<Alternative>,
) -> HashSet<(String, String)> {
    let key = |package: &LockedPackage| (package.name.clone(), package.architecture.clone());
    let packages = &member.lockfile.packages;
    let mut open: Vec<&LockedPackage> =
        packages.iter().filter(|package| is_constrained(member.request, package)).collect();
    let mut own: HashSet<(String, String)> = open.iter().map(|package| key(package)).collect();
    if open.is_empty() {
        return own;
    }
    let mut others: Vec<(&LockedPackage, Alternative)> = packages
        .iter()
        .filter_map(|package| Some((package, other(package)?)))
        .filter(|(package, other)| other.version != package.version)
        .collect();
    while let Some(fixed) = open.pop() {
        let needs = Alternative::of(&fixed.version, |field| fixed.stanza.get(field).map(str::to_owned));
        others.retain(|(package, other)| {
            let follows =
                needs.excludes(&package.name, &other.version) || other.excludes(&fixed.name, &fixed.version);
            if follows && own.insert(key(package)) {
                open.push(package);
            }
            !follows
        });
    }
    own
}

/// Whether a request itself says which version it wants of a package.
fn is_constrained(request: &Request, package: &LockedPackage) -> bool {
    request.packages.iter().any(|wanted| {
        let (name, architecture) = match wanted.name.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (wanted.name.as_str(), None),
        };
        matches!(wanted.constraint, Constraint::Version(_) | Constraint::Suite(_))
            && name == package.name
            && match architecture {
                Some("any") => true,
                None | Some("native" | "all") => {
                    package.architecture == "all" || package.architecture == request.architecture
                }
                Some(architecture) => package.architecture == architecture,
            }
    })
}

#[cfg(test)]
mod tests;
