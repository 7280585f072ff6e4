//! What the manifest means, and what each mistake in one says.

use std::path::{Path, PathBuf};

use super::Manifest;
use crate::{
    Error,
    artefacts::{Constraint, IdentityPolicy, Pin, Preseed},
};

const FULL: &str = r#"
[repos.debian]
suites = ["bookworm", "bookworm-updates"]
components = ["main", "contrib"]
uris = ["https://mirror.example/debian", "file:///srv/debian"]
signed-by = "keys/archive.gpg"
check-valid-until = false

[repos.own]
suites = ["./"]
uris = ["copy:/srv/own"]
trusted = true

[images.zeta]
arch = "armhf"
packages = ["nginx", "openssh-server=1:9.2p1-2", "python3/bookworm-updates", "exim4-", "nginx"]
repos = ["own", "debian"]
recommends = true
essential = false
priority = ["required", "important"]
pins = [{ package = "*", pin = "release n=bookworm-updates", priority = 990 }]
preseed = "debconf.txt"
accelerate = ["imagemagick*"]
emulate = ["usr/bin/identify"]
identity = "keep"

[images.alpha]
arch = "amd64"
packages = []
preseed = ["tzdata tzdata/Areas select Etc", "p p/q string two words"]
dependencies = false
"#;

fn parse(text: &str) -> Result<Manifest, Error> {
    Manifest::parse(Path::new("boards/treestrap.toml"), text)
}

#[test]
fn every_key_arrives() {
    let manifest = parse(FULL).expect("a good manifest");
    let names: Vec<&str> = manifest.images.iter().map(|image| image.request.image.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha"], "the file's order");

    let zeta = &manifest.images[0];
    assert_eq!(zeta.lock, PathBuf::from("boards/zeta.lock"));
    assert_eq!(zeta.preseed, Some(Preseed::File("boards/debconf.txt".into())));
    assert_eq!(zeta.identity, IdentityPolicy::Keep);
    assert_eq!(
        (&zeta.accelerate[..], &zeta.emulate[..]),
        (&["imagemagick*".into()][..], &["usr/bin/identify".into()][..])
    );
    let request = &zeta.request;
    assert_eq!(request.architecture, "armhf");
    assert_eq!((request.dependencies, request.recommends, request.essential), (true, true, false));
    assert_eq!(request.priority, ["required", "important"]);
    let pin = Pin { package: "*".into(), pin: "release n=bookworm-updates".into(), priority: 990 };
    assert_eq!(request.pins, [pin]);
    let packages: Vec<_> = request.packages.iter().map(|p| (p.name.as_str(), p.constraint.clone())).collect();
    assert_eq!(
        packages,
        [
            ("nginx", Constraint::Any),
            ("openssh-server", Constraint::Version("1:9.2p1-2".into())),
            ("python3", Constraint::Suite("bookworm-updates".into())),
            ("exim4", Constraint::Absent),
        ]
    );

    let [own, debian] = request.repositories.as_slice() else { panic!("two repositories") };
    assert_eq!((own.name.as_str(), own.trusted, own.check_valid_until), ("own", true, true));
    assert_eq!(
        (own.suites.as_slice(), own.components.as_slice()),
        (["./".to_owned()].as_slice(), [].as_slice())
    );
    assert_eq!(debian.suites, ["bookworm", "bookworm-updates"]);
    assert_eq!(debian.components, ["main", "contrib"]);
    assert_eq!(debian.uris, ["https://mirror.example/debian", "file:///srv/debian"]);
    assert_eq!(debian.signed_by, ["boards/keys/archive.gpg"]);
    assert_eq!((debian.trusted, debian.check_valid_until), (false, false));
}

#[test]
fn what_is_left_out() {
    let manifest = parse(FULL).expect("a good manifest");
    let alpha = &manifest.images[1];
    let alpha_request = &alpha.request;
    let flags = (alpha_request.dependencies, alpha_request.recommends, alpha_request.essential);
    assert_eq!(flags, (false, false, true));
    assert!(alpha.request.priority.is_empty() && alpha.request.pins.is_empty());
    let answers = ["tzdata tzdata/Areas select Etc", "p p/q string two words"].map(str::to_owned);
    assert_eq!(alpha.preseed, Some(Preseed::Lines(answers.to_vec())));
    assert_eq!(alpha.identity, IdentityPolicy::FirstBoot);
    let repositories: Vec<&str> = alpha.request.repositories.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(repositories, ["debian", "own"], "all of them, in the file's order");

    let short = "[repos.d]\nsuites = [\"sid\"]\n[images.i]\narch = \"arm64\"\npackages = [\"bash\"]\n";
    let image = &parse(short).expect("a short manifest").images[0];
    let repository = &image.request.repositories[0];
    assert_eq!(repository.components, ["main"]);
    assert!(repository.uris.is_empty() && repository.signed_by.is_empty());
    let here = Manifest::parse(Path::new("treestrap.toml"), short).expect("a manifest");
    assert_eq!(here.images[0].lock, PathBuf::from("i.lock"));
}

#[test]
fn an_armoured_key_stays_as_it_is() {
    let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDM=\n-----END PGP PUBLIC KEY BLOCK-----\n";
    let text = format!(
        "[repos.d]\nsuites = [\"sid\"]\nsigned-by = [\"/k.asc\", \"\"\"\n{key}\"\"\"]\n\
         [images.i]\narch = \"arm64\"\npackages = [\"bash\"]\n"
    );
    let manifest = parse(&text).expect("a manifest");
    assert_eq!(manifest.images[0].request.repositories[0].signed_by, ["/k.asc", key]);
}

#[test]
fn images_are_selected_by_name() {
    let manifest = parse(FULL).expect("a good manifest");
    let select = |names: &[&str]| -> Result<Vec<String>, Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(manifest.select(&names)?.into_iter().map(|image| image.request.image).collect())
    };
    assert_eq!(select(&[]).expect("all"), ["zeta", "alpha"]);
    assert_eq!(select(&["alpha", "alpha"]).expect("one"), ["alpha"]);
    let error = select(&["zeat"]).expect_err("unknown");
    assert_eq!(error.to_string(), "boards/treestrap.toml has no image \"zeat\"");
    assert_eq!(error.get_hint(), Some("did you mean \"zeta\"?"));
}

/// Mistakes, made by replacing a text of [`FULL`]: what stands there, what is put there, the
/// message after the file's name, and the hint.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    // keys
    (
        "recommends = true",
        "recomends = true",
        "18:1: unknown key \"recomends\" in [images.zeta]",
        "did you mean \"recommends\"?",
    ),
    (
        "signed-by",
        "signed_by",
        "6:1: unknown key \"signed_by\" in [repos.debian]",
        "did you mean \"signed-by\"?",
    ),
    (
        "[images.zeta]",
        "[image.zeta]",
        "14:2: unknown key \"image\" at the top of the file",
        "did you mean \"images\"?",
    ),
    (
        "{ package",
        "{ hooks = 1, package",
        "21:11: unknown key \"hooks\" in [images.zeta.pins]",
        "known keys here: package, pin, priority",
    ),
    (
        "essential = false",
        "files = \"overlay/\"",
        "19:1: unknown key \"files\" in [images.zeta]",
        "known keys here: arch, from, packages, repos, dependencies, recommends, essential, priority, pins, preseed, accelerate, emulate, identity",
    ),
    // types
    (
        "[\"bookworm\", \"bookworm-updates\"]",
        "\"bookworm\"",
        "3:10: repos.debian.suites must be a list of strings, not a string",
        "put it in brackets: suites = [\"bookworm\"]",
    ),
    (
        "recommends = true",
        "recommends = \"yes\"",
        "18:14: images.zeta.recommends must be true or false, not a string",
        "",
    ),
    ("\"exim4-\"", "4", "16:78: each of images.zeta.packages must be a string, not a number", ""),
    (
        "priority = 990",
        "priority = 9.5",
        "21:73: images.zeta.pins.priority must be a whole number, not a fraction",
        "",
    ),
    ("[repos.own]", "[[repos.own]]", "9:1: repos.own must be a table, not a list", ""),
    (
        "\"usr/bin/identify\"",
        "\"/usr/bin/identify\"",
        "24:12: \"/usr/bin/identify\" begins with a slash",
        "write \"usr/bin/identify\"",
    ),
    ("[\"imagemagick*\"]", "[\"\"]", "23:15: images.zeta.accelerate has an empty name", ""),
    ("\"debconf.txt\"", "1979-05-27", "22:11: images.zeta.preseed must be a list of strings, not a date", ""),
    ("\"debconf.txt\"", "\"\"", "22:11: images.zeta.preseed names no file", ""),
    (
        "\"debconf.txt\"",
        "[\"debconf.txt\"]",
        "22:12: \"debconf.txt\" is no answer to a question of debconf",
        "write \"PACKAGE QUESTION TYPE VALUE\"; the name of a file stands without brackets",
    ),
    (
        "\"keep\"",
        "\"kept\"",
        "25:12: \"kept\" is nothing that images.zeta.identity can be",
        "did you mean \"keep\"?",
    ),
    // TOML itself
    ("[images.alpha]", "[images.zeta]", "27:9: duplicate key", ""),
    ("arch = \"armhf\"", "arch = armhf", "15:8: string values must be quoted, expected literal string", ""),
    // repositories
    (
        "[\"bookworm\", \"bookworm-updates\"]",
        "[]",
        "3:10: repos.debian.suites is empty",
        "name at least one, such as suites = [\"bookworm\"]",
    ),
    ("suites = [\"./\"]\n", "", "9:8: [repos.own] needs suites, such as suites = [\"bookworm\"]", ""),
    ("\"bookworm-updates\"]", "\"bookworm\"]", "3:23: repos.debian.suites names \"bookworm\" twice", ""),
    ("\"bookworm-updates\"]", "\"../x\"]", "3:23: \"../x\" cannot be one of repos.debian.suites", ""),
    (
        "\"bookworm-updates\"]",
        "\"updates/\"]",
        "2:8: [repos.debian] mixes flat suites (with a slash at the end) and others",
        "make two repositories of it",
    ),
    (
        "trusted = true",
        "components = [\"main\"]",
        "12:14: a flat repository (a suite with a slash at the end) has no components",
        "",
    ),
    (
        "\"copy:/srv/own\"",
        "\"ftp://mirror.example\"",
        "11:9: \"ftp://mirror.example\" is not a URI of a repository",
        "such as \"http://mirror.example/debian\"; https, file and copy are known too",
    ),
    (
        "\"https://mirror.example/debian\"",
        "\"https:///\"",
        "5:9: \"https:///\" is not a URI of a repository",
        "such as \"http://mirror.example/debian\"; https, file and copy are known too",
    ),
    (
        "check-valid-until = false",
        "trusted = true",
        "2:8: [repos.debian] has both signed-by and trusted = true, which checks no signature",
        "remove one of the two",
    ),
    ("\"keys/archive.gpg\"", "\"\"", "6:13: repos.debian.signed-by names no file", ""),
    (
        "[repos.own]",
        "[repos.\"my own\"]",
        "9:8: \"my own\" cannot name a repository",
        "use ASCII letters, digits, '-', '.' and '_'",
    ),
    // images
    (
        "[images.zeta]",
        "[images.\"a/b\"]",
        "14:9: \"a/b\" cannot name an image",
        "use ASCII letters, digits, '-', '.' and '_', and begin with neither '.' nor '-'",
    ),
    ("\"armhf\"", "\"armfh\"", "15:8: \"armfh\" is no architecture of Debian", "did you mean \"armhf\"?"),
    ("arch = \"armhf\"\n", "", "14:9: [images.zeta] needs arch, such as arch = \"armhf\"", ""),
    ("packages = []", "", "27:9: [images.alpha] needs packages, such as packages = [\"systemd-sysv\"]", ""),
    ("\"own\", \"debian\"", "\"onw\"", "17:10: there is no [repos.onw]", "did you mean \"own\"?"),
    ("\"own\", \"debian\"", "\"own\", \"own\"", "17:17: images.zeta.repos names \"own\" twice", ""),
    (
        "\"required\", ",
        "\"require\", ",
        "20:13: \"require\" is no priority that can be asked for",
        "did you mean \"required\"?",
    ),
    (
        "packages = []",
        "packages = [\"a-b-\"]\nessential = false",
        "27:9: [images.alpha] asks for no package at all",
        "add some to packages",
    ),
    // packages
    (
        "\"nginx\", \"open",
        "\"nginx=\", \"open",
        "16:13: \"nginx=\" in images.zeta.packages: \"\" cannot be a version",
        "write it as `apt-cache policy` does, such as \"name=1:2.36-9+deb12u10\"",
    ),
    (
        "\"exim4-\"",
        "\"Exim4\"",
        "16:78: \"Exim4\" in images.zeta.packages: \"Exim4\" has capital letters, which no package's name has",
        "did you mean \"exim4\"?",
    ),
    (
        "\"exim4-\"",
        "\"nginx-\"",
        "16:78: images.zeta.packages asks for nginx in two ways",
        "keep one of the two",
    ),
    // pins
    (
        "\"release n=bookworm-updates\"",
        "\"n=bookworm-updates\"",
        "21:32: \"n=bookworm-updates\" is no pin",
        "it begins with release, version or origin, as after Pin: in apt_preferences(5)",
    ),
    ("package = \"*\", ", "", "21:9: [images.zeta.pins] needs package, such as package = \"*\"", ""),
    ("priority = 990", "priority = 0", "21:73: a pin's priority lies from -32768 to 32767 and is not 0", ""),
    (
        "priority = 990",
        "priority = 40000",
        "21:73: a pin's priority lies from -32768 to 32767 and is not 0",
        "",
    ),
];

#[test]
fn each_mistake_says_where_it_is_and_what_to_do() {
    for (good, bad, message, hint) in MISTAKES {
        assert!(FULL.contains(good), "{good}");
        let error = parse(&FULL.replacen(good, bad, 1)).expect_err(bad);
        assert_eq!(error.to_string(), format!("boards/treestrap.toml:{message}"), "{bad}");
        assert_eq!(error.get_hint().unwrap_or(""), *hint, "{bad}");
    }
}

/// Two images and what the second one has.
fn continuing(keys: &str) -> Result<Manifest, Error> {
    let base = "[repos.d]\nsuites = [\"sid\"]\n[images.base]\narch = \"armhf\"\nrecommends = true\n\
                packages = [\"nginx\", \"exim4-\"]\npreseed = [\"a b c d\"]\nidentity = \"remove\"\n[images.own]\n";
    parse(&format!("{base}{keys}"))
}

#[test]
fn an_image_has_what_it_continues_from() {
    let manifest =
        continuing("from = \"base\"\npackages = [\"htop\", \"nginx\"]\n").expect("a good manifest");
    let [base, own] = manifest.images.as_slice() else { panic!("{manifest:?}") };
    let names: Vec<&str> = own.request.packages.iter().map(|wanted| wanted.name.as_str()).collect();
    assert_eq!(names, ["nginx", "exim4", "htop"]);
    assert_eq!((own.base.as_deref(), own.request.from.as_deref()), (Some(base), Some("base")));
    assert_eq!((&own.preseed, own.identity), (&base.preseed, IdentityPolicy::Remove));
    assert!(own.request.recommends && own.lock.ends_with("own.lock"));
    // The one that another continues from may come later.
    let text = "[repos.d]\nsuites = [\"sid\"]\n[images.a]\nfrom = \"b\"\npackages = [\"htop\"]\n[images.b]\narch = \"armhf\"\n\
                packages = []\n";
    assert_eq!(parse(text).expect("a good manifest").images[0].request.architecture, "armhf");
    for (keys, message, hint) in [
        ("from = \"bsae\"\npackages = []\n", "10:8: there is no [images.bsae]", "did you mean \"base\"?"),
        (
            "from = \"own\"\npackages = []\n",
            "10:8: images.own.from leads in a circle: own -> own",
            "let one of them ask for all of its packages itself",
        ),
        (
            "from = \"base\"\narch = \"armhf\"\npackages = []\n",
            "9:9: [images.own] images.own.arch is that of base, from which the image continues",
            "leave arch out, or from",
        ),
        (
            "from = \"base\"\npackages = [\"exim4\"]\n",
            "9:9: [images.own] asks for exim4 in another way than base",
            "leave it out here, or ask for it here alone",
        ),
        ("from = \"base\"\n", "9:9: [images.own] needs packages, such as packages = [\"systemd-sysv\"]", ""),
    ] {
        let error = continuing(keys).expect_err(keys);
        assert_eq!(error.to_string(), format!("boards/treestrap.toml:{message}"), "{keys}");
        assert_eq!(error.get_hint().unwrap_or(""), hint, "{keys}");
    }
}

#[test]
fn an_empty_manifest_says_what_is_missing() {
    let message = |text: &str| parse(text).expect_err("incomplete").to_string();
    assert_eq!(message(""), "boards/treestrap.toml:1:1: no repository: packages must come from somewhere");
    assert_eq!(
        message("[repos.d]\nsuites = [\"sid\"]\n"),
        "boards/treestrap.toml:1:1: no image: nothing to build"
    );
}

#[test]
fn columns_count_characters() {
    let error = parse("\n  # é\n\u{9}é = 1\n").expect_err("no bare é");
    assert!(error.to_string().starts_with("boards/treestrap.toml:3:2: "), "{error}");
    let error = parse("repos = { \"é\" = {}, d = { suits = [] } }").expect_err("an unknown key");
    assert_eq!(error.to_string(), "boards/treestrap.toml:1:27: unknown key \"suits\" in [repos.d]");
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("treestrap.toml");
    let error = Manifest::read(&path).expect_err("there is none");
    assert_eq!(error.get_hint(), Some("`treestrap init` writes a starter; --manifest FILE names another"));
    std::fs::write(&path, b"[repos.d]\nsuites = [\"\xff\"]\n").expect("written");
    let error = Manifest::read(&path).expect_err("not UTF-8");
    assert_eq!(error.to_string(), format!("{}:2:12: this is not UTF-8", path.display()));
}

#[test]
fn the_example_is_a_good_manifest() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/embedded/treestrap.toml");
    let manifest = Manifest::read(&path).expect("a good manifest");
    let [image] = manifest.images.as_slice() else { panic!("one image") };
    let request = &image.request;
    assert_eq!((request.image.as_str(), request.architecture.as_str()), ("embedded", "armhf"));
    assert!(request.repositories.iter().all(|repository| repository.uris.is_empty()));
    assert_eq!(request.packages.len(), 17);
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_position(text in "[\\[\\]={}a-z.\"'\n #0-9]{0,80}") {
        let error = parse(&text).expect_err("too short to be complete");
        let message = error.to_string();
        let numbers = message.strip_prefix("boards/treestrap.toml:").expect("the file's name");
        let mut parts = numbers.split(':');
        for _ in 0..2 {
            let number: usize = parts.next().expect("a position").parse().expect("a number");
            proptest::prop_assert!(number >= 1);
        }
    }
}
