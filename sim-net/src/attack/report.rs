//! What came of the attacks, for people and for programs.

use std::{
    collections::BTreeMap,
    fmt,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{ATTACKS, Attack, field::Seen};

/// What one thing that was sent led to.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was sent, or tried.
    pub what: String,
    /// What the victim's own counter says, or what became of it.
    pub observed: String,
    /// Whether it was refused as it must be.
    pub blocked: bool,
}

/// What came of one attack.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub name: &'static str,
    /// What must come of it.
    pub expected: &'static str,
    /// What came of it, by the victims' own counters.
    pub observed: String,
    /// Whether everything in it was refused, and nothing else happened.
    pub blocked: bool,
    /// What stood in its way.
    pub defence: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// The same, thing by thing.
    pub steps: Vec<Step>,
}

impl Row {
    /// An attack is blocked if something was tried, everything was refused, and no harm was done.
    pub(super) fn new(attack: &Attack, seen: Vec<Seen>, harm: Option<String>, took: Duration) -> Self {
        let steps: Vec<Step> =
            seen.into_iter().map(|Seen { what, observed, blocked }| Step { what, observed, blocked }).collect();
        let blocked = harm.is_none() && !steps.is_empty() && steps.iter().all(|step| step.blocked);
        let mut observed: Vec<&str> = Vec::new();
        for text in steps.iter().map(|step| step.observed.as_str()).chain(harm.as_deref()) {
            if !observed.contains(&text) {
                observed.push(text);
            }
        }
        let observed = if observed.is_empty() { "nothing".to_owned() } else { observed.join("; ") };
        let mut steps = steps;
        if let Some(harm) = harm {
            steps.push(Step { what: "the victims".to_owned(), observed: harm, blocked: false });
        }
        let (name, expected, defence) = (attack.name, attack.expected, attack.defence.name());
        Self { name, expected, observed, blocked, defence, seconds: took.as_secs_f64(), steps }
    }
}

/// What became of the client that counted meanwhile.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Clients {
    /// Requests sent.
    pub sent: u64,
    /// Answered as they should be.
    pub answered: u64,
    /// Not.
    pub failed: u64,
    /// Acknowledged writes that are not there.
    pub lost: u64,
    /// Writes that were executed twice, or that nobody asked for.
    pub doubled: u64,
    /// The longest that one took, milliseconds.
    pub longest_ms: f64,
    /// Why requests failed.
    pub failures: BTreeMap<String, u64>,
    /// Why what was written could not be read back.
    pub audit_failure: Option<String>,
}

impl Clients {
    fn is_clean(&self) -> bool {
        self.sent > 0 && self.failed == 0 && self.lost == 0 && self.doubled == 0 && self.audit_failure.is_none()
    }
}

/// What came of all of it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How long it took.
    pub seconds: f64,
    /// Each attack.
    pub attacks: Vec<Row>,
    /// The client that counted meanwhile.
    pub clients: Clients,
    /// Where the victims' files are, if they are of use to anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

impl Summary {
    /// Whether everything was blocked, and the victims served their client all the time.
    pub fn is_clean(&self) -> bool {
        !self.attacks.is_empty() && self.attacks.iter().all(|row| row.blocked) && self.clients.is_clean()
    }
}

/// Columns of an attack's name.
fn name_width() -> usize {
    ATTACKS.iter().map(|attack| attack.name.len()).max().unwrap_or(0)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = name_width();
        writeln!(f, "{:width$}  blocked  what was done, and what the victim says", "attack")?;
        for row in &self.attacks {
            let (mut name, mut blocked) = (row.name, if row.blocked { "yes" } else { "NO" });
            for Step { what, observed, blocked: held } in &row.steps {
                let mark = if *held { "" } else { "NOT BLOCKED: " };
                writeln!(f, "{name:width$}  {blocked:7}  {mark}{what} -> {observed}")?;
                (name, blocked) = ("", "");
            }
            if row.steps.is_empty() {
                writeln!(f, "{name:width$}  {blocked:7}  {}", row.observed)?;
            }
        }
        let blocked = self.attacks.iter().filter(|row| row.blocked).count();
        writeln!(f, "\nattacks   {}, {blocked} blocked, in {:.0} s", self.attacks.len(), self.seconds)?;
        let Clients { sent, answered, failed, lost, doubled, longest_ms, failures, audit_failure } = &self.clients;
        write!(
            f,
            "client    {sent} requests meanwhile, {answered} answered, {failed} failed, {lost} lost, {doubled} executed twice; \
             the longest took {:.1} s",
            longest_ms / 1e3
        )?;
        for (reason, count) in failures {
            write!(f, "\n          {count} × {reason}")?;
        }
        if let Some(failure) = audit_failure {
            write!(f, "\n          what was written cannot be read back: {failure}")?;
        }
        if let Some(kept) = &self.kept {
            write!(f, "\nfiles     {}", kept.display())?;
        }
        Ok(())
    }
}

/// The attacks, for people.
pub(super) fn list(attacks: &[Attack]) -> String {
    let width = name_width();
    let mut text = String::new();
    for Attack { name, does, worth, defence, .. } in attacks {
        text.push_str(&format!("{name:width$}  {does}\n{:width$}  worth: {worth} ({})\n", "", defence.name()));
    }
    text
}

/// The attacks, for programs.
#[derive(Serialize)]
pub(super) struct Listed {
    name: &'static str,
    does: &'static str,
    worth: &'static str,
    expected: &'static str,
    defence: &'static str,
}

impl From<&Attack> for Listed {
    fn from(attack: &Attack) -> Self {
        let Attack { name, does, worth, expected, defence, .. } = *attack;
        Self { name, does, worth, expected, defence: defence.name() }
    }
}

/// How far it is, for people who look on.
pub(super) struct Progress {
    quiet: bool,
    begun: Instant,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, begun: Instant::now() }
    }

    pub(super) fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{:6.1} s  {text}", self.begun.elapsed().as_secs_f64());
        }
    }

    /// On a terminal: a line that [`done`](Self::done) overwrites.
    pub(super) fn attacking(&self, attack: &Attack, number: usize, of: usize) {
        if !self.quiet && std::io::stderr().is_terminal() {
            let elapsed = self.begun.elapsed().as_secs_f64();
            eprint!("\r\x1b[K{elapsed:6.1} s  {number} of {of}: {} …", attack.name);
            // Nobody may be reading.
            let _ = std::io::stderr().flush();
        }
    }

    pub(super) fn done(&self, row: &Row) {
        if !self.quiet {
            let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
            let elapsed = self.begun.elapsed().as_secs_f64();
            let outcome = if row.blocked { "blocked" } else { "NOT BLOCKED" };
            eprintln!("{clear}{elapsed:6.1} s  {}: {outcome}", row.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(blocked: bool) -> Seen {
        Seen { what: "2".to_owned(), observed: "registry: expired +1".to_owned(), blocked }
    }

    fn row(seen: Vec<Seen>, harm: Option<&str>) -> Row {
        Row::new(&ATTACKS[0], seen, harm.map(str::to_owned), Duration::ZERO)
    }

    #[test]
    fn an_attack_is_blocked_only_if_something_was_tried_and_nothing_came_of_it() {
        assert!(row(vec![seen(true), seen(true)], None).blocked);
        assert!(!row(vec![], None).blocked, "nothing was tried");
        assert!(!row(vec![seen(true), seen(false)], None).blocked);
        assert!(!row(vec![seen(true)], Some("the record moved")).blocked);
        assert_eq!(row(vec![seen(true), seen(true)], None).observed, "registry: expired +1");
    }

    #[test]
    fn all_is_well_only_if_all_is_blocked_and_the_client_was_served() {
        let clean = Clients { sent: 1, answered: 1, ..Clients::default() };
        let summary = |attacks, clients| Summary { seconds: 1.0, attacks, clients, kept: None };
        let blocked = row(vec![seen(true)], None);
        assert!(summary(vec![blocked.clone()], clean.clone()).is_clean());
        assert!(!summary(vec![], clean.clone()).is_clean());
        assert!(!summary(vec![blocked.clone(), row(vec![seen(false)], None)], clean.clone()).is_clean());
        for clients in [
            Clients::default(),
            Clients { failed: 1, ..clean.clone() },
            Clients { lost: 1, ..clean.clone() },
            Clients { doubled: 1, ..clean.clone() },
            Clients { audit_failure: Some(String::new()), ..clean },
        ] {
            assert!(!summary(vec![blocked.clone()], clients).is_clean());
        }
    }
}
