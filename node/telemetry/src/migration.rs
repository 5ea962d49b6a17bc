//! A migration as one trace, put together from what each party saw, without a word of it on the wire.
//!
//! The trace is named by the migration's 16 bytes, and a span by a hash of the migration and the number of its step. So source, target and
//! Registry each export the spans of the messages that *they* made, and every span has its place. The root is the source's.
//!
//! A step's span begins when its maker could make the message, and ends when the answer that the maker waits for has arrived;
//! without one, when it was made. What the Registry answers (3, 6, 11) hangs under the question, from the decision until it is
//! on disk and sent; everything else under the root. 1, an advert, was made before and for everybody: it stands at the source's
//! beginning, with its age. Times are of each party's own wall clock.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::SpanData;
use wayfare_protocol::{
    ids::{Epoch, MigrationId, ServiceId},
    migration::trace::{Ending, Side, Trace, step_name},
    time::Timestamp,
};

/// The root's number among the steps.
const ROOT: u8 = 0;
/// What ends a migration at the Registry without a placement.
const ABORTED: u8 = 13;
const LABEL: &str = "wayfare 2026-11 span of a migration";

/// A step by which side it is made, the next step that its maker waits for, and what kind of work that is.
struct Made {
    side: Side,
    step: u8,
    awaits: Option<u8>,
}

const MADE: [Made; 8] = [
    Made { side: Side::Source, step: 2, awaits: Some(3) },
    Made { side: Side::Source, step: 4, awaits: Some(7) },
    Made { side: Side::Source, step: 8, awaits: Some(9) },
    Made { side: Side::Source, step: 12, awaits: None },
    Made { side: Side::Target, step: 5, awaits: Some(6) },
    Made { side: Side::Target, step: 7, awaits: Some(8) },
    Made { side: Side::Target, step: 9, awaits: None },
    Made { side: Side::Target, step: 10, awaits: Some(11) },
];

/// The message of a step, as the protocol's frames are called.
const fn message(step: u8) -> &'static str {
    match step {
        1 => "Advert",
        2 => "VerifyCloud",
        3 => "YesCloud",
        4 => "Request",
        5 => "VerifyService",
        6 => "YesService",
        7 => "Response",
        8 => "Transfer",
        9 => "TransferAck",
        10 => "Complete",
        11 => "Placement",
        12 => "Released",
        _ => "Aborted",
    }
}

/// The span that a step's hangs under.
const fn parent(step: u8) -> u8 {
    match step {
        3 => 2,
        6 => 5,
        11 => 10,
        _ => ROOT,
    }
}

fn span_id(mig: MigrationId, step: u8) -> SpanId {
    let mut hash = blake3::Hasher::new_derive_key(LABEL);
    hash.update(&mig.0).update(&[step]);
    let mut id = [0; 8];
    hash.finalize_xof().fill(&mut id);
    SpanId::from_bytes(id)
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(at.0)
}

/// What every span of a migration carries.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Which migration.
    pub mig: MigrationId,
    /// Of which service.
    pub service: ServiceId,
    /// Its name.
    pub service_name: &'a str,
    /// The epoch that it was to leave.
    pub epoch: Epoch,
    /// `source`, `target` or `registry`: whose span this is.
    pub role: &'static str,
    /// The source's name, if it is known.
    pub source: Option<&'a str>,
    /// The target's name, if it is known.
    pub target: Option<&'a str>,
}

impl About<'_> {
    fn span(&self, step: u8, name: String, from: Timestamp, to: Timestamp) -> SpanData {
        let mut attributes = vec![
            KeyValue::new("wayfare.service", self.service_name.to_owned()),
            KeyValue::new("wayfare.service_id", self.service.to_string()),
            KeyValue::new("wayfare.migration", self.mig.to_string()),
            KeyValue::new("wayfare.epoch", self.epoch.to_string()),
            KeyValue::new("wayfare.role", self.role),
        ];
        for (key, name) in [("wayfare.source", self.source), ("wayfare.target", self.target)] {
            attributes.extend(name.map(|name| KeyValue::new(key, name.to_owned())));
        }
        if step != ROOT {
            attributes.push(KeyValue::new("wayfare.message", message(step)));
        }
        if (1..ABORTED).contains(&step) {
            attributes.push(KeyValue::new("wayfare.step", i64::from(step)));
        }
        let (trace, flags) = (TraceId::from_bytes(self.mig.0), TraceFlags::SAMPLED);
        let parent_span_id = if step == ROOT { SpanId::INVALID } else { span_id(self.mig, parent(step)) };
        SpanData {
            span_context: SpanContext::new(trace, span_id(self.mig, step), flags, false, TraceState::NONE),
            parent_span_id,
            parent_span_is_remote: matches!(step, 3 | 5..=7 | 9..=11 | ABORTED),
            span_kind: match step {
                2 | 5 | 10 => SpanKind::Client,
                3 | 6 | 11 => SpanKind::Server,
                _ => SpanKind::Internal,
            },
            name: name.into(),
            start_time: time(from),
            end_time: time(to.max(from)),
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Ok,
            instrumentation_scope: InstrumentationScope::builder("wayfare").build(),
        }
    }

    fn step(&self, step: u8, from: Timestamp, to: Timestamp) -> SpanData {
        self.span(step, format!("{step} {}", step_name(step)), from, to)
    }

    /// A message of the Registry's (3, 6 or 11): decided at `from`, and sent.
    pub fn answer(&self, step: u8, from: Timestamp, to: Timestamp) -> SpanData {
        self.step(step, from, to)
    }

    /// The Registry ended the migration without a placement.
    pub fn aborted(&self, cause: &'static str, at: Timestamp) -> SpanData {
        let mut span = self.span(ABORTED, "aborted".to_owned(), at, at);
        span.attributes.push(KeyValue::new("wayfare.cause", cause));
        span.status = Status::error(cause);
        span
    }
}

/// The spans of an attempt that ended at `ended`, as the host at one end of it saw it. None before 3: then there was no migration.
pub fn of_host(trace: &Trace, me: &str, other: &str, ended: Timestamp) -> Vec<SpanData> {
    let Some(mig) = trace.mig else { return Vec::new() };
    let (source, target) = match trace.side {
        Side::Source => (me, other),
        Side::Target => (other, me),
    };
    let about = About {
        mig,
        service: trace.service,
        service_name: &trace.service_name,
        epoch: trace.epoch,
        role: trace.side.name(),
        source: Some(source),
        target: Some(target),
    };
    let mut spans = Vec::new();
    // An advert is older than the attempt, and is not what it waits for.
    let steps: Vec<(u8, Timestamp)> = trace.steps.iter().filter(|(step, _)| *step > 1).copied().collect();
    if trace.side == Side::Source {
        spans.push(root(&about, trace, &steps, ended));
        spans.extend(advert(&about, trace, &steps));
    }
    for made in MADE.iter().filter(|made| made.side == trace.side) {
        let Some(index) = steps.iter().position(|(step, _)| *step == made.step) else { continue };
        let at = steps[index].1;
        let from = if index == 0 { at } else { steps[index - 1].1 };
        let answered = made.awaits.map(|awaited| {
            // What is overtaken by a later message was answered by that.
            steps.iter().skip(index + 1).find(|(step, _)| *step >= awaited).map(|(_, answered)| *answered)
        });
        let to = match answered {
            None => at,
            Some(answered) => answered.unwrap_or(ended),
        };
        let mut span = about.step(made.step, from, to);
        if answered == Some(None) {
            span.status = Status::error("the attempt ended before the answer came");
        }
        spans.push(span);
    }
    spans
}

fn root(about: &About<'_>, trace: &Trace, steps: &[(u8, Timestamp)], ended: Timestamp) -> SpanData {
    let from = steps.first().map_or(ended, |(_, first)| *first);
    let mut span = about.span(ROOT, "migration".to_owned(), from, ended);
    let outcome = match &trace.ending {
        Ending::Moved => "moved",
        Ending::Failed(reason) => {
            span.status = Status::error(reason.clone());
            "failed"
        }
        Ending::Running => "running",
    };
    span.attributes.push(KeyValue::new("wayfare.outcome", outcome));
    span.attributes.push(KeyValue::new("wayfare.reason", trace.reason.clone()));
    span.attributes.push(KeyValue::new("wayfare.transfer_bytes", i64::try_from(trace.bytes).unwrap_or(i64::MAX)));
    if let Some(downtime) = trace.downtime {
        span.attributes.push(KeyValue::new("wayfare.downtime_ms", downtime.as_millis_f64()));
    }
    span
}

fn advert(about: &About<'_>, trace: &Trace, steps: &[(u8, Timestamp)]) -> Option<SpanData> {
    let (_, made) = trace.steps.iter().find(|(step, _)| *step == 1)?;
    let (_, began) = steps.first()?;
    let mut span = about.step(1, *began, *began);
    span.attributes.push(KeyValue::new("wayfare.advert_age_ms", began.since(*made).as_millis_f64()));
    Some(span)
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::{
        ids::{HostId, RegistryId},
        time::Micros,
    };

    use super::*;

    const MIG: MigrationId = MigrationId([7; 16]);

    fn trace(side: Side, steps: &[(u8, u64)], ending: Ending) -> Trace {
        let service = ServiceId { registry: RegistryId([1; 32]), unique: [2; 16] };
        let mut trace = Trace::new(service, "kv".to_owned(), Epoch::FIRST, HostId([3; 32]), side, "because".to_owned());
        trace.mig = Some(MIG);
        trace.steps = steps.iter().map(|(step, at)| (*step, Timestamp(*at))).collect();
        trace.downtime = Some(Micros(1500));
        trace.ending = ending;
        trace
    }

    /// (name, parent's step, from, to, failed), from the beginning of time in microseconds.
    fn told(spans: &[SpanData]) -> Vec<(String, Option<u8>, u64, u64, bool)> {
        let micros = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64;
        let parent = |span: &SpanData| (0..=ABORTED).find(|step| span_id(MIG, *step) == span.parent_span_id);
        let failed = |span: &SpanData| matches!(span.status, Status::Error { .. });
        let tell = |span: &SpanData| {
            assert_eq!(span.span_context.trace_id(), TraceId::from_bytes(MIG.0));
            (span.name.to_string(), parent(span), micros(span.start_time), micros(span.end_time), failed(span))
        };
        spans.iter().map(tell).collect()
    }

    #[test]
    fn both_sides_and_the_registry_make_one_tree_of_twelve_steps() {
        let steps = [(1, 10), (2, 100), (3, 120), (4, 120), (7, 150), (8, 200), (9, 230), (11, 240), (12, 240)];
        let source = of_host(&trace(Side::Source, &steps, Ending::Moved), "home", "fjord", Timestamp(240));
        let own = |name: &str, parent, from, to| (name.to_owned(), parent, from, to, false);
        let expected = [
            own("migration", None, 100, 240),
            own("1 advertisement", Some(ROOT), 100, 100),
            own("2 verify cloud", Some(ROOT), 100, 120),
            own("4 request", Some(ROOT), 120, 150),
            own("8 transfer", Some(ROOT), 150, 230),
            own("12 released", Some(ROOT), 240, 240),
        ];
        assert_eq!(told(&source), expected);
        let age = source[1].attributes.iter().find(|pair| pair.key.as_str() == "wayfare.advert_age_ms").unwrap();
        assert_eq!(age.value, opentelemetry::Value::F64(0.09));

        let steps = [(4, 125), (5, 125), (6, 140), (7, 140), (8, 210), (9, 212), (10, 212), (11, 235)];
        let target = of_host(&trace(Side::Target, &steps, Ending::Moved), "fjord", "home", Timestamp(235));
        let expected = [
            own("5 verify service", Some(ROOT), 125, 140),
            own("7 response", Some(ROOT), 140, 210),
            own("9 transfer ack", Some(ROOT), 210, 212),
            own("10 transfer complete", Some(ROOT), 212, 235),
        ];
        assert_eq!(told(&target), expected);

        let about = About {
            mig: MIG,
            service: trace(Side::Source, &[], Ending::Moved).service,
            service_name: "kv",
            epoch: Epoch::FIRST,
            role: "registry",
            source: None,
            target: None,
        };
        let registry: Vec<_> = [3, 6, 11].map(|step| about.answer(step, Timestamp(1), Timestamp(2))).into();
        assert_eq!(told(&registry).iter().map(|span| span.1).collect::<Vec<_>>(), [Some(2), Some(5), Some(10)]);
        let all = source.iter().chain(&target).chain(&registry);
        let numbers: std::collections::BTreeSet<_> =
            all.filter_map(|span| span.name.split_once(' ')?.0.parse::<u8>().ok()).collect();
        assert_eq!(numbers, (1..=12).collect());
    }

    #[test]
    fn an_attempt_that_failed_says_so_where_it_stopped() {
        let failed = Ending::Failed("no room".to_owned());
        let spans =
            of_host(&trace(Side::Source, &[(2, 100), (3, 120), (4, 120)], failed), "home", "fjord", Timestamp(170));
        let own = |name: &str, parent, from, to, failed| (name.to_owned(), parent, from, to, failed);
        let expected = [
            own("migration", None, 100, 170, true),
            own("2 verify cloud", Some(ROOT), 100, 120, false),
            own("4 request", Some(ROOT), 120, 170, true),
        ];
        assert_eq!(told(&spans), expected);
        assert_eq!(spans[0].status, Status::error("no room"));
    }

    #[test]
    fn an_acknowledgement_that_the_placement_overtook_ends_with_it() {
        let steps = [(7, 100), (8, 130), (11, 150), (12, 150)];
        let spans = of_host(&trace(Side::Source, &steps, Ending::Moved), "home", "fjord", Timestamp(150));
        let transfer = told(&spans).into_iter().find(|span| span.0 == "8 transfer").unwrap();
        assert_eq!(transfer, ("8 transfer".to_owned(), Some(ROOT), 100, 150, false));
    }

    #[test]
    fn before_the_registry_said_yes_there_is_no_migration_to_trace() {
        let mut early = trace(Side::Source, &[(2, 100)], Ending::Failed("no".to_owned()));
        early.mig = None;
        assert!(of_host(&early, "home", "fjord", Timestamp(150)).is_empty());
    }
}
