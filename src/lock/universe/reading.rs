//! Reading indexes into a universe: which stanza makes which packages, relations and provisions, in
//! apt's order.

use std::{cmp::Ordering, collections::hash_map::Entry};

use super::{
    Architecture, Dependency, DependencyId, Group, GroupId, Kind, MultiArch, Names, Package, PackageId,
    Provides, ProvidesId, Universe, Version, VersionId,
};
use crate::{
    Error, Result,
    debian::{
        deb822,
        relation::{self, Operator},
        version,
    },
    lock::index::Index,
};

impl<'a> Universe<'a> {
    /// Reads all indexes, in their order.
    pub(in crate::lock) fn new(native: &'a str, indexes: &'a [Index]) -> Result<Self> {
        Universe::of(native, indexes, |_| true)
    }

    /// Reads the stanzas of some names, of all indexes in their order. For who looks at versions and not at
    /// relations: those lead to names that are left out.
    pub(in crate::lock) fn of(
        native: &'a str,
        indexes: &'a [Index],
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Self> {
        let mut universe = Universe {
            architectures: vec![native.as_bytes()],
            configured: 0,
            names: Names::default(),
            qualified: Names::default(),
            groups: Vec::new(),
            packages: Vec::new(),
            versions: Vec::new(),
            dependencies: Vec::new(),
            provides: Vec::new(),
        };
        for index in indexes {
            let architecture = index.architecture.as_bytes();
            if architecture != b"all" && !universe.architectures.contains(&architecture) {
                universe.architectures.push(architecture);
            }
        }
        universe.configured = universe.architectures.len();
        for (number, index) in indexes.iter().enumerate() {
            universe.read(index, number, &wanted)?;
        }
        Ok(universe)
    }

    /// This universe with one more index behind the others.
    pub(in crate::lock) fn with<'b>(&self, index: &'b Index, number: usize) -> Result<Universe<'b>>
    where
        'a: 'b,
    {
        let mut universe: Universe<'b> = self.clone();
        universe.read(index, number, &|_| true)?;
        Ok(universe)
    }

    fn read(&mut self, index: &'a Index, number: usize, wanted: &impl Fn(&[u8]) -> bool) -> Result<()> {
        let number = u16::try_from(number).map_err(|_| Error::input("more than 65,535 indexes"))?;
        for stanza in deb822::stanzas(&index.packages) {
            if !deb822::field(stanza, "Package").is_none_or(wanted) {
                continue;
            }
            self.add_stanza(stanza, number).map_err(|message| {
                let Index { repository, suite, component, architecture, .. } = index;
                let name = deb822::field(stanza, "Package").unwrap_or(b"a stanza without a name");
                Error::input(message)
                    .context(String::from_utf8_lossy(name))
                    .context(format_args!("Packages of {suite}/{component} {architecture}"))
                    .context(format_args!("repository {repository:?}"))
            })?;
        }
        Ok(())
    }

    /// Whether a stanza is that of a version that is here.
    pub(in crate::lock) fn has(&self, stanza: &[u8]) -> bool {
        let fields = Fields::of(stanza);
        let found = || {
            let group = self.find_name(fields.get(Field::Package)?)?;
            let architecture = match fields.get(Field::Architecture)? {
                b"all" => Architecture::NATIVE,
                name => self.find_architecture(name)?,
            };
            let package = self.find(group, architecture)?;
            self.place_for(package, fields.get(Field::Version)?, &fields).1
        };
        found().is_some()
    }

    fn group(&mut self, name: &'a [u8]) -> GroupId {
        match self.names.entry(name) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let id = GroupId::new(self.groups.len());
                self.groups.push(Group { name, qualifier: None, first: None, last: None });
                *entry.insert(id)
            }
        }
    }

    /// The group that stands for `name:qualifier`.
    fn qualified_group(&mut self, base: GroupId, qualifier: Architecture) -> GroupId {
        match self.qualified.entry((base, qualifier)) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let id = GroupId::new(self.groups.len());
                let name = self.groups[base.index()].name;
                self.groups.push(Group { name, qualifier: Some(qualifier), first: None, last: None });
                *entry.insert(id)
            }
        }
    }

    fn architecture(&mut self, name: &'a [u8]) -> Architecture {
        if matches!(name, b"all" | b"native") {
            return Architecture::NATIVE;
        }
        if name == b"any" {
            return Architecture::ANY;
        }
        let at = self.architectures.iter().position(|&a| a == name).unwrap_or_else(|| {
            self.architectures.push(name);
            self.architectures.len() - 1
        });
        // Debian has some thirty; an index that names more than 254 shares the last number.
        Architecture(u8::try_from(at).unwrap_or(u8::MAX).min(u8::MAX - 1))
    }

    fn is_configured(&self, architecture: Architecture) -> bool {
        usize::from(architecture.0) < self.configured
    }

    /// Finds or makes a package. A new sibling gets what the others of its name have by
    /// Multi-Arch: provisions by `foreign` ones, and the conflicts that mean all architectures.
    fn package_of(&mut self, group: GroupId, architecture: Architecture) -> PackageId {
        if let Some(id) = self.find(group, architecture) {
            return id;
        }
        let id = PackageId::new(self.packages.len());
        self.packages.push(Package {
            group,
            architecture,
            essential: false,
            important: false,
            next: None,
            versions: None,
            provides: None,
            dependents: None,
        });
        match self.groups[group.index()].last {
            None => self.groups[group.index()].first = Some(id),
            Some(last) => {
                self.share_with_new_sibling(group, id);
                self.packages[last.index()].next = Some(id);
            }
        }
        self.groups[group.index()].last = Some(id);
        if let Some(qualifier) = self.groups[group.index()].qualifier
            && qualifier != Architecture::ANY
        {
            self.provide_specific(group, qualifier, id);
        }
        id
    }

    fn share_with_new_sibling(&mut self, group: GroupId, new: PackageId) {
        if let Some(model) = self.preferred(group, false) {
            let provides: Vec<ProvidesId> = self.providers(model).collect();
            for id in provides {
                let Provides { owner, number, architecture_specific, implicit, .. } =
                    self.provides[id.index()];
                let version = self.version(owner);
                let architecture = self.package(version.package).architecture;
                let foreign = version.multi_arch == MultiArch::Foreign;
                if foreign && !architecture_specific && !implicit && self.is_configured(architecture) {
                    self.add_provides(owner, new, number, architecture_specific, implicit);
                }
            }
        }
        let siblings: Vec<PackageId> = self.siblings(group).collect();
        for sibling in siblings {
            if !self.is_configured(self.package(sibling).architecture) {
                continue;
            }
            let versions: Vec<VersionId> = self.versions(sibling).collect();
            for version in versions {
                if self.version(version).multi_arch == MultiArch::Foreign {
                    self.add_provides(version, new, Some(self.version(version).number), false, true);
                }
            }
        }
        if let Some(model) = self.preferred(group, false) {
            let dependents: Vec<DependencyId> = self.dependents(model).collect();
            for id in dependents {
                let Dependency { parent, kind, constraint, architecture_specific, implicit, .. } =
                    self.dependencies[id.index()];
                if kind.is_negative() && !architecture_specific && !implicit {
                    self.add_dependency(parent, new, kind, constraint, false, false, false);
                }
            }
        }
    }

    /// Makes everything of `name` with this architecture provide `name:architecture`.
    fn provide_specific(&mut self, group: GroupId, architecture: Architecture, package: PackageId) {
        let base = self.group(self.groups[group.index()].name);
        let real = self.package_of(base, architecture);
        let owners: Vec<VersionId> = self
            .providers(real)
            .map(|provides| self.provision(provides))
            .filter(|provides| !provides.implicit)
            .map(|provides| provides.owner)
            .filter(|&owner| self.package(self.version(owner).package).architecture == architecture)
            .chain(self.versions(real))
            .collect();
        for owner in owners {
            self.add_provides(owner, package, Some(self.version(owner).number), true, true);
        }
    }

    fn add_provides(
        &mut self,
        owner: VersionId,
        target: PackageId,
        number: Option<&'a [u8]>,
        architecture_specific: bool,
        implicit: bool,
    ) {
        let id = ProvidesId::new(self.provides.len());
        let next_of_target = self.packages[target.index()].provides.replace(id);
        let next_of_owner = self.versions[owner.index()].provides.replace(id);
        self.provides.push(Provides {
            owner,
            target,
            number,
            architecture_specific,
            implicit,
            next_of_target,
            next_of_owner,
        });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a Dependency, in their order")]
    fn add_dependency(
        &mut self,
        parent: VersionId,
        target: PackageId,
        kind: Kind,
        constraint: Option<relation::Constraint<'a>>,
        or_next: bool,
        architecture_specific: bool,
        implicit: bool,
    ) {
        let id = DependencyId::new(self.dependencies.len());
        let next_dependent = self.packages[target.index()].dependents.replace(id);
        let version = &mut self.versions[parent.index()];
        match version.last_dependency.replace(id) {
            Some(last) => self.dependencies[last.index()].next = Some(id),
            None => version.first_dependency = Some(id),
        }
        self.dependencies.push(Dependency {
            parent,
            target,
            kind,
            constraint,
            or_next,
            architecture_specific,
            implicit,
            next: None,
            next_dependent,
        });
    }

    fn add_stanza(&mut self, stanza: &'a [u8], index: u16) -> Result<(), String> {
        let fields = Fields::of(stanza);
        let name = fields.get(Field::Package).ok_or("no Package field")?;
        let number = fields.get(Field::Version).ok_or("no Version field")?;
        let architecture = fields.get(Field::Architecture).ok_or("no Architecture field")?;
        let architecture_all = architecture == b"all";
        let architecture = if architecture_all {
            Architecture::NATIVE
        } else {
            match self.find_architecture(architecture) {
                Some(architecture) => architecture,
                // A flat repository lists all its architectures in one file: not ours to install.
                None => return Ok(()),
            }
        };
        let group = self.group(name);
        let package = self.package_of(group, architecture);
        self.note_flags(package, name, &fields);

        let (previous, same) = self.place_for(package, number, &fields);
        if let Some(same) = same {
            self.versions[same.index()].indexes.push(index);
            return Ok(());
        }
        let id = VersionId::new(self.versions.len());
        let next = match previous {
            Some(previous) => self.versions[previous.index()].next.replace(id),
            None => self.packages[package.index()].versions.replace(id),
        };
        self.versions.push(Version {
            package,
            number,
            stanza,
            architecture_all,
            multi_arch: match fields.get(Field::MultiArch) {
                Some(b"same") if !architecture_all => MultiArch::Same,
                Some(b"foreign") => MultiArch::Foreign,
                Some(b"allowed") => MultiArch::Allowed,
                _ => MultiArch::No,
            },
            priority: fields.get(Field::Priority).map_or(0, priority_number),
            indexes: vec![index],
            next,
            first_dependency: None,
            last_dependency: None,
            provides: None,
        });
        for (field, kind) in RELATIONS {
            if let Some(text) = fields.get(field) {
                self.add_relations(id, architecture, kind, text)?;
            }
        }
        self.add_all_provides(id, architecture, fields.get(Field::Provides).unwrap_or_default())?;
        self.add_sibling_conflicts(group, package, id);
        Ok(())
    }

    /// Notes what is true of a package as soon as one of its versions says so. That apt counts
    /// itself as essential is part of how it chooses.
    fn note_flags(&mut self, package: PackageId, name: &[u8], fields: &Fields<'a>) {
        let package = &mut self.packages[package.index()];
        let note = |field, flag: &mut bool| match fields.get(field) {
            Some(b"yes") => *flag = true,
            Some(b"no") => *flag = false,
            _ => {}
        };
        note(Field::Essential, &mut package.essential);
        note(Field::Important, &mut package.important);
        note(Field::Protected, &mut package.important);
        if name == b"apt" {
            package.essential = true;
            package.important = true;
        }
    }

    /// Where a version belongs among the package's (newest first): after which one; and the one
    /// that is the same, if it is known already.
    fn place_for(
        &self,
        package: PackageId,
        number: &[u8],
        fields: &Fields<'a>,
    ) -> (Option<VersionId>, Option<VersionId>) {
        let mut previous = None;
        for id in self.versions(package) {
            let known = self.version(id);
            match version::compare_bytes(number, known.number) {
                Ordering::Greater => break,
                Ordering::Equal if Fields::of(known.stanza).is_same_build(fields) => {
                    return (previous, Some(id));
                }
                _ => previous = Some(id),
            }
        }
        (previous, None)
    }

    fn add_relations(
        &mut self,
        parent: VersionId,
        architecture: Architecture,
        kind: Option<Kind>,
        text: &'a [u8],
    ) -> Result<(), String> {
        let negative = kind.is_none_or(Kind::is_negative);
        for relation in relation::alternatives(text) {
            let relation = relation.map_err(|e| e.to_string())?;
            let base = self.group(relation.name);
            let qualifier = relation.qualifier.map(|name| self.architecture(name));
            let specific = qualifier.is_some_and(|qualifier| qualifier != Architecture::ANY);
            let (group, architecture) = match qualifier {
                None => (base, architecture),
                Some(qualifier) => (self.qualified_group(base, qualifier), Architecture::ANY),
            };
            // Conflicts mean the packages of all architectures, as far as they are known.
            let targets = if negative && !specific && self.groups[group.index()].first.is_some() {
                self.siblings(group).collect()
            } else {
                vec![self.package_of(group, architecture)]
            };
            // Replaces and Enhances decide nothing here; that they name packages counts above.
            let Some(kind) = kind else { continue };
            for target in targets {
                self.add_dependency(
                    parent,
                    target,
                    kind,
                    relation.constraint,
                    relation.or_next && !negative,
                    specific,
                    false,
                );
            }
        }
        Ok(())
    }

    fn add_all_provides(
        &mut self,
        owner: VersionId,
        architecture: Architecture,
        text: &'a [u8],
    ) -> Result<(), String> {
        let Version { package, number: own_number, multi_arch, .. } = self.versions[owner.index()];
        let own_group = self.package(package).group;
        for relation in relation::alternatives(text) {
            let relation = relation.map_err(|e| e.to_string())?;
            let number = match relation.constraint {
                None => None,
                Some(relation::Constraint { operator: Operator::Equal, version }) => Some(version),
                // Policy 7.1 allows `=` alone; others say nothing.
                Some(_) => continue,
            };
            let base = self.group(relation.name);
            let of_itself = base == own_group && number.is_none_or(|number| number == own_number);
            match relation.qualifier {
                Some(qualifier) => {
                    let qualifier = self.architecture(qualifier);
                    if qualifier != Architecture::ANY && !(of_itself && qualifier == architecture) {
                        let target = self.package_of(base, qualifier);
                        self.add_provides(owner, target, number, true, true);
                    }
                    let group = self.qualified_group(base, qualifier);
                    let target = self.package_of(group, Architecture::ANY);
                    self.add_provides(owner, target, number, true, false);
                    continue;
                }
                None if multi_arch == MultiArch::Foreign => {
                    self.provide_all_architectures(owner, base, number, of_itself, false);
                }
                None => {
                    if multi_arch == MultiArch::Allowed {
                        let group = self.qualified_group(base, Architecture::ANY);
                        let target = self.package_of(group, Architecture::ANY);
                        self.add_provides(owner, target, number, false, true);
                    }
                    if !of_itself {
                        let target = self.package_of(base, architecture);
                        self.add_provides(owner, target, number, false, false);
                    }
                }
            }
            self.provide_known_specific(owner, base, architecture, number);
        }
        match multi_arch {
            MultiArch::Allowed => {
                let group = self.qualified_group(own_group, Architecture::ANY);
                let target = self.package_of(group, Architecture::ANY);
                self.add_provides(owner, target, Some(own_number), false, true);
            }
            MultiArch::Foreign => {
                self.provide_all_architectures(owner, own_group, Some(own_number), true, true);
            }
            MultiArch::No | MultiArch::Same => {}
        }
        self.provide_known_specific(owner, own_group, architecture, Some(own_number));
        Ok(())
    }

    /// Provides `name:architecture` if somebody asked for that before.
    fn provide_known_specific(
        &mut self,
        owner: VersionId,
        base: GroupId,
        architecture: Architecture,
        number: Option<&'a [u8]>,
    ) {
        let Some(&group) = self.qualified.get(&(base, architecture)) else { return };
        let Some(target) = self.find(group, Architecture::ANY) else { return };
        let known = self.providers(target).any(|provides| {
            let provides = self.provision(provides);
            provides.owner == owner && provides.implicit && provides.number == number
        });
        if !known {
            self.add_provides(owner, target, number, true, true);
        }
    }

    fn provide_all_architectures(
        &mut self,
        owner: VersionId,
        base: GroupId,
        number: Option<&'a [u8]>,
        of_itself: bool,
        implicit: bool,
    ) {
        let own = self.version(owner).package;
        if self.groups[base.index()].first.is_none() {
            if !of_itself || self.package(own).architecture != Architecture::NATIVE {
                let target = self.package_of(base, Architecture::NATIVE);
                self.add_provides(owner, target, number, false, implicit);
            }
            return;
        }
        let siblings: Vec<PackageId> = self.siblings(base).collect();
        for sibling in siblings {
            if !(implicit && sibling == own) {
                self.add_provides(owner, sibling, number, false, implicit);
            }
        }
    }

    /// Of packages that share a name, `Multi-Arch: same` ones may be together in the same version,
    /// others not at all.
    fn add_sibling_conflicts(&mut self, group: GroupId, package: PackageId, new: VersionId) {
        let only = self.versions(package).count() == 1;
        let siblings: Vec<PackageId> = self.siblings(group).filter(|&id| id != package).collect();
        for sibling in siblings {
            let versions: Vec<VersionId> = self.versions(sibling).collect();
            if versions.is_empty() {
                continue;
            }
            if only {
                for &version in &versions {
                    self.add_sibling_conflict(version, package);
                }
            }
            self.add_sibling_conflict(new, sibling);
        }
    }

    fn add_sibling_conflict(&mut self, version: VersionId, sibling: PackageId) {
        let Version { number, multi_arch, .. } = self.versions[version.index()];
        if multi_arch == MultiArch::Same {
            let other = relation::Constraint { operator: Operator::NotEqual, version: number };
            self.add_dependency(version, sibling, Kind::Breaks, Some(other), false, false, true);
        } else {
            self.add_dependency(version, sibling, Kind::Conflicts, None, false, false, true);
        }
    }
}

/// The fields of a stanza that a universe is made of.
#[derive(Clone, Copy)]
enum Field {
    Package,
    Version,
    Architecture,
    MultiArch,
    Priority,
    Essential,
    Important,
    Protected,
    PreDepends,
    Depends,
    Conflicts,
    Breaks,
    Recommends,
    Suggests,
    Replaces,
    Enhances,
    Provides,
    InstalledSize,
    Size,
}

/// The relation fields in the order in which apt reads them, which numbers the packages.
const RELATIONS: [(Field, Option<Kind>); 8] = [
    (Field::PreDepends, Some(Kind::PreDepends)),
    (Field::Depends, Some(Kind::Depends)),
    (Field::Conflicts, Some(Kind::Conflicts)),
    (Field::Breaks, Some(Kind::Breaks)),
    (Field::Recommends, Some(Kind::Recommends)),
    (Field::Suggests, Some(Kind::Suggests)),
    (Field::Replaces, None),
    (Field::Enhances, None),
];

struct Fields<'a>([Option<&'a [u8]>; Field::Size as usize + 1]);

impl<'a> Fields<'a> {
    fn of(stanza: &'a [u8]) -> Self {
        let mut fields = [None; Field::Size as usize + 1];
        for (name, value) in deb822::fields(stanza) {
            let field = match name {
                b"Package" => Field::Package,
                b"Version" => Field::Version,
                b"Architecture" => Field::Architecture,
                b"Multi-Arch" => Field::MultiArch,
                b"Priority" => Field::Priority,
                b"Essential" => Field::Essential,
                b"Important" => Field::Important,
                b"Protected" => Field::Protected,
                b"Pre-Depends" => Field::PreDepends,
                b"Depends" => Field::Depends,
                b"Conflicts" => Field::Conflicts,
                b"Breaks" => Field::Breaks,
                b"Recommends" => Field::Recommends,
                b"Suggests" => Field::Suggests,
                b"Replaces" => Field::Replaces,
                b"Enhances" => Field::Enhances,
                b"Provides" => Field::Provides,
                b"Installed-Size" => Field::InstalledSize,
                b"Size" => Field::Size,
                _ => continue,
            };
            if !value.is_empty() {
                fields[field as usize] = Some(value);
            }
        }
        Fields(fields)
    }

    fn get(&self, field: Field) -> Option<&'a [u8]> {
        self.0[field as usize]
    }

    /// Whether two stanzas of one version number are the same build, by what apt compares: their
    /// sizes, Multi-Arch and relations without white space, `=` and zero epochs.
    fn is_same_build(&self, other: &Fields<'_>) -> bool {
        let plain = |value: Option<&[u8]>| -> Vec<u8> {
            let value = value.unwrap_or_default();
            let mut plain = Vec::with_capacity(value.len());
            let mut rest = value.iter().copied().peekable();
            while let Some(byte) = rest.next() {
                if byte == b'0' && rest.peek() == Some(&b':') {
                    rest.next();
                } else if !byte.is_ascii_whitespace() && byte != b'=' {
                    plain.push(byte.to_ascii_lowercase());
                }
            }
            plain
        };
        let same_relations = [
            Field::InstalledSize,
            Field::Depends,
            Field::PreDepends,
            Field::Conflicts,
            Field::Breaks,
            Field::Replaces,
        ]
        .into_iter()
        .all(|field| plain(self.get(field)) == plain(other.get(field)));
        let all = |fields: &Fields<'_>| fields.get(Field::Architecture) == Some(b"all");
        let sizes = (self.get(Field::Size), other.get(Field::Size));
        same_relations
            && self.get(Field::MultiArch) == other.get(Field::MultiArch)
            && all(self) == all(other)
            && !matches!(sizes, (Some(a), Some(b)) if a != b)
    }
}

/// apt's number of a priority.
pub(in crate::lock) fn priority_number(name: &[u8]) -> u8 {
    match name.to_ascii_lowercase().as_slice() {
        b"required" => 1,
        b"important" => 2,
        b"standard" => 3,
        b"optional" => 4,
        _ => 5,
    }
}
