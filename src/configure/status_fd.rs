//! dpkg's `--status-fd` lines, as dpkg(1) documents them under that option.

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// `processing: STAGE: PACKAGE`: about to start (`configure`, `trigproc`, …).
    Processing { stage: &'a str, package: &'a str },
    /// `status: PACKAGE: STATUS`: it is now `half-configured`, `installed`, ….
    Status { package: &'a str, status: &'a str },
    /// `status: PACKAGE : error : MESSAGE`.
    Error { package: &'a str, message: &'a str },
    /// `status: FILE : conffile-prompt : …`: dpkg would ask. With `--force-confold` it does not.
    ConffilePrompt { file: &'a str },
}

/// Parses one line; none if it is of no kind that dpkg documents.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    let (kind, rest) = line.split_once(": ")?;
    match kind {
        "processing" => {
            let (stage, package) = rest.split_once(": ")?;
            Some(Line::Processing { stage, package })
        }
        "status" => {
            // Errors and prompts have spaces around their colons, states have none before them.
            if let Some((package, message)) = rest.split_once(" : error : ") {
                return Some(Line::Error { package, message });
            }
            if let Some((file, _)) = rest.split_once(" : conffile-prompt : ") {
                return Some(Line::ConffilePrompt { file });
            }
            let (package, status) = rest.rsplit_once(": ")?;
            Some(Line::Status { package, status: status.trim() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form() {
        let table = [
            (
                "processing: configure: libc6:armhf",
                Some(Line::Processing { stage: "configure", package: "libc6:armhf" }),
            ),
            (
                "status: libc6:armhf: half-configured",
                Some(Line::Status { package: "libc6:armhf", status: "half-configured" }),
            ),
            (
                "status: broken : error : installed broken package post-installation script subprocess returned error exit status 7",
                Some(Line::Error {
                    package: "broken",
                    message: "installed broken package post-installation script subprocess returned error exit status 7",
                }),
            ),
            (
                "status: /etc/x.conf : conffile-prompt : '/etc/x.conf' '/etc/x.conf.dpkg-new' 1 1",
                Some(Line::ConffilePrompt { file: "/etc/x.conf" }),
            ),
            ("", None),
            ("status:", None),
            ("processing: x", None),
            ("whatever: it: is", None),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }
}
