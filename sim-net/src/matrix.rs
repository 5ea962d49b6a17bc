//! RTT matrices: who is how far from whom, in one run.
//!
//! A [`LatencyMatrix`] that parsed is square, and every cell off its diagonal is unknown or from 0 to [`RTT_MS_MAX`]
//! milliseconds. An unknown cell is refused only by [`LatencyMatrix::require`], where a run needs that link. Every
//! refusal names file, line and column (both from 1; a column is a cell, label cells count) and says what to do.
//!
//! The CSV dialect: milliseconds, comma-separated, an optional header row and an optional label column, both found by
//! their cells that are not numbers (see `matrix/shape.rs`), the diagonal ignored, asymmetry allowed, an empty cell for
//! an unknown link.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

mod shape;

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// The most rows a matrix may have. With it, the table takes at most 32 MiB.
pub const MATRIX_ROWS_MAX: usize = 2048;
/// The longest round trip a cell may hold, in milliseconds.
pub const RTT_MS_MAX: f64 = 60_000.0;
/// The round trip between two nodes on the same row unless [`LatencyMatrix::with_local_rtt_us`] says otherwise, in
/// microseconds: same town, different building.
pub const LOCAL_RTT_US: u32 = 1_000;

/// The matrix that ships with the crate (source and licence: `data/README.md`).
const BUNDLED_CSV: &str = include_str!("../data/planetlab16_rtt_ms.csv");
/// The name by which output refers to the bundled matrix.
const BUNDLED_NAME: &str = "planetlab16_rtt_ms.csv";

/// A square matrix of round-trip times between rows ("places").
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyMatrix {
    file: String,
    names: Vec<String>,
    rtt_us: Vec<Option<u32>>,
    lines: Vec<u64>,
    /// How many label cells precede the first value of a row: 0 or 1.
    labels: usize,
    local_rtt_us: u32,
}

impl LatencyMatrix {
    /// The 16 PlanetLab rows that ship with the crate.
    ///
    /// # Errors
    /// As [`LatencyMatrix::parse`]; a unit test shows that it does not happen.
    pub fn bundled() -> Result<Self, MatrixError> {
        Self::parse(BUNDLED_NAME, BUNDLED_CSV)
    }

    /// Reads a CSV file of at most [`FILE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// The file cannot be read, is too large, is not UTF-8, or is refused by [`LatencyMatrix::parse`].
    pub fn read(path: &Path) -> Result<Self, MatrixError> {
        let file = path.display().to_string();
        let mut bytes = Vec::new();
        let opened = File::open(path).and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        if let Err(source) = opened {
            return Err(MatrixError::Read { file, source });
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(MatrixError::TooLarge { file });
        }
        let text = String::from_utf8(bytes).map_err(|e| not_text(&file, e.as_bytes(), e.utf8_error().valid_up_to()))?;
        Self::parse(&file, &text)
    }

    /// Parses CSV text; `file` is the name that errors use.
    ///
    /// # Errors
    /// No rows, too many rows, rows of different lengths, not square, or a cell that is not a latency.
    pub fn parse(file: &str, text: &str) -> Result<Self, MatrixError> {
        let grid = shape::Grid::read(file, text)?;
        let shape = grid.shape(file)?;
        let size = grid.rows.len() - shape.header;
        if size > MATRIX_ROWS_MAX {
            let line = grid.rows[shape.header + MATRIX_ROWS_MAX].line;
            return Err(MatrixError::TooManyRows { at: At::new(file, line, 1) });
        }
        let values = &grid.rows[shape.header..];
        let mut rtt_us = Vec::with_capacity(size * size);
        for (from, row) in values.iter().enumerate() {
            for (to, cell) in row.cells[shape.labels..].iter().enumerate() {
                let at = || At::new(file, row.line, to + shape.labels + 1);
                rtt_us.push(if from == to { None } else { parse_cell(cell, at)? });
            }
        }
        Ok(Self {
            file: file.to_owned(),
            names: grid.names(&shape),
            rtt_us,
            lines: values.iter().map(|row| row.line).collect(),
            labels: shape.labels,
            local_rtt_us: LOCAL_RTT_US,
        })
    }

    /// The same matrix with another round trip, in microseconds, between nodes on the same row.
    #[must_use]
    pub fn with_local_rtt_us(mut self, local_rtt_us: u32) -> Self {
        self.local_rtt_us = local_rtt_us;
        self
    }

    /// How many rows, and so columns.
    pub fn rows(&self) -> usize {
        self.names.len()
    }

    /// The file's name as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The row's name: its label, else its column's header, else `row 5` (rows count from 0). Empty beyond the rows.
    pub fn name(&self, row: usize) -> &str {
        self.names.get(row).map_or("", String::as_str)
    }

    /// The round trip from one row to another in microseconds; the local round trip where they are the same row; `None`
    /// where it is unknown or there is no such row.
    pub fn rtt_us(&self, from: usize, to: usize) -> Option<u32> {
        let rows = self.rows();
        if from >= rows || to >= rows {
            return None;
        }
        if from == to { Some(self.local_rtt_us) } else { self.rtt_us[from * rows + to] }
    }

    /// The round trip in microseconds, refused where it is unknown.
    ///
    /// # Errors
    /// The cell is empty, or a row is beyond the matrix.
    pub fn require(&self, from: usize, to: usize) -> Result<u32, MatrixError> {
        self.rtt_us(from, to).ok_or_else(|| self.missing(from, to))
    }

    /// Refuses a set of rows of which any two lack a link in either direction.
    ///
    /// # Errors
    /// As [`LatencyMatrix::require`], for the first such link in row order.
    pub fn require_all(&self, rows: &[usize]) -> Result<(), MatrixError> {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows.dedup();
        for &from in &rows {
            for &to in &rows {
                self.require(from, to)?;
            }
        }
        Ok(())
    }

    /// Refuses a matrix of fewer rows than a run needs.
    ///
    /// # Errors
    /// There are fewer than `wanted` rows.
    pub fn require_rows(&self, wanted: usize) -> Result<(), MatrixError> {
        if self.rows() >= wanted {
            return Ok(());
        }
        let at = At::new(&self.file, self.lines.last().copied().unwrap_or(1), 1);
        Err(MatrixError::TooFewRows { at, rows: self.rows(), wanted })
    }

    fn missing(&self, from: usize, to: usize) -> MatrixError {
        let rows = self.rows();
        if let Some(row) = [from, to].into_iter().find(|&row| row >= rows) {
            let at = At::new(&self.file, self.lines.last().copied().unwrap_or(1), 1);
            return MatrixError::NoSuchRow { at, row, rows };
        }
        let named = |row: usize| {
            let plain = shape::plain_name(row);
            if self.names[row] == plain { plain } else { format!("{plain} ({})", shape::excerpt(&self.names[row])) }
        };
        MatrixError::MissingLink {
            at: At::new(&self.file, self.lines[from], to + self.labels + 1),
            from: named(from),
            to: named(to),
        }
    }
}

/// A cell's place in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct At {
    /// The file's name as given.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The cell in the line, from 1, label cells included.
    pub column: usize,
}

impl At {
    fn new(file: &str, line: u64, column: usize) -> Self {
        Self { file: file.to_owned(), line, column }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}, column {}", self.file, self.line, self.column)
    }
}

/// Why a matrix was refused. Nothing has changed then.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says what its fields say")]
pub enum MatrixError {
    #[error("cannot read the latency matrix {file}: check that the file exists and may be read")]
    Read { file: String, source: io::Error },
    #[error("{file} is over {} MiB: give a matrix of at most {MATRIX_ROWS_MAX} rows", FILE_BYTES_MAX >> 20)]
    TooLarge { file: String },
    #[error("{at}: this is not text: save the matrix as CSV in UTF-8")]
    NotText { at: At },
    #[error("{at}: there are no latencies here: write one row per node, with the milliseconds to every node")]
    Empty { at: At },
    #[error(
        "{at}: this row has {cells} cells where {expected} are due: give every row one cell per node, empty where a latency is unknown"
    )]
    Ragged { at: At, cells: usize, expected: usize },
    #[error("{at}: {rows} rows of {columns} latencies are not square: give as many rows as columns, one per node")]
    NotSquare { at: At, rows: usize, columns: usize },
    #[error("{at}: a matrix may have {MATRIX_ROWS_MAX} rows at most: leave some nodes out")]
    TooManyRows { at: At },
    #[error(
        "{at}: '{cell}' is not a number: write a round trip in milliseconds, or leave the cell empty if it is unknown"
    )]
    NotANumber { at: At, cell: String },
    #[error(
        "{at}: '{cell}' is not a finite number: write a round trip in milliseconds, or leave the cell empty if it is unknown"
    )]
    NotFinite { at: At, cell: String },
    #[error("{at}: '{cell}' is negative: write a round trip in milliseconds, or leave the cell empty if it is unknown")]
    Negative { at: At, cell: String },
    #[error(
        "{at}: '{cell}' is over {RTT_MS_MAX} milliseconds: check the unit, or leave the cell empty if the link is unusable"
    )]
    TooLong { at: At, cell: String },
    #[error(
        "{at}: the matrix ends after {rows} rows and this run needs {wanted}: ask for fewer clouds or give a larger matrix"
    )]
    TooFewRows { at: At, rows: usize, wanted: usize },
    #[error("{at}: there is no row {row}, the matrix has {rows} rows, 0 to {}: name one of those", rows.saturating_sub(1))]
    NoSuchRow { at: At, row: usize, rows: usize },
    #[error(
        "{at}: the round trip from {from} to {to} is empty and this run needs it: fill it in, or choose other rows"
    )]
    MissingLink { at: At, from: String, to: String },
}

fn parse_cell(cell: &str, at: impl Fn() -> At) -> Result<Option<u32>, MatrixError> {
    if cell.is_empty() {
        return Ok(None);
    }
    let shown = || shape::excerpt(cell);
    let Ok(ms) = cell.parse::<f64>() else {
        return Err(MatrixError::NotANumber { at: at(), cell: shown() });
    };
    if !ms.is_finite() {
        return Err(MatrixError::NotFinite { at: at(), cell: shown() });
    }
    if ms < 0.0 {
        return Err(MatrixError::Negative { at: at(), cell: shown() });
    }
    if ms > RTT_MS_MAX {
        return Err(MatrixError::TooLong { at: at(), cell: shown() });
    }
    Ok(Some((ms * 1_000.0).round() as u32))
}

/// Where the first byte stands that is not UTF-8: commas of its line are counted plainly, quotes aside.
fn not_text(file: &str, bytes: &[u8], valid_up_to: usize) -> MatrixError {
    let before = &bytes[..valid_up_to];
    let line = 1 + before.iter().filter(|&&b| b == b'\n').count() as u64;
    let column = 1 + before.iter().rev().take_while(|&&b| b != b'\n').filter(|&&b| b == b',').count();
    MatrixError::NotText { at: At::new(file, line, column) }
}

#[cfg(test)]
mod tests;
