//! The classic text format (version 0.0.4), for whoever does not ask for OpenMetrics: `curl`, `promtool`, older scrapers.
//!
//! The two differ, for what Wayfare exports, in the name under which a counter is described (`_total` belongs to it here), in
//! `# UNIT` and in the end mark.

/// An OpenMetrics exposition as classic text.
pub(crate) fn from_openmetrics(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut classic = String::with_capacity(text.len() + counters.len() * 16);
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) if counters.contains(&name) => {
                classic.extend(["# ", what, " ", name, "_total ", rest]);
            }
            _ => classic.push_str(line),
        }
        classic.push('\n');
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_their_full_name_and_the_rest_stays() {
        let open = "# HELP a Some words here.\n# TYPE a counter\na_total{x=\"y\"} 1\n# HELP b_seconds B.\n# TYPE b_seconds gauge\n\
                    # UNIT b_seconds seconds\nb_seconds 2\n# EOF\n";
        let classic = "# HELP a_total Some words here.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n# HELP b_seconds B.\n\
                       # TYPE b_seconds gauge\nb_seconds 2\n";
        assert_eq!(from_openmetrics(open), classic);
    }
}
