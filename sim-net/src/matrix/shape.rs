//! Where the numbers of a CSV matrix begin: finds the header row and the label column, and shows that what is left is
//! square.
//!
//! A header is a first row with a cell that is neither empty nor a number, and the label column likewise. Three cases
//! need more thought, and the shape decides them:
//!
//! - The corner is on the diagonal of a plain matrix, so a word there is a header's corner only if the other diagonal
//!   cells are numbers (`-` on the whole diagonal is no header).
//! - A header of numbers mostly, that leaves a matrix which is not square where without it the matrix would be, is a
//!   mistyped cell.
//! - An empty corner over rows and columns numbered alike from 0 or 1, as data-frame libraries write it, is a header too.

use super::{At, MATRIX_ROWS_MAX, MatrixError};

/// The longest piece of a cell that a message repeats, in characters.
const EXCERPT_CHARS_MAX: usize = 40;

/// One row of cells, trimmed, and the line it begins on.
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) cells: Vec<String>,
}

/// The file's cells before any meaning is given to them. Never empty.
pub(super) struct Grid {
    pub(super) rows: Vec<Row>,
}

/// What precedes the numbers: 0 or 1 header rows, 0 or 1 label cells in each row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Shape {
    pub(super) header: usize,
    pub(super) labels: usize,
}

impl Grid {
    pub(super) fn read(file: &str, text: &str) -> Result<Self, MatrixError> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let mut rows = Vec::new();
        let mut lines = Lines::new(text);
        for record in reader.records() {
            // Of a string in memory the reader cannot fail: the text is UTF-8 and rows may differ in length.
            let record = record.map_err(|_| MatrixError::NotText { at: At::new(file, lines.line, 1) })?;
            let line = lines.of_record(record.position().map_or(0, |p| p.byte() as usize));
            rows.push(Row { line, cells: record.iter().map(str::to_owned).collect() });
            if rows.len() > MATRIX_ROWS_MAX + 1 {
                return Err(MatrixError::TooManyRows { at: At::new(file, line, 1) });
            }
        }
        if rows.iter().all(|row| row.cells.iter().all(String::is_empty)) {
            return Err(MatrixError::Empty { at: At::new(file, 1, 1) });
        }
        Ok(Self { rows })
    }

    /// Finds header and labels, and refuses what is not square then.
    pub(super) fn shape(&self, file: &str) -> Result<Shape, MatrixError> {
        let header_words = self.rows[0].cells.iter().skip(1).any(|cell| is_word(cell));
        let label_words = self.rows.iter().skip(1).filter_map(|row| row.cells.first()).any(|cell| is_word(cell));
        let header = usize::from(header_words || self.has_corner());
        let labels = usize::from(label_words || (!header_words && self.has_corner()));
        let shape = Shape { header, labels };
        let Err(refusal) = self.check_square(file, shape) else {
            return Ok(shape);
        };
        // A word among the numbers of a matrix that is square as it stands is a mistake in that cell, not a header.
        let header_max = if mostly_numbers(self.rows[0].cells.iter()) { 0 } else { header };
        let labels_max =
            if mostly_numbers(self.rows.iter().skip(header).filter_map(|row| row.cells.first())) { 0 } else { labels };
        let plainer = [(header_max, labels), (header, labels_max), (header_max, labels_max)];
        let plainer = plainer.map(|(header, labels)| Shape { header, labels });
        let square = plainer.into_iter().find(|&other| self.check_square(file, other).is_ok());
        square.ok_or(refusal)
    }

    /// The names of the rows: labels, else headers, else numbers.
    pub(super) fn names(&self, shape: &Shape) -> Vec<String> {
        let header = &self.rows[0].cells;
        let size = self.rows.len() - shape.header;
        let corner = header.len().saturating_sub(size);
        let given = |i: usize| -> Option<&String> {
            if shape.labels == 1 {
                self.rows[shape.header + i].cells.first()
            } else if shape.header == 1 {
                header.get(corner + i)
            } else {
                None
            }
        };
        (0..size).map(|i| given(i).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| plain_name(i))).collect()
    }

    /// The first cell is the corner of a header row and a label column whose other cells may all look like numbers.
    fn has_corner(&self) -> bool {
        let corner = &self.rows[0].cells[0];
        let mut diagonal = self.rows.iter().enumerate().skip(1).map(|(i, row)| row.cells.get(i));
        if is_word(corner) {
            return self.rows.len() > 1 && diagonal.all(|cell| cell.is_some_and(|c| !c.is_empty() && !is_word(c)));
        }
        let across = self.rows[0].cells.iter().skip(1);
        let down = self.rows.iter().skip(1).filter_map(|row| row.cells.first());
        corner.is_empty() && self.rows.len() > 2 && counts(across) && counts(down)
    }

    fn check_square(&self, file: &str, shape: Shape) -> Result<(), MatrixError> {
        let Some(first) = self.rows.get(shape.header) else {
            return Err(MatrixError::Empty { at: At::new(file, self.rows[0].line, 1) });
        };
        let width = first.cells.len();
        for row in &self.rows[shape.header..] {
            if row.cells.len() != width {
                let at = At::new(file, row.line, row.cells.len().min(width) + 1);
                return Err(MatrixError::Ragged { at, cells: row.cells.len(), expected: width });
            }
        }
        let (rows, columns) = (self.rows.len() - shape.header, width - shape.labels);
        if rows != columns {
            let (row, column) = if rows > columns { (columns, 1) } else { (rows - 1, shape.labels + rows + 1) };
            let at = At::new(file, self.rows[shape.header + row].line, column);
            return Err(MatrixError::NotSquare { at, rows, columns });
        }
        let header = &self.rows[0];
        // Some programs leave the corner out.
        if shape.header == 1 && header.cells.len() != width && header.cells.len() != columns {
            let at = At::new(file, header.line, header.cells.len().min(width) + 1);
            return Err(MatrixError::Ragged { at, cells: header.cells.len(), expected: width });
        }
        Ok(())
    }
}

/// The name of a row that has none.
pub(super) fn plain_name(row: usize) -> String {
    format!("row {row}")
}

/// A cell as a message shows it: short, on one line.
pub(super) fn excerpt(cell: &str) -> String {
    let mut shown: String =
        cell.chars().take(EXCERPT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cell.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn is_word(cell: &str) -> bool {
    !cell.is_empty() && cell.parse::<f64>().is_err()
}

/// Whether at most half of the cells with content are words.
fn mostly_numbers<'a>(cells: impl Iterator<Item = &'a String> + Clone) -> bool {
    let words = cells.clone().filter(|cell| is_word(cell)).count();
    2 * words <= cells.filter(|cell| !cell.is_empty()).count()
}

/// Whether the cells count 0, 1, 2 … or 1, 2, 3 …
fn counts<'a>(cells: impl Iterator<Item = &'a String> + Clone) -> bool {
    [0, 1].into_iter().any(|first| cells.clone().enumerate().all(|(i, cell)| *cell == (first + i).to_string()))
}

/// Line numbers of records. The reader's own stand before the blank lines it skips.
struct Lines<'a> {
    text: &'a [u8],
    byte: usize,
    line: u64,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), byte: 0, line: 1 }
    }

    /// The line on which the record begins that the reader found at `byte`, which never goes back.
    fn of_record(&mut self, byte: usize) -> u64 {
        while let Some(&b) = self.text.get(self.byte) {
            if self.byte >= byte && b != b'\n' && b != b'\r' {
                break;
            }
            self.line += u64::from(b == b'\n');
            self.byte += 1;
        }
        self.line
    }
}
