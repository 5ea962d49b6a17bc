//! Tables, numbers and times for people: 100 columns at most.

/// The widest line.
const WIDTH: usize = 100;
/// The widest column but the last.
const COLUMN: usize = 24;

/// Columns of text, the last of which is cut where the line ends. A title that ends in `>` aligns to the right.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = titles.iter().map(|title| title.trim_end_matches('>').to_owned()).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(&header).chain(rows).map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let last = titles.len().saturating_sub(1);
    let width = |column: usize| {
        let widths = lines.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        if column == last { widths.max() } else { widths.max().map(|width| width.min(COLUMN)) }.unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    for row in &lines {
        let mut line = String::new();
        for ((cell, title), width) in row.iter().zip(titles).zip(&widths) {
            let cell = cut(cell, *width);
            line.push_str(&if title.ends_with('>') {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            });
        }
        text.push_str(&cut(line.trim_end(), WIDTH));
        text.push('\n');
    }
    text
}

fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// `text` with at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Without control characters but line ends and tabs: what peers and services say must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    let safe = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
}

/// The first characters of an identifier.
pub(super) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// As `1.5 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (count as f64, 0);
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{count} {name}") } else { format!("{number:.1} {name}") }
}

/// As `12.3 ms`; `-` for none.
pub(super) fn millis(time: Option<f64>) -> String {
    time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
}

/// As `3 min ago`, of a time in microseconds since the Unix epoch.
pub(super) fn ago(at_us: Option<u64>, now_us: u64) -> String {
    let Some(at_us) = at_us else { return "-".to_owned() };
    let seconds = now_us.saturating_sub(at_us) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// The time of day, UTC, as `01:02:05.004`, of a time in microseconds since the Unix epoch.
pub(super) fn clock(at_us: u64) -> String {
    let (millis, seconds) = (at_us / 1000 % 1000, at_us / 1_000_000);
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// A missing value.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_at_a_hundred() {
        let rows = [
            vec!["kv".to_owned(), "7".to_owned(), "x".repeat(200)],
            vec!["a-service-with-a-very-long-name".to_owned(), "12345".to_owned(), "\u{1b}[31mred\nline".to_owned()],
        ];
        let text = table(&["service", "count>", "reason"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "service                   count  reason");
        assert!(lines[1].starts_with("kv                            7  xxx") && lines[1].ends_with('…'));
        assert_eq!(lines[1].chars().count(), WIDTH);
        assert_eq!(lines[2], "a-service-with-a-very-l…  12345  \u{fffd}[31mred line");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!((bytes(17), bytes(1536), bytes(3 << 30)), ("17 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
        assert_eq!((millis(None), millis(Some(1.25))), ("-".into(), "1.2 ms".into()));
        assert_eq!((ago(Some(0), 119_000_000), ago(Some(0), 600_000_000)), ("119 s ago".into(), "10 min ago".into()));
    }
}
