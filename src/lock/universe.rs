//! All packages of all indexes, with their relations: what the resolver looks at.
//!
//! The shape is that of apt's cache, because the choice must be apt's: a *package* is a name with
//! an architecture, `all` counting as native; `Multi-Arch` is spelt out as implicit provides
//! and implicit conflicts; `name:any` is a package of its own that others provide; packages are
//! numbered in the order in which the indexes first mention them, which is how apt breaks its last
//! ties; the providers of a package come last mentioned first.
//!
//! Nothing is copied out of the indexes: names, versions and stanzas are slices of them.

mod reading;

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

pub(super) use self::reading::priority_number;
use crate::debian::relation;

/// A number that stands for an entry of one of the [`Universe`]'s tables.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) struct $name(u32);

        impl $name {
            /// The number of a place in the table.
            pub(super) fn new(index: usize) -> Self {
                // 2³² entries would be hundreds of gigabytes of Packages files.
                $name(u32::try_from(index).expect("fewer than 2³² entries"))
            }

            /// The place in the table.
            pub(super) fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

number!(
    /// A name.
    GroupId
);
number!(
    /// A name with an architecture.
    PackageId
);
number!(
    /// A version of a package.
    VersionId
);
number!(
    /// One relation of a version to a package.
    DependencyId
);
number!(
    /// One provision of a package by a version.
    ProvidesId
);

/// An architecture: its place in [`Universe::architectures`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Architecture(u8);

impl Architecture {
    /// The image's own.
    pub(super) const NATIVE: Architecture = Architecture(0);
    /// That of the packages that stand for `name:any` and `name:architecture`.
    const ANY: Architecture = Architecture(u8::MAX);
}

/// All packages of a name.
#[derive(Clone, Debug)]
struct Group<'a> {
    name: &'a [u8],
    /// What follows the name's colon, where this is not a plain name.
    qualifier: Option<Architecture>,
    first: Option<PackageId>,
    last: Option<PackageId>,
}

/// A name with an architecture; without versions, it is only mentioned or provided.
#[derive(Clone, Debug)]
pub(super) struct Package {
    /// Its name.
    pub(super) group: GroupId,
    /// Its architecture.
    pub(super) architecture: Architecture,
    /// Whether any of its versions is marked `Essential` (or it is apt, which apt protects).
    pub(super) essential: bool,
    /// Whether any of its versions is marked `Important` or `Protected`.
    pub(super) important: bool,
    next: Option<PackageId>,
    versions: Option<VersionId>,
    provides: Option<ProvidesId>,
    dependents: Option<DependencyId>,
}

/// How a version behaves towards other architectures (the `Multi-Arch` field).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MultiArch {
    /// `no`
    No,
    /// `same`
    Same,
    /// `foreign`
    Foreign,
    /// `allowed`
    Allowed,
}

/// A version of a package.
#[derive(Clone, Debug)]
pub(super) struct Version<'a> {
    /// Its package.
    pub(super) package: PackageId,
    /// Its version number.
    pub(super) number: &'a [u8],
    /// Its whole stanza.
    pub(super) stanza: &'a [u8],
    /// `Architecture: all`.
    pub(super) architecture_all: bool,
    /// Its `Multi-Arch` field.
    pub(super) multi_arch: MultiArch,
    /// apt's number of its `Priority`: 1 is required, 5 extra or unknown, 0 none given.
    pub(super) priority: u8,
    /// The indexes that have it: places in the list that the universe was made from.
    pub(super) indexes: Vec<u16>,
    next: Option<VersionId>,
    first_dependency: Option<DependencyId>,
    last_dependency: Option<DependencyId>,
    provides: Option<ProvidesId>,
}

/// The kinds of relations that the resolver looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `Pre-Depends`
    PreDepends,
    /// `Depends`
    Depends,
    /// `Conflicts`
    Conflicts,
    /// `Breaks`
    Breaks,
    /// `Recommends`
    Recommends,
    /// `Suggests`
    Suggests,
}

impl Kind {
    /// Whether the target must be absent.
    pub(super) fn is_negative(self) -> bool {
        matches!(self, Kind::Conflicts | Kind::Breaks)
    }

    /// Whether a package that has it unfulfilled is broken.
    pub(super) fn is_critical(self) -> bool {
        self.is_negative() || matches!(self, Kind::Depends | Kind::PreDepends)
    }

    /// As in a sentence: "a KIND b".
    pub(super) fn verb(self) -> &'static str {
        match self {
            Kind::PreDepends => "pre-depends on",
            Kind::Depends => "depends on",
            Kind::Conflicts => "conflicts with",
            Kind::Breaks => "breaks",
            Kind::Recommends => "recommends",
            Kind::Suggests => "suggests",
        }
    }
}

/// One relation of a version to a package; alternatives are consecutive.
#[derive(Clone, Debug)]
pub(super) struct Dependency<'a> {
    /// Whose relation it is.
    pub(super) parent: VersionId,
    /// To which package.
    pub(super) target: PackageId,
    /// Which kind of relation.
    pub(super) kind: Kind,
    /// Which versions of the target; none: all.
    pub(super) constraint: Option<relation::Constraint<'a>>,
    /// Whether the next one is an alternative.
    pub(super) or_next: bool,
    /// Whether it names an architecture.
    architecture_specific: bool,
    /// Whether it follows from `Multi-Arch` alone.
    pub(super) implicit: bool,
    next: Option<DependencyId>,
    next_dependent: Option<DependencyId>,
}

/// One provision of a package by a version.
#[derive(Clone, Debug)]
pub(super) struct Provides<'a> {
    /// Who provides.
    pub(super) owner: VersionId,
    /// What.
    pub(super) target: PackageId,
    /// Which version of it; none fulfils no versioned relation.
    pub(super) number: Option<&'a [u8]>,
    /// Whether it names an architecture.
    architecture_specific: bool,
    /// Whether it follows from `Multi-Arch` alone.
    pub(super) implicit: bool,
    next_of_target: Option<ProvidesId>,
    next_of_owner: Option<ProvidesId>,
}

/// A quick hash for names; the tables are not exposed to chosen collisions that would matter.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut add = |word: u64| {
            self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        };
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            add(u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        add(u64::from_le_bytes(last));
    }

    fn finish(&self) -> u64 {
        // hashbrown looks at the upper bits for its tags and at the lower for the bucket.
        self.0 ^ self.0 >> 32
    }
}

type Names<K, V> = HashMap<K, V, BuildHasherDefault<NameHasher>>;

/// All packages of all indexes.
#[derive(Clone, Debug)]
pub(super) struct Universe<'a> {
    /// The image's architecture, the other ones that the indexes are for, then those that are only
    /// mentioned.
    architectures: Vec<&'a [u8]>,
    /// How many of them the indexes are for.
    configured: usize,
    names: Names<&'a [u8], GroupId>,
    qualified: Names<(GroupId, Architecture), GroupId>,
    groups: Vec<Group<'a>>,
    packages: Vec<Package>,
    versions: Vec<Version<'a>>,
    dependencies: Vec<Dependency<'a>>,
    provides: Vec<Provides<'a>>,
}

// Where a walk along the `next` links starts and how it goes on.
macro_rules! walk {
    ($start:expr, $self:ident.$table:ident.$next:ident) => {
        std::iter::successors($start, move |id| $self.$table[id.index()].$next)
    };
}

impl<'a> Universe<'a> {
    /// How many packages there are, those only mentioned among them.
    pub(super) fn package_count(&self) -> usize {
        self.packages.len()
    }

    /// All packages, in the order of their first mention.
    pub(super) fn package_ids(&self) -> impl Iterator<Item = PackageId> + use<> {
        (0..self.packages.len()).map(PackageId::new)
    }

    /// A package.
    pub(super) fn package(&self, id: PackageId) -> &Package {
        &self.packages[id.index()]
    }

    /// A version.
    pub(super) fn version(&self, id: VersionId) -> &Version<'a> {
        &self.versions[id.index()]
    }

    /// A relation.
    pub(super) fn dependency(&self, id: DependencyId) -> &Dependency<'a> {
        &self.dependencies[id.index()]
    }

    /// A provision.
    pub(super) fn provision(&self, id: ProvidesId) -> &Provides<'a> {
        &self.provides[id.index()]
    }

    /// A package's versions, newest first.
    pub(super) fn versions(&self, id: PackageId) -> impl Iterator<Item = VersionId> + '_ {
        walk!(self.package(id).versions, self.versions.next)
    }

    /// A version's relations, in apt's order of kinds.
    pub(super) fn dependencies(&self, id: VersionId) -> impl Iterator<Item = DependencyId> + '_ {
        walk!(self.version(id).first_dependency, self.dependencies.next)
    }

    /// A version's relations, alternatives together.
    pub(super) fn dependency_groups(&self, id: VersionId) -> impl Iterator<Item = Vec<DependencyId>> + '_ {
        let mut rest = self.dependencies(id);
        std::iter::from_fn(move || {
            let mut group = vec![rest.next()?];
            while group.last().is_some_and(|&last| self.dependency(last).or_next) {
                match rest.next() {
                    Some(next) => group.push(next),
                    None => break,
                }
            }
            Some(group)
        })
    }

    /// The relations of all versions to a package.
    pub(super) fn dependents(&self, id: PackageId) -> impl Iterator<Item = DependencyId> + '_ {
        walk!(self.package(id).dependents, self.dependencies.next_dependent)
    }

    /// Who provides a package, the last mentioned first.
    pub(super) fn providers(&self, id: PackageId) -> impl Iterator<Item = ProvidesId> + '_ {
        walk!(self.package(id).provides, self.provides.next_of_target)
    }

    /// What a version provides.
    pub(super) fn provisions(&self, id: VersionId) -> impl Iterator<Item = ProvidesId> + '_ {
        walk!(self.version(id).provides, self.provides.next_of_owner)
    }

    /// The packages that share a package's name, itself among them.
    pub(super) fn siblings(&self, group: GroupId) -> impl Iterator<Item = PackageId> + '_ {
        walk!(self.groups[group.index()].first, self.packages.next)
    }

    /// The name's group.
    pub(super) fn find_name(&self, name: &[u8]) -> Option<GroupId> {
        self.names.get(name).copied()
    }

    /// All plain names that have a package with versions.
    pub(super) fn names(&self) -> impl Iterator<Item = (GroupId, &'a [u8])> + '_ {
        self.names.iter().map(|(&name, &group)| (group, name))
    }

    /// The number of an architecture that the indexes are for.
    pub(super) fn find_architecture(&self, name: &[u8]) -> Option<Architecture> {
        self.architectures[..self.configured].iter().position(|&a| a == name).map(|at| Architecture(at as u8))
    }

    /// The package of a name and an architecture.
    pub(super) fn find(&self, group: GroupId, architecture: Architecture) -> Option<PackageId> {
        self.siblings(group).find(|&id| self.package(id).architecture == architecture)
    }

    /// The package that a bare name means: the native one, else the first architecture's; one that
    /// has versions before one that has none.
    pub(super) fn preferred(&self, group: GroupId, with_versions: bool) -> Option<PackageId> {
        let order = || (0..self.configured).map(|at| Architecture(at as u8));
        let mut found = order().filter_map(|architecture| self.find(group, architecture));
        if with_versions {
            if let Some(real) = found.find(|&id| self.package(id).versions.is_some()) {
                return Some(real);
            }
            return self.preferred(group, false);
        }
        found.next()
    }

    /// A package's bare name.
    pub(super) fn name(&self, id: PackageId) -> &'a [u8] {
        self.groups[self.package(id).group.index()].name
    }

    /// A package as people write it: its name, and its architecture unless that is the native one.
    pub(super) fn display(&self, id: PackageId) -> String {
        let package = self.package(id);
        let group = &self.groups[package.group.index()];
        let name = String::from_utf8_lossy(group.name);
        match (group.qualifier, package.architecture) {
            (Some(Architecture::ANY), _) => format!("{name}:any"),
            (Some(qualifier), _) => format!("{name}:{}", self.architecture_name(qualifier)),
            (None, Architecture::NATIVE | Architecture::ANY) => name.into_owned(),
            (None, foreign) => format!("{name}:{}", self.architecture_name(foreign)),
        }
    }

    /// A version's `Architecture` field.
    pub(super) fn architecture_of(&self, id: VersionId) -> std::borrow::Cow<'a, str> {
        let version = self.version(id);
        match version.architecture_all {
            true => "all".into(),
            false => self.architecture_name(self.package(version.package).architecture),
        }
    }

    /// An architecture's name.
    pub(super) fn architecture_name(&self, architecture: Architecture) -> std::borrow::Cow<'a, str> {
        match self.architectures.get(usize::from(architecture.0)) {
            Some(name) => String::from_utf8_lossy(name),
            None => "any".into(),
        }
    }

    /// Whether a version's number fulfils a relation.
    pub(super) fn version_fulfils(&self, dependency: DependencyId, version: VersionId) -> bool {
        let constraint = &self.dependency(dependency).constraint;
        constraint.is_none_or(|constraint| constraint.accepts(self.version(version).number))
    }

    /// Whether what is provided fulfils a relation.
    pub(super) fn provision_fulfils(&self, dependency: DependencyId, provides: ProvidesId) -> bool {
        match (&self.dependency(dependency).constraint, self.provision(provides).number) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(constraint), Some(number)) => constraint.accepts(number),
        }
    }

    /// Whether a negative relation does not mean this package: itself, and of `Multi-Arch: same`
    /// packages their siblings unless that is what the relation is for.
    pub(super) fn ignores_package(&self, dependency: DependencyId, target: PackageId) -> bool {
        let dependency = self.dependency(dependency);
        let parent = self.version(dependency.parent);
        dependency.kind.is_negative()
            && self.package(parent.package).group == self.package(target).group
            && (parent.package == target || parent.multi_arch == MultiArch::Same && !dependency.implicit)
    }

    /// Whether a negative relation does not mean this provider: those of the package's own name,
    /// and all where the relation is about siblings.
    pub(super) fn ignores_provider(&self, dependency: DependencyId, provides: ProvidesId) -> bool {
        let dependency = self.dependency(dependency);
        let group = |version: VersionId| self.package(self.version(version).package).group;
        dependency.kind.is_negative()
            && (dependency.implicit || group(self.provision(provides).owner) == group(dependency.parent))
    }

    /// All versions that fulfil a relation: the target's own, newest first, then providers.
    pub(super) fn targets(&self, dependency: DependencyId) -> Vec<VersionId> {
        let target = self.dependency(dependency).target;
        let own = self.versions(target).filter(|&version| {
            !self.ignores_package(dependency, target) && self.version_fulfils(dependency, version)
        });
        let providers = self.providers(target).filter(|&provides| {
            !self.ignores_provider(dependency, provides) && self.provision_fulfils(dependency, provides)
        });
        own.chain(providers.map(|provides| self.provision(provides).owner)).collect()
    }

    /// A relation as people write it.
    pub(super) fn display_relation(&self, dependency: DependencyId) -> String {
        let dependency = self.dependency(dependency);
        let name = self.display(dependency.target);
        match dependency.constraint {
            Some(relation::Constraint { operator, version }) => {
                format!("{name} ({operator} {})", String::from_utf8_lossy(version))
            }
            None => name,
        }
    }
}
