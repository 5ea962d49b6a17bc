//! Who stands on which row of a matrix: the clouds, the home node, the registry, and the rows that the client visits.
//!
//! [`layout`] is a pure function of its arguments: the same seed gives the same layout on every machine. It wants a
//! journey on which moving pays: every visited row has a cloud, home is far from all of them, and from each visited row
//! the cloud of the one before is well away.
//!
//! It needs `clouds + 1` rows: the clouds and home never share one. The registry has a row of its own if there are
//! `clouds + 2`, and shares home's otherwise. The client's rows are those of clouds (or, of a path that is given, as many
//! as there are clouds). Rows with unknown links are left out as long as enough others remain.

use thiserror::Error;

use crate::matrix::{LatencyMatrix, MatrixError};
use crate::rng::SplitMix64;

/// The most clouds in one run: all are real nodes in one process.
pub const CLOUDS_MAX: usize = 64;
/// The most stops of a client in one run.
pub const STOPS_MAX: usize = 1024;
/// How many random journeys are weighed. Few enough that two seeds seldom agree, enough that none is dull.
const PROPOSALS: usize = 48;

/// The rows of one run, each below the matrix's number of rows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    /// Where the service starts. Never a cloud's row.
    pub home: usize,
    /// The registry's row: its own, or home's where rows are scarce.
    pub registry: usize,
    /// One distinct row per cloud, in ascending order.
    pub cloud_rows: Vec<usize>,
    /// The rows that the client visits, in order.
    pub path: Vec<usize>,
}

impl Layout {
    /// Every row in use, ascending, each once.
    pub fn rows(&self) -> Vec<usize> {
        let mut rows = self.cloud_rows.clone();
        rows.extend(&self.path);
        rows.extend([self.home, self.registry]);
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// The cloud row nearest to `row` and the round trip to it in microseconds; the lower row where two are equally near.
    pub fn nearest_cloud(&self, matrix: &LatencyMatrix, row: usize) -> Option<(usize, u32)> {
        let reachable = self.cloud_rows.iter().filter_map(|&cloud| Some((cloud, matrix.rtt_us(row, cloud)?)));
        reachable.min_by_key(|&(cloud, rtt_us)| (rtt_us, cloud))
    }
}

/// Where the client goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Journey {
    /// So many stops, chosen by seed. Stops beyond the number of clouds revisit the same rows in the same order.
    Stops(usize),
    /// These rows in this order; a row may come again.
    Path(Vec<usize>),
}

/// Why there is no layout.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says what its fields say")]
pub enum LayoutError {
    #[error("{clouds} clouds are not possible: ask for 1 to {CLOUDS_MAX}")]
    Clouds { clouds: usize },
    #[error("a journey of {stops} stops is not possible: ask for 1 to {STOPS_MAX}")]
    Stops { stops: usize },
    #[error(transparent)]
    Matrix(#[from] MatrixError),
}

/// Chooses the rows of a run with so many clouds.
///
/// # Errors
/// Numbers out of range, fewer than `clouds + 1` rows, a path with a row that does not exist, or an unknown link between
/// two rows that the run needs.
pub fn layout(matrix: &LatencyMatrix, clouds: usize, journey: &Journey, seed: u64) -> Result<Layout, LayoutError> {
    if !(1..=CLOUDS_MAX).contains(&clouds) {
        return Err(LayoutError::Clouds { clouds });
    }
    let (stops, given) = match journey {
        Journey::Stops(stops) => (*stops, None),
        Journey::Path(path) => (path.len(), Some(path)),
    };
    if !(1..=STOPS_MAX).contains(&stops) {
        return Err(LayoutError::Stops { stops });
    }
    matrix.require_rows(clouds + 1)?;
    let mut rng = SplitMix64::new(seed);
    let (usable, path) = match given {
        Some(path) => {
            matrix.require_all(path)?;
            (usable_rows(matrix, path, clouds + 1)?, path.clone())
        }
        None => {
            let usable = usable_rows(matrix, &[], clouds + 1)?;
            let places = propose(matrix, &usable, stops.min(clouds), &mut rng);
            (usable, places.iter().copied().cycle().take(stops).collect())
        }
    };
    let layout = place(matrix, &usable, path, clouds, &mut rng);
    matrix.require_all(&layout.rows())?;
    Ok(layout)
}

/// The rows that know each other and all of `path`: the row with most unknown links is dropped until none is unknown.
fn usable_rows(matrix: &LatencyMatrix, path: &[usize], wanted: usize) -> Result<Vec<usize>, MatrixError> {
    let mut rows: Vec<usize> = (0..matrix.rows()).collect();
    let unknown = |a: usize, b: usize| usize::from(matrix.rtt_us(a, b).is_none() || matrix.rtt_us(b, a).is_none());
    let mut gaps: Vec<usize> = rows.iter().map(|&a| rows.iter().map(|&b| unknown(a, b)).sum()).collect();
    loop {
        let droppable = rows.iter().copied().filter(|row| gaps[*row] > 0 && !path.contains(row));
        let Some(worst) = droppable.max_by_key(|&row| gaps[row]) else {
            return Ok(rows);
        };
        if rows.len() == wanted {
            matrix.require_all(&rows)?;
        }
        rows.retain(|&row| row != worst);
        for &row in &rows {
            gaps[row] -= unknown(row, worst);
        }
    }
}

/// The best of some random journeys over `count` distinct rows, leaving one row for home.
fn propose(matrix: &LatencyMatrix, usable: &[usize], count: usize, rng: &mut SplitMix64) -> Vec<usize> {
    let mut best = (0, Vec::new());
    for proposal in 0..PROPOSALS {
        let mut rows = usable.to_vec();
        rng.shuffle_first(&mut rows, count);
        let (path, rest) = rows.split_at(count);
        let worth = worth_us(matrix, path, rest);
        if proposal == 0 || worth > best.0 {
            best = (worth, path.to_vec());
        }
    }
    best.1
}

/// What following this journey gains, in microseconds: the mean round trip to the best home, and up to as much again for
/// a journey whose shortest hop is long. A hop beyond half of what staying costs gains nothing: there is enough to see.
fn worth_us(matrix: &LatencyMatrix, path: &[usize], homes: &[usize]) -> u64 {
    let staying = homes.iter().map(|&home| mean_us(matrix, path, home)).max().unwrap_or(0);
    let hops = path.iter().zip(path.iter().cycle().skip(1)).filter(|(from, to)| from != to);
    let shortest = hops.map(|(&from, &to)| rtt_us(matrix, to, from)).min().unwrap_or(0);
    staying + staying.min(2 * shortest)
}

/// Gives out the rows for a journey that is settled.
fn place(matrix: &LatencyMatrix, usable: &[usize], path: Vec<usize>, clouds: usize, rng: &mut SplitMix64) -> Layout {
    let mut places = path.clone();
    places.sort_unstable();
    places.dedup();
    // Home first: it matters most. A visited row only where no other is left.
    let off_path = usable.iter().copied().filter(|row| !places.contains(row));
    let farthest = |rows: &mut dyn Iterator<Item = usize>| rows.max_by_key(|&row| (mean_us(matrix, &path, row), row));
    let home = farthest(&mut off_path.clone()).or_else(|| farthest(&mut places.iter().copied())).unwrap_or(0);
    places.retain(|&row| row != home);
    let mut cloud_rows = spread(matrix, &places, clouds);
    let mut rest: Vec<usize> = usable.iter().copied().filter(|row| *row != home && !cloud_rows.contains(row)).collect();
    let missing = clouds - cloud_rows.len();
    // With a row to spare the registry is central: every step of a handshake that asks it costs a round trip.
    let mut registry = home;
    if rest.len() > missing {
        let central = rest.iter().copied().min_by_key(|&row| (mean_us(matrix, usable, row), row));
        registry = central.unwrap_or(home);
        rest.retain(|&row| row != registry);
    }
    rng.shuffle_first(&mut rest, missing);
    cloud_rows.extend(rest.iter().take(missing));
    cloud_rows.sort_unstable();
    Layout { home, registry, cloud_rows, path }
}

/// At most `count` of the rows, each next one the farthest from those before.
fn spread(matrix: &LatencyMatrix, rows: &[usize], count: usize) -> Vec<usize> {
    let mut rest = rows.to_vec();
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < count {
        let apart = |row: usize| chosen.iter().map(|&other| rtt_us(matrix, row, other)).min();
        let Some(next) = rest.iter().copied().rev().max_by_key(|&row| apart(row)) else { break };
        rest.retain(|&row| row != next);
        chosen.push(next);
    }
    chosen
}

/// The mean round trip in microseconds from each of `from` to `to`.
fn mean_us(matrix: &LatencyMatrix, from: &[usize], to: usize) -> u64 {
    let sum: u64 = from.iter().map(|&row| rtt_us(matrix, row, to)).sum();
    sum / from.len().max(1) as u64
}

/// A round trip between rows of which it is known, in microseconds.
fn rtt_us(matrix: &LatencyMatrix, from: usize, to: usize) -> u64 {
    u64::from(matrix.rtt_us(from, to).unwrap_or(0))
}

#[cfg(test)]
mod tests;
