//! The order of it all, which is multistrap's own: packages are got and unpacked, then come answers for
//! debconf, `setupscript`, `download` hooks, the scripts of the packages between `native` hooks, the second
//! round, `configscript`, the final sources, `completion` hooks, the tarball.
//!
//! A user's script that fails is told at the end, and the rest is done, as by multistrap. What fails else
//! ends it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Made, Order, apt, archives, choice, folder::Root, keyring};
use crate::{
    Context, Error, Result,
    artefacts::{IdentityPolicy, Image, Lockfile},
    digest::Sha256,
    manifest::multistrap::Configuration,
    pipeline::Session,
};

/// Makes the folder, or the tarball.
///
/// # Errors
/// `Kind::Input` if the configuration cannot be done, or the folder has a system in it already; those of
/// the stages.
pub fn make(session: &Session<'_>, order: &Order<'_>) -> Result<Made> {
    let configuration = order.configuration;
    let path = configuration.directory.as_deref().ok_or_else(|| {
        Error::input(format!("{}: no directory is named", configuration.path.display()))
            .hint("add directory= to [General], or name one: -d DIR")
    })?;
    let image = image(session, order)?;
    let lockfile =
        choice::lockfile(session, configuration, &image.request, &image.lock, order.lock.is_some())?;
    let place = Place::claim(path)?;
    let mut making = Making { session, order, image, root: place.root()?, lockfile, failures: Vec::new() };
    making.all()?;
    let made =
        Made { image: making.image.request.image.clone(), path: path.to_owned(), failures: making.failures };
    place.release()?;
    Ok(made)
}

/// The request as an image of its own, with the lock's place.
fn image(session: &Session<'_>, order: &Order<'_>) -> Result<Image> {
    let configuration = order.configuration;
    let name = image_name(configuration);
    let lock = match order.lock {
        Some(path) => path.to_owned(),
        None => session.cache.join("multistrap").join(format!("{name}.lock")),
    };
    if let Some(folder) = lock.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    // A lock has digests: whose signatures they come from was looked at when it was made.
    let is_locked = order.lock.is_some() && lock.exists();
    let signed_by = match configuration.no_auth || is_locked {
        true => Vec::new(),
        false => keyring::obtain(session, &configuration.keyrings())?,
    };
    let pins = order.scripts.pins()?;
    let mut request = configuration.request(&name, configuration.target_architecture(), &signed_by, &pins)?;
    if request.repositories.is_empty() {
        let message =
            "no section that bootstrap names has a repository: this machine's own apt sources are used";
        session.reporter.warn(&name, message);
        request.repositories = crate::lock::sources::host_repositories(Path::new("/"))?;
    }
    Ok(Image {
        request,
        lock,
        preseed: None,
        accelerate: Vec::new(),
        emulate: Vec::new(),
        identity: IdentityPolicy::default(),
    })
}

/// The name of a configuration's trees in the repository: that of its file, and what tells it from others
/// of this name.
fn image_name(configuration: &Configuration) -> String {
    let path = std::path::absolute(&configuration.path).unwrap_or_else(|_| configuration.path.clone());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    let stem: String = stem.chars().map(plain).collect();
    let digest = Sha256::of_parts(&[path.as_os_str().as_encoded_bytes()]).to_string();
    format!("multistrap.{stem}.{}.{}", configuration.target_architecture(), &digest[..8])
}

/// The folder, claimed for a run: a run that was killed is seen by the next one, which begins anew.
struct Place {
    path: PathBuf,
    /// A file beside the folder, there while the folder is not done.
    mark: PathBuf,
}

impl Place {
    /// What the mark says of a folder that was empty before: then all in it is ours.
    const EMPTY: &str = "empty\n";

    fn claim(path: &Path) -> Result<Self> {
        let root = Root::make(path)?;
        let path = fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))?;
        let name =
            path.file_name().ok_or_else(|| Error::input("directory= is the root folder of this machine"))?;
        let mark = path.with_file_name(format!(".{}.treestrap-unfinished", name.to_string_lossy()));
        let before = match fs::read_to_string(&mark) {
            Ok(before) => {
                if before == Place::EMPTY {
                    fs::remove_dir_all(&path).with_context(|| format!("emptying {}", path.display()))?;
                }
                before
            }
            Err(_) => {
                if root.read("var/lib/dpkg/status")?.is_some_and(|status| !status.is_empty()) {
                    let shown = path.display();
                    let message = format!("{shown} has a system in it already");
                    return Err(Error::input(message).hint(format!(
                        "remove it, or name another folder: -d DIR; treestrap configure --rootfs {shown} configures \
                         what is there"
                    )));
                }
                if root.is_empty()? { Place::EMPTY.to_owned() } else { "with entries\n".to_owned() }
            }
        };
        fs::write(&mark, before).with_context(|| format!("writing {}", mark.display()))?;
        Ok(Place { path, mark })
    }

    fn root(&self) -> Result<Root> {
        Root::make(&self.path)
    }

    fn release(self) -> Result<()> {
        fs::remove_file(&self.mark).with_context(|| format!("removing {}", self.mark.display()))
    }
}

/// What a run has at hand.
struct Making<'a> {
    session: &'a Session<'a>,
    order: &'a Order<'a>,
    image: Image,
    root: Root,
    lockfile: Lockfile,
    failures: Vec<String>,
}

impl Making<'_> {
    fn all(&mut self) -> Result<()> {
        let configuration = self.order.configuration;
        let keep =
            (!configuration.cleanup || self.order.scripts.retain_sources.is_some() || !configuration.unpack)
                .then_some(&self.root);
        archives::fetch(self.session, &self.image, &self.lockfile, keep)?;
        Ok(())
    }
}
