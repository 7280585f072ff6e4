//! The text of a `build.ninja`: one edge a stage and image, for builds that ninja(1) drives.
//!
//! Pure: it is told what there is and reads nothing. ninja compares times, so each edge has true inputs
//! and outputs, and `restat`: treestrap leaves an output alone that would come out as it is, and what
//! depends on it is then not run.
//!
//! ```text
//! IMAGE.lock ─fetch─▶ IMAGE.fetched ─compose─▶ REPO/refs/…/unpacked ─┬─configure─▶ REPO/refs/…/configured ─export─▶ IMAGE.tar
//!                                                  preseed file ─────┘
//! ```
//!
//! What the manifest says beside files (answers for debconf, the policy of identities) is in the
//! edge's command, as a digest: an image is made again where its own part changed, and no other is.

use std::fmt::Write;

use crate::{
    Error, Result,
    artefacts::StageTwo,
    digest::Sha256,
    store::records::{configured_reference, unpacked_reference},
};

/// Rules of a `subninja` are its own since 1.6 (ninja's manual, "Evaluation and scoping").
const REQUIRED_VERSION: &str = "1.6";

/// What a text is made of. Paths are relative to where ninja runs, or absolute.
#[derive(Clone, Debug)]
pub struct Description {
    /// The command: the program and the options that stand before any verb.
    pub treestrap: Vec<String>,
    /// The words after these that write the text again.
    pub again: Vec<String>,
    /// Where the text goes.
    pub output: String,
    /// The files that it is made from: the manifest, the program.
    pub sources: Vec<String>,
    /// The repository.
    pub repo: String,
    /// The manifest's folder; empty for the current one.
    pub folder: String,
    /// Where tar files of the images go, if they are wanted.
    pub tars: Option<String>,
    /// Whether the text is part of another one (`subninja`).
    pub is_fragment: bool,
    /// Options of stage 2.
    pub options: Vec<String>,
    /// The images.
    pub images: Vec<ImageDescription>,
}

/// What of an image matters to ninja.
#[derive(Clone, Debug)]
pub struct ImageDescription {
    /// Its name.
    pub name: String,
    /// Its lock.
    pub lock: String,
    /// Its file of answers and those of the images that it continues from.
    pub preseeds: Vec<String>,
    /// The image that it continues from.
    pub base: Option<String>,
    /// The digest of what else its configured tree is made from.
    pub settings: Sha256,
}

/// The text.
///
/// # Errors
/// `Kind::Input` for a path that ninja's syntax has no way to write.
pub fn text(description: &Description) -> Result<String> {
    let mut text = header(description)?;
    rules(description, &mut text)?;
    let sources = description.sources.iter().map(|source| path(source)).collect::<Result<Vec<_>>>()?;
    edge(&mut text, &path(&description.output)?, "treestrap_ninja", &sources.join(" "), &[]);
    let mut images = Vec::new();
    for image in &description.images {
        images.extend(edges(description, image, &mut text)?);
    }
    // One run reads each index once, and compares the locks when all have moved.
    let names: Vec<&str> = description.images.iter().map(|image| image.name.as_str()).collect();
    let all = path(&in_folder(description, "update-locks"))?;
    edge(&mut text, &all, "treestrap_update_lock", "", &[("image", &names.join(" "))]);
    if !description.is_fragment {
        // In a fragment it would replace what the build around it makes when nothing is named.
        let _ = writeln!(text, "\ndefault {}", images.join(" "));
    }
    Ok(text)
}

fn header(description: &Description) -> Result<String> {
    let mut text = format!(
        "# Made by treestrap ninja. A change here is lost: change the manifest, or the command below.\n\
         ninja_required_version = {REQUIRED_VERSION}\n"
    );
    if !description.is_fragment {
        let _ = writeln!(text, "builddir = {}", value(&in_folder(description, FOLDER))?);
    }
    let _ = writeln!(text, "treestrap = {}", command(&description.treestrap)?);
    Ok(text)
}

/// Beside the manifest: ninja's log and [`stamp`]s.
const FOLDER: &str = ".treestrap/ninja";

fn in_folder(description: &Description, name: &str) -> String {
    match description.folder.as_str() {
        "" => name.to_owned(),
        folder => format!("{}/{name}", folder.trim_end_matches('/')),
    }
}

/// What says that an image's packages are in the repository, and which they are.
fn stamp(description: &Description, image: &ImageDescription) -> String {
    in_folder(description, &format!("{FOLDER}/{}.fetched", image.name))
}

fn reference(description: &Description, reference: &str) -> Result<String> {
    path(&format!("{}/refs/heads/{reference}", description.repo.trim_end_matches('/')))
}

fn rules(description: &Description, text: &mut String) -> Result<()> {
    let (again, options) = (command(&description.again)?, command(&description.options)?);
    let space = if options.is_empty() { "" } else { " " };
    let configure = format!("--quiet --offline build{space}{options} $image # $settings");
    // A rule of a generator is not run because its command changed, nor are its outputs cleaned away:
    // a lock is for version control. The console is one at a time, which suits the network, and shows
    // how far a download is; the other edges run side by side, and tell what is wrong alone.
    const GENERATOR: &str = "generator = 1";
    const RESTAT: &str = "restat = 1";
    const CONSOLE: &str = "pool = console";
    for (name, words, description, more) in [
        ("ninja", again.as_str(), "treestrap ninja: $out", &[GENERATOR, RESTAT][..]),
        ("lock", "lock $image", "lock $image", &[GENERATOR, RESTAT, CONSOLE]),
        ("update_lock", "lock --update $image", "lock --update $image", &[CONSOLE]),
        ("fetch", "fetch --stamp $out $image", "fetch $image", &[RESTAT, CONSOLE]),
        ("compose", "--quiet compose $image", "compose $image", &[RESTAT]),
        ("configure", &configure, "configure $image", &[RESTAT]),
        ("export", "--quiet export $image --tar $out", "export $image to $out", &[]),
    ] {
        let _ = write!(
            text,
            "\nrule treestrap_{name}\n  command = $treestrap {words}\n  description = {description}\n"
        );
        more.iter().for_each(|line| *text += &format!("  {line}\n"));
    }
    Ok(())
}

/// The edges of an image; gives what is made of it in the end.
fn edges(description: &Description, image: &ImageDescription, text: &mut String) -> Result<Vec<String>> {
    let name = image.name.as_str();
    let named = [("image", name)];
    let lock = path(&image.lock)?;
    let stamp = path(&stamp(description, image))?;
    let unpacked = reference(description, &unpacked_reference(name))?;
    let configured = reference(description, &configured_reference(name))?;
    let alias = |what: &str| path(&in_folder(description, &format!("{what}-{name}")));
    text.push('\n');
    // No inputs: a lock that is there is used as it is, whatever the manifest says by now.
    // One process finishes what several images continue from, and makes its lock.
    let base = description.images.iter().find(|other| Some(&other.name) == image.base.as_ref());
    let after = |path: Option<String>| path.map_or(String::new(), |path| format!("|| {path}"));
    let base_lock = base.map(|base| path(&base.lock)).transpose()?;
    let base_tree = base.map(|base| reference(description, &configured_reference(&base.name))).transpose()?;
    edge(text, &lock, "treestrap_lock", &after(base_lock), &named);
    edge(text, &alias("update-lock")?, "treestrap_update_lock", "", &named);
    edge(text, &stamp, "treestrap_fetch", &lock, &named);
    edge(text, &unpacked, "treestrap_compose", &stamp, &named);
    let mut inputs = vec![unpacked.clone()];
    inputs.extend(image.preseeds.iter().map(|preseed| path(preseed)).collect::<Result<Vec<_>>>()?);
    inputs.extend(Some(after(base_tree)).filter(|after| !after.is_empty()));
    let inputs = inputs.join(" ");
    let settings = image.settings.to_string();
    edge(text, &configured, "treestrap_configure", &inputs, &[("image", name), ("settings", &settings)]);
    edge(text, &alias("unpacked")?, "phony", &unpacked, &[]);
    edge(text, &alias("image")?, "phony", &configured, &[]);
    let mut made = vec![configured.clone()];
    if let Some(folder) = &description.tars {
        let tar = path(&format!("{}/{name}.tar", folder.trim_end_matches('/')))?;
        edge(text, &tar, "treestrap_export", &configured, &named);
        made.push(tar);
    }
    Ok(made)
}

/// Writes a build statement; paths are escaped already, and so are values, which are plain words.
fn edge(text: &mut String, output: &str, rule: &str, inputs: &str, variables: &[(&str, &str)]) {
    let space = if inputs.is_empty() { "" } else { " " };
    let _ = writeln!(text, "build {output}: {rule}{space}{inputs}");
    for (name, value) in variables {
        let _ = writeln!(text, "  {name} = {value}");
    }
}

/// A path in a build statement.
fn path(text: &str) -> Result<String> {
    // `|` ends a path (ninja's manual, "Lexical syntax"), and there is no escape for it.
    if text.is_empty() || text.contains(['|', '\n', '\r', '\0']) {
        return Err(Error::input(format!("ninja has no way to write the path {text:?}"))
            .hint("use a path without | and line breaks"));
    }
    Ok(text.replace('$', "$$").replace(' ', "$ ").replace(':', "$:"))
}

/// A variable's value.
fn value(text: &str) -> Result<String> {
    if text.contains(['\n', '\r', '\0']) {
        return Err(Error::input(format!("ninja has no way to write {text:?}"))
            .hint("use a path without line breaks"));
    }
    Ok(text.replace('$', "$$"))
}

/// Words of a command as a shell takes them apart again.
fn command(words: &[String]) -> Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    let words = words.iter().map(|word| match !word.is_empty() && word.chars().all(is_plain) {
        true => Ok(word.clone()),
        false => value(&format!("'{}'", word.replace('\'', r"'\''"))),
    });
    Ok(words.collect::<Result<Vec<_>>>()?.join(" "))
}

/// Options of stage 2 as they are on the command line.
pub fn options(options: &StageTwo) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    for (name, value) in
        [("--tier", &options.tier), ("--view", &options.view), ("--accelerate", &options.accelerate)]
    {
        value.iter().for_each(|value| add(name, value));
    }
    options.require.iter().for_each(|what| add("--require", what));
    let limits = &options.limits;
    let time = limits.time.map(|time| time.as_secs());
    for (name, limit) in [("processes", limits.processes), ("memory", limits.memory), ("time", time)] {
        limit.iter().for_each(|limit| add("--limit", &format!("{name}={limit}")));
    }
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::artefacts::Limits;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn description() -> Description {
        Description {
            treestrap: words("treestrap --manifest treestrap.toml"),
            again: words("ninja -o build.ninja"),
            output: "build.ninja".into(),
            sources: words("treestrap.toml"),
            repo: ".treestrap/repo".into(),
            folder: String::new(),
            tars: None,
            is_fragment: false,
            options: Vec::new(),
            images: vec![ImageDescription {
                name: "board".into(),
                lock: "board.lock".into(),
                preseeds: Vec::new(),
                base: None,
                settings: Sha256::of(b"settings"),
            }],
        }
    }

    /// The build statements of a text.
    fn statements(text: &str) -> Vec<&str> {
        text.lines().filter(|line| line.starts_with("build ") || line.starts_with("default ")).collect()
    }

    #[test]
    fn one_edge_a_stage_and_image() {
        let whole = text(&description()).expect("a text");
        let refs = ".treestrap/repo/refs/heads/deb/images/board";
        assert_eq!(
            statements(&whole),
            [
                "build build.ninja: treestrap_ninja treestrap.toml",
                "build board.lock: treestrap_lock",
                "build update-lock-board: treestrap_update_lock",
                "build .treestrap/ninja/board.fetched: treestrap_fetch board.lock",
                &format!("build {refs}/unpacked: treestrap_compose .treestrap/ninja/board.fetched"),
                &format!("build {refs}/configured: treestrap_configure {refs}/unpacked"),
                &format!("build unpacked-board: phony {refs}/unpacked"),
                &format!("build image-board: phony {refs}/configured"),
                "build update-locks: treestrap_update_lock",
                &format!("default {refs}/configured"),
            ]
        );
        assert!(whole.contains("\nbuilddir = .treestrap/ninja\n"), "{whole}");
        assert!(whole.contains(&format!("\n  settings = {}\n", Sha256::of(b"settings"))), "{whole}");
    }

    #[test]
    fn a_fragment_leaves_the_build_around_it_alone() {
        let fragment = text(&Description {
            is_fragment: true,
            folder: "boards".into(),
            tars: Some("out".into()),
            ..description()
        })
        .expect("a text");
        for absent in ["\ndefault ", "\nbuilddir "] {
            assert!(!fragment.contains(absent), "{absent:?} in {fragment}");
        }
        for there in [
            "\nbuild boards/update-locks: treestrap_update_lock\n  image = board\n",
            "\nbuild boards/.treestrap/ninja/board.fetched: ",
            "\nbuild out/board.tar: treestrap_export .treestrap/repo/refs/heads/deb/images/board/configured\n",
        ] {
            assert!(fragment.contains(there), "{there:?} is not in {fragment}");
        }
    }

    #[test]
    fn names_come_through_ninja_and_the_shell() {
        for (name, escaped) in
            [("plain/path", "plain/path"), ("a b", "a$ b"), ("c:d", "c$:d"), ("$e", "$$e"), ("é'", "é'")]
        {
            assert_eq!(path(name).expect("a path"), escaped);
        }
        for bad in ["", "a|b", "a\nb", "a\rb"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        let words = ["plain-1.0/=:,", "", "a b", "it's", "$HOME"].map(str::to_owned);
        assert_eq!(command(&words).expect("words"), r"plain-1.0/=:, '' 'a b' 'it'\''s' '$$HOME'");
        assert!(command(&["a\nb".to_owned()]).is_err());
    }

    #[test]
    fn options_are_those_of_the_command_line() {
        assert!(options(&StageTwo::default()).is_empty());
        let all = StageTwo {
            tier: Some("single".into()),
            view: Some("fuse".into()),
            accelerate: Some("off".into()),
            require: vec!["seccomp".into(), "no-sync".into()],
            limits: Limits { processes: Some(5), memory: Some(1 << 30), time: Some(Duration::from_secs(90)) },
        };
        let line = "--tier single --view fuse --accelerate off --require seccomp --require no-sync \
                    --limit processes=5 --limit memory=1073741824 --limit time=90";
        assert_eq!(options(&all).join(" "), line);
    }
}
