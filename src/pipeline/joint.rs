//! What foreign images need on this machine, fetched together with their packages and by the same threads:
//! qemu-user, and the packages of native twins. Which of those are needed is partly known beforehand, by the
//! table of packages; the rest follows from what is in the image's own.
//!
//! None of it is needed to make an image, if need be with the host's own emulator, and slowly. So what goes
//! wrong here is a warning, and stops nothing but its own kind.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Session, acceleration, indexes::Indexes, pool, tools};
use crate::{
    Error, Result,
    artefacts::{Image, LockedPackage, Lockfile},
    digest::Sha256,
    error::Kind,
    fetch::Extras,
    ingest::{Ingester, Program},
};

/// What some images need.
pub(super) struct Tools<'a> {
    session: &'a Session<'a>,
    images: &'a [(&'a Image, &'a Lockfile)],
    /// What warnings are about.
    name: String,
    /// Emulators that are missing, by their package: one has those of several architectures.
    emulators: BTreeMap<Sha256, (LockedPackage, Vec<Program>)>,
    /// Whether native programs are wanted; no longer, once one of their packages could not be had.
    native: AtomicBool,
    ready: &'a (dyn Fn() + Sync),
}

impl<'a> Tools<'a> {
    /// Of images whose locks were read; pins what is not pinned yet. `ready`: see [`pool::fetch_all`].
    pub(super) fn new(
        session: &'a Session<'a>,
        images: &'a [(&'a Image, &'a Lockfile)],
        native: bool,
        ready: &'a (dyn Fn() + Sync),
    ) -> Result<Tools<'a>> {
        let name = images.first().map_or(String::new(), |(first, _)| pool::name(images, first));
        let mut emulators: BTreeMap<Sha256, (LockedPackage, Vec<Program>)> = BTreeMap::new();
        tools::lock(session, &Indexes::new(session), images, false).into_iter().collect::<Result<()>>()?;
        for (image, _) in images {
            let missing = tools::Pinned::missing(session, image).map(|pinned| {
                let Some(tools::Pinned { package, program }) = pinned else { return };
                let (_, programs) = emulators.entry(package.sha256).or_insert_with(|| (package, Vec::new()));
                if programs.iter().all(|known| known.reference != program.reference) {
                    programs.push(program);
                }
            });
            tools::tolerate(session, &image.request.image, missing)?;
        }
        Ok(Tools { session, images, name, emulators, native: AtomicBool::new(native), ready })
    }

    /// The emulators that are taken out of this package, if it is wanted for them: an image may have it, too.
    pub(super) fn emulators(&self, package: &LockedPackage) -> Option<&[Program]> {
        let (_, programs) = self.emulators.get(&package.sha256).filter(|_| tools::is_emulator(package))?;
        Some(programs)
    }

    /// The packages of native programs that `of` finds for the images, each once, as far as they are not
    /// in the repository.
    fn natives(
        &self,
        mut of: impl FnMut(&Image, &Lockfile) -> Result<Vec<LockedPackage>>,
    ) -> Result<Vec<LockedPackage>> {
        let mut found = BTreeMap::new();
        for (image, lockfile) in self.images {
            if !self.native.load(Ordering::Relaxed) {
                break;
            }
            match of(image, lockfile) {
                Ok(packages) => {
                    found.extend(packages.into_iter().map(|package| (package.sha256, package)));
                }
                Err(error) => {
                    acceleration::tolerate_missing(self.session, &image.request.image, Err(error))?;
                }
            }
        }
        let ingester = Ingester::new(&self.session.repo)?;
        let mut missing = Vec::new();
        for package in found.into_values() {
            if ingester.lookup(&package)?.is_none() {
                missing.push(package);
            }
        }
        missing.sort_by(|a: &LockedPackage, b| b.size.cmp(&a.size).then_with(|| a.id().cmp(&b.id())));
        Ok(missing)
    }
}

impl Extras for Tools<'_> {
    fn early(&self) -> Result<Vec<LockedPackage>> {
        // A single thread unpacks it: the sooner it begins, the less all others wait for it.
        let mut packages: Vec<LockedPackage> =
            self.emulators.values().map(|(package, _)| package.clone()).collect();
        packages.extend(self.natives(|image, _| acceleration::surely_wanted(self.session, image))?);
        Ok(packages)
    }

    fn late(&self) -> Result<Vec<LockedPackage>> {
        (self.ready)();
        self.natives(|image, lockfile| {
            let members = || acceleration::ingested(self.session, &lockfile.packages);
            acceleration::wanted(self.session, image, members)
        })
    }

    fn is_wanted(&self, package: &LockedPackage) -> bool {
        self.native.load(Ordering::Relaxed) || self.emulators(package).is_some()
    }

    fn failed(&self, package: &LockedPackage, error: Error) -> Result<()> {
        if self.emulators(package).is_some() {
            return tools::tolerate(self.session, &self.name, Err(error));
        }
        // Of some that fail at the same time, the first one is enough.
        let is_first = self.native.swap(false, Ordering::Relaxed);
        match error.kind() {
            Kind::Input | Kind::Machine if !is_first => Ok(()),
            _ => acceleration::tolerate_missing(self.session, &self.name, Err(error)),
        }
    }
}
