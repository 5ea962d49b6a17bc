use super::*;
use crate::{ids::ClientId, limits::SESSIONS_MAX, reject::Reject};

const HOME: HostId = HostId([1; 32]);
const NEAR: HostId = HostId([2; 32]);
const FAR: HostId = HostId([3; 32]);
const USER: ClientId = ClientId([1; 32]);
const OTHER: ClientId = ClientId([2; 32]);

fn at(millis: u64) -> Now {
    Now { mono: Instant(millis * 1000), ..Now::default() }
}

fn ms(millis: u64) -> Micros {
    Micros::from_millis(millis)
}

fn candidate(host: HostId, name: &str) -> Candidate {
    let free = Resources { cpu_millicores: 1000, memory_bytes: 1 << 30, ..Resources::default() };
    Candidate { host, cloud: name.to_owned(), free, price_micros: 10, permitted: true, cordoned: false }
}

fn clouds() -> Vec<Candidate> {
    vec![candidate(NEAR, "near"), candidate(FAR, "far")]
}

fn config(policy: Policy) -> PlacementConfig {
    PlacementConfig { policy, ..PlacementConfig::default() }
}

fn placer(policy: Policy) -> Placer {
    let required = Resources { cpu_millicores: 100, ..Resources::default() };
    Placer::new(config(policy), required, Micros::ZERO)
}

fn report(placer: &mut Placer, now: Now, client: ClientId, rtts: &[(HostId, u64)], requests: u32) {
    let entries: Vec<_> = rtts.iter().map(|(host, rtt)| (*host, ms(*rtt), Micros::ZERO)).collect();
    placer.handle_report(now, client, &entries, requests).unwrap();
}

fn decide(placer: &mut Placer, now: Now, here: HostId) -> Verdict {
    placer.decide(now, here, &clouds()).verdict
}

fn ruled_out(explanation: &Explanation, host: HostId) -> Option<RuledOut> {
    explanation.rows.iter().find(|row| row.host == host).and_then(|row| row.ruled_out)
}

#[test]
fn a_gain_that_repays_the_move_moves() {
    let mut placer = placer(Policy::Sardis);
    // 12.4 s are expected at first: 50 ms × 12.4 s = 620 ms·s against 500.
    report(&mut placer, at(0), USER, &[(HOME, 70), (NEAR, 20), (FAR, 90)], 10);
    let explanation = placer.decide(at(0), HOME, &clouds());
    assert_eq!(explanation.chosen(), Some(NEAR));
    let near = explanation.rows.iter().find(|row| row.host == NEAR).unwrap();
    assert_eq!(near.gain_ms, Some(Thousandths(50_000)));
    assert_eq!(near.score_ms_s, Some(Thousandths(120_000)));
    assert_eq!(explanation.cost_ms_s, Thousandths(500_000));
    assert_eq!(explanation.remaining_s, Thousandths(12_400));
}

#[test]
fn a_gain_that_does_not_repay_the_move_stays_until_it_has() {
    let mut placer = placer(Policy::Sardis);
    let mut moved = None;
    for second in 0..60 {
        report(&mut placer, at(second * 1000), USER, &[(HOME, 40), (NEAR, 20)], 10);
        if decide(&mut placer, at(second * 1000), HOME) == Verdict::Move(NEAR) {
            moved = Some(second);
            break;
        }
        assert_eq!(decide(&mut placer, at(second * 1000), HOME), Verdict::Stay(Stay::NotWorth));
    }
    // Past the priors the dwell is expected to double: 20 ms × 33 s > 500 ms·s.
    assert_eq!(moved, Some(32));
}

#[test]
fn the_other_policies() {
    for (policy, gap, expected) in [
        (Policy::Nearest, 4, Verdict::Move(NEAR)),
        (Policy::Nearest, 3, Verdict::Stay(Stay::Nearest)),
        (Policy::Never, 200, Verdict::Stay(Stay::Never)),
    ] {
        let mut placer = placer(policy);
        report(&mut placer, at(0), USER, &[(HOME, 20 + gap), (NEAR, 20)], 1);
        assert_eq!(decide(&mut placer, at(0), HOME), expected, "{policy:?} {gap}");
        assert_eq!(Policy::parse(policy.name()), Some(policy));
    }
}

#[test]
fn without_reports_it_stays() {
    let mut placer = placer(Policy::Nearest);
    assert_eq!(decide(&mut placer, at(0), HOME), Verdict::Stay(Stay::NoReport));
    assert!(!placer.is_due(at(0).mono));
    report(&mut placer, at(0), USER, &[(HOME, 70), (NEAR, 20)], 1);
    assert!(placer.is_due(at(1000).mono));
    assert_eq!(decide(&mut placer, at(1000), HOME), Verdict::Move(NEAR));
    assert!(!placer.is_due(at(1999).mono));
    let stale = Now { mono: at(0).mono + RTT_FRESH + Micros(1), ..Now::default() };
    assert_eq!(decide(&mut placer, stale, HOME), Verdict::Stay(Stay::NoReport));
    report(&mut placer, stale, USER, &[(NEAR, 20)], 1);
    assert_eq!(decide(&mut placer, stale, HOME), Verdict::Stay(Stay::HereUnknown));
    placer.forget_client(USER);
    assert_eq!(decide(&mut placer, stale, HOME), Verdict::Stay(Stay::NoReport));
}

#[test]
fn each_rule_is_named() {
    let mut placer =
        Placer::new(config(Policy::Nearest), Resources { cpu_millicores: 1, ..Resources::default() }, ms(60));
    report(&mut placer, at(0), USER, &[(HOME, 50), (NEAR, 20), (FAR, 70)], 1);
    let with = |change: &dyn Fn(&mut Candidate), placer: &mut Placer| {
        let mut clouds = clouds();
        change(&mut clouds[0]);
        let explanation = placer.decide(at(0), HOME, &clouds);
        assert_eq!(explanation.verdict, Verdict::Stay(Stay::NoCandidate));
        assert_eq!(ruled_out(&explanation, FAR), Some(RuledOut::OverSla));
        ruled_out(&explanation, NEAR)
    };
    assert_eq!(with(&|near| near.permitted = false, &mut placer), Some(RuledOut::NotPermitted));
    assert_eq!(with(&|near| near.cordoned = true, &mut placer), Some(RuledOut::Cordoned));
    assert_eq!(with(&|near| near.free = Resources::default(), &mut placer), Some(RuledOut::NoResources));
    assert_eq!(with(&|near| near.host = HostId([9; 32]), &mut placer), None, "it is another host now");
    placer.handle_failed(at(0), NEAR);
    let retry_s = Thousandths(10_000);
    assert_eq!(with(&|_| (), &mut placer), Some(RuledOut::RecentlyFailed { retry_s }));
    let explanation = placer.explain(at(0), HOME, &[candidate(HostId([9; 32]), "new")]);
    assert_eq!(ruled_out(&explanation, HostId([9; 32])), Some(RuledOut::RttUnknown));
}

#[test]
fn where_the_present_host_breaks_the_promise_too_the_less_bad_is_welcome() {
    let mut placer = Placer::new(config(Policy::Nearest), Resources::default(), ms(10));
    report(&mut placer, at(0), USER, &[(HOME, 50), (NEAR, 20)], 1);
    assert_eq!(decide(&mut placer, at(0), HOME), Verdict::Move(NEAR));
}

#[test]
fn traffic_weighs_and_too_little_of_it_does_not_speak_for_all() {
    let mut placer = placer(Policy::Nearest);
    report(&mut placer, at(0), USER, &[(HOME, 20), (NEAR, 60)], 90);
    report(&mut placer, at(0), OTHER, &[(HOME, 60), (NEAR, 10)], 10);
    let explanation = placer.decide(at(0), HOME, &clouds());
    assert_eq!(explanation.verdict, Verdict::Stay(Stay::Nearest));
    assert_eq!(explanation.rows[0].rtt_ms.unwrap().0 / 1000, 24, "(20 × 90 + 60 × 10) / 100");
    // FAR is measured by a tenth of the traffic, to which it is near.
    report(&mut placer, at(0), OTHER, &[(FAR, 1)], 10);
    let explanation = placer.decide(at(0), HOME, &clouds());
    assert_eq!(ruled_out(&explanation, FAR), Some(RuledOut::RttPartial { percent: 10 }));
    assert_eq!(explanation.clients, 2);
}

#[test]
fn a_client_that_asks_nothing_weighs_next_to_nothing() {
    let mut placer = placer(Policy::Nearest);
    report(&mut placer, at(0), USER, &[(HOME, 60), (NEAR, 10)], 5);
    report(&mut placer, at(0), OTHER, &[(HOME, 10), (NEAR, 200)], 0);
    assert_eq!(decide(&mut placer, at(0), HOME), Verdict::Move(NEAR));
}

#[test]
fn among_equals_the_cheapest() {
    let mut placer = placer(Policy::Nearest);
    report(&mut placer, at(0), USER, &[(HOME, 60), (NEAR, 10), (FAR, 12)], 5);
    let mut clouds = clouds();
    clouds[1].price_micros = 9;
    assert_eq!(placer.decide(at(0), HOME, &clouds).chosen(), Some(FAR));
}

#[test]
fn a_host_that_failed_is_left_alone_for_longer_each_time() {
    let mut placer = placer(Policy::Nearest);
    let moves = |placer: &mut Placer, second: u64| {
        report(placer, at(second * 1000), USER, &[(HOME, 60), (NEAR, 10)], 5);
        decide(placer, at(second * 1000), HOME) == Verdict::Move(NEAR)
    };
    assert!(moves(&mut placer, 0));
    placer.handle_failed(at(0), NEAR);
    assert!(!moves(&mut placer, 9) && moves(&mut placer, 10));
    placer.handle_failed(at(10_000), NEAR);
    assert!(!moves(&mut placer, 29) && moves(&mut placer, 30));
    // Long afterwards, it is a first failure again.
    placer.handle_failed(at(1_000_000), NEAR);
    assert!(!moves(&mut placer, 1009) && moves(&mut placer, 1010));
}

#[test]
fn measured_downtime_is_the_cost() {
    let mut placer = placer(Policy::Sardis);
    report(&mut placer, at(0), USER, &[(HOME, 40), (NEAR, 20)], 1);
    assert_eq!(decide(&mut placer, at(0), HOME), Verdict::Stay(Stay::NotWorth));
    placer.record_downtime(ms(100));
    placer.record_downtime(ms(50));
    assert_eq!(placer.expected_downtime(), ms(75));
    let explanation = placer.decide(at(0), HOME, &clouds());
    assert_eq!((explanation.cost_ms_s, explanation.downtime_measured), (Thousandths(75_000), true));
    assert_eq!(explanation.chosen(), Some(NEAR));
}

#[test]
fn what_was_learnt_goes_along() {
    let mut placer = placer(Policy::Sardis);
    for (second, near) in [(0, NEAR), (10, FAR), (25, NEAR)] {
        let rtts = [(HOME, 80), (NEAR, if near == NEAR { 10 } else { 70 }), (FAR, if near == FAR { 10 } else { 70 })];
        report(&mut placer, at(second * 1000), USER, &rtts, 1);
        decide(&mut placer, at(second * 1000), HOME);
    }
    placer.record_downtime(ms(40));
    let memory = placer.memory(at(27_000));
    assert_eq!(memory.dwells, [Micros::from_secs(10), Micros::from_secs(15)]);
    assert_eq!(memory.present, Some((NEAR, Micros::from_secs(2))));
    let there = Placer::new(config(Policy::Sardis), Resources::default(), Micros::ZERO).with_memory(at(5000), &memory);
    assert_eq!(there.memory(at(5000)), memory);
    let long = Memory { dwells: vec![ms(1); 64], present: memory.present, downtime: memory.downtime };
    let bytes = crate::wire::encode(&long);
    assert_eq!(crate::wire::decode(&bytes), Ok(long), "the longest memory fits its limit");
}

#[test]
fn what_another_host_says_it_learnt_is_bounded() {
    let huge = Micros(u64::MAX);
    let memory = Memory { dwells: vec![huge; 100], present: Some((NEAR, huge)), downtime: Some(huge) };
    let day = Micros::from_secs(24 * 3600);
    let now = Now { mono: Instant(0) + day.times(2), ..Now::default() };
    let placer = placer(Policy::Sardis).with_memory(now, &memory);
    let kept = Memory { dwells: vec![day; 64], present: Some((NEAR, day)), downtime: Some(DOWNTIME_MAX) };
    assert_eq!(placer.memory(now), kept);
    assert_eq!(placer.expected_downtime(), DOWNTIME_MAX);
    let mut measured = placer;
    measured.record_downtime(huge);
    assert_eq!(measured.expected_downtime(), DOWNTIME_MAX);
}

#[test]
fn who_reports_seldom_weighs_no_more() {
    let mut placer = placer(Policy::Nearest).with_memory(at(10_000), &Memory::default());
    // Both ask ten times a second.
    for second in 11..=20 {
        report(&mut placer, at(second * 1000), USER, &[(HOME, 20)], 10);
    }
    report(&mut placer, at(20_000), OTHER, &[(HOME, 40)], 100);
    let weight = |placer: &Placer, client| placer.clients[&client].weight;
    assert!(weight(&placer, OTHER).abs_diff(weight(&placer, USER)) < 10, "{placer:?}");
    report(&mut placer, at(21_000), OTHER, &[(HOME, 40)], 30);
    assert!(weight(&placer, OTHER).abs_diff(2 * weight(&placer, USER)) < 10, "{placer:?}");
}

#[test]
fn reports_are_bounded() {
    let mut placer = placer(Policy::Sardis);
    let entries = vec![(NEAR, ms(1), Micros::ZERO); crate::limits::REPORT_ENTRIES_MAX + 1];
    assert_eq!(placer.handle_report(at(0), USER, &entries, 1), Err(Reject::FieldTooLong));
    for number in 0..SESSIONS_MAX {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        report(&mut placer, at(0), ClientId(id), &[(NEAR, 5)], 1);
    }
    assert_eq!(placer.handle_report(at(0), ClientId([9; 32]), &[], 1), Err(Reject::Full));
    let later = Now { mono: at(0).mono + RTT_FRESH + Micros(1), ..Now::default() };
    assert_eq!(placer.handle_report(later, ClientId([9; 32]), &[], 1), Ok(()), "the silent make room");
}

#[test]
fn old_and_absurd_measurements_are_left_out() {
    let mut placer = placer(Policy::Sardis);
    let old = Micros(RTT_FRESH.0 + 1);
    let entries =
        [(HOME, ms(5), old), (NEAR, Micros::from_secs(3600), Micros::ZERO), (FAR, ms(7), Micros::from_secs(14))];
    placer.handle_report(at(20_000), USER, &entries, 1).unwrap();
    let kept: Vec<_> = placer.measurements(at(20_000)).collect();
    assert_eq!(kept, [(USER, FAR, ms(7), Micros::from_secs(14))]);
    assert_eq!(placer.weighed(at(20_000).mono, FAR).counted(), Some(ms(7)));
    assert_eq!(placer.weighed(at(22_000).mono, FAR).counted(), None, "it ages here too");
}

#[test]
fn an_explanation_reads_as_a_table() {
    let mut placer = placer(Policy::Sardis);
    report(&mut placer, at(0), USER, &[(HOME, 70), (NEAR, 20)], 10);
    let explanation = placer.decide(at(0), HOME, &clouds());
    let text = explanation.to_string();
    for expected in ["near", "50.0", "120.0", "here", "out: no fresh round trip", "move to near", "assumed"] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    assert_eq!(explanation.reason(), "sardis: 50.0 ms nearer, for 12.4 s more as expected");
    let stay = placer.explain(at(0), NEAR, &clouds());
    assert_eq!(stay.reason(), "no candidate is left");
    assert_eq!(stay.chosen(), None);
}

#[test]
fn a_refuge_is_the_best_place_left_even_if_it_is_farther() {
    let mut placer =
        Placer::new(config(Policy::Never), Resources { cpu_millicores: 1, ..Resources::default() }, ms(60));
    let refuge = |placer: &Placer, candidates: &[Candidate]| placer.refuge(at(0), HOME, candidates);
    let roomy = |mut candidate: Candidate| {
        candidate.free.memory_bytes *= 2;
        candidate
    };
    let [near, far] = [candidate(NEAR, "near"), roomy(candidate(FAR, "far"))];
    let both = [near.clone(), far.clone(), candidate(HOME, "home")];
    let unknown = refuge(&placer, &both).unwrap();
    assert_eq!((unknown.host, unknown.rtt), (FAR, None), "nobody has measured anything: there is most room");
    report(&mut placer, at(0), USER, &[(HOME, 5), (NEAR, 50), (FAR, 52)], 1);
    assert_eq!(refuge(&placer, &both).unwrap().host, NEAR);
    report(&mut placer, at(0), USER, &[(NEAR, 70), (FAR, 52)], 1);
    assert_eq!(refuge(&placer, &both).unwrap().host, FAR, "the other breaks the promise");
    assert_eq!(refuge(&placer, &both[..1]).unwrap().host, NEAR, "better than nothing");
    placer.handle_failed(at(0), FAR);
    assert_eq!(refuge(&placer, &both).unwrap().host, NEAR, "a second choice");
    let forbidden = Candidate { permitted: false, ..near.clone() };
    let full = Candidate { free: Resources::default(), host: HostId([4; 32]), ..near.clone() };
    let cordoned = Candidate { cordoned: true, host: HostId([5; 32]), ..near };
    let stranded = refuge(&placer, &[forbidden.clone(), forbidden, full, cordoned, far]).unwrap_err();
    let text = "2 clouds: the owner's manifest forbids it, 1 cloud: lacks free resources, 1 cloud: cordoned, \
                1 cloud: a move there failed, next try in 10.0 s";
    assert_eq!(stranded.to_string(), text);
    assert!(stranded.advice().contains("migrations"));
    let alone = refuge(&placer, &[]).unwrap_err();
    assert!(alone.to_string().contains("no other cloud") && alone.advice().contains("add a cloud"));
}

#[test]
fn a_service_that_must_leave_tries_the_only_cloud_again_soon_however_often_it_failed() {
    let mut placer = placer(Policy::Nearest);
    let only = [candidate(NEAR, "near")];
    let mut second = 0;
    // 10, 20, 40 and 80 seconds for one that would only be better off there.
    for pause in [10, 20, 40, 80] {
        placer.handle_failed(at(second * 1000), NEAR);
        assert_eq!(placer.failed_for(at(second * 1000).mono, NEAR), Some(Micros::from_secs(pause)));
        let stranded = placer.refuge(at((second + 9) * 1000), HOME, &only).unwrap_err();
        assert!(stranded.to_string().contains("next try in 1.0 s"), "{stranded}");
        assert_eq!(placer.refuge(at((second + 10) * 1000), HOME, &only).map(|refuge| refuge.host), Ok(NEAR));
        second += pause;
    }
}

#[test]
fn decisions_are_kept_by_verdict_and_only_the_last() {
    let mut placer = placer(Policy::Nearest);
    for second in 0..40 {
        let near = if second / 2 % 2 == 0 { 20 } else { 90 };
        report(&mut placer, at(second * 1000), USER, &[(HOME, 50), (NEAR, near)], 1);
        decide(&mut placer, at(second * 1000), HOME);
    }
    let kept: Vec<_> = placer.decisions().collect();
    assert_eq!(kept.len(), crate::limits::DECISIONS_KEPT);
    assert!(kept.windows(2).all(|pair| pair[0].explanation.verdict != pair[1].explanation.verdict));
    assert_eq!((kept[7].times, kept[7].explanation.verdict), (2, Verdict::Stay(Stay::Nearest)));
    let many: Vec<_> = (0..100).map(|number| candidate(HostId([number; 32]), "one of many")).collect();
    placer.decide(at(41_000), HOME, &many);
    let rows = placer.decisions().last().map(|last| last.explanation.rows.len());
    assert_eq!(rows, Some(crate::limits::DECISION_ROWS_KEPT + 1));
}

#[test]
fn what_would_have_to_change_is_told_and_is_true() {
    let mut placer = placer(Policy::Sardis);
    report(&mut placer, at(0), USER, &[(HOME, 40), (NEAR, 20), (FAR, 39)], 10);
    let explanation = placer.decide(at(0), HOME, &clouds());
    let told: Vec<String> = explanation.changes().into_iter().filter_map(|change| change.moves_if).collect();
    // 500 ms·s over 12.4 s, and over 20 ms.
    assert_eq!(
        told,
        [
            "it is 40.3 ms nearer (now 20.0 ms), or expected to stay the nearest for 25.0 s (now 12.4 s)",
            "it is more than 3.0 ms nearer than the present host: now 1.0 ms"
        ]
    );
    for (rtt, moves) in [(60, false), (61, true)] {
        let mut placer = self::placer(Policy::Sardis);
        report(&mut placer, at(0), USER, &[(HOME, rtt), (NEAR, 20)], 10);
        assert_eq!(decide(&mut placer, at(0), HOME) == Verdict::Move(NEAR), moves, "{rtt}");
    }
    let mut never = placer.clone();
    never.set_config(config(Policy::Never));
    let told = never.explain(at(0), HOME, &clouds()).changes();
    assert!(told[0].moves_if.as_ref().is_some_and(|change| change.contains("policy")), "{told:?}");
    report(&mut placer, at(0), USER, &[(HOME, 100)], 10);
    let told = placer.explain(at(0), HOME, &clouds()).changes();
    assert_eq!(told[0].moves_if, None, "it moves there");
    placer.handle_failed(at(0), NEAR);
    let told = placer.explain(at(0), HOME, &clouds()).changes();
    assert!(told[0].moves_if.as_ref().is_some_and(|change| change.starts_with("10.0 s pass")), "{told:?}");
}

/// A user between two clouds, second by second; the service starts at NEAR. Returns the moves and the cost in ms·s:
/// round trips over time, and moves at their price.
fn journey(policy: Policy, seconds: u64, rtts: impl Fn(u64) -> (u64, u64)) -> (usize, u64) {
    let mut placer = placer(policy);
    let (mut here, mut moves, mut cost) = (NEAR, 0, 0);
    for second in 0..seconds {
        let (near, far) = rtts(second);
        report(&mut placer, at(second * 1000), USER, &[(NEAR, near), (FAR, far)], 10);
        if let Verdict::Move(to) = decide(&mut placer, at(second * 1000), here) {
            here = to;
            moves += 1;
            cost += 500;
        }
        cost += if here == NEAR { near } else { far };
    }
    (moves, cost)
}

#[test]
fn jitter_below_the_tie_never_moves() {
    // The two swap places every second, by up to 3 ms.
    let jitter = |second: u64| (20 + second * 7 % 4, 20 + second * 5 % 4);
    assert_eq!(journey(Policy::Sardis, 600, jitter).0, 0);
    assert_eq!(journey(Policy::Nearest, 600, jitter).0, 0);
}

#[test]
fn a_real_change_moves_once() {
    let change = |second: u64| if second < 60 { (20, 80) } else { (80, 20) };
    assert_eq!(journey(Policy::Sardis, 120, change).0, 1);
}

#[test]
fn a_user_faster_than_the_cost_is_not_chased() {
    let ping_pong = |second: u64| if (second / 2).is_multiple_of(2) { (20, 80) } else { (80, 20) };
    let (moves, cost) = journey(Policy::Sardis, 600, ping_pong);
    let (chased, chased_cost) = journey(Policy::Nearest, 600, ping_pong);
    assert!(moves <= 10, "{moves} moves");
    assert_eq!(chased, 299);
    assert!(cost * 4 < chased_cost, "{cost} against {chased_cost}");
}
