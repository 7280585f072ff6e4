//! Images that continue from another one's finished tree, or from what they were before a package was
//! added: the result is the same whether that tree was there or not, and what dpkg makes of it.

use crate::common::{
    account::Account,
    archive::Archive,
    fixture::{Fixture, Miniature},
    package::Package,
    tier::{Tier, needs},
};

/// `app` and `data` are a base. `leaf` has one of everything that unpacking over a finished tree has to get right.
const PACKAGES: &str = r#"
Package: app
Version: 1
Depends: data
file ./usr/bin/app-tool = app's
conffile ./etc/app.conf = app=1
script postinst
    if [ "$1" = triggered ]; then echo "triggered $2" >>/var/lib/app/log; exit 0; fi
    mkdir -p /var/lib/app; echo "configured-app" >>/var/lib/app/log
control triggers
    interest-noawait /usr/share/app

Package: data
Version: 1
file ./usr/share/data/taken = data's
file ./usr/share/data/diverted = data's
script postinst
    dpkg-divert --package data --add --rename --divert /usr/share/leaf/moved /usr/share/leaf/place

Package: early
Version: 1
script preinst
    if [ -e /usr/share/leaf ]; then echo "leaf is there before its Pre-Depends is configured" >&2; exit 1; fi
script postinst
    echo configured >/var/lib/early

Package: leaf
Version: 1
Pre-Depends: early
Depends: app
Replaces: data
file ./usr/share/data/taken = leaf's
file ./usr/share/leaf/place = leaf's
file ./usr/share/app/plugin = triggers
file ./usr/bin/leaf 4755 33:42 = #!/bin/sh
link ./usr/bin/leaf2 -> ./usr/bin/leaf
symlink ./usr/bin/leaf3 -> leaf
folder ./var/lib/leaf 2750 0:42
file ./usr/share/leaf/a-name-that-is-so-long-that-it-does-not-fit-into-the-name-field-of-a-tar-header-and-more-of-it
    long
conffile ./etc/leaf.conf = leaf=1
script preinst
    test -e /var/lib/early
    test "$1" = install
    test -e /var/lib/app/log
    test ! -e /usr/bin/leaf
script postinst
    echo "configured $1" >/var/lib/leaf/state

Package: twig
Version: 1
Depends: leaf
file ./usr/share/twig/x = twig

Package: dated
Version: 1
script postinst
    date '+made on %d %b %Y' >/etc/dated

Package: broken
Version: 1
script postinst
    echo only-then; exit 3

Package: clash
Version: 1
Conflicts: app
"#;

/// Adds images that continue from others: name, base, packages.
fn continue_from(tiny: &Miniature, images: &[(&str, &str, &str)]) {
    let mut text = tiny.fixture.read("treestrap.toml");
    for (name, base, packages) in images {
        text += &format!("\n[images.{name}]\nfrom = \"{base}\"\npackages = [{packages}]\n");
    }
    tiny.fixture.write("treestrap.toml", &text);
}

/// The archive gets version 2 of `app`.
fn newer_app(archive: &mut Archive) {
    let text = PACKAGES.replacen("Version: 1", "Version: 2", 1);
    let (app, _) = text.split_once("\nPackage: data").expect("the first package");
    archive.add(Package::parse(app).build());
}

fn base_and_leaf() -> Miniature {
    let tiny = Miniature::new(Account::Subordinate, PACKAGES, &["app"]);
    tiny.images(&[("base", &["app"])]);
    continue_from(&tiny, &[("leafy", "base", "\"leaf\""), ("twiggy", "leafy", "\"twig\"")]);
    tiny
}

fn configured(fixture: &Fixture, image: &str) -> String {
    fixture.rev(&format!("deb/images/{image}/configured")).expect("a configured image")
}

/// The same manifest and locks, and an empty repository.
fn anew(tiny: &Miniature, images: &[&str]) -> Fixture {
    let fixture = Fixture::with_archive(Account::Subordinate, &tiny.archive, &tiny.server.uri(), &[]);
    fixture.write(
        "treestrap.toml",
        &tiny.fixture.read("treestrap.toml").replace(
            tiny.fixture.folder().to_str().expect("UTF-8"),
            fixture.folder().to_str().expect("UTF-8"),
        ),
    );
    for image in images {
        let lock = format!("{image}.lock");
        fixture.write(&lock, &tiny.fixture.read(&lock));
    }
    fixture
}

#[test]
fn an_image_continues_from_another_one() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = base_and_leaf();
    let built = tiny.fixture.treestrap(&["build"]).ok();
    assert_eq!(built.stderr.matches(": configure: ").count(), 3, "each layer is configured once: {built}");
    let fixture = &tiny.fixture;
    let lock = fixture.read("twiggy.lock");
    for (package, fields) in [
        ("app", "Treestrap-From: base\n"),
        ("leaf", "Treestrap-Layer: 1\nTreestrap-From: leafy\n"),
        ("twig", "Treestrap-Layer: 2\n"),
    ] {
        let stanza = lock.split("\n\n").find(|stanza| stanza.contains(&format!("Package: {package}\n")));
        let stanza = format!("{}\n", stanza.expect("a stanza"));
        assert!(stanza.contains(fields), "{package}: {stanza}");
    }

    // dpkg has done what it does when packages are installed on a running system.
    let cat = |path: &str| fixture.cat("leafy", path);
    assert_eq!(cat("/var/lib/app/log"), "configured-app\ntriggered /usr/share/app\n");
    assert_eq!(cat("/var/lib/leaf/state"), "configured configure\n");
    assert_eq!(
        (cat("/usr/share/data/taken"), cat("/usr/share/leaf/moved")),
        ("leaf's\n".into(), "leaf's\n".into())
    );
    assert_eq!((cat("/etc/leaf.conf"), cat("/etc/app.conf")), ("leaf=1\n".into(), "app=1\n".into()));
    assert!(!cat("/var/lib/dpkg/info/data.list").contains("/usr/share/data/taken"));
    let listing = fixture.listing("deb/images/leafy/configured").join("\n");
    assert!(listing.contains("04755 33 42"), "{listing}");
    assert!(listing.contains("02750 0 42"), "{listing}");
    assert!(!listing.contains(".treestrap") && !listing.contains(".deb"), "{listing}");
    let asked = [
        "run",
        "twiggy",
        "--",
        "sh",
        "-c",
        "dpkg --audit; dpkg-query -W -f '${db:Status-Abbrev}|' app leaf twig",
    ];
    assert_eq!(fixture.treestrap(&asked).ok().stdout, "ii |ii |ii |");
    fixture.fsck();

    // The list is the deb's own, as where everything is unpacked at once.
    tiny.images(&[("flat", &["app", "leaf"])]);
    fixture.treestrap(&["lock", "flat"]).ok();
    fixture.treestrap(&["fetch", "flat"]).ok();
    fixture.treestrap(&["compose", "flat"]).ok();
    let repo = fixture.repo();
    let list = [
        "cat",
        "--repo",
        repo.to_str().expect("UTF-8"),
        "deb/images/flat/unpacked",
        "/var/lib/dpkg/info/leaf.list",
    ];
    assert_eq!(cat("/var/lib/dpkg/info/leaf.list"), crate::common::fixture::ostree(&list).ok().stdout);
}

#[test]
fn it_comes_out_the_same_with_what_it_continues_from_and_without() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = base_and_leaf();
    tiny.fixture.treestrap(&["build"]).ok();
    let (base, leafy, twiggy) =
        ["base", "leafy", "twiggy"].map(|image| configured(&tiny.fixture, image)).into();
    assert_ne!(leafy, twiggy);
    for options in [&[][..], &["--tier", "single"], &["--view", "checkout"], &["--require", "view=checkout"]]
    {
        let fixture = anew(&tiny, &["base", "leafy", "twiggy"]);
        fixture.treestrap(&[&["build"], options, &["twiggy"]].concat()).ok();
        assert_eq!(configured(&fixture, "twiggy"), twiggy, "{options:?}");
        let refs = fixture.refs();
        assert!(!refs.iter().any(|name| name.contains("layer-")), "{refs:?}");
        assert!(!refs.iter().any(|name| name.starts_with("deb/images/base")), "{refs:?}");
        // What was made on the way is what the others are.
        let again = fixture.treestrap(&["build", "leafy", "base"]).ok();
        if options.is_empty() {
            again.says(&["leafy: configured before", "base: configured before"]);
        }
        assert_eq!(
            (configured(&fixture, "leafy"), configured(&fixture, "base")),
            (leafy.clone(), base.clone())
        );
        fixture.treestrap(&["verify", "twiggy"]).ok();
        fixture.fsck();
    }
}

#[test]
fn a_package_that_is_added_is_a_layer() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let mut tiny = Miniature::new(Account::Subordinate, PACKAGES, &["app"]);
    tiny.fixture.treestrap(&["build"]).ok();
    let before = tiny.fixture.read("tiny.lock");
    tiny.images(&[("tiny", &["app", "leaf"])]);
    tiny.fixture.treestrap(&["lock"]).ok().says(&["2 of them in a layer of their own"]);
    let grown = tiny.fixture.read("tiny.lock");
    assert_eq!(grown.matches("Treestrap-Layer: 1\n").count(), 2, "{grown}");
    tiny.fixture.treestrap(&["lock", "--check"]).ok();
    tiny.fixture.treestrap(&["build"]).ok().says(&["tiny: configure: "]).does_not_say(&["configured-app"]);
    assert_eq!(tiny.fixture.cat("tiny", "/var/lib/app/log"), "configured-app\ntriggered /usr/share/app\n");
    let fixture = anew(&tiny, &["tiny"]);
    fixture.treestrap(&["build"]).ok();
    assert_eq!(configured(&fixture, "tiny"), configured(&tiny.fixture, "tiny"));

    // Without it the lock is what it was; a base package that moved puts all into one layer; so does --update.
    tiny.images(&[("tiny", &["app"])]);
    tiny.fixture.treestrap(&["lock"]).ok();
    assert_eq!(tiny.fixture.read("tiny.lock"), before);
    tiny.fixture.write("tiny.lock", &grown);
    tiny.images(&[("tiny", &["app", "leaf"])]);
    tiny.fixture.treestrap(&["lock", "--update"]).ok();
    assert!(!tiny.fixture.read("tiny.lock").contains("Treestrap-Layer"));
    tiny.fixture.write("tiny.lock", &grown);
    tiny.update(newer_app);
    tiny.images(&[("tiny", &["app=2", "leaf"])]);
    tiny.fixture.treestrap(&["lock"]).ok();
    assert!(!tiny.fixture.read("tiny.lock").contains("Treestrap-Layer"));
}

#[test]
fn what_an_image_continues_from_is_said_where_it_is_in_the_way() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let mut tiny = base_and_leaf();
    continue_from(&tiny, &[("clashing", "base", "\"clash\""), ("breaking", "base", "\"broken\"")]);
    tiny.fixture.treestrap(&["lock", "clashing"]).exits(1).says(&[
        "clash",
        "app",
        "it continues from image \"base\"",
    ]);
    // The base's lock was made for it, and says what it would have said by itself.
    tiny.fixture.treestrap(&["lock", "base", "--check"]).ok();

    tiny.fixture.treestrap(&["build", "breaking"]).exits(1).says(&[
        "package broken",
        "only-then",
        "run --failed breaking",
    ]);
    let shell =
        ["run", "--failed", "breaking", "--", "cat", "/var/lib/app/log", "/var/lib/dpkg/info/broken.list"];
    let seen = tiny.fixture.treestrap(&shell).ok().stdout;
    assert!(seen.starts_with("configured-app\n/.\n"), "{seen}");

    // The base moves on, and the image is not of it any more.
    tiny.images(&[("base", &["app"])]);
    continue_from(&tiny, &[("leafy", "base", "\"leaf\"")]);
    tiny.fixture.treestrap(&["lock", "leafy"]).ok();
    tiny.update(newer_app);
    tiny.fixture.treestrap(&["lock", "--update", "base"]).ok();
    tiny.fixture
        .treestrap(&["lock", "--check", "leafy"])
        .exits(1)
        .says(&["app_2_all of image \"base\"", "treestrap lock"]);
    tiny.fixture.treestrap(&["lock", "leafy"]).ok();
    tiny.fixture.treestrap(&["lock", "--check", "leafy"]).ok();
    assert!(tiny.fixture.read("leafy.lock").contains("Package: app\nVersion: 2\n"));
}

#[test]
fn prune_keeps_what_images_continue_from() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = base_and_leaf();
    tiny.fixture.treestrap(&["build", "twiggy"]).ok();
    tiny.fixture.treestrap(&["prune"]).ok().says(&["0 refs and "]);
    let memory =
        |fixture: &Fixture| fixture.refs().into_iter().filter(|name| name.starts_with("deb/memory")).count();
    assert_eq!(memory(&tiny.fixture), 3);
    tiny.fixture.treestrap(&["build", "leafy"]).ok().says(&["leafy: configured before"]);
    tiny.images(&[("base", &["app"])]);
    tiny.fixture.treestrap(&["prune", "--only-manifest"]).ok();
    assert_eq!(memory(&tiny.fixture), 0, "base itself was never built under its name");
    tiny.fixture.fsck();
}

#[test]
fn what_a_failed_layer_is_over_stays() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = base_and_leaf();
    tiny.images(&[("base", &["app"]), ("bad", &["broken"])]);
    continue_from(&tiny, &[("breaking", "base", "\"broken\""), ("above", "bad", "\"leaf\"")]);
    let look = |image: &str| {
        let command = ["run", "--failed", image, "--", "cat", "/var/lib/dpkg/info/broken.list"];
        assert!(tiny.fixture.treestrap(&command).ok().stdout.starts_with("/.\n"), "{image}");
    };
    // The upper layer fails, over a tree that has no name; then the lower one does.
    tiny.fixture.treestrap(&["build", "breaking"]).exits(1).says(&["run --failed breaking "]);
    tiny.fixture.treestrap(&["build", "above"]).exits(1).says(&["run --failed above/layer-0 "]);
    for image in ["breaking", "above/layer-0"] {
        look(image);
    }
    tiny.fixture.treestrap(&["prune", "--only-manifest"]).ok();
    for image in ["breaking", "above/layer-0"] {
        look(image);
    }
    // Nothing but what is looked at stays of images that are not to be.
    tiny.images(&[("base", &["app"])]);
    tiny.fixture.treestrap(&["prune", "--only-manifest"]).ok();
    assert!(
        !tiny.fixture.refs().iter().any(|name| name.contains("layer-") || name.starts_with("deb/memory"))
    );
    tiny.fixture.treestrap(&["run", "--failed", "above/layer-0"]).exits(1).says(&["no image \"above\""]);
    tiny.fixture.fsck();
}

#[test]
fn a_base_that_cannot_be_made_stops_what_continues_from_it_and_nothing_else() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = base_and_leaf();
    tiny.images(&[("bad", &["broken"]), ("good", &["app"]), ("other", &["data"]), ("more", &["early"])]);
    continue_from(&tiny, &[("above", "bad", "\"leaf\""), ("higher", "above", "\"twig\"")]);
    let built = tiny.fixture.treestrap(&["build"]).exits(1);
    let made: Vec<&str> = built.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(made, ["good", "other", "more"], "{built}");
    built.says(&[
        "bad: package broken",
        "above: it continues from image bad",
        "higher: it continues from image",
    ]);
}

#[test]
fn a_date_below_is_said_of_the_image_above() {
    needs!(Tier::As(Account::Subordinate), Tier::Ostree, Tier::Userns, Tier::Overlay);
    let tiny = Miniature::new(Account::Subordinate, PACKAGES, &["app"]);
    tiny.images(&[("base", &["app", "dated"])]);
    continue_from(&tiny, &[("leafy", "base", "\"leaf\"")]);
    tiny.fixture.treestrap(&["build"]).ok();
    tiny.fixture.treestrap(&["verify", "leafy"]).says(&["/etc/dated has the day of this run in it"]);
}
