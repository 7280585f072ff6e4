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

use sandbox::Tier;

use super::{
    Made, Order, apt, archives, choice,
    folder::{FILE_MODE, Root},
    keyring,
    place::Place,
    tree::{self, Unpacked},
    words::in_its_words,
};
use crate::{
    Context, Error, Result,
    acquire::Acquire,
    artefacts::{IdentityPolicy, Image, LockedPackage, Lockfile},
    configure::Requirements,
    error::Kind,
    lock::sources,
    manifest::multistrap::Configuration,
    pipeline::{Known, Session, indexes},
};

/// Makes the folder, or the tarball.
///
/// # Errors
/// `Kind::Input` if the configuration cannot be done, or the folder has a system in it already; those of
/// the stages.
pub fn make(session: &Session<'_>, order: &Order<'_>) -> Result<Made> {
    make_all(session, order).map_err(in_its_words)
}

fn make_all(session: &Session<'_>, order: &Order<'_>) -> Result<Made> {
    let configuration = order.configuration;
    let path = configuration.directory.as_deref().ok_or_else(|| {
        Error::input(format!("{}: no directory is named", configuration.path.display()))
            .hint("add directory= to [General], or name one: -d DIR")
    })?;
    let image = image(session, order)?;
    let lockfile =
        choice::lockfile(session, configuration, &image.request, &image.lock, order.lock.is_some())?;
    let place = Place::claim(session, &image.request.image, path)?;
    let mut making = Making {
        session,
        order,
        image,
        root: place.root()?,
        lockfile,
        failures: Vec::new(),
        unpacked: Unpacked::nothing(),
    };
    making.all()?;
    let path = match &configuration.tarball {
        Some(name) => making.pack(name)?,
        None => path.to_owned(),
    };
    place.release()?;
    Ok(Made { image: making.image.request.image, path, failures: making.failures })
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
        request.repositories = match configuration.repositories_of_this_machine() {
            repositories if repositories.is_empty() => sources::host_repositories(Path::new("/"))?,
            repositories => repositories,
        };
    }
    Ok(Image {
        request,
        lock,
        preseed: None,
        accelerate: Vec::new(),
        emulate: Vec::new(),
        identity: IdentityPolicy::default(),
        base: None,
    })
}

/// The name of a configuration's trees in the repository: that of its file, and the architecture.
fn image_name(configuration: &Configuration) -> String {
    let stem = configuration.path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    let stem: String = stem.chars().map(plain).collect();
    format!("multistrap.{stem}.{}", configuration.target_architecture())
}

/// What a run has at hand.
struct Making<'a> {
    session: &'a Session<'a>,
    order: &'a Order<'a>,
    image: Image,
    root: Root,
    lockfile: Lockfile,
    failures: Vec<String>,
    unpacked: Unpacked,
}

/// A package's deb in the folder, as it is inside.
fn deb(package: &LockedPackage) -> String {
    format!("/{}/{}", apt::ARCHIVES, apt::archive_name(package))
}

/// Where multistrap puts answers for debconf, and who configures a folder finds them.
const PRESEEDS: &str = "tmp/preseeds";

impl Making<'_> {
    fn all(&mut self) -> Result<()> {
        let (configuration, scripts) = (self.order.configuration, self.order.scripts);
        let installs = !configuration.reinstall.is_empty() || !configuration.additional.is_empty();
        let keeps_debs =
            !configuration.cleanup || !configuration.unpack || scripts.retain_sources.is_some() || installs;
        archives::fetch(self.session, &self.image, &self.lockfile, keeps_debs.then_some(&self.root))?;
        apt::prepare(&self.root, self.session, configuration, scripts, &self.lockfile)?;
        apt::write_sources(&self.root, configuration, configuration.bootstrap_sections())?;
        if configuration.unpack {
            // Where nothing is configured, there is no second round to wait for.
            let is_now =
                |package: &LockedPackage| configuration.ignore_native || !choice::is_additional(package);
            let packages = self.lockfile.packages.iter().filter(|package| is_now(package)).cloned().collect();
            let now = Lockfile { packages, request: self.lockfile.request };
            self.unpacked = tree::unpack(self.session, &self.image, &now, &self.root, self.tier()?)?;
            self.seed()?;
        }
        if configuration.mark_auto {
            apt::mark_automatic(&self.root, configuration, &self.lockfile)?;
        }
        if let Some(script) = &scripts.setup {
            let architecture = configuration.target_architecture();
            self.script("setupscript", script, &[architecture])?;
        }
        self.hooks("download hook", &scripts.download, &[])?;
        if configuration.unpack && !configuration.ignore_native {
            self.first_round()?;
            self.second_round()?;
        }
        if let Some(script) = &scripts.config {
            let name = script.file_name().unwrap_or_default().to_string_lossy();
            self.root.copy(script, &name, 0o755)?;
        }
        self.retain()?;
        if configuration.cleanup {
            apt::tidy(&self.root, configuration.unpack)?;
        }
        apt::write_sources(&self.root, configuration, configuration.apt_source_sections())?;
        if !configuration.cleanup {
            self.write_lists()?;
        }
        self.hooks("completion hook", &scripts.completion, &[])
    }

    fn tier(&self) -> Result<Option<Tier>> {
        Ok(Requirements::new(&self.order.stage_two)?.tier())
    }

    /// The keyrings that vouch for the repositories: for a lock that was there they were not asked for yet.
    fn signed_by(&self) -> Result<Vec<String>> {
        let known = self.image.request.repositories.first().map(|first| first.signed_by.clone());
        match known.filter(|known| !known.is_empty()) {
            Some(known) => Ok(known),
            None if self.order.configuration.no_auth => Ok(Vec::new()),
            None => keyring::obtain(self.session, &self.order.configuration.keyrings()),
        }
    }

    /// Copies the answers for debconf.
    fn seed(&self) -> Result<()> {
        for seed in &self.order.scripts.seeds {
            let name = seed.file_name().unwrap_or_default().to_string_lossy();
            self.root.copy(seed, &format!("{PRESEEDS}/{name}"), FILE_MODE)?;
        }
        Ok(())
    }

    /// Configures what is unpacked, between the hooks for that, and installs once more what asks for it.
    fn first_round(&mut self) -> Result<()> {
        let (configuration, scripts) = (self.order.configuration, self.order.scripts);
        self.hooks("native hook", &scripts.native, &["start"])?;
        let known = Known {
            held: std::mem::take(&mut self.unpacked.held),
            omit_preinst: configuration.omit_preinst,
            ..self.known()
        };
        self.configure(known)?;
        let mut again = Vec::new();
        for name in &configuration.reinstall {
            match self.lockfile.packages.iter().find(|package| package.name == *name) {
                Some(package) => again.push(deb(package)),
                None => {
                    let message = format!("reinstall={name}: it is not among the packages");
                    self.session.reporter.warn(&self.image.request.image, message);
                }
            }
        }
        if !again.is_empty() {
            self.configure(Known { unpack: again, ..self.known() })?;
            // dpkg has run the preinst.
            self.configure(Known { omit_preinst: true, ..self.known() })?;
        }
        self.hooks("native hook", &scripts.native, &["end"])
    }

    /// Installs the packages that come when the others are configured.
    fn second_round(&mut self) -> Result<()> {
        let additional = self.lockfile.packages.iter().filter(|package| choice::is_additional(package));
        let unpack: Vec<String> = additional.map(deb).collect();
        if unpack.is_empty() {
            return Ok(());
        }
        self.configure(Known { unpack, ..self.known() })?;
        self.hooks("native hook", &self.order.scripts.native, &["start"])?;
        self.configure(Known { omit_preinst: true, ..self.known() })?;
        self.hooks("native hook", &self.order.scripts.native, &["end"])
    }

    fn configure(&mut self, known: Known) -> Result<()> {
        let overrides = tree::configure(self.session, &self.root, self.order, known)?;
        self.unpacked.overrides.extend(overrides);
        Ok(())
    }

    /// What stage 2 is told of the folder.
    fn known(&self) -> Known {
        Known { repositories: self.image.request.repositories.clone(), ..Known::default() }
    }

    /// Keeps the packages and their sources where the user wants them.
    fn retain(&mut self) -> Result<()> {
        let configuration = self.order.configuration;
        let Some(folder) = &self.order.scripts.retain_sources else { return Ok(()) };
        let with_sources: Vec<String> = configuration
            .bootstrap_sections()
            .filter(|section| !section.omit_deb_src)
            .map(|section| section.name.clone())
            .collect();
        let signed_by = self.signed_by()?;
        let repositories = configuration.repositories(&with_sources, &signed_by);
        let missing = archives::get_sources(self.session, &self.image, repositories, &self.lockfile, folder)?;
        self.failures.extend(missing);
        if configuration.cleanup && configuration.unpack {
            archives::move_debs(&self.root, folder)?;
        }
        Ok(())
    }

    /// Writes the indexes of the image's own sources, so that apt need not get them first.
    fn write_lists(&self) -> Result<()> {
        let configuration = self.order.configuration;
        let signed_by = self.signed_by()?;
        let mut request = self.image.request.clone();
        request.repositories = configuration.repositories(&configuration.apt_sources, &signed_by);
        let acquire = Acquire::new(self.session.offline, self.session.stop);
        let architectures = configuration.architectures(&request.architecture);
        match indexes::obtain(self.session, &request, &architectures, &acquire) {
            Ok(indexes) => apt::write_lists(&self.root, &self.session.cache, &indexes),
            Err(error) if error.kind() == Kind::Input => {
                let message =
                    format!("the folder has no indexes of its sources, apt update gets them: {error}");
                self.session.reporter.note(&request.image, message);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the tarball, beside the folder unless its name is a whole path, and empties the folder.
    fn pack(&self, name: &Path) -> Result<PathBuf> {
        let folder = self.root.path();
        let path = folder.parent().unwrap_or(folder).join(name);
        tree::pack(self.session, &self.image.request.image, &self.root, self.tier()?, &self.unpacked, &path)?;
        sandbox::remove_contents(folder).with_context(|| format!("emptying {}", folder.display()))?;
        Ok(path)
    }

    fn hooks(&mut self, kind: &str, hooks: &[PathBuf], arguments: &[&str]) -> Result<()> {
        hooks.iter().try_for_each(|hook| self.script(kind, hook, arguments))
    }

    /// Runs a script of the user's with the folder as its first argument.
    fn script(&mut self, kind: &str, script: &Path, arguments: &[&str]) -> Result<()> {
        self.session.check_stop()?;
        let words = arguments.iter().map(|word| format!(" {word}")).collect::<String>();
        let shown = format!("{kind} {}{words}", script.display());
        self.session.reporter.note(&self.image.request.image, format!("running the {shown}"));
        let (order, unpacked) = (self.order, &mut self.unpacked);
        let code = tree::run_script(self.session, &self.root, order, unpacked, script, arguments)
            .with_context(|| format!("the {shown}"))?;
        if code != 0 {
            self.failures.push(format!("the {shown} ended with exit status {code}"));
        }
        Ok(())
    }
}
