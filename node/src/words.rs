//! What peers and registries name, and what went wrong, in words.

use wayfare_protocol::reject::Reject;

/// A rejection's name in words. What this program does not know is shown as it is, without its control characters.
pub(crate) fn in_words(reason: &str) -> String {
    let known = Reject::ALL.iter().find(|reject| reject.name() == reason);
    known.map_or_else(|| reason.escape_debug().to_string(), ToString::to_string)
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words_and_nothing_steers_the_terminal() {
        assert!(in_words("bad_token").contains("unknown, used or expired"));
        assert_eq!(in_words("\u{1b}[31m"), "\\u{1b}[31m");
    }
}
