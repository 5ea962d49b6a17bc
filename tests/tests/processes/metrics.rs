//! What a running mesh exports, against `docs/metrics.md` and against what was done. `WAYFARE_WRITE_DOCS=1` writes the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::*;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
const METRICS: [&str; 2] = ["--metrics", "127.0.0.1:0"];
/// Values of a label that the table lists; of more it says how many, and of these none.
const VALUES_MAX: usize = 9;
const CHANGING: [&str; 1] = ["version"];

/// The head and the body of the answer.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn endpoint(process: &Running) -> &str {
    process.ready["metrics"].as_str().unwrap_or_else(|| panic!("no metrics: {}", process.ready))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// What an exposition says: families in order, and each sample's value.
struct Scrape {
    families: Vec<(String, Family)>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(process: &Running) -> Self {
        let (head, body) = get(endpoint(process), "/metrics");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
        let mut scrape = Self { families: Vec::new(), samples: BTreeMap::new() };
        for line in body.lines() {
            scrape.line(line);
        }
        scrape
    }

    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(self.families.iter().all(|(known, _)| known != name), "{name} is there twice");
            self.families.push((name.to_owned(), Family { help: help.to_owned(), ..Family::default() }));
            return;
        }
        let (name, family) = self.families.last_mut().unwrap();
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, kind) = rest.split_once(' ').unwrap();
            assert_eq!(of, name);
            family.kind = kind.to_owned();
            return;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(sample.starts_with(name.as_str()), "{line} is not of {name}");
        let labels = sample.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap();
            if key != "le" {
                family.labels.entry(key.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
            }
        }
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(self.samples.insert(sample.to_owned(), value).is_none(), "{sample} is there twice");
    }

    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in {:?}", self.samples.keys()))
    }
}

/// The table's rows, from what each kind of process exports.
fn table(scrapes: &[(&str, &Scrape)]) -> String {
    let mut rows: Vec<(String, Family, Vec<&str>)> = Vec::new();
    for (by, scrape) in scrapes {
        for (name, family) in &scrape.families {
            match rows.iter_mut().find(|(known, ..)| known == name) {
                Some((_, known, exporters)) => {
                    assert_eq!((&known.help, &known.kind), (&family.help, &family.kind), "{name} differs");
                    for (label, values) in &family.labels {
                        known.labels.entry(label.clone()).or_default().extend(values.clone());
                    }
                    exporters.push(by);
                }
                None => rows.push((name.clone(), family.clone(), vec![by])),
            }
        }
    }
    rows.sort_by_key(|(name, ..)| name.split('_').nth(1).map(str::to_owned));
    let mut text = "| Metric | Type | Labels | Of | |\n|---|---|---|---|---|\n".to_owned();
    for (name, Family { kind, help, labels }, exporters) in rows {
        let labels: Vec<String> = labels.into_iter().map(describe).collect();
        let of = if exporters.len() == scrapes.len() { "all".to_owned() } else { exporters.join(", ") };
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {of} | {help} |", labels.join("; "));
    }
    text
}

fn describe((label, values): (String, BTreeSet<String>)) -> String {
    if CHANGING.contains(&label.as_str()) {
        return format!("`{label}`");
    }
    if values.len() > VALUES_MAX {
        return format!("`{label}`, one of {}", values.len());
    }
    format!("`{label}`: {}", values.into_iter().collect::<Vec<_>>().join(", "))
}

/// Names as they should be (`wayfare_COMPONENT_NOUN…`), and a sentence for each.
fn check_names(scrape: &Scrape) {
    for (name, Family { kind, help, .. }) in &scrape.families {
        assert!(name.starts_with("wayfare_") && name.split('_').count() >= 3, "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name} has no unit");
        assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help}");
    }
}

#[test]
fn what_is_exported_is_documented_and_counts_what_happens() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let registry_dir = root.join("registry");
    text(REGISTRY, &registry_dir, &["init", "--listen", "127.0.0.1:0", METRICS[0], METRICS[1]]);
    let registry = Running::start(REGISTRY, &registry_dir);
    let here = ["--listen", "/ip4/127.0.0.1/tcp/0", "--policy", "never", METRICS[0], METRICS[1]];
    let home = node(&registry_dir, root, "home", "home", &here);
    let alpha = node(&registry_dir, root, "alpha", "cloud", &here);
    let edge = node(&registry_dir, root, "edge", "gateway", &["--service", "kv=127.0.0.1:0", METRICS[0], METRICS[1]]);
    let (head, body) = get(endpoint(&edge), "/healthz");
    assert!(head.starts_with("HTTP/1.1 200") && body == "ok\n", "{head}\n{body}");

    text(NODE, &home.dir, &["deploy", KV, "--name", "kv"]);
    let gateway = edge.ready["gateway"].to_string();
    let address = gateway.split('"').find(|part| part.starts_with("127.0.0.1:")).unwrap();
    for expected in 1..=3 {
        assert_eq!(count(address), Some(expected));
    }
    until("the clouds to meet", || json(NODE, &home.dir, &["clouds"]).to_string().contains("alpha").then_some(()));
    text(NODE, &home.dir, &["move", "kv", "--to", "alpha"]);
    assert_eq!(count(address), Some(4));

    let scrapes = [&home, &alpha, &edge, &registry].map(Scrape::of);
    scrapes.iter().for_each(check_names);
    let [source, target, gateway, decided] = &scrapes;
    for (scrape, sample, expected) in [
        (source, "wayfare_host_migrations_total{role=\"source\",outcome=\"moved\"}", 1.0),
        (source, "wayfare_host_migrations_total{role=\"target\",outcome=\"moved\"}", 0.0),
        (target, "wayfare_host_migrations_total{role=\"target\",outcome=\"moved\"}", 1.0),
        (source, "wayfare_host_step_duration_seconds_count{role=\"source\",step=\"7_response\"}", 1.0),
        (target, "wayfare_host_step_duration_seconds_count{role=\"target\",step=\"8_transfer\"}", 1.0),
        (source, "wayfare_host_downtime_seconds_count", 1.0),
        (source, "wayfare_host_requests_executed_total", 3.0),
        (target, "wayfare_host_requests_executed_total", 1.0),
        (source, "wayfare_host_services{state=\"serving\"}", 0.0),
        (target, "wayfare_host_services{state=\"serving\"}", 1.0),
        (source, "wayfare_host_lease_left_min_seconds", f64::INFINITY),
        (target, "wayfare_host_leases", 1.0),
        (target, "wayfare_journal_full", 0.0),
        (gateway, "wayfare_gateway_requests_total{outcome=\"answered\"}", 4.0),
        (gateway, "wayfare_gateway_responses_total{class=\"2xx\"}", 4.0),
        (gateway, "wayfare_gateway_request_duration_seconds_count", 4.0),
        (gateway, "wayfare_gateway_services{state=\"placed\"}", 1.0),
        (gateway, "wayfare_gateway_requests_held", 0.0),
        (decided, "wayfare_registry_verdicts_total{verdict=\"yes_cloud\"}", 1.0),
        (decided, "wayfare_registry_verdicts_total{verdict=\"yes_service\"}", 1.0),
        (decided, "wayfare_registry_placements_total", 2.0),
        (decided, "wayfare_registry_registrations_total", 1.0),
        (decided, "wayfare_registry_hosts{state=\"enrolled\"}", 3.0),
        (decided, "wayfare_registry_services{state=\"placed\"}", 1.0),
        (decided, "wayfare_registry_recovering", 0.0),
    ] {
        assert_eq!(scrape.value(sample), expected, "{sample}");
    }
    let [sent, received] = [(source, "sent"), (target, "received")].map(|(scrape, direction)| {
        scrape.value(&format!("wayfare_host_transfer_bytes_total{{direction=\"{direction}\"}}"))
    });
    assert!(sent > 65_536.0 && sent == received, "{sent} bytes sent, {received} received");
    let some = [
        (target, "wayfare_host_lease_left_min_seconds"),
        (target, "wayfare_mesh_adverts_sent_total"),
        (source, "wayfare_mesh_adverts_received_total"),
        (source, "wayfare_journal_sync_duration_seconds_count"),
        (decided, "wayfare_registry_commit_duration_seconds_count"),
        (decided, "wayfare_net_streams{protocol=\"registry\"}"),
        (gateway, "wayfare_net_peers"),
        (gateway, "wayfare_process_uptime_seconds"),
    ];
    for (scrape, sample) in some {
        assert!(scrape.value(sample) > 0.0, "{sample}");
    }
    compare(&table(&[("cloud, home", source), ("gateway", gateway), ("registry", decided)]));
    for process in [edge, home, alpha, registry] {
        process.stop();
    }
}

fn compare(table: &str) {
    let docs = std::fs::read_to_string(DOCS).unwrap();
    let (before, rest) = docs.split_once("<!-- table -->\n").unwrap();
    let (written, after) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("WAYFARE_WRITE_DOCS").is_some() {
        std::fs::write(DOCS, format!("{before}<!-- table -->\n{table}<!-- end -->{after}")).unwrap();
        return;
    }
    let differs = table.lines().zip(written.lines()).find(|(exported, written)| exported != written);
    assert!(
        table == written,
        "docs/metrics.md is not what is exported: {differs:?}. Write it anew: WAYFARE_WRITE_DOCS=1 cargo test --test processes"
    );
}

#[test]
fn a_port_for_metrics_that_is_taken_is_named_with_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = root.path().join("registry");
    text(REGISTRY, &dir, &["init", "--listen", "127.0.0.1:0", "--metrics", &address]);
    let refused = execute(REGISTRY, &dir, &["run"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains(&address) && message.contains("metrics.listen"), "{message}");
}
