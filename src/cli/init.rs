//! `treestrap init`: a starter manifest that teaches every key.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
};

use clap::Args;

use super::{outcome::Outcome, program::Program};
use crate::{Context, Error, Result, manifest};

/// Write a commented starter manifest
///
/// Writes treestrap.toml (or what --manifest names) with one image and every key explained. A file
/// that is there is never overwritten. On a Debian host the suites are the host's own, so that its
/// apt sources serve them.
///
/// Example:
///   treestrap init board && treestrap build
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The image's name [default: the folder's]
    name: Option<String>,
}

/// The starter, with `@NAME@` in the places that differ.
const STARTER: &str = include_str!("starter.toml");

pub(super) fn run(program: &Program<'_>, arguments: &Arguments) -> Result<u8> {
    let path = &program.global.manifest;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => folder_name(path),
    };
    manifest::check_name(&name)?;
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let text = starter(&name, &Host::read(&os_release));
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.map_err(|error| {
        let exists = error.kind() == ErrorKind::AlreadyExists;
        let error = Error::from(error).context(format!("cannot write {}", path.display()));
        if exists { error.hint("edit it, or name another: `treestrap init --manifest FILE`") } else { error }
    })?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    program.output.outcome(&Outcome::Written { path: path.display().to_string() })?;
    Ok(0)
}

/// The name of the folder that the manifest is in, as far as an image can have it.
fn folder_name(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    match name.trim_matches(['-', '.']) {
        "" => "image".to_owned(),
        name => name.to_owned(),
    }
}

/// What the starter takes from the host.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    /// The codename of its Debian; that of Debian 12 elsewhere.
    codename: String,
    /// Whether that Debian is released, and so has `-updates` and `-security` suites.
    released: bool,
}

impl Host {
    /// From os-release(5). What derives from Debian has archives of its own, and counts as another
    /// system.
    fn read(os_release: &str) -> Self {
        let field = |name: &str| {
            let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| value.trim_matches(['"', '\'']))
        };
        let plain =
            |codename: &&str| !codename.is_empty() && codename.chars().all(|c| c.is_ascii_lowercase());
        match (field("ID"), field("VERSION_CODENAME").filter(plain)) {
            // Testing and unstable have no VERSION_ID.
            (Some("debian"), Some(codename)) => {
                Host { codename: codename.to_owned(), released: field("VERSION_ID").is_some() }
            }
            _ => Host { codename: "bookworm".to_owned(), released: true },
        }
    }
}

/// The starter for an image called `name`.
fn starter(name: &str, host: &Host) -> String {
    let codename = &host.codename;
    let (suites, security) = if host.released {
        let security = format!(
            "[repos.security]\nsuites     = [\"{codename}-security\"]\ncomponents = [\"main\"]\n\
             # uris     = [\"http://mirror.example/debian-security\"]\n\n"
        );
        (format!("\"{codename}\", \"{codename}-updates\""), security)
    } else {
        (format!("\"{codename}\""), String::new())
    };
    STARTER
        .replace("@IMAGE@", name)
        .replace("@SUITES@", &suites)
        .replace("@CODENAME@", codename)
        .replace("@SECURITY@\n", &security)
        .replace("@HOST@", host_architecture())
}

/// Debian's name of the architecture that this program was built for.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "x86" => "i386",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    const BOOKWORM: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n\
                            VERSION_CODENAME=bookworm\nID=debian\n";

    #[test]
    fn hosts() {
        let host = |codename: &str, released| Host { codename: codename.into(), released };
        for (os_release, expected) in [
            (BOOKWORM, host("bookworm", true)),
            ("ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n", host("trixie", true)),
            ("ID=debian\nVERSION_CODENAME=forky\n", host("forky", false)),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04\nVERSION_CODENAME=noble\n", host("bookworm", true)),
            ("", host("bookworm", true)),
            ("ID=debian\nVERSION_CODENAME=\"x\\\"]\"\n", host("bookworm", true)),
        ] {
            assert_eq!(Host::read(os_release), expected, "{os_release}");
        }
    }

    /// Whether a line is a commented `key = value`, and without its `#`.
    fn commented_key(line: &str) -> Option<&str> {
        let line = line.strip_prefix("# ")?;
        let key = line.split_once('=')?.0.trim_end(); // indented: of an example
        (!key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-')).then_some(line)
    }

    #[test]
    fn the_starter_is_a_good_manifest_with_and_without_its_comments() {
        for host in [Host::read(BOOKWORM), Host { codename: "sid".into(), released: false }] {
            let text = starter("board", &host);
            assert!(!text.contains('@'), "a place was not filled:\n{text}");
            let manifest = Manifest::parse(Path::new("treestrap.toml"), &text).expect("a good manifest");
            let [image] = manifest.images.as_slice() else { panic!("one image:\n{text}") };
            assert_eq!(image.request.image, "board");
            assert!(image.request.repositories.iter().all(|r| r.suites[0].starts_with(&host.codename)));

            // `trusted` is the one key that contradicts another (signed-by).
            let uncommented: Vec<&str> = text
                .lines()
                .map(|line| commented_key(line).filter(|line| !line.starts_with("trusted")).unwrap_or(line))
                .collect();
            let uncommented = uncommented.join("\n");
            let manifest = Manifest::parse(Path::new("treestrap.toml"), &uncommented)
                .unwrap_or_else(|error| panic!("{error}:\n{uncommented}"));
            let request = &manifest.images[0].request;
            assert!(!request.pins.is_empty() && !request.repositories[0].uris.is_empty());
        }
    }

    #[test]
    fn the_starter_teaches_every_key() {
        let text = starter("board", &Host::read(BOOKWORM));
        for key in [
            "suites",
            "components",
            "uris",
            "signed-by",
            "check-valid-until",
            "trusted",
            "arch",
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
        ] {
            let taught = |line: &str| {
                let line = commented_key(line).unwrap_or(line);
                line.split_once('=').is_some_and(|(name, _)| name.trim() == key)
            };
            assert!(text.lines().any(taught), "{key} is not taught");
        }
        // In an image of its own.
        let (_, another) = text.split_once("#   [images.board-debug]\n").expect("another image");
        let another = format!("{text}\n[images.another]\n{}", another.replace("#   ", ""));
        let manifest = Manifest::parse(Path::new("treestrap.toml"), &another).expect("a good manifest");
        assert_eq!(manifest.images[1].request.from.as_deref(), Some("board"));
    }

    #[test]
    fn names_of_folders() {
        for (path, name) in [
            ("/srv/board/treestrap.toml", "board"),
            ("/srv/My Board (2)/treestrap.toml", "My-Board--2"),
            ("/srv/.hidden/treestrap.toml", "hidden"),
            ("/treestrap.toml", "image"),
            ("/é/treestrap.toml", "image"),
        ] {
            let found = folder_name(Path::new(path));
            assert_eq!(found, name);
            assert!(manifest::check_name(&found).is_ok());
        }
    }
}
