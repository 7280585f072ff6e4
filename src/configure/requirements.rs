//! `--tier`, `--view`, `--accelerate` and `--require`: what the user asks of the sandbox, checked
//! against what it gives.

use sandbox::{Enforced, Tier, View};

use crate::{Error, Result, report::Reporter};

/// What must not degrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    required: Vec<Requirement>,
    tier: Option<Tier>,
    acceleration: AccelerationWish,
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
    CheckoutView,
    Seccomp,
    NoSync,
    /// Nothing at all may be less than asked.
    Everything,
}

/// What `--require` takes, for its error.
const NAMES: [(&str, Requirement); 5] = [
    ("tier=full", Requirement::FullTier),
    ("view=checkout", Requirement::CheckoutView),
    ("seccomp", Requirement::Seccomp),
    ("no-sync", Requirement::NoSync),
    ("all", Requirement::Everything),
];

impl Requirements {
    /// From the options; what this version of treestrap cannot give is an error at once.
    pub fn new(options: &crate::artefacts::StageTwo) -> Result<Self> {
        for (option, value, given) in [
            ("tier", &options.tier, &["auto", "full", "single"][..]),
            ("view", &options.view, &["auto", "checkout"]),
            ("accelerate", &options.accelerate, &["auto", "off", "require"]),
        ] {
            if let Some(value) = value
                && !given.contains(&value.as_str())
            {
                let message = format!("--{option} {value}: this version of treestrap has no such {option}");
                return Err(Error::machine(message).hint(format!("--{option} {}", given.join(" or "))));
            }
        }
        let required = options.require.iter().map(|name| {
            NAMES.iter().find(|(known, _)| known == name).map(|&(_, requirement)| requirement).ok_or_else(
                || {
                    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                    Error::machine(format!("--require {name}: this version of treestrap cannot promise that"))
                        .hint(format!("it can promise {}", names.join(", ")))
                },
            )
        });
        let acceleration = match options.accelerate.as_deref() {
            Some("off") => AccelerationWish::Off,
            Some("require") => AccelerationWish::Require,
            _ => AccelerationWish::Auto,
        };
        let tier =
            [Tier::Full, Tier::Single].into_iter().find(|tier| options.tier.as_deref() == Some(tier.name()));
        Ok(Requirements { required: required.collect::<Result<_>>()?, tier, acceleration })
    }

    /// The tier that was asked for; none: the best that this machine can.
    pub(super) fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Whether programs of a foreign image are to run natively.
    pub fn acceleration(&self) -> AccelerationWish {
        self.acceleration
    }

    /// Reports what is less than was asked; an error if it was required.
    pub(super) fn check(&self, enforced: &Enforced, image: &str, reporter: &dyn Reporter) -> Result<()> {
        for degraded in &enforced.inside.degraded {
            reporter.note(image, degraded.clone());
        }
        let unmet = self.required.iter().find(|requirement| match requirement {
            Requirement::FullTier => enforced.tier != Tier::Full,
            Requirement::CheckoutView => enforced.view != View::Checkout,
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
