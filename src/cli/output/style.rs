//! Colours: a help for the eye, never the only sign of anything.

use clap::builder::styling::{AnsiColor, Style as Paint};

/// Whether and how labels are painted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
}

impl Style {
    pub(super) fn new(colours: bool) -> Self {
        Style { colours }
    }

    pub(super) fn error(self, label: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), label)
    }

    pub(super) fn warning(self, label: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default().bold(), label)
    }

    pub(super) fn hint(self, label: &str) -> String {
        self.paint(AnsiColor::Cyan.on_default().bold(), label)
    }

    fn paint(self, paint: Paint, label: &str) -> String {
        if self.colours { format!("{paint}{label}{paint:#}") } else { label.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn painted_and_plain() {
        assert_eq!(Style::new(false).error("error:"), "error:");
        assert_eq!(Style::new(true).error("error:"), "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m");
    }
}
