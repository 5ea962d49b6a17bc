//! `audit verify` and `audit export`: everything is read, nothing changed, so the registry may run or be far away.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use wayfare_protocol::{
    ids::HostId,
    registry::audit::{Act, Block},
    suite::{Dalek, PublicKey, Suite as _},
};

use super::{Common, output};
use crate::{
    audit::{
        Known,
        limits::LINE_BYTES_MAX,
        line::{self, Point, Wanted},
        segment,
        walk::{self, Report},
    },
    config::{ConfigError, StateDir, read_trust},
    store::LogStore,
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check that nothing in the log was altered, removed, put in or cut off since it was signed.
    #[command(after_help = "Examples:
  wayfare-registry audit verify
  wayfare-registry audit verify --dir /var/lib/wayfare-registry --json
  wayfare-registry audit verify exported.jsonl --key 4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM
  wayfare-registry audit verify copy-of-the-log/ --trust trust.json

Without FILE, the log in the registry's directory, which may be running, is compared with its
records: they name the last entry, so a cut end is noticed. Elsewhere the registry's public key is
enough: `init` and `run --json` print it, trust.json holds it.

Exit code 1: something is wrong with the log.")]
    Verify {
        #[command(flatten)]
        common: Common,
        /// An export, one file of a log, or a directory of them, of this registry or another.
        file: Option<PathBuf>,
        #[command(flatten)]
        whose: Whose,
    },
    /// Print entries as JSON lines, which people can read and anybody with the public key can check.
    #[command(after_help = "Examples:
  wayfare-registry audit export > log.jsonl
  wayfare-registry audit export --service kv --from 2026-01-31 --to 2026-02-28T12:00:00Z > kv.jsonl
  wayfare-registry audit export --cloud fjord --kind cloud_denied --kind enrolled
  wayfare-registry audit export --from 1200 | jq -c 'select(.kind == \"placed\")'

Entries that are not asked for leave a line with their hash, so that the rest can be checked with
`audit verify FILE --key KEY`. It is JSON lines with or without --json.")]
    Export {
        #[command(flatten)]
        common: Common,
        /// From this entry on: its number, a day, or a time such as 2026-01-31T09:30:00Z.
        #[arg(long, value_name = "POINT", value_parser = Point::parse)]
        from: Option<Point>,
        /// Up to this entry: its number, a day (its beginning), or a time.
        #[arg(long, value_name = "POINT", value_parser = Point::parse)]
        to: Option<Point>,
        /// About this service: its name or its identifier.
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        /// About this cloud: its name, or a host's key.
        #[arg(long, value_name = "CLOUD")]
        cloud: Option<String>,
        /// Of this kind; may be given several times.
        #[arg(long = "kind", value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(Act::KINDS))]
        kinds: Vec<String>,
    },
}

/// Whose log it is, if not that of the registry in `--dir`.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// The registry's public key.
    #[arg(long, value_name = "KEY", value_parser = parse_key, conflicts_with = "trust")]
    key: Option<HostId>,
    /// A trust bundle (trust.json) with that key.
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
}

fn parse_key(text: &str) -> Result<HostId, String> {
    HostId::parse(text)
        .ok_or_else(|| format!("`{text}` is no key: about 44 letters and digits, as `run --json` prints it"))
}

impl Whose {
    fn key(&self, dir: &StateDir) -> Result<PublicKey, ConfigError> {
        match (&self.key, &self.trust) {
            (Some(key), _) => Ok(key.0),
            (None, Some(trust)) => read_trust(trust),
            (None, None) => dir.load().map(|config| Dalek::public_key(&config.secret)),
        }
    }
}

/// Why a log could not be looked at: nothing is known about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuditError {
    #[error("cannot read {}: check that it exists and is yours", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no audit log and no export of one", path.display())]
    NoLog { path: PathBuf },
    #[error("there is no audit log in {}: the registry has not run there since it keeps one", dir.display())]
    NoneYet { dir: PathBuf },
}

pub(super) fn execute(command: AuditCommand) -> anyhow::Result<()> {
    match command {
        AuditCommand::Verify { common, file, whose } => {
            let dir = StateDir::new(&common.dir);
            let key = whose.key(&dir)?;
            let report = match &file {
                None => of_registry(&dir, key, &mut |_| Ok(()))?,
                Some(file) => of_file(file, key)?,
            };
            tell(&report, file.is_none(), common.json)
        }
        AuditCommand::Export { common, from, to, service, cloud, kinds } => {
            let wanted = Wanted { from, to, service, cloud, kinds, ..Wanted::default() };
            export(&StateDir::new(&common.dir), wanted)
        }
    }
}

type Each<'a> = &'a mut dyn FnMut(&Block) -> io::Result<()>;

/// The log in a registry's directory, and what its records know of it.
fn of_registry(dir: &StateDir, key: PublicKey, each: Each<'_>) -> anyhow::Result<Report> {
    let (records, audit) = (dir.store(), dir.audit());
    // Before and after: it may run.
    let before = Known::of(&LogStore::peek(&records)?);
    let unreadable = |source| AuditError::Unreadable { path: audit.clone(), source };
    let files = segment::list(&audit).map_err(unreadable)?;
    if before.state.is_none() && files.is_empty() {
        return Err(AuditError::NoneYet { dir: dir.path().to_owned() }.into());
    }
    let after = || LogStore::peek(&records).map(|rows| Known::of(&rows)).map_err(io::Error::other);
    Ok(walk::check_files(&files, key, Some((&before, &after)), each).map_err(unreadable)?)
}

/// An export, a file of a log, or a directory of files.
fn of_file(path: &Path, key: PublicKey) -> anyhow::Result<Report> {
    let unreadable = |source| AuditError::Unreadable { path: path.to_owned(), source };
    if path.is_dir() {
        let files = segment::list(path).map_err(unreadable)?;
        if files.is_empty() {
            return Err(AuditError::NoLog { path: path.to_owned() }.into());
        }
        return Ok(walk::check_files(&files, key, None, &mut |_| Ok(())).map_err(unreadable)?);
    }
    let mut head = [0; segment::MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read(&mut head)).map_err(unreadable)?;
    if head == *segment::MAGIC {
        return Ok(walk::check_files(&[path.to_owned()], key, None, &mut |_| Ok(())).map_err(unreadable)?);
    }
    if read == 0 || head[0] != b'{' {
        return Err(AuditError::NoLog { path: path.to_owned() }.into());
    }
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    Ok(line::check(lines(file), key).map_err(unreadable)?)
}

/// Lines, none of which is read further than it may be long.
fn lines(mut file: BufReader<File>) -> impl Iterator<Item = io::Result<String>> {
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        match file.by_ref().take(LINE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                Some(Ok(String::from_utf8_lossy(&line).into_owned()))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

/// What was found, and the exit code that belongs to it.
fn tell(report: &Report, compared: bool, json: bool) -> anyhow::Result<()> {
    let Report { entries, omitted, after, last, from, to, flaws, .. } = report;
    let (from, to) = (from.map(line::time_text), to.map(line::time_text));
    if json {
        let flaws: Vec<_> =
            flaws.iter().map(|fault| json!({ "entry": fault.first(), "what": fault.to_string() })).collect();
        output::print_json(&json!({
            "intact": flaws.is_empty(), "entries": entries, "omitted": omitted, "first": after.sequence + 1,
            "last": last.sequence, "hash": last.hash.to_string(), "from": from, "to": to,
            "compared_with_records": compared, "flaws": flaws,
        }))?;
    } else {
        let range = format!("entries {} to {}", after.sequence + 1, last.sequence);
        let when = format!("{} to {}", from.as_deref().unwrap_or("-"), to.as_deref().unwrap_or("-"));
        let mut text = format!("{entries} {}, {range}, {when}", if *entries == 1 { "entry" } else { "entries" });
        if *omitted > 0 {
            text.push_str(&format!("; {omitted} of them withheld"));
        }
        if after.sequence > 0 {
            text.push_str("; what comes before is not here");
        }
        output::print(&text)?;
        for fault in flaws {
            output::print(&format!("entry {}: {fault}", fault.first()))?;
        }
        if flaws.is_empty() {
            let end = if compared {
                "the records name its last entry"
            } else {
                "whether more followed, only the registry knows"
            };
            output::print(&format!("intact: each entry is as the registry signed it, none is missing; {end}"))?;
        }
    }
    match flaws.first() {
        None => Ok(()),
        Some(first) => anyhow::bail!(
            "the log is not as it was signed, from entry {} on: keep the files, and compare them with an export or a backup",
            first.first()
        ),
    }
}

/// Prints what is wanted of the part of the log, up to its end, in which nothing is wrong.
fn export(dir: &StateDir, mut wanted: Wanted) -> anyhow::Result<()> {
    let key = Whose { key: None, trust: None }.key(dir)?;
    // First what is whole, what the names stand for, and where the wanted entries are.
    let mut range: Option<(u64, u64)> = None;
    let report = of_registry(dir, key, &mut |block| {
        for entry in &block.entries {
            wanted.learn(entry);
        }
        Ok(())
    })?;
    let within = |block: &Block| block.after.sequence >= report.unbroken_after.sequence;
    of_registry(dir, key, &mut |block| {
        if within(block) && block.entries.iter().any(|entry| wanted.takes(entry)) {
            let first = range.map_or(block.after.sequence, |(first, _)| first);
            range = Some((first, block.after.sequence));
        }
        Ok(())
    })?;
    for fault in &report.flaws {
        eprintln!("wayfare-registry: {fault}");
    }
    let (first, last) = range.context("no entry of the log is what you ask for")?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut end = None;
    of_registry(dir, key, &mut |block| {
        if !within(block) || !(first..=last).contains(&block.after.sequence) {
            return Ok(());
        }
        if block.after.sequence == first {
            writeln!(out, "{}", line::head_line(&key, block.after))?;
        }
        for entry in &block.entries {
            let line = if wanted.takes(entry) { line::entry_line(entry) } else { line::omitted_line(entry) };
            writeln!(out, "{line}")?;
        }
        end = line::end_line(&block.checkpoint);
        Ok(())
    })?;
    writeln!(out, "{}", end.unwrap_or_default()).and_then(|()| out.flush()).context("cannot write to stdout")?;
    if report.flaws.is_empty() {
        return Ok(());
    }
    let from = report.unbroken_after.sequence + 1;
    anyhow::bail!("the log is not whole: only what follows its last flaw, from entry {from} on, was exported")
}
