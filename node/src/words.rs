//! What peers and registries name, and what went wrong, in words.

use wayfare_protocol::reject::Reject;

/// A rejection's name in words. What this program does not know is shown as it is, without its control characters.
pub(crate) fn in_words(reason: &str) -> String {
    let known = Reject::ALL.iter().find(|reject| reject.name() == reason);
    known.map_or_else(|| reason.escape_debug().to_string(), ToString::to_string)
}

/// How much alike two names are that may be meant for each other, from 0 to 1.
const NEAR: f64 = 0.75;

/// Of `known`, the name that is most like `wanted`, if one is like it.
pub(crate) fn near(wanted: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let rated = known.into_iter().map(|name| (strsim::jaro_winkler(wanted, &name), name));
    let best = rated.filter(|(rating, _)| *rating >= NEAR).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, name)| name)
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
    fn a_slip_of_the_pen_is_recognised_and_another_name_is_not() {
        let known = || ["orders", "kv", "todo"].map(str::to_owned);
        assert_eq!(near("ordres", known()).as_deref(), Some("orders"));
        assert_eq!(near("kvv", known()).as_deref(), Some("kv"));
        assert_eq!(near("mail", known()), None);
    }

    #[test]
    fn names_become_words_and_nothing_steers_the_terminal() {
        assert!(in_words("bad_token").contains("unknown, used or expired"));
        assert_eq!(in_words("\u{1b}[31m"), "\\u{1b}[31m");
    }
}
