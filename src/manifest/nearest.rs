//! What a mistyped word may have meant.

/// The hint for an unknown `word`: the nearest of `known`, or all of them after `label` where none
/// is near.
pub fn did_you_mean(word: &str, known: &[&str], label: &str) -> String {
    match nearest(word, known) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None if known.is_empty() => format!("{label}: none"),
        None => format!("{label}: {}", known.join(", ")),
    }
}

/// The word of `known` that is fewest edits away, if those are few for its length: two, or a third
/// of the letters, but never all of them.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let length = word.chars().count();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word.to_lowercase(), candidate);
    let (best, candidate) = known.iter().map(|known| (distance(known), *known)).min()?;
    (best <= (length / 3).max(2) && best < length).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_and_far_ones() {
        let known = ["arch", "packages", "recommends", "signed-by"];
        for (word, expected) in [
            ("recomends", Some("recommends")),
            ("Packages", Some("packages")),
            ("pakcage", Some("packages")),
            ("signed_by", Some("signed-by")),
            ("arc", Some("arch")),
            ("a", None),
            ("", None),
            ("hooks", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(did_you_mean("hooks", &["a", "b"], "known keys"), "known keys: a, b");
        assert_eq!(did_you_mean("hooks", &[], "its images"), "its images: none");
    }
}
