//! What every bench prints: one form of JSON, and the same as a table for people.
//!
//! A row is one figure, beside its floor (what the same machine needs for the work that cannot be avoided) or its peer (another
//! way to do the same), measured in the same run, and the ratio of the two. Of several runs it has the medians, and how far
//! they lie apart.

use std::{
    collections::BTreeMap,
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::Value;

/// The result of one bench.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The bench's name on the command line.
    pub bench: String,
    /// Where it ran.
    pub machine: Machine,
    /// The figures.
    pub rows: Vec<Row>,
    /// The most memory that this process had resident, in MiB; `None` where the system does not say.
    pub peak_rss_mib: Option<f64>,
}

/// The machine of a bench.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many threads may run at the same time.
    pub cores: usize,
    /// The load average of the last minute when the bench began: well above 0, the figures are doubtful.
    pub load: f64,
    /// The system and its version.
    pub system: String,
    /// When the bench began, in seconds since the Unix epoch.
    pub began_s: u64,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Such as `handshake.p50`.
    pub name: String,
    /// What the figure depends on, such as counts and sizes.
    pub params: BTreeMap<String, Value>,
    /// In `unit`.
    pub value: f64,
    /// Such as `ms` or `MiB`.
    pub unit: String,
    /// The least that is possible, or what the peer has, in `unit`.
    pub floor: Option<f64>,
    /// What the floor is, where the name of the figure does not say it.
    pub floor_is: Option<String>,
    /// `value / floor`; of several runs the median of their ratios.
    pub ratio: Option<f64>,
    /// How far several runs lie apart; `None` for one.
    pub spread: Option<Spread>,
}

/// The least and the greatest of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many runs.
    pub runs: usize,
    /// Of the value.
    pub value: [f64; 2],
    /// Of the ratio.
    pub ratio: Option<[f64; 2]>,
}

/// What a process has resident, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// All of it (`VmRSS`).
    pub resident_mib: f64,
    /// What is not backed by files (`RssAnon`).
    pub anonymous_mib: f64,
    /// The most that it ever was (`VmHWM`).
    pub peak_mib: f64,
}

impl Row {
    /// A figure without floor.
    pub fn new(name: impl Into<String>, value: f64, unit: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            params: BTreeMap::new(),
            value,
            unit: unit.into(),
            floor: None,
            floor_is: None,
            ratio: None,
            spread: None,
        }
    }

    /// With a parameter.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// With its floor, in the figure's unit, and so the ratio if the floor is above 0.
    #[must_use]
    pub fn floor(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self.ratio = (floor > 0.0).then(|| self.value / floor);
        self
    }

    /// Beside a peer: what it has, and what it is.
    #[must_use]
    pub fn beside(self, value: f64, is: &str) -> Self {
        Self { floor_is: Some(is.to_owned()), ..self.floor(value) }
    }

    /// The same figure in several runs, at least one.
    fn merged(runs: &[&Self]) -> Option<Self> {
        let first = *runs.first()?;
        let all = |of: fn(&Self) -> Option<f64>| runs.iter().filter_map(|row| of(row)).collect::<Vec<_>>();
        let (mut values, mut floors, mut ratios) =
            (all(|row| Some(row.value)), all(|row| row.floor), all(|row| row.ratio));
        // The medians sort them.
        let value = quantile(&mut values, 0.5)?;
        let (floor, ratio) = (quantile(&mut floors, 0.5), quantile(&mut ratios, 0.5));
        let ends = |sorted: &[f64]| Some([*sorted.first()?, *sorted.last()?]);
        let spread = Spread { runs: runs.len(), value: ends(&values)?, ratio: ends(&ratios) };
        Some(Self { value, floor, ratio, spread: Some(spread), ..first.clone() })
    }
}

impl Machine {
    /// This machine, now. What the system does not say is `unknown` or 0.
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            cpu: cpu_name(&cpuinfo).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: loadavg.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            system: system(),
            began_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

impl Memory {
    /// Of this process, now; `None` where the system does not say.
    pub fn own() -> Option<Self> {
        memory(&fs::read_to_string("/proc/self/status").ok()?)
    }

    /// Of another process; `None` if there is none or the system does not say.
    pub fn of(pid: u32) -> Option<Self> {
        memory(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }
}

impl Report {
    /// A bench that begins: it notes the machine and its load.
    pub fn begin(bench: impl Into<String>) -> Self {
        Self { bench: bench.into(), machine: Machine::read(), rows: Vec::new(), peak_rss_mib: None }
    }

    /// Adds a figure.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// One report of several runs of the same bench, at least one: medians, and how far they lie apart. The machine is that
    /// of the first.
    pub fn merged(runs: &[Self]) -> Option<Self> {
        let first = runs.first()?;
        if runs.len() == 1 {
            return Some(first.clone());
        }
        // The rows of a bench come in the same order in each run; what it measured on the way is among their parameters.
        let row = |(at, row): (usize, &Row)| {
            let same: Vec<&Row> =
                runs.iter().filter_map(|run| run.rows.get(at)).filter(|other| other.name == row.name).collect();
            Row::merged(&same)
        };
        let rows = first.rows.iter().enumerate().filter_map(row).collect();
        let peak = runs.iter().filter_map(|run| run.peak_rss_mib).reduce(f64::max);
        Some(Self { rows, peak_rss_mib: peak, ..first.clone() })
    }

    /// Ends the bench: it notes the peak of memory.
    #[must_use]
    pub fn finish(mut self) -> Self {
        self.peak_rss_mib = Memory::own().map(|memory| memory.peak_mib);
        self
    }
}

/// The table for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let Machine { cpu, cores, load, system, began_s } = machine;
        writeln!(f, "{}: {cpu}, {cores} cores, {system}, load {load:.2}, at {}", self.bench, Utc(*began_s))?;
        let header = ["", "value", "unit", "floor", "ratio", "of"].map(str::to_owned);
        let lines: Vec<[String; 6]> = std::iter::once(header).chain(self.rows.iter().map(cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let [name, value, unit, floor, ratio] = [0, 1, 2, 3, 4].map(width);
        for [a, b, c, d, e, params] in &lines {
            let line = format!("  {a:name$}  {b:>value$} {c:unit$}  {d:>floor$}  {e:>ratio$}  {params}");
            writeln!(f, "{}", line.trim_end())?;
        }
        match self.peak_rss_mib {
            Some(mib) => writeln!(f, "peak memory of this process: {} MiB", short(mib)),
            None => Ok(()),
        }
    }
}

fn cells(row: &Row) -> [String; 6] {
    let mut of: Vec<String> = row.params.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    of.extend(row.floor_is.iter().map(|is| format!("(floor: {is})")));
    if let Some(Spread { runs, value: [least, greatest], ratio }) = row.spread {
        of.push(format!("{runs} runs: {} to {}", short(least), short(greatest)));
        of.extend(ratio.map(|[least, greatest]| format!("ratio {least:.2} to {greatest:.2}")));
    }
    let (floor, ratio) = (row.floor.map(short), row.ratio.map(|ratio| format!("{ratio:.2}")));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [row.name.clone(), short(row.value), row.unit.clone(), or_dash(floor), or_dash(ratio), of.join(" ")]
}

fn plain(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => short(number),
        _ => value.to_string(),
    }
}

/// A time as people write it: `2026-01-31 23:59 UTC`.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0 / 86_400, self.0 % 86_400);
        // Days from 0000-03-01, in the proleptic Gregorian calendar: `civil_from_days`,
        // <https://howardhinnant.github.io/date_algorithms.html>.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
    }
}

/// The kernel's name and release.
fn system() -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    match (read("ostype"), read("osrelease")) {
        (Some(name), Some(release)) => format!("{} {}", name.trim(), release.trim()),
        _ => std::env::consts::OS.to_owned(),
    }
}

/// Three or more significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The value at a quantile from 0 to 1 (the nearest rank), sorting the samples; `None` if there are none.
pub fn quantile(samples: &mut [f64], quantile: f64) -> Option<f64> {
    samples.sort_unstable_by(f64::total_cmp);
    let rank = (quantile.clamp(0.0, 1.0) * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied()
}

fn cpu_name(cpuinfo: &str) -> Option<&str> {
    let named =
        |key: &str| cpuinfo.lines().find_map(|line| line.strip_prefix(key)?.split_once(':').map(|(_, name)| name));
    ["model name", "Model", "Hardware", "Processor"].into_iter().find_map(named).map(str::trim)
}

fn memory(status: &str) -> Option<Memory> {
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1_024.0)
    };
    Some(Memory { resident_mib: mib("VmRSS")?, anonymous_mib: mib("RssAnon")?, peak_mib: mib("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            bench: "handshake".to_owned(),
            machine: Machine {
                cpu: "Abacus 9".to_owned(),
                cores: 2,
                load: 0.25,
                system: "Linux 6.1".to_owned(),
                began_s: 1_709_251_199,
            },
            rows: vec![
                Row::new("handshake.p50", 6.0, "ms").param("moves", 200).param("guest", "kv").floor(2.5),
                Row::new("node.idle_rss_mib", 31.25, "MiB"),
            ],
            peak_rss_mib: Some(120.0),
        }
    }

    #[test]
    fn the_json_of_every_bench() {
        let expected = r#"{"bench":"handshake","machine":{"cpu":"Abacus 9","cores":2,"load":0.25,"system":"Linux 6.1","began_s":1709251199},"rows":[{"name":"handshake.p50","params":{"guest":"kv","moves":200},"value":6.0,"unit":"ms","floor":2.5,"floor_is":null,"ratio":2.4,"spread":null},{"name":"node.idle_rss_mib","params":{},"value":31.25,"unit":"MiB","floor":null,"floor_is":null,"ratio":null,"spread":null}],"peak_rss_mib":120.0}"#;
        assert_eq!(serde_json::to_string(&report()).unwrap(), expected);
    }

    #[test]
    fn the_table() {
        let expected = "handshake: Abacus 9, 2 cores, Linux 6.1, load 0.25, at 2024-02-29 23:59 UTC\n\
            \x20                    value unit  floor  ratio  of\n\
            \x20 handshake.p50       6.00 ms     2.50   2.40  guest=\"kv\" moves=200\n\
            \x20 node.idle_rss_mib   31.2 MiB       -      -\n\
            peak memory of this process: 120 MiB\n";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn several_runs_are_one_report_of_medians() {
        let run = |p50: f64, floor: f64| {
            let mut run = report();
            run.rows[0] = Row::new("handshake.p50", p50, "ms").beside(floor, "what must be");
            run
        };
        let merged = Report::merged(&[run(6.0, 2.0), run(4.0, 4.0), run(5.0, 2.5)]).unwrap();
        let row = &merged.rows[0];
        assert_eq!((row.value, row.floor, row.ratio), (5.0, Some(2.5), Some(2.0)));
        let spread = Spread { runs: 3, value: [4.0, 6.0], ratio: Some([1.0, 3.0]) };
        assert_eq!((row.spread, merged.rows[1].value), (Some(spread), 31.25));
        assert!(
            merged.to_string().contains("(floor: what must be) 3 runs: 4.00 to 6.00 ratio 1.00 to 3.00"),
            "{merged}"
        );
        assert_eq!(Report::merged(&[report()]), Some(report()));
        assert_eq!(Report::merged(&[]), None);
    }

    #[test]
    fn dates() {
        assert_eq!(Utc(0).to_string(), "1970-01-01 00:00 UTC");
        assert_eq!(Utc(951_782_399).to_string(), "2000-02-28 23:59 UTC");
        assert_eq!(Utc(1_798_761_599).to_string(), "2026-12-31 23:59 UTC");
    }

    #[test]
    fn reads_what_the_system_says() {
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: Abacus: 9 \n"), Some("Abacus: 9"));
        assert_eq!(cpu_name("processor\t: 0\nModel\t\t: Board 4\n"), Some("Board 4"));
        assert_eq!(cpu_name(""), None);
        let status = "Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n";
        let expected = Memory { resident_mib: 2.0, anonymous_mib: 0.5, peak_mib: 4.0 };
        assert_eq!((memory(status), memory("VmRSS: 1 kB\n"), memory("VmRSS: many kB")), (Some(expected), None, None));
        let finished = Report::begin("none").finish();
        let own = Memory::own().unwrap();
        assert!(own.peak_mib >= own.resident_mib && own.resident_mib > own.anonymous_mib, "{own:?}");
        assert!(finished.peak_rss_mib.is_some() && finished.machine.cores > 0, "{finished:?}");
        assert_eq!(Memory::of(std::process::id()).map(|m| m.peak_mib > 0.0), Some(true));
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        let mut samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!([0.0, 0.5, 0.51, 0.99, 1.0].map(|q| quantile(&mut samples, q)), [1.0, 2.0, 3.0, 4.0, 4.0].map(Some));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn a_floor_of_nothing_has_no_ratio() {
        let row = Row::new("x", 1.0, "ms").floor(0.0);
        assert_eq!((row.floor, row.ratio), (Some(0.0), None));
    }
}
