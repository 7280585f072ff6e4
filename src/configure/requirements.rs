//! `--tier`, `--view`, `--accelerate`, `--limit` and `--require`: what the user asks of the sandbox, checked
//! against what it gives.

use sandbox::{Enforced, MemoryLimit, Plan, Tier, View};

use crate::{
    Error, Result,
    artefacts::Limits,
    report::{Event, Reporter},
};

/// What is asked, and what must not degrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    view: Option<View>,
    required: Vec<Requirement>,
    tier: Option<Tier>,
    acceleration: AccelerationWish,
    limits: Limits,
}

/// `--accelerate`: whether a foreign image's programs run natively where they can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelerationWish {
    /// Where it is possible; what is not is reported.
    #[default]
    Auto,
    /// Never.
    Off,
    /// It is an error where it is not possible, or where a program that should could not.
    Require,
}

/// Something that `--require` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requirement {
    FullTier,
    View(View),
    Seccomp,
    NoSync,
    /// Nothing at all may be less than asked.
    Everything,
}

/// What `--require` takes.
const NAMES: [(&str, Requirement); 8] = [
    ("tier=full", Requirement::FullTier),
    ("view=redirect", Requirement::View(View::Redirect)),
    ("view=fuse", Requirement::View(View::Fuse)),
    ("view=checkout", Requirement::View(View::Checkout)),
    ("view=fuse-cow", Requirement::View(View::FuseCow)),
    ("seccomp", Requirement::Seccomp),
    ("no-sync", Requirement::NoSync),
    ("all", Requirement::Everything),
];

impl Requirements {
    /// From the options; what this version of treestrap cannot give is an error at once.
    pub fn new(options: &crate::artefacts::StageTwo) -> Result<Self> {
        for (option, value, given) in [
            ("tier", &options.tier, &["auto", "full", "single"][..]),
            ("accelerate", &options.accelerate, &["auto", "off", "require"]),
        ] {
            if let Some(value) = value
                && !given.contains(&value.as_str())
            {
                let message = format!("--{option} {value}: this version of treestrap has no such {option}");
                return Err(Error::machine(message).hint(format!("--{option} {}", given.join(" or "))));
            }
        }
        let required: Vec<Requirement> = options
            .require
            .iter()
            .map(|name| {
                NAMES.iter().find(|(known, _)| known == name).map(|&(_, requirement)| requirement).ok_or_else(
                    || {
                        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                        Error::machine(format!(
                            "--require {name}: this version of treestrap cannot promise that"
                        ))
                        .hint(format!(
                            "it can promise {}; and `build` can promise versions",
                            names.join(", ")
                        ))
                    },
                )
            })
            .collect::<Result<_>>()?;
        let asked = options.view.as_deref().map(view).transpose()?;
        // Who requires a view and asks for none wants that one.
        let wanted = required.iter().find_map(|requirement| match requirement {
            Requirement::View(view) => Some(*view),
            _ => None,
        });
        let acceleration = match options.accelerate.as_deref() {
            Some("off") => AccelerationWish::Off,
            Some("require") => AccelerationWish::Require,
            _ => AccelerationWish::Auto,
        };
        let tier =
            [Tier::Full, Tier::Single].into_iter().find(|tier| options.tier.as_deref() == Some(tier.name()));
        let limits = options.limits;
        Ok(Requirements { view: asked.or(wanted), required, tier, acceleration, limits })
    }

    /// The tier that was asked for.
    pub fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Puts what was asked for into a plan.
    pub(super) fn add_to(&self, plan: &mut Plan) {
        plan.view = self.view;
        plan.tier = self.tier;
        let Limits { processes, memory, time } = self.limits;
        plan.limits.processes = processes.unwrap_or(plan.limits.processes);
        plan.limits.memory = memory;
        plan.limits.time = time;
    }

    /// Whether programs of a foreign image are to run natively.
    pub fn acceleration(&self) -> AccelerationWish {
        self.acceleration
    }

    /// Reports what is less than was asked; an error if it was required.
    pub(super) fn check(&self, enforced: &Enforced, image: &str, reporter: &dyn Reporter) -> Result<()> {
        let value = serde_json::to_value(enforced).map_err(Error::bug)?;
        reporter.event(Event::Enforced {
            image: image.to_owned(),
            enforced: value,
            summary: summary(enforced),
        });
        for degraded in &enforced.inside.degraded {
            reporter.note(image, degraded.clone());
        }
        let unmet = self.required.iter().find(|requirement| match requirement {
            Requirement::FullTier => enforced.tier != Tier::Full,
            Requirement::View(view) => enforced.inside.view != *view,
            Requirement::Seccomp => !enforced.inside.seccomp,
            Requirement::NoSync => !enforced.inside.no_sync,
            Requirement::Everything => !enforced.inside.degraded.is_empty(),
        });
        let Some(unmet) = unmet else { return Ok(()) };
        let name = NAMES.iter().find(|(_, requirement)| requirement == unmet).map_or("", |(name, _)| name);
        let message =
            format!("--require {name}: this machine gives less. {}", enforced.inside.degraded.join("; "));
        Err(Error::machine(message).hint("treestrap doctor"))
    }
}

/// What was given, in one line.
fn summary(enforced: &Enforced) -> String {
    let Enforced { asked_view, inside, .. } = enforced;
    let asked = if asked_view.is_some() { "as asked" } else { "chosen" };
    let yes = |given: bool, what: &str| format!("{}{what}", if given { "" } else { "no " });
    let processes = inside.processes.map_or("no limit of".to_owned(), |most| format!("{most}"));
    let memory = inside.memory.map(|limit| match limit {
        MemoryLimit::Together(bytes) => format!("{bytes} bytes of memory together"),
        MemoryLimit::EachProcess(bytes) => format!("{bytes} bytes of memory for each process"),
    });
    let time = inside.time.map(|time| format!("{} s for each command", time.as_secs()));
    let parts = [
        format!("sandbox: tier {}", enforced.tier.name()),
        format!("view {} ({asked})", inside.view),
        yes(inside.seccomp, "system call filter"),
        if inside.no_sync && inside.volatile { "syncs cost nothing" } else { "syncs reach the disk" }
            .to_owned(),
        format!("{processes} processes"),
        format!("{} capabilities", inside.capabilities.len()),
    ];
    parts.into_iter().chain(memory).chain(time).collect::<Vec<_>>().join(", ")
}

/// The view of this name on the command line.
fn view(name: &str) -> Result<View> {
    let known = View::PREFERENCE.into_iter().find(|view| view.name() == name);
    known.ok_or_else(|| Error::machine(format!("--view {name}: this version of treestrap has no such view")))
}
