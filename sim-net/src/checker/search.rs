//! One scope, searched to its end; or, without some guards, to the first promise that is broken.

use std::{fmt, time::Instant};

use serde::Serialize;
use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

use super::{
    guards::Off,
    model::Scoped,
    scopes::Scope,
    story::tell,
    world::{CannotBegin, World},
};

/// A promise that is broken, and how.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Counterexample {
    /// The promise.
    pub(super) property: &'static str,
    /// What happens, one step a line; a shortest way.
    pub(super) story: Vec<String>,
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Found {
    /// The scope.
    pub(super) scope: Scope,
    /// The guards that were off.
    pub(super) without: String,
    /// Whether there was no state left to look at.
    pub(super) complete: bool,
    /// States that were come to, on all ways.
    pub(super) states: usize,
    /// Different ones.
    pub(super) unique: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub(super) depth: usize,
    /// Different conditions of a party, different messages, and steps that a machine took.
    pub(super) parties: usize,
    pub(super) messages: usize,
    pub(super) steps: usize,
    /// How long it took.
    pub(super) seconds: f64,
    /// The promises that were checked in each state.
    pub(super) checked: Vec<&'static str>,
    /// What ought to be possible, and is not: the scope does not show what it should.
    pub(super) unreached: Vec<&'static str>,
    /// Broken promises.
    pub(super) counterexamples: Vec<Counterexample>,
}

impl Found {
    /// Whether everything that was to be shown was shown.
    pub(super) fn is_clean(&self) -> bool {
        self.complete && self.counterexamples.is_empty() && self.unreached.is_empty()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.complete { "" } else { "  NOT COMPLETE" };
        write!(
            f,
            "{:<18} {:>9} states, {:>8} different, depth {:>2}; {:>6} parties, {:>3} messages, {:>6} steps; {:>6.1} s{end}",
            self.scope.name,
            self.states,
            self.unique,
            self.depth,
            self.parties,
            self.messages,
            self.steps,
            self.seconds
        )?;
        self.unreached.iter().try_for_each(|property| write!(f, "\n  never happens: {property}"))?;
        for counterexample in &self.counterexamples {
            write!(f, "\n  BROKEN: {}", counterexample.property)?;
            counterexample.story.iter().try_for_each(|line| write!(f, "\n    {line}"))?;
        }
        Ok(())
    }
}

/// Searches `scope` without the guards of `off`, on so many threads, until there is no new state, or more than `most` were
/// come to. With a guard off, the first broken promise ends it.
///
/// # Errors
/// [`CannotBegin`].
pub(super) fn search(scope: Scope, off: Off, jobs: usize, most: Option<usize>) -> Result<Found, CannotBegin> {
    let began = Instant::now();
    let (world, beginning) = super::guards::without(off, || World::new(scope, off))?;
    let model = Scoped::new(world, beginning);
    let properties = model.properties();
    let finish = if off.is_none() { HasDiscoveries::All } else { HasDiscoveries::AnyFailures };
    let builder = model.checker().threads(jobs.max(1)).finish_when(finish);
    let builder = most.into_iter().fold(builder, |builder, most| builder.target_state_count(most));
    let checker = builder.spawn_bfs().join();
    let discoveries = checker.discoveries();
    let (mut checked, mut unreached, mut counterexamples) = (Vec::new(), Vec::new(), Vec::new());
    for property in &properties {
        let discovery = discoveries.get(property.name);
        match property.expectation {
            Expectation::Sometimes if discovery.is_none() => unreached.push(property.name),
            Expectation::Sometimes => {}
            Expectation::Always | Expectation::Eventually => checked.push(property.name),
        }
        if let Some(path) = discovery.filter(|_| property.expectation != Expectation::Sometimes) {
            let story = tell(checker.model(), path.clone());
            counterexamples.push(Counterexample { property: property.name, story });
        }
    }
    counterexamples.sort_by_key(|counterexample| counterexample.story.len());
    let seconds = began.elapsed().as_secs_f64();
    let to_the_end = most.is_none_or(|most| checker.state_count() < most);
    let (parties, messages, steps) = checker.model().memo.sizes();
    Ok(Found {
        scope,
        without: off.names(),
        complete: to_the_end && counterexamples.is_empty(),
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        parties,
        messages,
        steps,
        seconds,
        checked,
        unreached,
        counterexamples,
    })
}
