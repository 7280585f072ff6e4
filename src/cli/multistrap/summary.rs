//! What `--simulate` prints: the lines of multistrap's own `--simulate`, for scripts that read them.

use std::path::{Path, PathBuf};

use crate::{
    manifest::multistrap::{Configuration, Section},
    pipeline::multistrap::Scripts,
};

/// The lines, and whether the configuration is complete: it has a folder, and all sections that it names.
pub(super) fn summary(configuration: &Configuration, scripts: &Scripts) -> (String, bool) {
    let mut lines = Vec::new();
    let mut names: Vec<&String> = configuration.bootstrap.iter().chain(&configuration.apt_sources).collect();
    names.sort();
    names.dedup();
    let is_there = |name: &&String| configuration.sections.contains_key(*name);
    let complete = configuration.directory.is_some() && names.iter().all(is_there);
    includes(configuration, &mut lines);
    for section in names.into_iter().filter_map(|name| configuration.sections.get(name)) {
        describe(configuration, section, &mut lines);
    }
    choice(configuration, &mut lines);
    files(scripts, &mut lines);
    additions(configuration, &mut lines);
    place(configuration, scripts, &mut lines);
    ends(configuration, scripts, &mut lines);
    (lines.join("\n"), complete)
}

fn one_or_more<'a>(count: usize, one: &'a str, more: &'a str) -> &'a str {
    if count == 1 { one } else { more }
}

fn shown(paths: &[PathBuf]) -> Vec<String> {
    let mut shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.sort();
    shown
}

fn includes(configuration: &Configuration, lines: &mut Vec<String>) {
    let included = shown(&configuration.included);
    lines.push(match included.as_slice() {
        [] => "include:\t\tNo included configuration files.".to_owned(),
        [one] => format!("include:\tIncluding configuration file from: '{one}'"),
        more => format!("include:\tIncluding configuration files from: '{}'", more.join("', '")),
    });
    lines.push(String::new());
}

fn describe(configuration: &Configuration, section: &Section, lines: &mut Vec<String>) {
    lines.push(format!("Section name:\t{}", section.name));
    let source = section.source.as_ref();
    lines.push(format!("\tsource:\t\t{}", source.map(|source| source.text()).unwrap_or_default()));
    if source.is_none_or(|source| source.flat.is_none()) {
        lines.push(format!("\tsuite:\t\t{}", section.suite.as_deref().unwrap_or_default()));
        lines.push(format!("\tcomponents:\t{}", section.components.join(" ")));
    }
    if configuration.bootstrap.contains(&section.name) {
        let architecture = section.architecture.as_ref().map(|name| format!(":{name}")).unwrap_or_default();
        let mut packages: Vec<String> =
            section.packages.iter().map(|name| format!("{name}{architecture}")).collect();
        packages.sort();
        packages.dedup();
        lines.push(format!("\tpackages:\t{}", packages.join(" ")));
    } else {
        lines.push("\tNot listed as a 'Bootstrap' section.".to_owned());
    }
    lines.push(String::new());
}

fn choice(configuration: &Configuration, lines: &mut Vec<String>) {
    let (bootstrap, sources) = (&configuration.bootstrap, &configuration.apt_sources);
    let title = one_or_more(bootstrap.len(), "Section to install", "Sections to install");
    lines.push(format!("{title}:\t{}", bootstrap.join(" ")));
    let title = one_or_more(sources.len(), "Section for updates", "Sections for updates");
    lines.push(format!("{title}:\t{}", sources.join(" ")));
    let omitted = configuration.sections.values().filter(|section| section.omit_deb_src);
    let omitted: Vec<&str> = omitted.map(|section| section.name.as_str()).collect();
    let omitted = if omitted.is_empty() { "None.".to_owned() } else { omitted.join(" ") };
    lines.push(format!("omitdebsrc\t\tOmit deb-src from sources.list for sections: {omitted}"));
    let explicit = if configuration.explicit_suite { "Yes" } else { "No - let apt use latest." };
    lines.push(format!("explicitsuite:\t\tExplicit suite selection: {explicit}"));
    let recommends = if configuration.recommends { "added to the selection" } else { "ignored" };
    lines.push(format!("allowrecommends:\tRecommended packages are {recommends}."));
    match configuration.default_release.as_deref() {
        Some("*") => {}
        release => {
            let release = release.unwrap_or_default();
            lines.push(format!("aptdefaultrelease:\tAPT::Default-Release: {release}"));
        }
    }
    if configuration.mark_auto {
        lines.push("markauto:\t\tMarking dependency packages as auto-installed.".to_owned());
    }
}

fn files(scripts: &Scripts, lines: &mut Vec<String>) {
    if !scripts.seeds.is_empty() {
        let title = one_or_more(scripts.seeds.len(), "Debconf preseed file", "Debconf preseed files");
        lines.push(format!("{title}:\t{}", shown(&scripts.seeds).join(" ")));
    }
    for (title, one, hooks) in [
        ("download hooks:\t\t", "Download hook: ", &scripts.download),
        ("native hooks:\t\t", "Native hook: ", &scripts.native),
        ("completion hooks:\t", "Completion hook: ", &scripts.completion),
    ] {
        if !hooks.is_empty() {
            lines.push(format!("{title}{}{}", one_or_more(hooks.len(), one, ""), shown(hooks).join(", ")));
        }
    }
}

fn additions(configuration: &Configuration, lines: &mut Vec<String>) {
    let additional = &configuration.additional;
    if !additional.is_empty() {
        let title = one_or_more(additional.len(), "Extra Package: ", "Extra Packages: ");
        lines.push(format!("additional:\t\t{title}{}", additional.join(", ")));
    }
    if !configuration.reinstall.is_empty() {
        lines.push(format!("reinstall:\t\t{}", configuration.reinstall.join(", ")));
    }
    let architecture = configuration.target_architecture();
    lines.push(format!("Architecture:\t\tArchitecture to download: {architecture}"));
    if !configuration.multiarch.is_empty() {
        let mut names = configuration.multiarch.clone();
        names.sort();
        let title = one_or_more(names.len(), "Foreign architecture", "Foreign architectures");
        lines.push(format!("MultiArch:\t\t{title}: {}", names.join(" ")));
    }
}

fn place(configuration: &Configuration, scripts: &Scripts, lines: &mut Vec<String>) {
    let shown = |title: &str, path: Option<&Path>| path.map(|path| format!("{title}{}", path.display()));
    let folder = configuration.directory.as_deref();
    lines.extend(folder.map(|path| format!("dir:\t\t\tOutput directory: '{}'", path.display())));
    lines.push(format!("unpack:\t\t\textract all downloaded archives: {}", configuration.unpack));
    lines.extend(shown("configscript:\t\t", scripts.config.as_deref()));
    lines.extend(shown("setupscript:\t\tScript to be run after unpacking: ", scripts.setup.as_deref()));
}

fn ends(configuration: &Configuration, scripts: &Scripts, lines: &mut Vec<String>) {
    lines.push(match configuration.omit_required {
        true => "omitrequired:\t\t'Priority required' packages are not included.".to_owned(),
        false => "omitrequired:\t\t'Priority: required' packages are included.".to_owned(),
    });
    let important = if configuration.add_important { "included" } else { "ignored" };
    lines.push(format!("addimportant:\t\t'Priority: important' packages are {important}."));
    lines.push(format!("cleanup:\t\tremove apt cache data: {}", configuration.cleanup));
    let no_auth = configuration.no_auth;
    lines.push(format!("noauth:\t\t\tallow the use of unauthenticated repositories: {no_auth}"));
    if let Some(folder) = &scripts.retain_sources {
        lines.push(format!("retainsources:\tSources will be retained in: {}", folder.display()));
    }
    if let Some(tarball) = &configuration.tarball {
        lines.push(format!("tarballname:\t\tTarball name: '{}'", tarball.display()));
    }
    let runs = !configuration.omit_preinst && !configuration.ignore_native;
    let runs = if runs { "executed with the install argument" } else { "not executed" };
    lines.push(format!("omitpreinst:\t\tPreinst scripts are {runs}."));
    let configured = if configuration.ignore_native { "not be" } else { "be" };
    lines.push(format!("ignorenativearch:\tPackages will {configured} configured."));
    lines.push(match &scripts.preferences {
        Some(path) => format!("aptpreferences:\t\tApt preferences file to use: '{}'", path.display()),
        None => "aptpreferences:\t\tNo apt preferences file. Default release: *".to_owned(),
    });
    lines.push(String::new());
}
