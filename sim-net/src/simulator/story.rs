//! What happened, for people: kept only where somebody reads it.

use std::collections::VecDeque;

/// Lines kept for a failure.
const LINES_MAX: usize = 40;

/// The story of a run. A run that finds something is run again, to tell it: a run that does not is not slowed down.
#[derive(Debug, Default)]
pub(super) enum Story {
    /// Nobody listens.
    #[default]
    Untold,
    /// The last lines are kept.
    Kept(VecDeque<String>),
    /// Every line is printed, the last ones are kept too.
    Printed(VecDeque<String>),
}

impl Story {
    pub(super) fn told(print: bool) -> Self {
        if print { Self::Printed(VecDeque::new()) } else { Self::Kept(VecDeque::new()) }
    }

    pub(super) const fn is_told(&self) -> bool {
        !matches!(self, Self::Untold)
    }

    /// Adds a line: true time in µs, the node, what happened.
    pub(super) fn tell(&mut self, time: u64, node: &str, what: &str) {
        let line = format!("{:>12.6} s  {node:<10} {what}", time as f64 / 1e6);
        let lines = match self {
            Self::Untold => return,
            Self::Kept(lines) => lines,
            Self::Printed(lines) => {
                println!("{line}");
                lines
            }
        };
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last lines.
    pub(super) fn last(&self) -> Vec<String> {
        match self {
            Self::Untold => Vec::new(),
            Self::Kept(lines) | Self::Printed(lines) => lines.iter().cloned().collect(),
        }
    }
}
