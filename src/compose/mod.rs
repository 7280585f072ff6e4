//! The compose stage: the trees of packages become the tree that `dpkg --unpack` of them would
//! leave in an empty root, at `deb/images/IMAGE/unpacked`.
//!
//! It works on folder objects and on what the packages' commits say of themselves: it opens no
//! content object, and its cost grows with folders, not with bytes. [`merge`] has dpkg's rules for
//! paths, [`status`] its format of a package, `database` the rest of `var/lib/dpkg`. No package
//! script runs here: diversions, alternatives and what else they make is the configure stage's.

mod database;
mod held;
pub mod merge;
pub mod status;

use crate::{
    artefacts::{Composed, Ingested, Layer, PackageState, UnpackedPackage},
    debian::deb822,
    digest::Sha256,
    error::{Context, Error, Result},
    store::{
        Folder, Store,
        records::{
            self, FORMAT, FORMAT_KEY, HARD_LINKS_KEY, HELD_KEY, IMAGE_KEY, ImageRecord, PACKAGES_KEY,
            PackageRecord, unpacked_reference,
        },
    },
};

/// Whether `/bin`, `/sbin` and `/lib*` are links into `/usr` before the first package is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedUsr {
    /// They are links.
    Yes,
    /// They are whatever the packages make of them: folders, or (from trixie on) the links that
    /// base-files ships.
    No,
}

impl MergedUsr {
    /// The rule, from the set of packages alone:
    ///
    /// - base-files ships the links itself (Debian 13 and later): nothing to prepare, so `No`;
    /// - `usr-is-merged` or `usrmerge` is in the set (every bookworm image, by way of
    ///   init-system-helpers): `Yes`. The first refuses to be configured on an unmerged system, the
    ///   second finds its work done;
    /// - else `No`: bullseye and older stay as their packages spell them, as with mmdebstrap.
    pub fn of_packages(packages: &[Package]) -> Self {
        let ships_links = packages.iter().any(|package| {
            package.record.name == "base-files"
                && package.record.symlinks.iter().any(|(path, target)| path == "bin" && target == "usr/bin")
        });
        let wants_links = packages
            .iter()
            .any(|package| matches!(package.record.name.as_str(), "usr-is-merged" | "usrmerge"));
        if wants_links && !ships_links { MergedUsr::Yes } else { MergedUsr::No }
    }
}

/// A package as compose sees it.
#[derive(Clone, Debug)]
pub struct Package {
    /// The tree of its commit at `deb/pool/…`.
    pub tree: Folder,
    /// What the commit says of it.
    pub record: PackageRecord,
    /// Whether it is marked `Essential: yes`.
    pub essential: bool,
    /// Whether it is `Multi-Arch: same`.
    pub multi_arch_same: bool,
    /// Its `Replaces` field.
    pub replaces: String,
    /// Its name as dpkg writes it where a bare name could be mistaken: with the architecture if it
    /// is `Multi-Arch: same` or of another architecture than the image.
    pub qualified_name: String,
    /// When it is installed.
    pub layer: Layer,
}

impl Package {
    fn of(tree: Folder, record: PackageRecord, layer: Layer, architecture: &str) -> Self {
        let field = |name: &str| {
            let value = deb822::field(record.control.as_bytes(), name).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let multi_arch_same = field("Multi-Arch").eq_ignore_ascii_case("same");
        let foreign = record.architecture != "all" && record.architecture != architecture;
        let qualified_name = if multi_arch_same || foreign {
            format!("{}:{}", record.name, record.architecture)
        } else {
            record.name.clone()
        };
        Package {
            tree,
            essential: field("Essential").eq_ignore_ascii_case("yes"),
            multi_arch_same,
            replaces: field("Replaces"),
            qualified_name,
            record,
            layer,
        }
    }
}

/// Merges packages and moves the image's ref. An image that would come out as it is already, is
/// left alone. `merged_usr`: none decides by [`MergedUsr::of_packages`].
///
/// # Errors
/// `Kind::Input`, naming both packages and the path, if two packages have the same file and neither
/// replaces the other's; `Kind::Machine` if the repository cannot be written to.
pub fn compose(
    store: &Store,
    image: &str,
    architecture: &str,
    ingested: &Ingested,
    merged_usr: Option<MergedUsr>,
) -> Result<Composed> {
    let source = source_digest(architecture, ingested, merged_usr)?;
    let reference = unpacked_reference(image);
    if let Some(commit) = store.resolve(&reference)?
        && store.image_record(commit)?.is_some_and(|record| record.source == source)
    {
        return composed(store, image, architecture, commit);
    }
    let packages = read_packages(store, architecture, ingested)?;
    let merged_usr = merged_usr.unwrap_or_else(|| MergedUsr::of_packages(&packages));
    let order = unpack_order(&packages);
    let mut transaction = store.transaction()?;
    let mut merged = merge::merge(store, &mut transaction, &packages, &order, architecture, merged_usr)?;
    database::write(store, &mut transaction, &packages, &order, architecture, &mut merged)
        .context("writing the dpkg database")?;
    let unpacked: Vec<UnpackedPackage> = packages.iter().map(unpacked_package).collect();
    let record = ImageRecord { architecture: architecture.to_owned(), source, base: None };
    let mut values = [
        (FORMAT_KEY, records::to_json(&FORMAT)?),
        (IMAGE_KEY, records::to_json(&record)?),
        (PACKAGES_KEY, records::to_json(&unpacked)?),
        (HARD_LINKS_KEY, records::to_json(&merged.hard_links)?),
        (HELD_KEY, records::to_json(&merged.held)?),
    ];
    let subject = format!("{} packages for {architecture}, unpacked", packages.len());
    let commit = transaction.write_commit(&merged.root, &subject, &mut values)?;
    transaction.set_reference(&reference, commit);
    transaction.commit()?;
    Ok(Composed {
        image: image.to_owned(),
        architecture: architecture.to_owned(),
        commit,
        packages: unpacked,
        held: merged.held,
        below: None,
    })
}

/// An image that was composed before; none if it has not been, or by another version of treestrap.
///
/// # Errors
/// If the repository cannot be read.
pub fn load(store: &Store, image: &str) -> Result<Option<Composed>> {
    let Some(commit) = store.resolve(&unpacked_reference(image))? else { return Ok(None) };
    match store.image_record(commit)? {
        Some(record) => composed(store, image, &record.architecture, commit).map(Some),
        None => Ok(None),
    }
}

fn composed(store: &Store, image: &str, architecture: &str, commit: Sha256) -> Result<Composed> {
    Ok(Composed {
        image: image.to_owned(),
        architecture: architecture.to_owned(),
        commit,
        packages: store.list_packages(commit)?,
        held: store.held_files(commit)?,
        below: None,
    })
}

/// What decides the outcome: the packages' trees in their order, the architecture, the aliases.
///
/// # Errors
/// Never.
pub fn source_digest(
    architecture: &str,
    ingested: &Ingested,
    merged_usr: Option<MergedUsr>,
) -> Result<Sha256> {
    let commits: Vec<Sha256> = ingested.packages.iter().map(|package| package.commit).collect();
    let merged_usr = merged_usr.map(|merged| merged == MergedUsr::Yes);
    let mut text = records::to_json(&(FORMAT, architecture, merged_usr, commits))?;
    // Digests of images of one layer are as they were before there were others.
    let layers: Vec<&Layer> = ingested.packages.iter().map(|package| &package.layer).collect();
    if !layers.iter().all(|layer| layer.is_lowest()) {
        text.push_str(&records::to_json(&layers)?);
    }
    Ok(Sha256::of(text.as_bytes()))
}

fn read_packages(store: &Store, architecture: &str, ingested: &Ingested) -> Result<Vec<Package>> {
    let mut packages: Vec<Package> = Vec::with_capacity(ingested.packages.len());
    for package in &ingested.packages {
        let record = store.package_record(package.commit).with_context(|| package.name.clone())?;
        let record = record.ok_or_else(|| {
            Error::input(format!("{}: another version of treestrap ingested it", package.name))
                .hint("run: treestrap fetch")
        })?;
        packages.push(Package::of(store.root(package.commit)?, record, package.layer.clone(), architecture));
    }
    check_instances(&packages)?;
    Ok(packages)
}

/// A package can be installed once, or once an architecture if it is `Multi-Arch: same`.
fn check_instances(packages: &[Package]) -> Result<()> {
    let mut sorted: Vec<&Package> = packages.iter().collect();
    sorted.sort_by(|a, b| {
        (&a.record.name, &a.record.architecture).cmp(&(&b.record.name, &b.record.architecture))
    });
    for pair in sorted.windows(2) {
        let [a, b] = pair else { continue };
        let coinstallable = a.multi_arch_same
            && b.multi_arch_same
            && a.record.architecture != b.record.architecture
            && a.record.version == b.record.version;
        if a.record.name == b.record.name && !coinstallable {
            let id =
                |package: &Package| format!("{}:{}", package.record.version, package.record.architecture);
            return Err(Error::input(format!("{} is wanted twice: {} and {}", a.record.name, id(a), id(b))));
        }
    }
    Ok(())
}

/// In which order the packages are unpacked: base-files, for the folders and links that all others
/// build on; the essential ones; the rest; each in the lock's order. It matters where packages
/// disagree on a folder's owner or mode: the first has its way, as with dpkg.
fn unpack_order(packages: &[Package]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..packages.len()).collect();
    order.sort_by_key(|&index| match &packages[index] {
        package if package.record.name == "base-files" => 0,
        package if package.essential => 1,
        _ => 2,
    });
    order
}

fn unpacked_package(package: &Package) -> UnpackedPackage {
    UnpackedPackage {
        name: package.record.name.clone(),
        qualified_name: package.qualified_name.clone(),
        info_name: package.record.info_name.clone(),
        version: package.record.version.clone(),
        architecture: package.record.architecture.clone(),
        control: package.record.control.clone(),
        scripts: package.record.scripts.clone(),
        diverts: package.record.diverts.is_some(),
        newest: package.record.newest,
        layer: package.layer.clone(),
        state: PackageState::Unpacked,
    }
}

#[cfg(test)]
mod tests;
