//! What `--simulate` prints: the lines of multistrap's own `--simulate`, for scripts that read them.

use std::fmt::Write;

use crate::{manifest::multistrap::Configuration, pipeline::multistrap::Scripts};

/// The lines, and whether the configuration is complete: it has a folder, and all sections that it names.
pub(super) fn summary(configuration: &Configuration, scripts: &Scripts) -> (String, bool) {
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}"); // into memory
    };
    let one_or_more =
        |count: usize, one: &str, more: &str| if count == 1 { one.to_owned() } else { more.to_owned() };
    let paths = |paths: &[std::path::PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };

    let mut included = paths(&configuration.included);
    included.sort();
    line(match included.len() {
        0 => "include:\t\tNo included configuration files.".to_owned(),
        1 => format!("include:\tIncluding configuration file from: '{}'", included[0]),
        _ => format!("include:\tIncluding configuration files from: '{}'", included.join("', '")),
    });
    line(String::new());
    let mut names: Vec<&String> = configuration.bootstrap.iter().chain(&configuration.apt_sources).collect();
    names.sort();
    names.dedup();
    let complete = configuration.directory.is_some()
        && names.iter().all(|name| configuration.sections.contains_key(*name));
    for section in names.into_iter().filter_map(|name| configuration.sections.get(name)) {
        line(format!("Section name:\t{}", section.name));
        let source = section.source.as_ref();
        line(format!("\tsource:\t\t{}", source.map(|source| source.text()).unwrap_or_default()));
        if source.is_none_or(|source| source.flat.is_none()) {
            line(format!("\tsuite:\t\t{}", section.suite.as_deref().unwrap_or_default()));
            line(format!("\tcomponents:\t{}", section.components.join(" ")));
        }
        if configuration.bootstrap.contains(&section.name) {
            let architecture =
                section.architecture.as_ref().map(|name| format!(":{name}")).unwrap_or_default();
            let mut packages: Vec<String> =
                section.packages.iter().map(|name| format!("{name}{architecture}")).collect();
            packages.sort();
            packages.dedup();
            line(format!("\tpackages:\t{}", packages.join(" ")));
        } else {
            line("\tNot listed as a 'Bootstrap' section.".to_owned());
        }
        line(String::new());
    }
    let (bootstrap, sources) = (&configuration.bootstrap, &configuration.apt_sources);
    let title = one_or_more(bootstrap.len(), "Section to install", "Sections to install");
    line(format!("{title}:\t{}", bootstrap.join(" ")));
    let title = one_or_more(sources.len(), "Section for updates", "Sections for updates");
    line(format!("{title}:\t{}", sources.join(" ")));
    let omitted: Vec<&str> = configuration
        .sections
        .values()
        .filter(|section| section.omit_deb_src)
        .map(|s| s.name.as_str())
        .collect();
    let omitted = if omitted.is_empty() { "None.".to_owned() } else { omitted.join(" ") };
    line(format!("omitdebsrc\t\tOmit deb-src from sources.list for sections: {omitted}"));
    line(format!(
        "explicitsuite:\t\tExplicit suite selection: {}",
        if configuration.explicit_suite { "Yes" } else { "No - let apt use latest." }
    ));
    line(format!(
        "allowrecommends:\tRecommended packages are {}.",
        if configuration.recommends { "added to the selection" } else { "ignored" }
    ));
    match configuration.default_release.as_deref() {
        Some("*") => {}
        release => line(format!("aptdefaultrelease:\tAPT::Default-Release: {}", release.unwrap_or_default())),
    }
    if configuration.mark_auto {
        line("markauto:\t\tMarking dependency packages as auto-installed.".to_owned());
    }
    if !scripts.seeds.is_empty() {
        let title = one_or_more(scripts.seeds.len(), "Debconf preseed file", "Debconf preseed files");
        let mut seeds = paths(&scripts.seeds);
        seeds.sort();
        line(format!("{title}:\t{}", seeds.join(" ")));
    }
    for (title, one, hooks) in [
        ("download hooks:\t\t", "Download hook: ", &scripts.download),
        ("native hooks:\t\t", "Native hook: ", &scripts.native),
        ("completion hooks:\t", "Completion hook: ", &scripts.completion),
    ] {
        if !hooks.is_empty() {
            line(format!("{title}{}{}", one_or_more(hooks.len(), one, ""), paths(hooks).join(", ")));
        }
    }
    if !configuration.additional.is_empty() {
        let title = one_or_more(configuration.additional.len(), "Extra Package: ", "Extra Packages: ");
        line(format!("additional:\t\t{title}{}", configuration.additional.join(", ")));
    }
    if !configuration.reinstall.is_empty() {
        line(format!("reinstall:\t\t{}", configuration.reinstall.join(", ")));
    }
    line(format!("Architecture:\t\tArchitecture to download: {}", configuration.target_architecture()));
    if !configuration.multiarch.is_empty() {
        let title =
            one_or_more(configuration.multiarch.len(), "Foreign architecture", "Foreign architectures");
        let mut names = configuration.multiarch.clone();
        names.sort();
        line(format!("MultiArch:\t\t{title}: {}", names.join(" ")));
    }
    if let Some(folder) = &configuration.directory {
        line(format!("dir:\t\t\tOutput directory: '{}'", folder.display()));
    }
    line(format!("unpack:\t\t\textract all downloaded archives: {}", configuration.unpack));
    if let Some(script) = &scripts.config {
        line(format!("configscript:\t\t{}", script.display()));
    }
    if let Some(script) = &scripts.setup {
        line(format!("setupscript:\t\tScript to be run after unpacking: {}", script.display()));
    }
    let included = |on: bool, no: &str| if on { "included".to_owned() } else { no.to_owned() };
    let required = included(!configuration.omit_required, "not included");
    line(format!(
        "omitrequired:\t\t'Priority{} required' packages are {required}.",
        if configuration.omit_required { "" } else { ":" }
    ));
    let important = included(configuration.add_important, "ignored");
    line(format!("addimportant:\t\t'Priority: important' packages are {important}."));
    line(format!("cleanup:\t\tremove apt cache data: {}", configuration.cleanup));
    line(format!("noauth:\t\t\tallow the use of unauthenticated repositories: {}", configuration.no_auth));
    if let Some(folder) = &scripts.retain_sources {
        line(format!("retainsources:\tSources will be retained in: {}", folder.display()));
    }
    if let Some(tarball) = &configuration.tarball {
        line(format!("tarballname:\t\tTarball name: '{}'", tarball.display()));
    }
    let runs = !configuration.omit_preinst && !configuration.ignore_native;
    line(format!(
        "omitpreinst:\t\tPreinst scripts are {}.",
        if runs { "executed with the install argument" } else { "not executed" }
    ));
    line(format!(
        "ignorenativearch:\tPackages will {}be configured.",
        if configuration.ignore_native { "not " } else { "" }
    ));
    line(match &scripts.preferences {
        Some(path) => format!("aptpreferences:\t\tApt preferences file to use: '{}'", path.display()),
        None => "aptpreferences:\t\tNo apt preferences file. Default release: *".to_owned(),
    });
    (text, complete)
}
