//! Which programs have a twin, which don't and why, and what has to be mounted where.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use treestrap_dispatcher::table::Fingerprint;

use super::{
    TREE, folder,
    inventory::{Entry, Object, Package},
    libraries::{Closure, Missing, Resolver, Tree, join, merge_usr},
    loader,
    machine::Machine,
    policy::{self, MODULES, Modules, Policy, matches},
    scripts,
    wanted::with_modules,
};
use crate::interpreter::Twin;

/// Everything that is to be done so that twins run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What the dispatcher's table says.
    pub twins: Vec<Twin>,
    /// Which foreign program each entry of `twins` is: its package and path, for reports.
    pub programs: Vec<Program>,
    /// The programs of the image that have no twin.
    pub emulated: Vec<Emulated>,
    /// Packages that are to be in the twin tree.
    pub packages: BTreeSet<String>,
    /// Links that are to be made in the twin tree: path in it, target.
    pub links: BTreeMap<String, String>,
    /// Programs of the twin tree that a script stands before: [`scripts::script`], at [`scripts::place`].
    #[serde(default)]
    pub scripts: BTreeSet<String>,
    /// Folders and files of the twin tree that have to be seen at other places of the image.
    pub mounts: Vec<Mount>,
}

/// A foreign program that the dispatcher will meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// How it's recognised.
    #[serde(with = "crate::interpreter::as_pair")]
    pub fingerprint: Fingerprint,
    /// Whose it is.
    pub package: String,
    /// Where it is in the image.
    pub path: String,
}

/// A program that stays with qemu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulated {
    /// The program.
    pub program: Program,
    /// Why.
    pub reason: Reason,
}

/// Something of the twin tree that is mounted, read-only, at a place of the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mount {
    /// Where, without the leading slash.
    pub target: String,
    /// What, as a path of the twin tree.
    pub source: String,
}

/// Why a program has no twin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Its package isn't in the table: scripts seldom start its programs.
    NotInTable,
    /// The table says so.
    Table(String),
    /// The package isn't there for the host.
    NoPackage,
    /// It's there in another version only.
    OtherVersion(String),
    /// The package has another set of programs for the host.
    OtherFiles(String),
    /// The package for the host has no such program.
    NoSuchProgram,
    /// It asks for a loader of its own (klibc's programs do), which is the image's.
    Loader(String),
    /// It has no build id in its first page, so it can't be told from others for sure.
    NoBuildId,
    /// Two programs of the image look alike and have different twins.
    Ambiguous,
    /// The twin would not find a library.
    Library(Missing),
    /// The package has shared objects outside the architecture's folder, which the twin would look
    /// for where the image has its own.
    PlugIns(String),
    /// Modules that it loads are missing natively.
    Modules(String),
    /// The twin could not be made of the program for this machine.
    Rewrite(String),
    /// Data that it reads or writes has the machine's byte order, which is another one.
    ByteOrder,
    /// Data that it reads or writes depends on the size of the machine's words, which is another one.
    Words,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotInTable => f.write_str("its package is not in the table of those that scripts start"),
            Reason::Table(reason) => f.write_str(reason),
            Reason::NoPackage => f.write_str("its package was not to be had for this machine"),
            Reason::OtherVersion(version) => write!(f, "for this machine there is only version {version}"),
            Reason::OtherFiles(path) => write!(f, "only one of the two packages has {path}"),
            Reason::NoSuchProgram => f.write_str("the package for this machine does not have it"),
            Reason::Loader(path) => write!(f, "it asks for a loader of its own: {path}"),
            Reason::NoBuildId => f.write_str("it has no build id in its first page to know it by"),
            Reason::Ambiguous => f.write_str("another program looks the same"),
            Reason::Library(Missing::Library { name, by }) => write!(f, "/{by} would not find {name}"),
            Reason::Library(Missing::InTheWay(path)) => {
                write!(f, "the image's own /{path} would be in the way")
            }
            Reason::PlugIns(path) => {
                write!(f, "its package has a plug-in that could only be the image's: /{path}")
            }
            Reason::Modules(package) => write!(f, "modules of {package} were not to be had for this machine"),
            Reason::Rewrite(why) => write!(f, "no twin could be made: {why}"),
            Reason::Words => f.write_str("it reads or writes data that depends on the machine's words"),
            Reason::ByteOrder => f.write_str("it reads or writes data in the machine's byte order"),
        }
    }
}

/// Decides for every program of `image`. `native` are packages for the host; `refused` tells why
/// [`super::rewrite`] could not make a twin of a program of theirs (package, path).
pub fn plan(
    image: &[Package<'_>],
    native: &[Package<'_>],
    (machine, host): (&Machine, &Machine),
    policy: &Policy,
    mut refused: impl FnMut(&str, &str) -> Option<String>,
) -> Plan {
    let tree = Tree::new(native.iter().map(|package| (package.name, package.inventory)));
    let resolver = Resolver::away(&tree, host, machine.identity);
    let natives: BTreeMap<_, _> = native.iter().map(|package| (package.name, package)).collect();
    let modules = |modules| ModulePackages::of(modules, image, native, (machine, host), &resolver);
    let modules = MODULES.iter().map(modules).collect();
    let judge = Judge { natives: &natives, machine, host, policy, resolver: &resolver, modules };
    let mut decided = Vec::new();
    for package in image {
        let whole = judge.package(package);
        for (path, object) in package.inventory.programs() {
            let fingerprint = object.fingerprint();
            let program = Program { fingerprint, package: package.name.to_owned(), path: path.to_owned() };
            let mut twin = match (&whole, policy.emulated(&machine.neutral(path))) {
                (Err(Reason::NotInTable), Some(reason)) => Err(Reason::Table(reason.to_owned())),
                (Err(reason), _) => Err(reason.clone()),
                (Ok(native), _) => judge.program(package.name, native, path, object),
            };
            if let Ok(passed) = &twin
                && let Some(why) = refused(package.name, &passed.path)
            {
                twin = Err(Reason::Rewrite(why));
            }
            decided.push((program, twin));
        }
    }
    let mut result = Plan::default();
    result.add_all(decided, host);
    result.emulated.extend(loaders(image, machine));
    result.put_scripts();
    if let Some(found) = tree.object(&merge_usr(host.loader)) {
        result.links.insert(loader::LINK.to_owned(), found.path.to_owned());
    }
    result.mounts = mounts(native, host, &result.packages);
    if machine.identity.big_endian != host.identity.big_endian && tree.has(&format!("{LOCALE}/LC_NAME")) {
        // The package is in: getent and others of it have twins.
        result.mounts.push(Mount { target: OTHER_NAME.to_owned(), source: LOCALE.to_owned() });
    }
    result
}

/// The image's loader: no program of a package, and yet started.
fn loaders(image: &[Package<'_>], machine: &Machine) -> Vec<Emulated> {
    let reason =
        Reason::Table("it is the image's loader, which ldd asks for a program's libraries".to_owned());
    let mut result = Vec::new();
    for package in image {
        for (path, object) in package.inventory.objects() {
            if path.rsplit('/').next() == machine.loader.rsplit('/').next() {
                let fingerprint = object.fingerprint();
                let program =
                    Program { fingerprint, package: package.name.to_owned(), path: path.to_owned() };
                result.push(Emulated { program, reason: reason.clone() });
            }
        }
    }
    result
}

/// A twin that passed.
struct Passed {
    path: String,
    fingerprint: Fingerprint,
    packages: BTreeSet<String>,
    links: BTreeMap<String, String>,
}

struct Judge<'a> {
    natives: &'a BTreeMap<&'a str, &'a Package<'a>>,
    machine: &'a Machine,
    host: &'a Machine,
    policy: &'a Policy,
    resolver: &'a Resolver<'a>,
    modules: Vec<ModulePackages>,
}

/// The packages that a line of [`MODULES`] asks for.
struct ModulePackages {
    /// Whose code loads the modules.
    loader: &'static str,
    /// Those with modules and those with libraries of modules, and links to these; or what is missing.
    packages: Result<Closure, Reason>,
}

impl ModulePackages {
    fn of(
        modules: &Modules,
        image: &[Package<'_>],
        native: &[Package<'_>],
        (machine, host): (&Machine, &Machine),
        resolver: &Resolver<'_>,
    ) -> Self {
        let mut packages = Closure::default();
        let mut missing = None;
        for name in with_modules(image, modules.pattern, machine) {
            let package = native.iter().find(|package| package.name == name);
            let objects = package.map(|package| package.inventory.objects()).into_iter().flatten();
            let found: Result<Vec<_>, _> = objects
                .filter(|(path, _)| matches(modules.pattern, &host.neutral(path)))
                .map(|(path, object)| resolver.closure(path, object))
                .collect();
            match found {
                Ok(closures) if !closures.is_empty() => {
                    closures.into_iter().for_each(|closure| packages.add(closure));
                    packages.packages.insert(name.to_owned());
                }
                _ => missing = Some(Reason::Modules(name.to_owned())),
            }
        }
        let packages = missing.filter(|_| modules.required).map_or(Ok(packages), Err);
        ModulePackages { loader: modules.loader, packages }
    }
}

/// What the package for the host has.
struct Native<'a> {
    /// Its programs by their neutral paths.
    programs: BTreeMap<String, (&'a str, &'a Object)>,
    /// Its shared objects that programs of it may load, and that are not where they would find the host's.
    plug_ins: Vec<&'a str>,
}

impl<'a> Judge<'a> {
    /// What goes for all programs of a package; the package for the host.
    fn package(&self, package: &Package<'_>) -> Result<Native<'a>, Reason> {
        if self.policy.package(package.name).is_none() {
            return Err(Reason::NotInTable);
        }
        let native = self.natives.get(package.name).ok_or(Reason::NoPackage)?;
        if native.source_version != package.source_version {
            return Err(Reason::OtherVersion(native.source_version.to_owned()));
        }
        if let Some(path) = other_files(package, self.machine, native, self.host) {
            return Err(Reason::OtherFiles(path));
        }
        let programs = native.inventory.programs();
        let programs = programs.map(|(path, object)| (self.host.neutral(path), (path, object))).collect();
        Ok(Native { programs, plug_ins: self.plug_ins(native) })
    }

    fn program(
        &self,
        package: &str,
        native: &Native<'a>,
        path: &str,
        object: &Object,
    ) -> Result<Passed, Reason> {
        let neutral = self.machine.neutral(path);
        if let Some(reason) = self.policy.emulated(&neutral) {
            return Err(Reason::Table(reason.to_owned()));
        }
        let (image, host) = (self.machine.identity, self.host.identity);
        if image.big_endian != host.big_endian && policy::in_byte_order(&neutral) {
            return Err(Reason::ByteOrder);
        }
        if (image.big_endian, image.wide) != (host.big_endian, host.wide) && policy::in_words(&neutral) {
            return Err(Reason::Words);
        }
        let (twin_path, twin) = *native.programs.get(&neutral).ok_or(Reason::NoSuchProgram)?;
        if !object.has_build_id {
            return Err(Reason::NoBuildId);
        }
        if twin.identity() != self.host.identity {
            return Err(Reason::NoSuchProgram);
        }
        if let Some(loader) = &twin.interpreter
            && loader.trim_start_matches('/') != self.host.loader
        {
            return Err(Reason::Loader(loader.clone()));
        }
        let mut closure = self.resolver.closure(twin_path, twin).map_err(Reason::Library)?;
        if let Some(plug_in) = native.plug_ins.iter().find(|plug_in| policy::may_load(path, plug_in)) {
            return Err(Reason::PlugIns((*plug_in).to_owned()));
        }
        closure.packages.insert(package.to_owned());
        for modules in &self.modules {
            if closure.packages.iter().any(|name| matches(modules.loader, name)) {
                closure.add(modules.packages.clone()?);
            }
        }
        let Closure { packages, links } = closure;
        Ok(Passed { path: twin_path.to_owned(), fingerprint: twin.fingerprint(), packages, links })
    }

    /// Shared objects of the package that a program may load, and that aren't where it would find
    /// the host's: not in the host's folder, not a library that is linked to, and without a name of
    /// its own by which both architectures' could be there.
    fn plug_ins(&self, native: &Package<'a>) -> Vec<&'a str> {
        let below = format!("usr/lib/{}/", self.host.triplet);
        let entries = &native.inventory.entries;
        let needed: BTreeSet<&String> =
            native.inventory.objects().flat_map(|(_, object)| &object.needed).collect();
        let is_needed = |path: &str| needed.iter().any(|name| path.rsplit('/').next() == Some(name.as_str()));
        // Needed by its own name, or by that of a link to it.
        let linked: BTreeSet<String> = entries
            .iter()
            .filter(|(path, _)| is_needed(path))
            .map(|(path, entry)| match entry {
                Entry::Link(target) => join(path, target),
                _ => path.clone(),
            })
            .collect();
        native
            .inventory
            .objects()
            .filter(|(path, object)| !object.is_program(path) && !path.starts_with(&below))
            .map(|(path, _)| path)
            .filter(|path| self.host.neutral(path) == *path && !linked.contains(*path))
            .collect()
    }
}

/// A path of only one of the two packages, architectures' names and harmless differences aside.
fn other_files(
    package: &Package<'_>,
    machine: &Machine,
    native: &Package<'_>,
    host: &Machine,
) -> Option<String> {
    let neutral = |package: &Package<'_>, machine: &Machine| -> BTreeSet<String> {
        let paths = package.inventory.entries.keys().map(|path| machine.neutral(path));
        let counts = |path: &String| {
            let named = path.contains("{triplet}") || path.contains("{loader}");
            !named && !policy::may_differ(path)
        };
        paths.filter(counts).collect()
    };
    let (foreign, native) = (neutral(package, machine), neutral(native, host));
    foreign.symmetric_difference(&native).next().cloned()
}

impl Plan {
    /// Takes over what was decided, but for programs that can't be told apart by what they are.
    /// Two names of one program (hard links) are no such thing.
    fn add_all(&mut self, decided: Vec<(Program, Result<Passed, Reason>)>, host: &Machine) {
        let mut looks: BTreeMap<Fingerprint, BTreeSet<Option<Fingerprint>>> = BTreeMap::new();
        for (program, twin) in &decided {
            let twin = twin.as_ref().ok().map(|twin| twin.fingerprint);
            looks.entry(program.fingerprint).or_default().insert(twin);
        }
        for (program, twin) in decided {
            let ambiguous = looks.get(&program.fingerprint).is_some_and(|twins| twins.len() > 1);
            match twin {
                Ok(_) if ambiguous => self.emulated.push(Emulated { program, reason: Reason::Ambiguous }),
                Ok(twin) => self.add(program, twin, host),
                Err(reason) => self.emulated.push(Emulated { program, reason }),
            }
        }
    }

    fn add(&mut self, program: Program, twin: Passed, host: &Machine) {
        if !self.twins.iter().any(|other| other.program == program.fingerprint) {
            let path = format!("{TREE}/{}", twin.path).into();
            self.twins.push(Twin { program: program.fingerprint, path });
        }
        self.programs.push(program);
        self.packages.extend(twin.packages);
        for (name, path) in twin.links {
            // Absolute, since the folder is mounted elsewhere, too.
            self.links.insert(format!("usr/lib/{}/{name}", host.triplet), format!("{TREE}/{path}"));
        }
    }

    /// Puts scripts before what need not do all that it is asked for.
    fn put_scripts(&mut self) {
        let paths: BTreeSet<String> = self.twins.iter().filter_map(in_tree).map(str::to_owned).collect();
        if !paths.contains(scripts::SHELL) {
            return;
        }
        for twin in &mut self.twins {
            let Some(path) = in_tree(twin).map(str::to_owned) else { continue };
            if scripts::needs(&path).is_some_and(|needed| needed.iter().all(|path| paths.contains(*path))) {
                twin.path = format!("{TREE}/{}", scripts::place(&path)).into();
                self.scripts.insert(path);
            }
        }
    }
}

/// Where a twin is in the tree.
fn in_tree(twin: &Twin) -> Option<&str> {
    std::str::from_utf8(&twin.path).ok()?.strip_prefix(TREE)?.strip_prefix('/')
}

/// The locale that every image has, in the machine's byte order.
const LOCALE: &str = "usr/lib/locale/C.utf8";
/// Another name by which glibc looks for `C.UTF-8`: as it was asked for, and with the codeset
/// normalised (`_nl_make_l10nflist` in glibc's intl/l10nflist.c). Of the two folders it takes the
/// one whose byte order is its own.
const OTHER_NAME: &str = "usr/lib/locale/C.UTF-8";

/// What of the twin tree has to be seen where native programs look for it: the host's library folder,
/// and modules whose names have the architecture in them.
fn mounts(native: &[Package<'_>], host: &Machine, used: &BTreeSet<String>) -> Vec<Mount> {
    let folder = format!("usr/lib/{}", host.triplet);
    let target = folder::FOLDER.trim_start_matches('/').to_owned();
    let mut result = vec![Mount { target, source: folder.clone() }];
    for package in native.iter().filter(|package| used.contains(package.name)) {
        for (path, entry) in &package.inventory.entries {
            let name = path.rsplit('/').next().unwrap_or(path);
            let module = !matches!(entry, Entry::Link(_)) && (name.ends_with(".so") || name.ends_with(".py"));
            if module && name.contains(host.triplet) && !path.starts_with(&folder) {
                result.push(Mount { target: path.clone(), source: path.clone() });
            }
        }
    }
    result
}
