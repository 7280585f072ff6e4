//! `[images.NAME]`: what an image is made of.

use toml::Spanned;

use super::{did_you_mean, document::Section, package};
use crate::{
    Error, Result,
    artefacts::{Constraint, IdentityPolicy, Image, PackageRequest, Pin, Preseed, Repository, Request},
};

/// The keys of an image.
const KEYS: &[&str] = &[
    "arch",
    "from",
    "packages",
    "repos",
    "dependencies",
    "recommends",
    "essential",
    "priority",
    "pins",
    "preseed",
    "accelerate",
    "emulate",
    "identity",
];

/// The keys that an image cannot have which continues from another one: they are that one's.
const KEYS_OF_BASE: &[&str] =
    &["arch", "repos", "dependencies", "recommends", "essential", "priority", "identity"];

/// The values of `identity`.
const IDENTITIES: &[(&str, IdentityPolicy)] = &[
    ("first-boot", IdentityPolicy::FirstBoot),
    ("remove", IdentityPolicy::Remove),
    ("keep", IdentityPolicy::Keep),
];

/// The keys of a pin.
const PIN_KEYS: &[&str] = &["package", "pin", "priority"];

/// The priorities that can be asked for as a set (policy 2.5). `optional` is nearly the whole
/// archive and conflicts with itself.
const PRIORITIES: &[&str] = &["required", "important", "standard"];

/// All images, in the file's order; never none.
pub(super) fn read_all(root: &Section<'_>, repositories: &[Repository]) -> Result<Vec<Image>> {
    let sections = root.named_sections("images", KEYS)?;
    if sections.is_empty() {
        return Err(root
            .incomplete("no image: nothing to build")
            .hint("add [images.NAME] with arch = \"armhf\" and packages = [\"systemd-sysv\"]"));
    }
    let reader = Reader { sections: &sections, repositories };
    sections.iter().map(|(name, section)| reader.image(name, section, &mut Vec::new())).collect()
}

/// All sections, since one may name another.
struct Reader<'a> {
    sections: &'a [(Spanned<String>, Section<'a>)],
    repositories: &'a [Repository],
}

impl Reader<'_> {
    /// `above`: the images that continue from this one.
    fn image<'n>(
        &'n self,
        name: &'n Spanned<String>,
        section: &Section<'_>,
        above: &mut Vec<&'n str>,
    ) -> Result<Image> {
        if let Err(error) = check_name(name.get_ref()) {
            return Err(section.error(name.span(), &error).hint(error.get_hint().unwrap_or_default()));
        }
        let Some(from) = section.text("from")? else { return read(name, section, self.repositories) };
        above.push(name.get_ref());
        let base = self.base(section, &from, above)?;
        continued(name, section, base)
    }

    /// The image that another one continues from.
    fn base<'n>(
        &'n self,
        section: &Section<'_>,
        from: &Spanned<String>,
        above: &mut Vec<&'n str>,
    ) -> Result<Image> {
        if above.contains(&from.get_ref().as_str()) {
            let circle = format!("{} -> {}", above.join(" -> "), from.get_ref());
            let error =
                section.error(from.span(), format!("{} leads in a circle: {circle}", section.path("from")));
            return Err(error.hint("let one of them ask for all of its packages itself"));
        }
        match self.sections.iter().find(|(name, _)| name.get_ref() == from.get_ref()) {
            Some((name, base)) => self.image(name, base, above),
            None => {
                let names: Vec<&str> =
                    self.sections.iter().map(|(name, _)| name.get_ref().as_str()).collect();
                let error = section.error(from.span(), format!("there is no [images.{}]", from.get_ref()));
                Err(error.hint(did_you_mean(from.get_ref(), &names, "images")))
            }
        }
    }
}

/// An image that continues from another one.
fn continued(name: &Spanned<String>, section: &Section<'_>, base: Image) -> Result<Image> {
    let base_name = base.request.image.clone();
    if let Some(key) = KEYS_OF_BASE.iter().find(|key| section.has(key)) {
        let message = format!("{} is that of {base_name}, from which the image continues", section.path(key));
        return Err(section.incomplete(message).hint(format!("leave {key} out, or from")));
    }
    let mut request =
        Request { image: name.get_ref().clone(), from: Some(base_name.clone()), ..base.request.clone() };
    for wanted in packages(section)? {
        match request.packages.iter().find(|other| other.name == wanted.name) {
            Some(other) if *other == wanted => {}
            Some(_) => {
                let message = format!("asks for {} in another way than {base_name}", wanted.name);
                return Err(section.incomplete(message).hint("leave it out here, or ask for it here alone"));
            }
            None => request.packages.push(wanted),
        }
    }
    request.pins.extend(pins(section)?);
    let lock = section.folder().join(format!("{}.lock", name.get_ref()));
    let patterns_of = |key, of_base: &[String]| -> Result<Vec<String>> {
        Ok(of_base.iter().cloned().chain(patterns(section, key)?).collect())
    };
    Ok(Image {
        request,
        lock,
        preseed: preseed(section)?.or_else(|| base.preseed.clone()),
        accelerate: patterns_of("accelerate", &base.accelerate)?,
        emulate: patterns_of("emulate", &base.emulate)?,
        identity: base.identity,
        base: Some(Box::new(base)),
    })
}

fn read(name: &Spanned<String>, section: &Section<'_>, repositories: &[Repository]) -> Result<Image> {
    let request = Request {
        image: name.get_ref().clone(),
        architecture: architecture(section)?,
        from: None,
        repositories: chosen(section, repositories)?,
        packages: packages(section)?,
        dependencies: section.boolean("dependencies")?.unwrap_or(true),
        recommends: section.boolean("recommends")?.unwrap_or(false),
        essential: section.boolean("essential")?.unwrap_or(true),
        priority: priorities(section)?,
        pins: pins(section)?,
    };
    let wants_something = request.packages.iter().any(|wanted| wanted.constraint != Constraint::Absent);
    if !wants_something && !request.essential && request.priority.is_empty() {
        return Err(section.incomplete("asks for no package at all").hint("add some to packages"));
    }
    let lock = section.folder().join(format!("{}.lock", name.get_ref()));
    let (accelerate, emulate) = (patterns(section, "accelerate")?, patterns(section, "emulate")?);
    Ok(Image {
        request,
        lock,
        preseed: preseed(section)?,
        accelerate,
        emulate,
        identity: identity(section)?,
        base: None,
    })
}

/// A file's name, or a list of answers.
fn preseed(section: &Section<'_>) -> Result<Option<Preseed>> {
    if section.is_text("preseed") {
        return match section.text("preseed")? {
            Some(path) if path.get_ref().is_empty() => {
                Err(section.error(path.span(), format!("{} names no file", section.path("preseed"))))
            }
            path => Ok(path.map(|path| Preseed::File(section.folder().join(path.get_ref())))),
        };
    }
    let Some(list) = section.texts("preseed")? else { return Ok(None) };
    for line in list.get_ref() {
        let is_answer = line.get_ref().split_whitespace().count() >= 3;
        if !is_answer || line.get_ref().contains('\n') {
            let message = format!("{:?} is no answer to a question of debconf", line.get_ref());
            let hint = "write \"PACKAGE QUESTION TYPE VALUE\"; the name of a file stands without brackets";
            return Err(section.error(line.span(), message).hint(hint));
        }
    }
    Ok(Some(Preseed::Lines(list.into_inner().into_iter().map(Spanned::into_inner).collect())))
}

fn identity(section: &Section<'_>) -> Result<IdentityPolicy> {
    let Some(text) = section.text("identity")? else { return Ok(IdentityPolicy::default()) };
    let known = IDENTITIES.iter().find(|(name, _)| name == text.get_ref()).map(|(_, policy)| *policy);
    known.ok_or_else(|| {
        let names: Vec<&str> = IDENTITIES.iter().map(|(name, _)| *name).collect();
        let message = format!("{:?} is nothing that {} can be", text.get_ref(), section.path("identity"));
        section.error(text.span(), message).hint(did_you_mean(text.get_ref(), &names, "values"))
    })
}

/// Names of packages, or paths of programs, in which `*` stands for any characters.
fn patterns(section: &Section<'_>, key: &str) -> Result<Vec<String>> {
    let Some(list) = section.texts(key)? else { return Ok(Vec::new()) };
    for item in list.get_ref() {
        if item.get_ref().is_empty() {
            return Err(section.error(item.span(), format!("{} has an empty name", section.path(key))));
        }
        if item.get_ref().starts_with('/') {
            let error = section.error(item.span(), format!("{:?} begins with a slash", item.get_ref()));
            return Err(error.hint(format!("write {:?}", item.get_ref().trim_start_matches('/'))));
        }
    }
    Ok(list.into_inner().into_iter().map(Spanned::into_inner).collect())
}

/// Whether `name` can name an image. It becomes a fragment of a ref, for which libostree allows
/// `[-._\w\d]+` (ostree-core.c, `OSTREE_REF_FRAGMENT_REGEXP`), and the name of its lock and of
/// folders: so it does not begin with a dot, nor with a dash, which reads as an option.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !name.is_empty() && name.chars().all(plain) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(Error::input(format!("{name:?} cannot name an image"))
        .hint("use ASCII letters, digits, '-', '.' and '_', and begin with neither '.' nor '-'"))
}

fn architecture(section: &Section<'_>) -> Result<String> {
    let arch = section.text("arch")?;
    let arch = arch.ok_or_else(|| section.incomplete("needs arch, such as arch = \"armhf\""))?;
    match package::check_architecture(arch.get_ref()) {
        Ok(()) => Ok(arch.into_inner()),
        Err(hint) => {
            let message = format!("{:?} is no architecture of Debian", arch.get_ref());
            Err(section.error(arch.span(), message).hint(hint))
        }
    }
}

/// The image's repositories in the order of its own list, or all of them in the file's.
fn chosen(section: &Section<'_>, repositories: &[Repository]) -> Result<Vec<Repository>> {
    let Some(list) = section.texts("repos")? else { return Ok(repositories.to_vec()) };
    let path = section.path("repos");
    if list.get_ref().is_empty() {
        let error = section.error(list.span(), format!("{path} is empty"));
        return Err(error.hint("name at least one, or leave repos out for all of them"));
    }
    let mut chosen: Vec<Repository> = Vec::new();
    for item in list.get_ref() {
        let name = item.get_ref();
        let Some(repository) = repositories.iter().find(|repository| repository.name == *name) else {
            let known: Vec<&str> = repositories.iter().map(|repository| repository.name.as_str()).collect();
            let error = section.error(item.span(), format!("there is no [repos.{name}]"));
            return Err(error.hint(did_you_mean(name, &known, "repositories")));
        };
        if chosen.contains(repository) {
            return Err(section.error(item.span(), format!("{path} names {name:?} twice")));
        }
        chosen.push(repository.clone());
    }
    Ok(chosen)
}

/// The packages; one that is there twice in the same words counts once.
fn packages(section: &Section<'_>) -> Result<Vec<PackageRequest>> {
    let list = section.texts("packages")?;
    let list =
        list.ok_or_else(|| section.incomplete("needs packages, such as packages = [\"systemd-sysv\"]"))?;
    let mut packages: Vec<PackageRequest> = Vec::new();
    for item in list.get_ref() {
        let wanted = package::parse(item.get_ref()).map_err(|problem| {
            let message = format!("{:?} in {}: {}", item.get_ref(), section.path("packages"), problem.what);
            section.error(item.span(), message).hint(problem.hint)
        })?;
        match packages.iter().find(|other| other.name == wanted.name) {
            Some(other) if *other == wanted => {}
            Some(_) => {
                let message = format!("{} asks for {} in two ways", section.path("packages"), wanted.name);
                return Err(section.error(item.span(), message).hint("keep one of the two"));
            }
            None => packages.push(wanted),
        }
    }
    Ok(packages)
}

fn priorities(section: &Section<'_>) -> Result<Vec<String>> {
    let Some(list) = section.texts("priority")? else { return Ok(Vec::new()) };
    for item in list.get_ref() {
        if !PRIORITIES.contains(&item.get_ref().as_str()) {
            let message = format!("{:?} is no priority that can be asked for", item.get_ref());
            let hint = did_you_mean(item.get_ref(), PRIORITIES, "priorities");
            return Err(section.error(item.span(), message).hint(hint));
        }
    }
    Ok(list.into_inner().into_iter().map(Spanned::into_inner).collect())
}

fn pins(section: &Section<'_>) -> Result<Vec<Pin>> {
    section.listed_sections("pins", PIN_KEYS)?.iter().map(pin).collect()
}

/// One pin. What stands after its first word is left to the resolver, which knows what it means.
fn pin(section: &Section<'_>) -> Result<Pin> {
    let needed = |key: &str, example: &str| -> Result<Spanned<String>> {
        let text = section.text(key)?.filter(|text| !text.get_ref().trim().is_empty());
        text.ok_or_else(|| section.incomplete(format!("needs {key}, such as {key} = {example:?}")))
    };
    let package = needed("package", "*")?;
    let pin = needed("pin", "release n=bookworm-backports")?;
    let priority = section.integer("priority")?;
    let priority = priority.ok_or_else(|| section.incomplete("needs priority, such as priority = 500"))?;
    let mut words = pin.get_ref().split_whitespace();
    if !matches!(words.next(), Some("release" | "version" | "origin")) || words.next().is_none() {
        let message = format!("{:?} is no pin", pin.get_ref());
        let hint = "it begins with release, version or origin, as after Pin: in apt_preferences(5)";
        return Err(section.error(pin.span(), message).hint(hint));
    }
    // apt keeps priorities in a signed short, and calls 0 undefined (apt_preferences(5)).
    match i16::try_from(*priority.get_ref()) {
        Ok(number) if number != 0 => {
            Ok(Pin { package: package.into_inner(), pin: pin.into_inner(), priority: number.into() })
        }
        _ => {
            let message = "a pin's priority lies from -32768 to 32767 and is not 0";
            Err(section.error(priority.span(), message))
        }
    }
}
