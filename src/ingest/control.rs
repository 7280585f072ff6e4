//! The control member of a deb: its stanza, its scripts, its lists.

use std::{collections::HashSet, io::Read};

use super::data::{entry_metadata, normal_path};
use crate::{
    artefacts::Metadata,
    debian::deb822,
    error::{Context, Error, Result},
    store::records::Conffile,
};

/// More than this in a control member is no package. The largest in Debian (a kernel's or a
/// locale's templates, symbols of large libraries) have a few MiB.
pub(super) const SIZE_LIMIT: u64 = 64 << 20;

/// dpkg refuses longer names of control files (`MAXCONTROLFILENAME` in dpkg.h).
const NAME_LIMIT: usize = 100;

/// Maintainer scripts (deb-control(5) and its kin; `config` is debconf's, debconf-devel(7)).
const SCRIPTS: [&str; 5] = ["config", "postinst", "postrm", "preinst", "prerm"];

/// A control member.
pub(super) struct Control {
    /// Its files, sorted by name: name, metadata, content.
    pub(super) files: Vec<(String, Metadata, Vec<u8>)>,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
    /// What the package's files in dpkg's info folder begin with.
    pub(super) info_name: String,
    /// The control file.
    pub(super) stanza: String,
    pub(super) conffiles: Vec<Conffile>,
    /// The triggers file.
    pub(super) triggers: String,
}

impl Control {
    /// Reads the member's tar.
    pub(super) fn read(member: &mut impl Read) -> Result<Self> {
        let mut files: Vec<(String, Metadata, Vec<u8>)> = Vec::new();
        let mut archive = tar::Archive::new(member.take(SIZE_LIMIT));
        for entry in archive.entries().context("control member")? {
            let mut entry = entry.context("control member")?;
            let name = normal_path(&entry.path_bytes()).context("control member")?;
            let kind = entry.header().entry_type();
            if kind.is_dir() && name.is_empty() {
                continue;
            }
            if !kind.is_file() || name.contains('/') || name.is_empty() {
                return Err(Error::input(format!("control member: {name:?} is not a file at its top")));
            }
            if name.len() > NAME_LIMIT {
                return Err(Error::input(format!("control member: the name {name:?} is too long")));
            }
            if files.iter().any(|(other, ..)| *other == name) {
                return Err(Error::input(format!("control member: {name} is there twice")));
            }
            let metadata = entry_metadata(&mut entry)?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content).with_context(|| format!("control member: {name}"))?;
            files.push((name, metadata, content));
        }
        if archive.into_inner().limit() == 0 {
            return Err(Error::input(format!("control member: more than {SIZE_LIMIT} bytes")));
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        Control::of(files)
    }

    /// Takes its files, sorted by name.
    pub(super) fn of(files: Vec<(String, Metadata, Vec<u8>)>) -> Result<Self> {
        let text = |name: &str| -> Result<Option<String>> {
            let Some((_, _, content)) = files.iter().find(|(n, ..)| n == name) else { return Ok(None) };
            String::from_utf8(content.clone())
                .map(Some)
                .map_err(|_| Error::input(format!("control member: {name} is not UTF-8")))
        };
        let stanza =
            text("control")?.ok_or_else(|| Error::input("control member: it has no control file"))?;
        let parsed =
            deb822::parse(&stanza).map_err(|error| Error::input(format!("control file: {error}")))?;
        let [(_, parsed)] = parsed.as_slice() else {
            return Err(Error::input(format!("control file: {} stanzas instead of one", parsed.len())));
        };
        let field = |name: &str| match parsed.get(name) {
            Some(value) if !value.is_empty() && !value.contains(['\n', '/', ' ']) => Ok(value.to_owned()),
            Some(value) => Err(Error::input(format!("control file: {name} is {value:?}"))),
            None => Err(Error::input(format!("control file: no field {name}"))),
        };
        let (name, architecture) = (field("Package")?, field("Architecture")?);
        let info_name = match parsed.get("Multi-Arch") {
            Some(value) if value.eq_ignore_ascii_case("same") => format!("{name}:{architecture}"),
            _ => name.clone(),
        };
        let conffiles = parse_conffiles(&text("conffiles")?.unwrap_or_default())?;
        let triggers = text("triggers")?.unwrap_or_default();
        let version = field("Version")?;
        Ok(Control { files, name, version, architecture, info_name, stanza, conffiles, triggers })
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(n, ..)| n == name)
    }

    /// Which maintainer scripts there are, sorted.
    pub(super) fn scripts(&self) -> Vec<String> {
        SCRIPTS.iter().filter(|script| self.has(script)).map(|script| (*script).to_owned()).collect()
    }
}

impl Control {
    /// If the preinst script says `dpkg-divert`: which paths of `list` (a `.list` file) it names as well.
    /// What it does with them only running it can tell.
    pub(super) fn diverts(&self, list: &str) -> Option<Vec<String>> {
        let (_, _, preinst) = self.files.iter().find(|(name, ..)| name == "preinst")?;
        let preinst = String::from_utf8_lossy(preinst);
        let is_part = |c: char| c.is_alphanumeric() || "._+-".contains(c);
        // A template's comments (in ucf, say) do nothing.
        let code = preinst.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words: HashSet<&str> =
            code.flat_map(|line| line.split(|c| !is_part(c))).map(|word| word.trim_matches('.')).collect();
        if !words.contains("dpkg-divert") {
            return None;
        }
        let is_named = |path: &&str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            // Scripts put suffixes to names: `/usr/share/man/man1/$name.1.gz`.
            let plain = name.strip_suffix(".gz").unwrap_or(name);
            let stem = plain.rsplit_once('.').map_or(plain, |(stem, _)| stem);
            [name, plain, stem].iter().any(|name| !name.trim_matches('.').is_empty() && words.contains(name))
        };
        let paths = list.lines().map(|line| line.trim_start_matches('/')).filter(is_named);
        Some(paths.map(str::to_owned).collect())
    }
}

/// Reads a conffiles file: an absolute path a line, perhaps after the flag `remove-on-upgrade`
/// (deb-conffiles(5); `deb_parse_conffiles` in dpkg's unpack.c).
fn parse_conffiles(text: &str) -> Result<Vec<Conffile>> {
    let mut conffiles = Vec::new();
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(Error::input("conffiles: the last line has no newline"));
    }
    for line in text.lines() {
        let line = line.trim_end();
        let (remove_on_upgrade, path) = match line.split_once(' ') {
            Some((flag, path)) if !flag.starts_with('/') => (flag == "remove-on-upgrade", path),
            _ => (false, line),
        };
        if line.is_empty() {
            continue;
        }
        let known = remove_on_upgrade || path == line;
        let Some(path) = path.strip_prefix('/').filter(|_| known) else {
            return Err(Error::input(format!("conffiles: not an absolute path: {line:?}")));
        };
        let path = normal_path(path.as_bytes()).context("conffiles")?;
        conffiles.push(Conffile { path, remove_on_upgrade });
    }
    Ok(conffiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_preinst_may_divert() {
        let list = "/.\n/boot\n/sbin/halt\n/usr/share/man/man8/halt.8.gz\n/usr/share/doc/halter\n";
        let of = |preinst: &str| {
            let script = ("preinst".to_owned(), Metadata::default(), preinst.as_bytes().to_vec());
            let stanza = b"Package: a\nVersion: 1\nArchitecture: all\n".to_vec();
            let control = ("control".to_owned(), Metadata::default(), stanza);
            Control::of(vec![control, script]).expect("a control member").diverts(list)
        };
        assert_eq!(of("echo halt"), None);
        assert_eq!(of("dpkg-diverts halt"), None);
        assert_eq!(of("  # dpkg-divert /sbin/halt\nfalse"), None);
        assert_eq!(of("$(dpkg-divert --list)"), Some(vec![]));
        let both = vec!["sbin/halt".to_owned(), "usr/share/man/man8/halt.8.gz".to_owned()];
        assert_eq!(of("for f in halt reboot; do\n\tdpkg-divert \"/sbin/$f\""), Some(both.clone()));
        assert_eq!(of("/usr/bin/dpkg-divert --add --divert /sbin/halt.real /sbin/halt"), Some(both));
    }

    #[test]
    fn conffiles() {
        let parse = |text: &str| -> Result<Vec<(String, bool)>> {
            Ok(parse_conffiles(text)?.into_iter().map(|c| (c.path, c.remove_on_upgrade)).collect())
        };
        for (text, expected) in [
            ("", vec![]),
            ("/etc/a\n/etc/b c  \n", vec![("etc/a", false), ("etc/b c", false)]),
            ("remove-on-upgrade /etc/old\n", vec![("etc/old", true)]),
        ] {
            let parsed = parse(text).expect(text);
            let parsed: Vec<(&str, bool)> =
                parsed.iter().map(|(path, flag)| (path.as_str(), *flag)).collect();
            assert_eq!(parsed, expected, "{text:?}");
        }
        for text in ["/etc/a", "etc/a\n", "strange-flag /etc/a\n", "/etc/../a\n", "/\0\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
