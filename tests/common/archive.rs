//! Archives of tiny debs: Packages, by-hash, Release, signatures; as files in memory, to be
//! served over HTTP or written to a folder.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::common::{
    base,
    key::Key,
    package::{Compression, Deb, Package},
};

/// Path below the archive's URI → content.
pub(crate) type Files = BTreeMap<String, Arc<[u8]>>;

/// Which signatures a suite has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signed {
    /// `InRelease` and `Release.gpg`, as real archives.
    Both,
    /// `InRelease` alone.
    Inline,
    /// `Release` and `Release.gpg` alone.
    Detached,
    /// Neither.
    Not,
}

/// One suite of an archive, with the single component `main`.
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) debs: Vec<Deb>,
    pub(crate) date: SystemTime,
    pub(crate) valid_until: Option<SystemTime>,
    pub(crate) by_hash: bool,
    pub(crate) signed: Signed,
    /// Which forms of Packages there are.
    pub(crate) indexes: Vec<Compression>,
    /// More lines for the Release file, such as `NotAutomatic: yes`.
    pub(crate) release_fields: String,
}

/// An archive; its suites share a pool and a key.
pub(crate) struct Archive {
    pub(crate) key: Key,
    pub(crate) architecture: String,
    pub(crate) suites: Vec<Suite>,
}

impl Suite {
    /// A suite dated an hour ago, valid for a week, signed in both ways.
    pub(crate) fn new(name: &str, debs: Vec<Deb>) -> Self {
        let now = SystemTime::now();
        Suite {
            name: name.to_owned(),
            debs,
            date: now - Duration::from_secs(3600),
            valid_until: Some(now + Duration::from_secs(7 * 86400)),
            by_hash: true,
            signed: Signed::Both,
            indexes: vec![Compression::None, Compression::Gzip, Compression::Xz],
            release_fields: String::new(),
        }
    }
}

impl Archive {
    /// An archive with the suite `mini`: the packages of `text` beside a minimal Debian.
    pub(crate) fn with_base(text: &str) -> Self {
        let mut archive = Archive::without_base(text);
        archive.suites[0].debs.extend(base::debs().iter().cloned());
        archive
    }

    /// An archive with the suite `mini`: the packages of `text` alone.
    pub(crate) fn without_base(text: &str) -> Self {
        let debs = Package::parse_all(text).iter().map(Package::build).collect();
        Archive {
            key: Key::new("Miniature archive <archive@mirror.example>"),
            architecture: base::architecture().to_owned(),
            suites: vec![Suite::new("mini", debs)],
        }
    }

    /// The suite `mini`.
    pub(crate) fn suite(&mut self) -> &mut Suite {
        &mut self.suites[0]
    }

    /// Adds a deb to the suite `mini`.
    pub(crate) fn add(&mut self, deb: Deb) -> &mut Self {
        self.suite().debs.push(deb);
        self
    }

    /// All files of the archive.
    pub(crate) fn publish(&self) -> Files {
        let mut files = Files::new();
        for suite in &self.suites {
            for deb in &suite.debs {
                files.insert(pool_path(deb), deb.bytes.clone());
            }
            self.publish_suite(suite, &mut files);
        }
        files
    }

    fn publish_suite(&self, suite: &Suite, files: &mut Files) {
        let dists = format!("dists/{}", suite.name);
        let packages: String = suite.debs.iter().map(stanza).collect();
        let mut hashes = String::new();
        for compression in &suite.indexes {
            let suffix = match compression {
                Compression::None => "",
                Compression::Gzip => ".gz",
                Compression::Xz => ".xz",
                Compression::Zstd => ".zst",
            };
            let folder = format!("main/binary-{}", self.architecture);
            let data: Arc<[u8]> = compression.compress(packages.as_bytes()).into();
            let hash = sha256(&data);
            writeln!(hashes, " {hash} {} {folder}/Packages{suffix}", data.len()).expect("memory");
            if suite.by_hash {
                files.insert(format!("{dists}/{folder}/by-hash/SHA256/{hash}"), data.clone());
            }
            files.insert(format!("{dists}/{folder}/Packages{suffix}"), data);
        }
        let mut release = format!(
            "Origin: Miniature\nLabel: Miniature\nSuite: {0}\nCodename: {0}\nDate: {1}\n",
            suite.name,
            rfc_date(suite.date)
        );
        if let Some(until) = suite.valid_until {
            writeln!(release, "Valid-Until: {}", rfc_date(until)).expect("memory");
        }
        if suite.by_hash {
            release.push_str("Acquire-By-Hash: yes\n");
        }
        release.push_str(&suite.release_fields);
        write!(release, "Architectures: {}\nComponents: main\nSHA256:\n{hashes}", self.architecture)
            .expect("memory");
        if matches!(suite.signed, Signed::Both | Signed::Inline) {
            files.insert(format!("{dists}/InRelease"), self.key.sign_clear(&release).into());
        }
        if matches!(suite.signed, Signed::Both | Signed::Detached) {
            files.insert(format!("{dists}/Release.gpg"), self.key.sign_detached(&release).into());
        }
        if suite.signed != Signed::Inline {
            files.insert(format!("{dists}/Release"), release.into_bytes().into());
        }
    }
}

/// Where a deb is in the pool.
pub(crate) fn pool_path(deb: &Deb) -> String {
    let name = deb.field("Package");
    format!("pool/main/{}/{name}/{}", &name[..1], deb.file_name())
}

/// A deb's stanza of the Packages index.
fn stanza(deb: &Deb) -> String {
    let mut fields = deb.control.clone();
    fields.push(("Filename".into(), pool_path(deb)));
    fields.push(("Size".into(), deb.bytes.len().to_string()));
    fields.push(("SHA256".into(), sha256(&deb.bytes)));
    for (name, lie) in &deb.lies {
        let truth = fields.iter_mut().find(|(n, _)| n == name);
        truth.unwrap_or_else(|| panic!("no field {name} to lie about")).1 = lie.clone();
    }
    let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    text + "\n"
}

/// Writes an archive's files below a folder, for `file:` URIs and other programs.
pub(crate) fn write(files: &Files, folder: &Path) {
    for (path, data) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a path below the folder")).expect("a writable folder");
        std::fs::write(&path, data).expect("a writable folder");
    }
}

/// The SHA-256 of data, in hexadecimal.
pub(crate) fn sha256(data: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A date as in Release files: `Sat, 21 Nov 2026 12:36:30 UTC`.
pub(crate) fn rfc_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (days, second) = (seconds / 86400, seconds % 86400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!(
        "{}, {:02} {} {year} {:02}:{:02}:{:02} UTC",
        DAYS[(days % 7) as usize],
        day + 1,
        MONTHS[month],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}
