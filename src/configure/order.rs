//! In which order stage 2 runs preinst scripts and configures packages.
//!
//! dpkg itself orders what it configures, and breaks circles there (`findbreakcycle` in its depcon.c);
//! what it cannot know is that everything was unpacked before any script ran. So the Essential packages with all that they depend on come first, as
//! when debootstrap(8) makes a base; then preinst scripts run, each after the packages that its
//! Pre-Depends name are configured (policy 7.2); last, everything else is configured.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Context, Result,
    artefacts::{Begin, PackageState, UnpackedPackage},
    debian::{
        deb822::{self, Stanza},
        relation::{self, Operator},
        version,
    },
};

/// A step; packages are indices into the list that [`plan`] was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Register interests in triggers, and bring the database into the form that dpkg has now.
    Register,
    /// Run debootstrap's second stage.
    SecondStage,
    /// Let dpkg unpack these debs of the tree.
    Unpack(Vec<String>),
    /// Let dpkg unpack the debs of these packages, which runs their preinst scripts.
    UnpackPackages(Vec<usize>),
    /// Run these preinst scripts with `install`, in this order.
    Preinst(Vec<usize>),
    /// `dpkg --configure` these.
    Configure(Vec<usize>),
    /// Load the debconf answers: debconf works now, and no package has asked yet but the base's.
    Seed,
    /// `dpkg --configure -a`.
    ConfigureAll,
}

/// The steps for a set of unpacked packages, some of which may be further.
pub(super) fn plan(packages: &[UnpackedPackage], begin: &Begin) -> Result<Vec<Step>> {
    if *begin == Begin::SecondStage {
        // debconf is unpacked with all that it needs.
        return Ok(vec![Step::Seed, Step::SecondStage, Step::ConfigureAll]);
    }
    if let Begin::Unpack(debs) = begin {
        return Ok(vec![Step::Unpack(debs.clone())]);
    }
    let graph = Graph::new(packages)?;
    // What has to wait for its Pre-Depends: a preinst, and what dpkg does where that runs.
    let is_layer = matches!(begin, Begin::Layer { .. });
    let is_first = |&p: &usize| {
        let package = &packages[p];
        let has_preinst = is_layer || package.scripts.iter().any(|script| script == "preinst");
        package.state == PackageState::Unpacked && has_preinst
    };
    let first = |list| if is_layer { Step::UnpackPackages(list) } else { Step::Preinst(list) };
    let is_installed = |p: usize| packages[p].state == PackageState::Installed;
    let mut steps = match begin {
        Begin::Register(_) => vec![Step::Register],
        Begin::Composed | Begin::SecondStage | Begin::Unpack(_) | Begin::Layer { .. } => Vec::new(),
    };
    // dpkg itself looks at Pre-Depends where it unpacks: of a layer, none is excepted.
    let essential = if is_layer { BTreeSet::new() } else { graph.closure(&graph.essential) };
    let mut base = graph.in_order(&essential);
    base.retain(|&p| !is_installed(p));
    let mut configured: BTreeSet<usize> =
        (0..packages.len()).filter(|&p| is_installed(p)).chain(essential).collect();
    if !base.is_empty() {
        steps.push(first(base.iter().copied().filter(is_first).collect()));
        steps.push(Step::Configure(base));
    }
    if !matches!(begin, Begin::Layer { seed: false, .. }) {
        steps.push(Step::Seed);
    }
    let all: BTreeSet<usize> = (0..packages.len()).filter(|p| !configured.contains(p)).collect();
    let mut waiting: Vec<usize> = graph.in_order(&all).into_iter().filter(is_first).collect();
    while !waiting.is_empty() {
        let needs = |p: usize| graph.closure(&graph.pre_depends[p]);
        let ready = |&p: &usize| {
            needs(p).iter().all(|other| configured.contains(other) || *other == p || !waiting.contains(other))
        };
        let (mut now, later): (Vec<usize>, Vec<usize>) = waiting.iter().copied().partition(ready);
        waiting = later;
        if now.is_empty() {
            // A circle of Pre-Depends, which policy forbids; begin somewhere.
            now.push(waiting.remove(0));
        }
        let unconfigurable = |p: &usize| now.contains(p) || waiting.contains(p);
        let wanted: BTreeSet<usize> = now
            .iter()
            .flat_map(|&p| needs(p))
            .filter(|p| !configured.contains(p))
            .filter(|&p| !graph.closure(&BTreeSet::from([p])).iter().any(unconfigurable))
            .collect();
        let wanted_in_order = graph.in_order(&wanted);
        if !wanted_in_order.is_empty() {
            steps.push(Step::Configure(wanted_in_order));
            configured.extend(wanted);
        }
        steps.push(first(now));
    }
    steps.push(Step::ConfigureAll);
    Ok(steps)
}

/// Who depends on whom.
struct Graph<'a> {
    packages: &'a [UnpackedPackage],
    essential: BTreeSet<usize>,
    pre_depends: Vec<BTreeSet<usize>>,
    /// Depends and Pre-Depends.
    depends: Vec<BTreeSet<usize>>,
}

impl<'a> Graph<'a> {
    fn new(packages: &'a [UnpackedPackage]) -> Result<Self> {
        let mut controls = Vec::with_capacity(packages.len());
        let mut providers: Providers = BTreeMap::new();
        for (index, package) in packages.iter().enumerate() {
            let control = deb822::parse(&package.control)
                .map_err(|e| crate::Error::input(format!("{}: its control file: {e}", package.name)))?
                .into_iter()
                .next()
                .map_or_else(Stanza::default, |(_, stanza)| stanza);
            let itself = Provider { index, version: Some(package.version.clone()) };
            providers.entry(package.name.clone()).or_default().insert(0, itself);
            for provided in wishes(&control, "Provides", package)?.into_iter().flatten() {
                let version = provided.constraint.map(|(_, version)| version);
                providers.entry(provided.name).or_default().push(Provider { index, version });
            }
            controls.push(control);
        }
        let mut graph = Graph {
            packages,
            essential: BTreeSet::new(),
            pre_depends: vec![BTreeSet::new(); packages.len()],
            depends: vec![BTreeSet::new(); packages.len()],
        };
        for (index, control) in controls.iter().enumerate() {
            let of = |field| -> Result<BTreeSet<usize>> {
                let groups = wishes(control, field, &packages[index])?;
                let chosen = groups.iter().filter_map(|group| choose(group, &providers, packages, index));
                Ok(chosen.filter(|&other| other != index).collect())
            };
            graph.pre_depends[index] = of("Pre-Depends")?;
            graph.depends[index] = &graph.pre_depends[index] | &of("Depends")?;
            if control.get("Essential").is_some_and(|value| value == "yes") {
                graph.essential.insert(index);
            }
        }
        Ok(graph)
    }

    /// `roots` with all that they depend on.
    fn closure(&self, roots: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut found = roots.clone();
        let mut queue: Vec<usize> = roots.iter().copied().collect();
        while let Some(package) = queue.pop() {
            queue.extend(self.depends[package].iter().copied().filter(|&other| found.insert(other)));
        }
        found
    }

    /// Dependencies before what depends on them, else by rank and name; circles begin anywhere.
    fn in_order(&self, set: &BTreeSet<usize>) -> Vec<usize> {
        let mut roots: Vec<usize> = set.iter().copied().collect();
        roots.sort_by_key(|&p| (rank(&self.packages[p].name), &self.packages[p].qualified_name));
        let mut seen = BTreeSet::new();
        let mut order = Vec::with_capacity(set.len());
        // Depth first without recursion: dependency chains are as long as an archive makes them.
        for root in roots {
            let mut stack = vec![(root, false)];
            while let Some((package, done)) = stack.pop() {
                if done {
                    order.push(package);
                } else if set.contains(&package) && seen.insert(package) {
                    stack.push((package, true));
                    stack.extend(self.depends[package].iter().rev().map(|&other| (other, false)));
                }
            }
        }
        order
    }
}

/// Packages that the base's scripts use without a dependency that says so: policy 3.8 lets them count on
/// Essential packages, which here are not configured yet. In any version, as in Debian 8 to 13;
/// debootstrap's scripts/debian-common installs the same ones first, by hand. No other package has an order
/// of its own.
const FIRST: [(&str, &str); 4] = [
    ("base-passwd", "its scripts make /etc/passwd and /etc/group, by whose names others chown"),
    ("mawk", "its postinst makes /usr/bin/awk, by update-alternatives(1)"),
    ("original-awk", "as mawk"),
    ("gawk", "as mawk"),
];

fn rank(name: &str) -> usize {
    FIRST.iter().position(|(first, _)| *first == name).unwrap_or(FIRST.len())
}

/// Who has a name.
struct Provider {
    index: usize,
    /// The version that it has it in; none of an unversioned Provides.
    version: Option<String>,
}

type Providers = BTreeMap<String, Vec<Provider>>;

/// One relation of a field.
struct Wish {
    name: String,
    /// The architecture, if it is named.
    architecture: Option<String>,
    constraint: Option<(Operator, String)>,
}

/// The package that fulfils one of several alternatives: the first alternative that any does, by its real
/// name before a provided one (policy 7.5), and of several architectures the one that dpkg would look
/// at. Where none does, as in a lock that is not closed, the first whose name is there.
fn choose(
    group: &[Wish],
    providers: &Providers,
    packages: &[UnpackedPackage],
    dependent: usize,
) -> Option<usize> {
    let find = |wish: &Wish, strict: bool| {
        let is_right = |provider: &&Provider| match &wish.constraint {
            Some((operator, wanted)) if strict => provider
                .version
                .as_ref()
                .is_some_and(|version| operator.accepts(version::compare(version, wanted))),
            _ => true,
        };
        let own = &packages[dependent].architecture;
        let is_elsewhere = |provider: &&Provider| {
            let architecture = &packages[provider.index].architecture;
            architecture != "all" && architecture != wish.architecture.as_ref().unwrap_or(own)
        };
        let found = providers.get(&wish.name)?.iter().filter(is_right).min_by_key(is_elsewhere)?;
        Some(found.index)
    };
    let strictly = group.iter().find_map(|wish| find(wish, true));
    strictly.or_else(|| group.iter().find_map(|wish| find(wish, false)))
}

/// The relations of a field: alternatives in groups.
fn wishes(control: &Stanza, field: &str, package: &UnpackedPackage) -> Result<Vec<Vec<Wish>>> {
    let mut groups = vec![Vec::new()];
    for relation in relation::alternatives(control.get(field).unwrap_or_default().as_bytes()) {
        let relation = relation
            .map_err(|e| crate::Error::input(format!("{field}: {e}")))
            .with_context(|| format!("{}: its control file", package.name))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let wish = Wish {
            name: text(relation.name),
            architecture: relation.qualifier.map(text).filter(|qualifier| qualifier != "any"),
            constraint: relation.constraint.map(|wanted| (wanted.operator, text(wanted.version))),
        };
        groups.last_mut().expect("there is always a group").push(wish);
        if !relation.or_next {
            groups.push(Vec::new());
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::Layer;

    fn package(name: &str, fields: &str, scripts: &[&str]) -> UnpackedPackage {
        UnpackedPackage {
            name: name.into(),
            qualified_name: name.into(),
            info_name: name.into(),
            version: "1".into(),
            architecture: "armhf".into(),
            control: format!("Package: {name}\nVersion: 1\nArchitecture: armhf\n{fields}"),
            scripts: scripts.iter().map(|s| s.to_string()).collect(),
            diverts: false,
            newest: 0,
            layer: Layer::default(),
            state: PackageState::Unpacked,
        }
    }

    fn named(packages: &[UnpackedPackage], steps: &[Step]) -> Vec<String> {
        let list = |p: &[usize]| p.iter().map(|&i| packages[i].name.as_str()).collect::<Vec<_>>().join(" ");
        steps
            .iter()
            .map(|step| match step {
                Step::Register => "register".into(),
                Step::SecondStage => "second stage".into(),
                Step::Unpack(debs) => format!("unpack {}", debs.join(" ")),
                Step::UnpackPackages(p) => format!("unpack packages {}", list(p)),
                Step::Preinst(p) => format!("preinst {}", list(p)),
                Step::Configure(p) => format!("configure {}", list(p)),
                Step::Seed => "seed".into(),
                Step::ConfigureAll => "configure -a".into(),
            })
            .collect()
    }

    #[test]
    fn the_base_comes_first_and_pre_depends_are_configured_before_a_preinst() {
        let packages = [
            package("app", "Pre-Depends: helper (>= 1)\nDepends: libx\n", &["preinst", "postinst"]),
            package("awkward", "", &["preinst"]),
            package("base-files", "Essential: yes\nPre-Depends: awk\n", &["postinst"]),
            package("base-passwd", "Essential: yes\nDepends: libc6\n", &["preinst"]),
            package("helper", "Depends: libx | other\n", &[]),
            package("libc6", "", &[]),
            package("libx", "Depends: libc6\n", &[]),
            package("mawk", "Provides: awk\nDepends: libc6\n", &[]),
        ];
        let steps = plan(&packages, &Begin::Composed).expect("a plan");
        assert_eq!(
            named(&packages, &steps),
            [
                "preinst base-passwd",
                "configure libc6 base-passwd mawk base-files",
                "seed",
                "configure libx helper",
                "preinst app awkward",
                "configure -a",
            ]
        );
    }

    #[test]
    fn what_is_done_is_not_done_again() {
        let mut packages = vec![
            package("base-files", "Essential: yes\nPre-Depends: awk\n", &["preinst", "postinst"]),
            package("mawk", "Provides: awk\nDepends: libc6\n", &["preinst"]),
            package("libc6", "", &["preinst"]),
            package("app", "Pre-Depends: helper\n", &["preinst"]),
            package("helper", "Depends: libx\n", &["preinst"]),
            package("libx", "", &["preinst"]),
        ];
        for (index, state) in [
            (0, PackageState::Prepared),
            (2, PackageState::Installed),
            (4, PackageState::Prepared),
            (5, PackageState::Installed),
        ] {
            packages[index].state = state;
        }
        let steps = plan(&packages, &Begin::Register(Vec::new())).expect("a plan");
        assert_eq!(
            named(&packages, &steps),
            [
                "register",
                "preinst mawk",
                "configure mawk base-files",
                "seed",
                "configure helper",
                "preinst app",
                "configure -a"
            ]
        );
        let steps = plan(&packages, &Begin::Unpack(vec!["/a.deb".into(), "/b.deb".into()])).expect("a plan");
        assert_eq!(named(&packages, &steps), ["unpack /a.deb /b.deb"]);
    }

    #[test]
    fn a_layer_is_unpacked_where_it_may_run_preinst_scripts() {
        let mut packages = vec![
            package("app", "Pre-Depends: helper\nDepends: base\n", &[]),
            package("base", "Essential: yes\n", &["preinst"]),
            package("helper", "Depends: base, tool\n", &[]),
            package("tool", "Depends: base\n", &["preinst", "postinst"]),
        ];
        packages[1].state = PackageState::Installed;
        let begin = |seed| Begin::Layer { debs: "/debs".into(), seed };
        let steps = plan(&packages, &begin(true)).expect("a plan");
        let expected = [
            "seed",
            "unpack packages tool helper",
            "configure tool helper",
            "unpack packages app",
            "configure -a",
        ];
        assert_eq!(named(&packages, &steps), expected);
        let steps = plan(&packages, &begin(false)).expect("a plan");
        assert_eq!(named(&packages, &steps), expected[1..]);
        let packages = [
            package("bash", "Essential: yes\nPre-Depends: libtinfo6\n", &["preinst"]),
            package("libtinfo6", "", &[]),
        ];
        let steps = plan(&packages, &begin(false)).expect("a plan");
        let expected =
            ["unpack packages libtinfo6", "configure libtinfo6", "unpack packages bash", "configure -a"];
        assert_eq!(named(&packages, &steps), expected);
    }

    #[test]
    fn alternatives_are_chosen_by_version_name_and_architecture() {
        let mut packages = vec![
            package("a", "Pre-Depends: old (>= 2) | virtual (>= 2) | last\n", &["preinst"]),
            package("b", "Pre-Depends: virtual | last\n", &["preinst"]),
            package("c", "Pre-Depends: virtual (>= 9) | gone\n", &["preinst"]),
            package("d", "Pre-Depends: lib\n", &["preinst"]),
            package("e", "Pre-Depends: lib:amd64\n", &["preinst"]),
            package("last", "", &[]),
            package("lib", "", &[]),
            package("lib", "", &[]),
            package("new", "Provides: virtual (= 2)\n", &[]),
            package("old", "Provides: virtual\n", &[]),
        ];
        packages[6].architecture = "amd64".into();
        let graph = Graph::new(&packages).expect("a graph");
        let chosen: Vec<Vec<usize>> =
            graph.pre_depends[..5].iter().map(|set| set.iter().copied().collect()).collect();
        assert_eq!(chosen, [[8], [8], [8], [7], [6]]);
    }

    #[test]
    fn a_preinst_that_another_waits_for_runs_before_that_is_configured() {
        let packages = [
            package("a", "Pre-Depends: b\n", &["preinst"]),
            package("b", "Pre-Depends: c\n", &["preinst"]),
            package("c", "", &[]),
            package("x", "Pre-Depends: y\n", &["preinst"]),
            package("y", "Pre-Depends: x\n", &["preinst"]),
        ];
        let steps = plan(&packages, &Begin::Composed).expect("a plan, in spite of the circle");
        assert_eq!(
            named(&packages, &steps),
            [
                "seed",
                "configure c",
                "preinst b",
                "configure b",
                "preinst a",
                "preinst y",
                "preinst x",
                "configure -a"
            ]
        );
    }
}
