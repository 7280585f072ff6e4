//! A small language for tiny debs.
//!
//! ```text
//! Package: greeter                       a control stanza; Version (1.0), Architecture (all),
//! Depends: dash                          Maintainer and Description are filled in
//!
//! file ./usr/bin/greet 4755 33:33 = #!/bin/sh    what follows `=`, and a newline
//! file ./etc/motd                                … or the indented lines below
//!     Welcome.
//! conffile ./etc/greeter.conf = greeting=hello   a file that DEBIAN/conffiles names too
//! folder ./var/lib/greeter 2750 0:42
//! symlink ./usr/bin/hi -> greet
//! link ./usr/bin/greet2 -> ./usr/bin/greet       a hard link to a member before it
//! character-device|block-device|fifo ./dev/x     what no deb should have
//! xattr user.note ./usr/bin/greet = text         of a member before it; dpkg refuses such debs
//! script postinst                                gets `#!/bin/sh` and `set -e` before it
//!     echo configured >/var/lib/greeter/state
//! control triggers                               any other control file
//!     interest-noawait /usr/share/greetings
//! compress xz                                    none, gz, xz, zst: of data and control
//! bare                                           no parent folders are added
//! ```
//!
//! Several packages may follow each other in one text: each begins with `Package:`.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, sync::Arc};

use crate::common::tarball::{Kind, Member, ar, tar};

/// A finished deb.
#[derive(Clone, Debug)]
pub(crate) struct Deb {
    /// Its control fields, in order.
    pub(crate) control: Vec<(String, String)>,
    pub(crate) bytes: Arc<[u8]>,
    /// Fields of its Packages stanza that are not the truth (`Size`, `SHA256`, …).
    pub(crate) lies: Vec<(String, String)>,
}

impl Deb {
    /// A control field that must be there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let found = self.control.iter().find(|(n, _)| n == name);
        &found.unwrap_or_else(|| panic!("no field {name} in {:?}", self.control)).1
    }

    /// `name_version_architecture.deb`, the epoch left out.
    pub(crate) fn file_name(&self) -> String {
        let version = self.field("Version");
        let version = version.split_once(':').map_or(version, |(_, rest)| rest);
        format!("{}_{version}_{}.deb", self.field("Package"), self.field("Architecture"))
    }
}

/// How a deb's tars are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Xz => ".xz",
            Compression::Zstd => ".zst",
        }
    }

    pub(crate) fn compress(self, data: &[u8]) -> Vec<u8> {
        match self {
            Compression::None => data.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).expect("memory");
                encoder.finish().expect("memory")
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(data).expect("memory");
                encoder.finish().expect("memory")
            }
            Compression::Zstd => zstd::encode_all(data, 1).expect("memory"),
        }
    }
}

/// A package that is being described.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) control: Vec<(String, String)>,
    pub(crate) members: Vec<Member>,
    /// Control files but `control` and `conffiles`: name → (mode, content).
    pub(crate) control_files: BTreeMap<String, (u32, Vec<u8>)>,
    pub(crate) conffiles: Vec<String>,
    pub(crate) compression: Compression,
    /// Whether parent folders of members are left out.
    pub(crate) bare: bool,
}

impl Package {
    /// A package of one name, without files.
    pub(crate) fn named(name: &str) -> Self {
        Package {
            control: vec![("Package".into(), name.into())],
            members: Vec::new(),
            control_files: BTreeMap::new(),
            conffiles: Vec::new(),
            compression: Compression::Gzip,
            bare: false,
        }
    }

    /// Adds or replaces a control field.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        match self.control.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.control.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Reads one package from text; panics on a mistake in it, naming the line.
    pub(crate) fn parse(text: &str) -> Self {
        let mut packages = Package::parse_all(text);
        assert_eq!(packages.len(), 1, "one package expected in {text:?}");
        packages.remove(0)
    }

    /// Reads packages from text; panics on a mistake in it, naming the line.
    pub(crate) fn parse_all(text: &str) -> Vec<Self> {
        let mut packages: Vec<Package> = Vec::new();
        let lines: Vec<&str> = text.lines().collect();
        // the source code's own indentation is not part of the text
        let margin =
            lines.iter().filter(|l| !l.trim().is_empty()).map(|l| l.len() - l.trim_start().len()).min();
        let mut lines = lines.iter().map(|line| line.get(margin.unwrap_or(0)..).unwrap_or("")).peekable();
        while let Some(line) = lines.next() {
            if line.trim().is_empty() {
                continue;
            }
            let mut block = String::new();
            while let Some(indented) = lines.peek().and_then(|next| next.strip_prefix("    ")) {
                writeln!(block, "{indented}").expect("memory");
                lines.next();
            }
            let block = (!block.is_empty()).then_some(block);
            if let Some(name) = line.strip_prefix("Package: ") {
                packages.push(Package::named(name.trim()));
                continue;
            }
            let package = packages.last_mut().expect("text that begins with Package:");
            package.line(line, block).unwrap_or_else(|| panic!("a mistake in the line {line:?}"));
        }
        packages
    }

    fn line(&mut self, line: &str, block: Option<String>) -> Option<()> {
        if line.starts_with(|c: char| c.is_ascii_uppercase()) {
            let (name, value) = line.split_once(':')?;
            let value = [value.trim(), block.as_deref().unwrap_or("")].join("\n ");
            self.set(name, value.trim_end());
            return Some(());
        }
        let (head, content) = match line.split_once(" = ") {
            Some((head, content)) => (head, Some(format!("{content}\n"))),
            None => (line, block),
        };
        let (head, target) = match head.split_once(" -> ") {
            Some((head, target)) => (head, Some(target)),
            None => (head, None),
        };
        let words: Vec<&str> = head.split_whitespace().collect();
        let (&directive, words) = words.split_first()?;
        let kind = match directive {
            "file" | "conffile" => Kind::File,
            "folder" => Kind::Folder,
            "symlink" => Kind::Symlink,
            "link" => Kind::HardLink,
            "character-device" => Kind::CharacterDevice,
            "block-device" => Kind::BlockDevice,
            "fifo" => Kind::Fifo,
            "bare" => {
                self.bare = true;
                return Some(());
            }
            "compress" => {
                self.compression = match *words.first()? {
                    "none" => Compression::None,
                    "gz" => Compression::Gzip,
                    "xz" => Compression::Xz,
                    "zst" => Compression::Zstd,
                    _ => return None,
                };
                return Some(());
            }
            "script" => {
                let script = format!("#!/bin/sh\nset -e\n{}", content?);
                self.control_files.insert((*words.first()?).to_owned(), (0o755, script.into_bytes()));
                return Some(());
            }
            "control" => {
                self.control_files.insert((*words.first()?).to_owned(), (0o644, content?.into_bytes()));
                return Some(());
            }
            "xattr" => {
                let member = self.members.iter_mut().find(|member| member.name == words[1])?;
                member.xattrs.push((words[0].to_owned(), content?.trim_end().as_bytes().to_vec()));
                return Some(());
            }
            _ => return None,
        };
        let name = *words.first()?;
        let default_mode = match kind {
            Kind::Folder => 0o755,
            Kind::Symlink => 0o777,
            _ if name.contains("/bin/") || name.contains("/sbin/") => 0o755,
            _ => 0o644,
        };
        let mut member = Member::new(kind, name, default_mode);
        for word in &words[1..] {
            match word.split_once(':') {
                Some((uid, gid)) => (member.uid, member.gid) = (uid.parse().ok()?, gid.parse().ok()?),
                None => member.mode = u32::from_str_radix(word, 8).ok()?,
            }
        }
        member.target = target.unwrap_or_default().to_owned();
        member.data = content.unwrap_or_default().into_bytes();
        if directive == "conffile" {
            self.conffiles.push(name.strip_prefix('.')?.to_owned());
        }
        self.members.push(member);
        Some(())
    }

    /// The data members, with the folders that lead to them unless the package is bare.
    fn data_members(&self) -> Vec<Member> {
        if self.bare {
            return self.members.clone();
        }
        let mut out = vec![Member::new(Kind::Folder, "./", 0o755)];
        let known = |out: &[Member], name: &str| {
            let name = name.trim_end_matches('/');
            out.iter()
                .chain(&self.members)
                .any(|m| m.kind != Kind::File && m.name.trim_end_matches('/') == name)
        };
        for member in &self.members {
            for (index, _) in member.name.match_indices('/').skip(1) {
                let parent = &member.name[..index];
                if !known(&out, parent) {
                    out.push(Member::new(Kind::Folder, &format!("{parent}/"), 0o755));
                }
            }
            let mut member = member.clone();
            if member.kind == Kind::Folder && !member.name.ends_with('/') {
                member.name.push('/');
            }
            out.push(member);
        }
        out
    }

    /// The control fields with what every package needs.
    fn complete_control(&self) -> Vec<(String, String)> {
        let mut package = self.clone();
        let defaults = [
            ("Version", "1.0"),
            ("Architecture", "all"),
            ("Maintainer", "Nobody <nobody@mirror.example>"),
            ("Description", "a package of the tests"),
        ];
        for (name, value) in defaults {
            if !self.control.iter().any(|(n, _)| n == name) {
                package.set(name, value);
            }
        }
        package.control
    }

    /// The deb.
    pub(crate) fn build(&self) -> Deb {
        self.build_with(|_| {})
    }

    /// The deb, its uncompressed data tar changed by `tamper` before it is packed.
    pub(crate) fn build_with(&self, tamper: impl FnOnce(&mut Vec<u8>)) -> Deb {
        let control = self.complete_control();
        let text: String = control.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let mut files = vec![("control".to_owned(), (0o644, text.into_bytes()))];
        if !self.conffiles.is_empty() {
            files.push(("conffiles".into(), (0o644, (self.conffiles.join("\n") + "\n").into_bytes())));
        }
        files.extend(self.control_files.clone());
        let mut members = vec![Member::new(Kind::Folder, "./", 0o755)];
        for (name, (mode, data)) in files {
            members.push(Member { data, ..Member::new(Kind::File, &format!("./{name}"), mode) });
        }
        let mut data = tar(&self.data_members());
        tamper(&mut data);
        // dpkg knows control.tar.zst since 1.21.18; every one knows control.tar.xz
        let bytes = ar(&[
            ("debian-binary", b"2.0\n"),
            (
                &format!("control.tar{}", self.compression.suffix()),
                &self.compression.compress(&tar(&members)),
            ),
            (&format!("data.tar{}", self.compression.suffix()), &self.compression.compress(&data)),
        ]);
        Deb { control, bytes: bytes.into(), lies: Vec::new() }
    }
}
