//! Images of several layers: stage 2 of the topmost one continues from the finished tree of those below,
//! which is a commit of its own, found by the digest of what determined it, whichever image it was made for.
//!
//! A lock says which package is of which layer ([`Layer`](crate::artefacts::Layer)), so the result is the
//! same whether what is below was there already or not. In the repository what is below has, while it is
//! made, the refs of an image `IMAGE/layer-N`; afterwards that of its digest alone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Session, StageTwo, acceleration, compose_ingested, pool, stage_two};
use crate::{
    Context, Error, Result,
    artefacts::{
        Begin, Committed, Composed, Configured, Image, Ingested, Layer, LockedPackage, Lockfile,
        PackageState, Request,
    },
    compose,
    configure::Trial,
    digest::Sha256,
    export,
    store::{
        Store,
        records::{configured_reference, memory_reference, unpacked_reference},
    },
};

/// Trees that are being finished, by the digest of what determines them: of those that are the same, one is
/// made, and the others wait for it.
#[derive(Default)]
pub(super) struct Unfinished(Mutex<BTreeMap<Sha256, Unmade>>);

/// The commit of a tree, once this run has made it; who holds the lock makes it.
type Unmade = Arc<Mutex<Option<Sha256>>>;

impl Unfinished {
    fn tree(&self, digest: Sha256) -> Unmade {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(trees.entry(digest).or_default())
    }
}

/// All layers of an image but the topmost.
struct Below {
    /// An image of these alone.
    image: Image,
    packages: Vec<LockedPackage>,
}

impl Below {
    /// None of an image of one layer.
    fn of(image: &Image, composed: &Composed) -> Result<Option<Below>> {
        let Some((number, base)) = next_below(image, composed) else { return Ok(None) };
        let mut packages = locked(image, composed)?;
        packages.retain(|package| package.layer().number <= number);
        let name = format!("{}/layer-{number}", own_name(&image.request.image));
        let settings = base.unwrap_or(image);
        for package in &mut packages {
            let mut layer = package.layer();
            layer.from = layer.from.filter(|from| base.is_none_or(|base| *from != base.request.image));
            package.set_layer(&layer);
        }
        let request = Request { image: name, ..settings.request.clone() };
        // Its tools are those of the whole image.
        let image = Image { request, lock: image.lock.clone(), ..settings.clone() };
        Ok(Some(Below { image, packages }))
    }
}

/// The number of the layer below the topmost one, and the image that it is of if the image continues from that.
/// None of an image of one layer.
fn next_below<'i>(image: &'i Image, composed: &Composed) -> Option<(u32, Option<&'i Image>)> {
    let layers = || composed.packages.iter().map(|package| &package.layer);
    let highest = layers().map(|layer| layer.number).max().filter(|&highest| highest > 0)?;
    let last = layers().filter(|layer| layer.number < highest).max().cloned().unwrap_or_default();
    Some((last.number, image.base.as_deref().filter(|base| last.from.as_ref() == Some(&base.request.image))))
}

/// The name of the image that another one is a layer of.
fn own_name(image: &str) -> &str {
    let layer = image.rsplit_once('/').filter(|(_, last)| last.starts_with("layer-"));
    layer.map_or(image, |(own, _)| own)
}

/// A lock's entries of what was composed, in the layers in which it was.
fn locked(image: &Image, composed: &Composed) -> Result<Vec<LockedPackage>> {
    let mut layers: HashMap<(&str, &str), &Layer> = HashMap::new();
    for package in &composed.packages {
        layers.insert((&package.name, &package.architecture), &package.layer);
    }
    let mut packages = acceleration::locked(image, composed)?;
    for package in &mut packages {
        let layer = layers.get(&(package.name.as_str(), package.architecture.as_str()));
        package.set_layer(layer.copied().unwrap_or(&Layer::default()));
    }
    Ok(packages)
}

/// Finishes what is below the topmost layer, unless that was done before; gives the unpacked tree to continue
/// from there. Of an image of one layer it stays as it is.
pub(super) fn on_what_is_below(
    session: &Session<'_>,
    image: &Image,
    options: &StageTwo,
    composed: &Composed,
    unfinished: &Unfinished,
) -> Result<Composed> {
    let Some(below) = Below::of(image, composed)? else { return Ok(composed.clone()) };
    // Debs of one version can differ, and the lock have others by now.
    let all = ingested(session, locked(image, composed)?)?;
    let source = compose::source_digest(&composed.architecture, &all, None)?;
    if source != stage_two::source(&Store::open(&session.repo)?, composed.commit)? {
        let name = &image.request.image;
        let message = format!("{name}: its lock has other packages than its unpacked tree was made of");
        return Err(Error::input(message).hint(format!("treestrap build {name}")));
    }
    let ingested = ingested(session, below.packages)?;
    let commit = finished(session, &below.image, options, &ingested, unfinished)?;
    Ok(composed.continuing(commit))
}

/// The finished tree of some layers.
fn finished(
    session: &Session<'_>,
    image: &Image,
    options: &StageTwo,
    ingested: &Ingested,
    unfinished: &Unfinished,
) -> Result<Sha256> {
    let name = &image.request.image;
    let store = Store::open(&session.repo)?;
    let source = compose::source_digest(&image.request.architecture, ingested, None)?;
    let digest = stage_two::digest(image, source)?;
    let tree = unfinished.tree(digest);
    let mut made = tree.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(commit) = *made {
        return Ok(commit);
    }
    // What another run made it with is not known to meet a requirement.
    if options.require.is_empty()
        && let Some(commit) = store.resolve(&memory_reference(digest))?
        && store.has_commit(commit)?
        && stage_two::has_settings(&store, commit, image)?
    {
        session
            .reporter
            .detail(name, format!("{} packages are configured: {commit}", ingested.packages.len()));
        return Ok(commit);
    }
    let composed = compose_ingested(session, image, ingested)?;
    let committed = stage_two::configure_composed(session, image, options, &composed, unfinished)?;
    remove_references(session, image)?;
    *made = Some(committed.commit);
    Ok(committed.commit)
}

/// Makes all layers of an image again, to see whether they come out the same. The changes are those of all layers.
pub(super) fn again(
    session: &Session<'_>,
    image: &Image,
    options: &StageTwo,
    composed: &Composed,
    trial: &Trial,
) -> Result<(Committed, Configured)> {
    let Some(below) = Below::of(image, composed)? else {
        return stage_two::run_stage_two(session, image, options, composed, Some(trial));
    };
    let composed_below = compose_ingested(session, &below.image, &ingested(session, below.packages)?)?;
    let (committed, lower) = again(session, &below.image, options, &composed_below, trial)?;
    remove_references(session, &below.image)?;
    let composed = composed.continuing(committed.commit);
    let (committed, mut configured) =
        stage_two::run_stage_two(session, image, options, &composed, Some(trial))?;
    let own: HashSet<Vec<u8>> = configured.changes.iter().map(|change| change.path.clone()).collect();
    configured.changes.extend(lower.changes.into_iter().filter(|change| !own.contains(&change.path)));
    Ok((committed, configured))
}

/// Packages as they are in the repository.
fn ingested(session: &Session<'_>, packages: Vec<LockedPackage>) -> Result<Ingested> {
    pool::ingested(session, &Lockfile { packages, request: None })
}

/// Removes the refs that some layers of an image had while they were made.
fn remove_references(session: &Session<'_>, image: &Image) -> Result<()> {
    let name = &image.request.image;
    Store::open(&session.repo)?.remove_references(&[unpacked_reference(name), configured_reference(name)])
}

/// What stage 2 does with the debs of the topmost layer.
pub(super) fn begin(image: &Image, composed: &Composed, debs: &sandbox::LayerFolder) -> Begin {
    // The answers to packages' questions are given again where they are others than below.
    let base = next_below(image, composed).and_then(|(_, base)| base);
    let seed = base.is_some_and(|base| base.preseed != image.preseed);
    Begin::Layer { debs: debs.path().to_owned(), seed }
}

/// Writes the debs of the packages that are not installed yet, into a folder that is removed with the value.
pub(super) fn write_debs(
    session: &Session<'_>,
    image: &Image,
    composed: &Composed,
) -> Result<sandbox::LayerFolder> {
    let store = Store::open(&session.repo)?;
    let folder = sandbox::LayerFolder::make(&session.work()).context("making a work folder")?;
    let unpacked = composed.packages.iter().filter(|package| package.state == PackageState::Unpacked);
    let names: HashMap<(&str, &str), String> = unpacked
        .map(|package| ((package.name.as_str(), package.architecture.as_str()), package.deb_name()))
        .collect();
    let mut packages = locked(image, composed)?;
    packages.retain(|package| names.contains_key(&(package.name.as_str(), package.architecture.as_str())));
    for package in &ingested(session, packages)?.packages {
        let name = names.get(&(package.name.as_str(), package.architecture.as_str()));
        let name = name.ok_or_else(|| Error::bug("a package that was looked up is another one"))?;
        let path = folder.path().join(name);
        let writing = || format!("writing {} for dpkg", package.name);
        let mut file = File::create(&path).with_context(writing)?;
        export::deb(&store, package.commit, &mut file).with_context(writing)?;
    }
    Ok(folder)
}
