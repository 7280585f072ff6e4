//! What a configuration asks for: repositories, packages and pins, in apt's own order.

use std::collections::BTreeSet;

use super::{Configuration, Section};
use crate::{
    Error, Result,
    artefacts::{Constraint, PackageRequest, Pin, Repository, Request},
    manifest::package,
};

/// The priority of `APT::Default-Release` (apt_preferences(5)).
const DEFAULT_RELEASE: i32 = 990;

impl Configuration {
    /// The request of the first round.
    ///
    /// `signed_by`: keyring files that vouch for all repositories, as with multistrap; none: the host's
    /// archive keyring. `preferences`: the pins of `aptpreferences`.
    ///
    /// # Errors
    /// `Kind::Input` if no repository is left, or a package's name is none.
    pub fn request(
        &self,
        image: &str,
        architecture: &str,
        signed_by: &[String],
        preferences: &[Pin],
    ) -> Result<Request> {
        let mut priority = Vec::new();
        if !self.omit_required {
            priority.push("required".to_owned());
        }
        if self.add_important {
            priority.push("important".to_owned());
        }
        Ok(Request {
            image: image.to_owned(),
            architecture: architecture.to_owned(),
            from: None,
            repositories: self.repositories(&self.bootstrap, signed_by),
            packages: self.packages()?,
            recommends: self.recommends,
            dependencies: true,
            // multistrap does not ask for them as such; nearly all of them are required.
            essential: false,
            priority,
            pins: self.pins(preferences),
        })
    }

    /// The architecture of the image: Debian's name of it; empty where it is the host's.
    pub fn target_architecture(&self) -> &str {
        self.architecture.as_deref().unwrap_or_default()
    }

    /// Sets the architecture, as `-a` does.
    ///
    /// # Errors
    /// `Kind::Input` if Debian has none of this name.
    pub fn set_architecture(&mut self, name: &str) -> Result<()> {
        package::check_architecture(name)
            .map_err(|hint| Error::input(format!("{name:?} is no architecture of Debian")).hint(hint))?;
        self.architecture = Some(name.to_owned());
        Ok(())
    }

    /// The architectures whose indexes are looked into, the image's own first.
    pub fn architectures(&self, architecture: &str) -> Vec<String> {
        let mut architectures = vec![architecture.to_owned()];
        architectures.extend(self.multiarch.iter().filter(|name| *name != architecture).cloned());
        architectures
    }

    /// The keyrings' packages, of all sections.
    pub fn keyrings(&self) -> BTreeSet<String> {
        self.sections.values().filter_map(|section| section.keyring.clone()).collect()
    }

    /// The sections that packages come from, in the order in which apt reads their files.
    pub fn bootstrap_sections(&self) -> impl Iterator<Item = &Section> {
        in_apt_order(&self.bootstrap).into_iter().filter_map(|name| self.sections.get(name))
    }

    /// The sections that are apt's sources in the image, in the order in which apt reads their files.
    pub fn apt_source_sections(&self) -> impl Iterator<Item = &Section> {
        in_apt_order(&self.apt_sources).into_iter().filter_map(|name| self.sections.get(name))
    }

    /// The packages of the second round.
    pub fn additional_packages(&self) -> Result<Vec<PackageRequest>> {
        let refuse = |entry: &str, problem: package::Problem| {
            let message = format!("{}: additional: {entry:?}: {}", self.path.display(), problem.what);
            Error::input(message).hint(problem.hint)
        };
        let parse = |entry: &String| package::parse(entry).map_err(|problem| refuse(entry, problem));
        self.additional.iter().map(parse).collect()
    }

    /// The repositories of these sections.
    pub fn repositories(&self, names: &[String], signed_by: &[String]) -> Vec<Repository> {
        let mut repositories: Vec<Repository> = Vec::new();
        let sections = in_apt_order(names).into_iter().filter_map(|name| self.sections.get(name));
        for section in sections.filter(|section| section.is_repository()) {
            let (Some(source), Some(suite)) = (&section.source, section.suite_or_path()) else { continue };
            let own_key = source.option("signed-by").map(|path| vec![path.to_owned()]);
            let no = |value: &str| ["no", "false", "0"].contains(&value);
            let trusted = self.no_auth || source.option("trusted").is_some_and(|value| !no(value));
            let repository = Repository {
                name: section.name.clone(),
                uris: vec![source.uri.clone()],
                suites: vec![suite.to_owned()],
                components: section.components.clone(),
                signed_by: if trusted { Vec::new() } else { own_key.unwrap_or_else(|| signed_by.to_vec()) },
                check_valid_until: !source.option("check-valid-until").is_some_and(no),
                trusted,
            };
            // One suite in several sections, a section for each group of packages, is one repository.
            let same = |other: &&mut Repository| {
                let place = |one: &Repository| {
                    let uri = one.uris[0].trim_end_matches('/').to_owned();
                    (uri, one.suites.clone(), one.signed_by.clone(), one.trusted, one.check_valid_until)
                };
                place(other) == place(&repository)
            };
            match repositories.iter_mut().find(same) {
                None => repositories.push(repository),
                Some(other) => {
                    let new = repository.components.into_iter();
                    let new: Vec<String> = new.filter(|c| !other.components.contains(c)).collect();
                    other.components.extend(new);
                }
            }
        }
        repositories
    }

    /// The suites of sections that have no `source`, as repositories of this machine's own apt sources.
    pub fn repositories_of_this_machine(&self) -> Vec<Repository> {
        let repository = |section: &Section| {
            Some(Repository {
                name: section.name.clone(),
                uris: Vec::new(),
                suites: vec![section.suite.clone()?],
                components: section.components.clone(),
                signed_by: Vec::new(),
                check_valid_until: true,
                trusted: self.no_auth,
            })
        };
        self.bootstrap_sections().filter(|section| section.source.is_none()).filter_map(repository).collect()
    }

    /// The packages of the sections and their keyrings, as multistrap sorts them for apt.
    fn packages(&self) -> Result<Vec<PackageRequest>> {
        let mut packages = Vec::new();
        for section in self.bootstrap_sections() {
            for entry in &section.packages {
                let mut wanted = package::parse(entry).map_err(|problem| {
                    let message = format!(
                        "{}: packages of [{}]: {entry:?}: {}",
                        section.place, section.name, problem.what
                    );
                    Error::input(message).hint(problem.hint)
                })?;
                if let Some(architecture) =
                    section.architecture.as_ref().filter(|_| !wanted.name.contains(':'))
                {
                    wanted.name = format!("{}:{architecture}", wanted.name);
                }
                if let Some(suite) = section.suite.as_ref().filter(|_| self.explicit_suite)
                    && wanted.constraint == Constraint::Any
                {
                    wanted.constraint = Constraint::Suite(suite.clone());
                }
                packages.push(wanted);
            }
        }
        let keyrings = self.keyrings();
        packages
            .extend(keyrings.into_iter().map(|name| PackageRequest { name, constraint: Constraint::Any }));
        Ok(command_line(packages))
    }

    fn pins(&self, preferences: &[Pin]) -> Vec<Pin> {
        // apt has the default release before all that the preferences say of suites as a whole.
        let default = self.default_release.iter().map(|release| Pin {
            package: "*".to_owned(),
            pin: format!("release {release}"),
            priority: DEFAULT_RELEASE,
        });
        default.chain(preferences.iter().cloned()).collect()
    }
}

/// Names of sections in the order of their files in sources.list.d, `multistrap-NAME.list`.
fn in_apt_order(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_by_key(|name| format!("{name}.list"));
    names
}

/// Requests as multistrap gives them to apt: sorted by their text, each once. Where one package is asked for
/// in several ways, the last of them counts, as it does with apt.
pub fn command_line(requests: Vec<PackageRequest>) -> Vec<PackageRequest> {
    let text = |request: &PackageRequest| {
        let name = &request.name;
        match &request.constraint {
            Constraint::Any => name.clone(),
            Constraint::Version(version) => format!("{name}={version}"),
            Constraint::Suite(suite) => format!("{name}/{suite}"),
            Constraint::Absent => format!("{name}-"),
        }
    };
    let mut requests = requests;
    requests.sort_by_cached_key(text);
    let mut last: Vec<PackageRequest> = Vec::with_capacity(requests.len());
    for request in requests {
        last.retain(|other| other.name != request.name);
        last.push(request);
    }
    last
}
