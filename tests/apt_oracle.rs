//! The resolver against apt: the same requests on the same indexes must give the same packages.
//!
//! apt itself downloads and verifies the indexes, from the mirrors that this machine's own apt
//! sources name, into a folder of this test's; then `apt-get -s install`, with an empty dpkg
//! status and none of the machine's configuration, is asked for each request of [`SCENARIOS`].
//!
//! * `cargo test --test apt_oracle`: a subset, within about a minute once the indexes are there;
//! * `TREESTRAP_ORACLE=full`: all of it, printed as the Markdown table of docs/resolver.md;
//! * `TREESTRAP_ORACLE_CACHE=DIR`: where the indexes are kept between runs;
//! * `TREESTRAP_TESTS_MUST_RUN=archive`: fail instead of skipping without apt or its sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use treestrap::{
    artefacts::{Constraint, PackageRequest, Pin, Request},
    debian::{deb822, release::Release},
    lock::{index::Index, resolve},
};

/// Indexes, and what is asked of them.
struct Scenario {
    name: &'static str,
    suites: &'static str,
    security: &'static str,
    architectures: &'static [&'static str],
    requests: &'static [Ask],
}

/// A request: the packages as on apt's command line, and what goes with them.
#[derive(Clone, Copy)]
struct Ask {
    packages: &'static str,
    recommends: bool,
    essential: bool,
    priority: &'static [&'static str],
    pins: &'static [(&'static str, &'static str, i32)],
}

const fn plain(packages: &'static str) -> Ask {
    Ask { packages, recommends: false, essential: true, priority: &[], pins: &[] }
}

const fn recommended(packages: &'static str) -> Ask {
    Ask { recommends: true, ..plain(packages) }
}

const fn bare(packages: &'static str) -> Ask {
    Ask { essential: false, ..plain(packages) }
}

const fn with_priority(packages: &'static str, priority: &'static [&'static str]) -> Ask {
    Ask { priority, ..plain(packages) }
}

const fn pinned(packages: &'static str, pins: &'static [(&'static str, &'static str, i32)]) -> Ask {
    Ask { pins, ..plain(packages) }
}

const EMBEDDED: &str = "systemd-sysv udev dbus openssh-server nginx python3 network-manager \
    ca-certificates sudo rsyslog iproute2 kmod less locales man-db apt usr-is-merged";

/// What exists in every suite, small to large.
const COMMON: &[Ask] = &[
    plain(""),
    plain("apt"),
    with_priority("", &["required"]),
    with_priority("", &["required", "important"]),
    with_priority("", &["required", "important", "standard"]),
    plain(EMBEDDED),
    recommended(EMBEDDED),
    plain("apt systemd-sysv openssh-server python3 nginx"),
    bare("busybox-static"),
    bare("nginx"),
    recommended("task-ssh-server"),
    plain("default-mta"),
    recommended("default-mta bsd-mailx"),
    plain("mail-transport-agent"),
    plain("awk"),
    plain("postfix mailutils"),
    plain("logrotate"),
    recommended("cron"),
    plain("default-jre-headless"),
    recommended("default-jdk"),
    plain("maven"),
    recommended("python3-numpy python3-pip python3-venv"),
    plain("build-essential devscripts"),
    recommended("build-essential debhelper cmake git"),
    plain("gcc g++ gfortran"),
    recommended("texlive-latex-extra"),
    recommended("apache2 libapache2-mod-php php-mysql"),
    plain("postgresql"),
    recommended("mariadb-server"),
    recommended("samba winbind"),
    plain("dovecot-imapd exim4"),
    plain("bind9 isc-dhcp-client"),
    recommended("network-manager wpasupplicant"),
    plain("dracut"),
    plain("initramfs-tools"),
    recommended("xorg"),
    recommended("task-xfce-desktop"),
    recommended("task-lxqt-desktop"),
    recommended("gnome-core"),
    plain("kde-plasma-desktop"),
    recommended("gstreamer1.0-plugins-good gstreamer1.0-tools"),
    plain("firefox-esr"),
    recommended("vim emacs-nox tmux"),
    plain("perl perl-modules-5.99"),
    plain("sysvinit-core"),
    plain("systemd-sysv sysvinit-core"),
    plain("nginx apache2-"),
    recommended("apache2 ssl-cert-"),
    plain("python3 python3-minimal-"),
    recommended("rsyslog logrotate-"),
    plain("dash-"),
    plain("no-such-package"),
    plain("docker.io"),
    recommended("qemu-system-x86"),
    recommended("ruby rails"),
    plain("nodejs npm"),
    recommended("r-base"),
    recommended("octave"),
    plain("golang rustc cargo"),
    plain("libc6-dev linux-libc-dev"),
    recommended("libreoffice-writer"),
    plain("x11-common xterm"),
    recommended("lightdm"),
    plain("virtual-mysql-server"),
    plain("x-terminal-emulator"),
    plain("httpd"),
    plain("java-runtime-headless"),
    recommended("flatpak podman"),
    plain("ntp"),
    plain("systemd-timesyncd chrony"),
    recommended("exim4-daemon-light postfix"),
];

const BOOKWORM: &[Ask] = &[
    plain("linux-image-armmp"),
    plain("linux-image-amd64"),
    plain("linux-image-amd64/bookworm-backports"),
    recommended("systemd/bookworm-backports systemd-sysv"),
    plain("systemd-sysv/bookworm-backports libsystemd0/bookworm-backports"),
    plain("golang-go/bookworm-backports"),
    plain("cockpit/bookworm-backports"),
    plain("nginx/bookworm"),
    plain("openssl/bookworm-security"),
    plain("bash=5.2.15-2+b2"),
    plain("bash=5.2.15-2"),
    plain("bash=5.2*"),
    plain("hello=2.10-3"),
    pinned("cockpit", &[("*", "release n=bookworm-backports", 500)]),
    pinned("systemd-sysv", &[("systemd* libsystemd* libudev* udev", "release a=*-backports", 990)]),
    pinned("nginx openssh-server", &[("*", "release l=Debian-Security", -1)]),
    pinned("nginx", &[("nginx-common", "version 0*", 1001), ("nginx-common", "release n=bookworm", -1)]),
];

const MULTIARCH: &[Ask] = &[
    plain("libc6:i386"),
    plain("wine wine32:i386"),
    recommended("wine"),
    plain("gcc-multilib"),
    plain("libgl1:i386 libgl1"),
    plain("bash:i386"),
    plain("apt:i386"),
    plain("python3:i386 python3-"),
    recommended("build-essential:i386"),
    plain("perl:i386"),
];

const BOOKWORM_SUITES: &str = "bookworm bookworm-updates bookworm-backports";
const TRIXIE_SUITES: &str = "trixie trixie-updates trixie-backports";

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "bookworm and more",
        suites: BOOKWORM_SUITES,
        security: "bookworm-security",
        architectures: &["amd64"],
        requests: BOOKWORM,
    },
    Scenario {
        name: "bookworm with i386",
        suites: "bookworm bookworm-updates",
        security: "bookworm-security",
        architectures: &["amd64 i386"],
        requests: MULTIARCH,
    },
    Scenario {
        name: "bookworm",
        suites: BOOKWORM_SUITES,
        security: "bookworm-security",
        architectures: &["amd64", "armhf", "arm64", "i386", "ppc64el", "s390x", "armel"],
        requests: COMMON,
    },
    Scenario {
        name: "bullseye",
        suites: "bullseye",
        security: "",
        architectures: &["amd64", "arm64"],
        requests: COMMON,
    },
    Scenario {
        name: "trixie",
        suites: TRIXIE_SUITES,
        security: "trixie-security",
        architectures: &["amd64", "arm64", "riscv64", "armhf"],
        requests: COMMON,
    },
    Scenario { name: "forky", suites: "forky", security: "", architectures: &["arm64"], requests: COMMON },
    Scenario {
        name: "sid",
        suites: "sid",
        security: "",
        architectures: &["amd64", "riscv64"],
        requests: COMMON,
    },
];

/// What the quick run asks, and of which architectures.
const QUICK: &[(&str, &str)] = &[("bookworm and more", "amd64"), ("bookworm", "armhf")];
const QUICK_REQUESTS: usize = 10;

/// The URIs of the machine's own archive and security archive, and the keyring.
struct Sources {
    archive: String,
    security: String,
}

/// Finds the machine's own sources, one-line and deb822 files alike.
fn machine_sources() -> Option<Sources> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").ok()?.flatten().map(|entry| entry.path()));
    files.sort();
    let (mut archive, mut security) = (None, None);
    let mut note = |uri: &str, suite: &str| {
        let slot = if suite.ends_with("-security") { &mut security } else { &mut archive };
        if suite.starts_with(|c: char| c.is_ascii_lowercase()) && uri.starts_with("http") {
            slot.get_or_insert_with(|| uri.to_owned());
        }
    };
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => {
                for stanza in deb822::stanzas(text.as_bytes()) {
                    let field =
                        |name| deb822::field(stanza, name).map(|v| String::from_utf8_lossy(v).into_owned());
                    let keyring = field("Signed-By").is_none_or(|path| path.contains("debian-archive"));
                    let (Some(uris), Some(suites), true) = (field("URIs"), field("Suites"), keyring) else {
                        continue;
                    };
                    for suite in suites.split_whitespace() {
                        uris.split_whitespace().take(1).for_each(|uri| note(uri, suite));
                    }
                }
            }
            Some("list") => {
                for line in text.lines().filter_map(|line| line.trim().strip_prefix("deb ")) {
                    let line = line.split_once(']').map_or(line, |(_, rest)| rest);
                    let words: Vec<&str> = line.split_whitespace().collect();
                    if let [uri, suite, ..] = words[..] {
                        note(uri, suite);
                    }
                }
            }
            _ => {}
        }
    }
    let archive = archive?;
    Some(Sources { security: security.unwrap_or_else(|| archive.clone()), archive })
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt: its own folders, sources and configuration, an empty dpkg status.
struct Apt {
    configuration: PathBuf,
    root: PathBuf,
}

impl Apt {
    fn new(cache: &Path, sources: &Sources, scenario: &Scenario, architectures: &str) -> Self {
        let folder = format!("{}-{architectures}", scenario.suites.replace(' ', "+")).replace(' ', "+");
        let root = cache.join(folder);
        for part in ["etc", "state", "cache/archives/partial"] {
            fs::create_dir_all(root.join(part)).expect("a folder in the cache");
        }
        fs::create_dir_all(cache.join("lists/partial")).expect("a folder in the cache");
        let mut text = String::new();
        for (uri, suites) in [(&sources.archive, scenario.suites), (&sources.security, scenario.security)] {
            if !suites.is_empty() {
                let _ = writeln!(
                    text,
                    "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
                );
            }
        }
        fs::write(root.join("etc/oracle.sources"), text).expect("a file in the cache");
        fs::write(root.join("state/status"), "").expect("a file in the cache");
        let architectures: Vec<&str> = architectures.split(' ').collect();
        let configuration = root.join("apt.conf");
        let quoted: Vec<String> = architectures.iter().map(|name| format!("\"{name}\";")).collect();
        fs::write(
            &configuration,
            format!(
                "Dir \"{root}/\";\n\
                 Dir::State \"{root}/state\";\n\
                 Dir::State::status \"{root}/state/status\";\n\
                 Dir::State::lists \"{cache}/lists\";\n\
                 Dir::Cache \"{root}/cache\";\n\
                 Dir::Etc::main \"/dev/null\";\n\
                 Dir::Etc::parts \"/dev/null\";\n\
                 Dir::Etc::sourcelist \"/dev/null\";\n\
                 Dir::Etc::sourceparts \"{root}/etc\";\n\
                 Dir::Etc::preferencesparts \"/dev/null\";\n\
                 Dir::Etc::preferences \"{root}/preferences\";\n\
                 Dir::Bin::Methods \"/usr/lib/apt/methods\";\n\
                 Dir::Log \"{root}/state\";\n\
                 APT::Architecture \"{native}\";\n\
                 APT::Architectures {{ {all} }};\n\
                 APT::Solver \"internal\";\n\
                 APT::Get::List-Cleanup \"false\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::GzipIndexes \"false\";\n\
                 Acquire::Check-Valid-Until \"false\";\n\
                 APT::Sandbox::User \"\";\n",
                root = root.display(),
                cache = cache.display(),
                native = architectures[0],
                all = quoted.join(" "),
            ),
        )
        .expect("a file in the cache");
        Apt { configuration, root }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration).env("LC_ALL", "C.UTF-8");
        command
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(program).args(arguments).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(String::from_utf8_lossy(&text).into_owned())
    }

    /// Has apt download and verify the indexes, unless they are there.
    fn indexes(&self) -> Vec<Index> {
        let known = self.read_indexes();
        if !known.is_empty() {
            return known;
        }
        // An index that the mirror serves half-updated is left out, for apt and for us.
        if let Err(message) = self.output("apt-get", &["update", "-q"]) {
            let count = message.lines().filter(|line| line.starts_with("E: Failed to fetch")).count();
            eprintln!("apt-get update leaves out {count} indexes");
        }
        self.read_indexes()
    }

    fn read_indexes(&self) -> Vec<Index> {
        let format = "$(FILENAME)\t$(SUITE)\t$(RELEASE)\t$(COMPONENT)\t$(ARCHITECTURE)\t$(REPO_URI)";
        let targets = self
            .output("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])
            .expect("apt-get indextargets");
        let mut indexes = Vec::new();
        for line in targets.lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            let [file, _, suite, component, architecture, uri] = columns[..] else { continue };
            let Ok(packages) = fs::read(file) else { continue };
            let stem = file.split(&format!("_{component}_binary-")).next().expect("a part");
            let release = fs::read_to_string(format!("{stem}_InRelease")).unwrap_or_default();
            indexes.push(Index {
                repository: "debian".to_owned(),
                uri: uri.to_owned(),
                suite: suite.to_owned(),
                component: component.to_owned(),
                architecture: architecture.to_owned(),
                release: Arc::new(read_release(&release)),
                packages: packages.into(),
            });
        }
        indexes
    }

    /// The names of the packages that apt would install if everything marked so were.
    fn implied(&self, priority: &[&str]) -> Vec<String> {
        let available = self.output("apt-cache", &["dumpavail"]).expect("apt-cache dumpavail");
        let mut names = BTreeSet::new();
        for stanza in deb822::stanzas(available.as_bytes()) {
            let field = |name| deb822::field(stanza, name).map(|v| String::from_utf8_lossy(v).into_owned());
            let wanted = |value: String| priority.contains(&value.as_str());
            if field("Essential").as_deref() == Some("yes") || field("Priority").is_some_and(wanted) {
                let foreign =
                    field("Architecture").is_some_and(|name| name != "all" && name != self.native());
                if !foreign {
                    names.extend(field("Package"));
                }
            }
        }
        names.into_iter().collect()
    }

    fn native(&self) -> String {
        self.output("apt-config", &["shell", "A", "APT::Architecture"])
            .expect("apt-config")
            .trim()
            .trim_start_matches("A=")
            .trim_matches('\'')
            .to_owned()
    }

    /// What apt installs.
    fn install(&self, ask: &Ask, implied: &[String]) -> Result<Chosen, String> {
        let preferences = self.root.join("preferences");
        let pins = ask.pins.iter().map(|(package, pin, priority)| {
            format!("Package: {package}\nPin: {pin}\nPin-Priority: {priority}\n\n")
        });
        fs::write(&preferences, pins.collect::<String>()).expect("a file in the cache");
        let mut arguments = vec!["-s".to_owned(), "-q".to_owned(), "install".to_owned()];
        arguments.push(format!("-oAPT::Install-Recommends={}", ask.recommends));
        let named: BTreeSet<&str> = ask
            .packages
            .split_whitespace()
            .map(|word| word.split(['=', '/']).next().unwrap_or(word).trim_end_matches('-'))
            .collect();
        arguments.extend(implied.iter().filter(|name| !named.contains(name.as_str())).cloned());
        arguments.extend(ask.packages.split_whitespace().map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.output("apt-get", &arguments)?;
        Ok(installed(&output))
    }
}

impl Apt {
    /// Whether apt accepts a choice that it does not find by itself: asked for exactly these
    /// versions it must install them all, and nothing else.
    fn confirms(&self, ours: &Chosen) -> Result<(), String> {
        fs::write(self.root.join("preferences"), "").expect("a file in the cache");
        let exact =
            |((name, architecture), version): (&(String, String), &String)| match architecture.as_str() {
                "all" => format!("{name}={version}"),
                architecture => format!("{name}:{architecture}={version}"),
            };
        let arguments: Vec<String> =
            ["-s", "-q", "install", "-oAPT::Install-Recommends=false", "--allow-downgrades"]
                .into_iter()
                .map(str::to_owned)
                .chain(ours.iter().map(exact))
                .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.output("apt-get", &arguments).map_err(|error| {
            let errors: Vec<&str> =
                error.lines().filter(|line| line.contains("Depends") || line.starts_with("E:")).collect();
            format!("apt does not accept ours: {}", errors.join("; "))
        })?;
        if installed(&output) == *ours {
            Ok(())
        } else {
            Err("apt needs other packages with ours".to_owned())
        }
    }
}

/// What a simulation says that it installs.
fn installed(output: &str) -> Chosen {
    let lines = output.lines().filter_map(|line| line.strip_prefix("Inst "));
    let parse = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        // After the parenthesis comes what is broken meanwhile, in the order of unpacking.
        let rest = rest.trim_start_matches('(').split(')').next()?;
        let architecture = rest.rsplit_once('[')?.1.trim_end_matches(']');
        let name = name.split(':').next()?;
        Some(((name.to_owned(), architecture.to_owned()), rest.split(' ').next()?.to_owned()))
    };
    lines.filter_map(parse).collect()
}

/// Name and architecture → version.
type Chosen = BTreeMap<(String, String), String>;

fn read_release(text: &str) -> Release {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_default().to_owned()
    };
    Release {
        origin: field("Origin"),
        label: field("Label"),
        suite: field("Suite"),
        codename: field("Codename"),
        version: field("Version"),
        not_automatic: field("NotAutomatic") == "yes",
        but_automatic_upgrades: field("ButAutomaticUpgrades") == "yes",
        ..Release::default()
    }
}

fn request(ask: &Ask, architecture: &str) -> Request {
    let package = |word: &str| {
        let (name, constraint) = if let Some((name, version)) = word.split_once('=') {
            (name, Constraint::Version(version.to_owned()))
        } else if let Some((name, suite)) = word.split_once('/') {
            (name, Constraint::Suite(suite.to_owned()))
        } else if let Some(name) = word.strip_suffix('-') {
            (name, Constraint::Absent)
        } else {
            (word, Constraint::Any)
        };
        PackageRequest { name: name.to_owned(), constraint }
    };
    let pin = |&(package, pin, priority): &(&str, &str, i32)| Pin {
        package: package.to_owned(),
        pin: pin.to_owned(),
        priority,
    };
    Request {
        image: "oracle".to_owned(),
        from: None,
        architecture: architecture.to_owned(),
        repositories: Vec::new(),
        packages: ask.packages.split_whitespace().map(package).collect(),
        recommends: ask.recommends,
        dependencies: true,
        essential: ask.essential,
        priority: ask.priority.iter().map(|name| (*name).to_owned()).collect(),
        pins: ask.pins.iter().map(pin).collect(),
    }
}

/// How one request came out.
enum Outcome {
    Equal(usize),
    /// Neither can.
    BothFail,
    /// We solve what apt's greedy algorithm gives up.
    OnlyOurs(usize),
    Different(String),
}

fn compare(apt: &Result<Chosen, String>, ours: &treestrap::Result<Chosen>) -> Outcome {
    match (apt, ours) {
        (Ok(apt), Ok(ours)) if apt == ours => Outcome::Equal(ours.len()),
        (Ok(apt), Ok(ours)) => {
            let mut text = format!("{} and {} packages;", apt.len(), ours.len());
            let shown = |((name, architecture), version): (&(String, String), &String)| {
                format!(" {name}:{architecture}={version}")
            };
            text += " only apt:";
            text.extend(apt.iter().filter(|(key, v)| ours.get(*key) != Some(v)).take(12).map(shown));
            text += "; only ours:";
            text.extend(ours.iter().filter(|(key, v)| apt.get(*key) != Some(v)).take(12).map(shown));
            Outcome::Different(text)
        }
        (Err(_), Err(_)) => Outcome::BothFail,
        (Err(_), Ok(ours)) => Outcome::OnlyOurs(ours.len()),
        (Ok(_), Err(error)) => Outcome::Different(format!("only apt can: {error}")),
    }
}

/// The outcomes: request → scenario and architecture → what came out.
#[derive(Default)]
struct Table {
    columns: Vec<String>,
    /// In the order of the scenarios.
    rows: Vec<(String, BTreeMap<String, String>)>,
    /// Seconds that apt and the resolver took.
    seconds: (f64, f64),
}

impl Table {
    fn add(&mut self, column: &str, row: String, outcome: String) {
        if !self.columns.iter().any(|known| known == column) {
            self.columns.push(column.to_owned());
        }
        let at = self.rows.iter().position(|(known, _)| *known == row).unwrap_or_else(|| {
            self.rows.push((row, BTreeMap::new()));
            self.rows.len() - 1
        });
        self.rows[at].1.insert(column.to_owned(), outcome);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "| request | {} |", self.columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(self.columns.len()))?;
        for (row, outcomes) in &self.rows {
            let cells: Vec<&str> =
                self.columns.iter().map(|column| outcomes.get(column).map_or("", String::as_str)).collect();
            writeln!(f, "| {row} | {} |", cells.join(" | "))?;
        }
        writeln!(f, "\napt took {:.1} s, the resolver {:.1} s", self.seconds.0, self.seconds.1)
    }
}

/// Runs a scenario on one architecture; fills a column of the table and gives the differences.
fn run(apt: &Apt, scenario: &Scenario, architectures: &str, limit: usize, table: &mut Table) -> Vec<String> {
    let indexes = apt.indexes();
    assert!(!indexes.is_empty(), "apt has no indexes of {} {architectures}", scenario.name);
    let native = architectures.split(' ').next().expect("a word");
    let mut differences = Vec::new();
    let mut implied: BTreeMap<&[&str], Vec<String>> = BTreeMap::new();
    let only = std::env::var("TREESTRAP_ORACLE_ONLY").ok();
    for ask in scenario.requests.iter().take(limit) {
        if only.as_deref().is_some_and(|only| only != ask.packages) {
            continue;
        }
        let names = implied.entry(ask.priority).or_insert_with(|| apt.implied(ask.priority));
        let start = Instant::now();
        let expected = apt.install(ask, if ask.essential { names } else { &[] });
        table.seconds.0 += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let ours = resolve(&request(ask, native), &indexes, None);
        table.seconds.1 += start.elapsed().as_secs_f64();
        if only.is_some() {
            eprintln!("apt: {expected:?}");
        }
        let chosen = ours.map(|lock| {
            let packages = lock.packages.into_iter();
            packages.map(|package| ((package.name, package.architecture), package.version)).collect()
        });
        let label = format!(
            "`{}`{}{}{}",
            if ask.packages == EMBEDDED { "(the embedded set)" } else { ask.packages },
            if ask.recommends { " with Recommends" } else { "" },
            if ask.priority.is_empty() {
                String::new()
            } else {
                format!(" priority {}", ask.priority.join(", "))
            },
            match (ask.essential, ask.pins) {
                (false, _) => " without the essential set".to_owned(),
                (true, []) => String::new(),
                (true, pins) => format!(" pinned {pins:?}"),
            }
        );
        let outcome = match compare(&expected, &chosen) {
            Outcome::Equal(count) => format!("{count}"),
            Outcome::BothFail => "neither".to_owned(),
            Outcome::OnlyOurs(count) => match &chosen {
                Ok(ours) => apt.confirms(ours).map_or_else(
                    |problem| {
                        differences.push(format!("{} {architectures}: {label}: {problem}", scenario.name));
                        "wrong".to_owned()
                    },
                    |()| format!("ours {count}"),
                ),
                Err(_) => "neither".to_owned(),
            },
            Outcome::Different(text) => {
                differences.push(format!("{} {architectures}: {label}: {text}", scenario.name));
                "different".to_owned()
            }
        };
        if outcome == "neither" {
            let reason = chosen.as_ref().err().map(ToString::to_string).unwrap_or_default();
            eprintln!("{} {architectures}: {label}: {reason}", scenario.name);
        }
        table.add(&format!("{} {architectures}", scenario.name), label, outcome);
    }
    differences
}

#[test]
fn the_choice_is_apts() {
    let must_run = std::env::var("TREESTRAP_TESTS_MUST_RUN").is_ok_and(|tiers| tiers.contains("archive"));
    let skip = |reason: &str| {
        assert!(!must_run, "skipped although it must run: {reason}");
        eprintln!("skipped: {reason}");
    };
    if Command::new("apt-get").arg("--version").output().is_err() {
        return skip("this machine has no apt");
    }
    let Some(sources) = machine_sources() else {
        return skip("this machine's apt sources name no Debian archive");
    };
    if !Path::new(KEYRING).exists() {
        return skip("this machine has no keyring of the Debian archive");
    }
    let cache = std::env::var_os("TREESTRAP_ORACLE_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("apt-oracle"), PathBuf::from);
    let full = std::env::var("TREESTRAP_ORACLE").ok();
    let mut table = Table::default();
    let mut differences = Vec::new();
    for scenario in SCENARIOS {
        for architectures in scenario.architectures {
            let (wanted, limit) = match full.as_deref() {
                Some("full") => (true, usize::MAX),
                Some(one) => (one == format!("{} {architectures}", scenario.name), usize::MAX),
                None => (QUICK.contains(&(scenario.name, architectures)), QUICK_REQUESTS),
            };
            if wanted {
                let apt = Apt::new(&cache, &sources, scenario, architectures);
                differences.extend(run(&apt, scenario, architectures, limit, &mut table));
            }
        }
    }
    println!("{table}");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
