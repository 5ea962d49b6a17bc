//! That the attacks of `wayfare-sim attack` are real: for each, what becomes of a victim that has everything but what stops
//! it. An attack that a bound stops has nothing to leave out: what is lost without the bound is memory, places and time.

use sim_net::{
    attack::{ATTACKS, Defence, chosen, run_against},
    processes::Programs,
};

use crate::guards::{hosts, machines, members, parties, wires};

/// An attack's name, and the tests that show what becomes of it without each of its guards.
type Proof = (&'static str, &'static [fn()]);

/// Each goes through without its guard, and only then.
const PROOFS: &[Proof] = &[
    ("forged-yes", &[parties::a_three_that_is_not_for_this_request, parties::a_four_that_is_not_this_sources]),
    ("impostor-service", &[machines::a_five_for_another_session]),
    ("redirected-verdict", &[parties::a_four_that_is_not_this_sources, machines::a_two_that_is_replayed]),
    ("forged-complete", &[machines::a_ten_without_consent]),
    ("forged-advert", &[hosts::an_advert_that_is_not_the_clouds]),
    ("leaked-keys", &[wires::a_recorded_move_and_a_static_key]),
    ("old-host", &[members::a_former_host_that_goes_on]),
    ("stolen-placement-key", &[machines::a_two_without_the_host_of_record]),
    ("revoked-cloud", &[machines::a_move_to_where_it_must_not_go]),
    ("other-consent", &[members::a_consent_to_another_migration]),
    ("altered-records", &[wires::a_record_that_is_not_authenticated]),
    ("forged-placement", &[hosts::a_placement_that_is_not_the_registrys_or_not_the_last]),
    ("stale-advert", &[hosts::an_advert_that_is_not_the_last]),
    ("shared-identity", &[hosts::an_advert_that_is_not_the_last, members::one_key_under_two_names]),
    ("altered-order", &[members::an_order_that_is_not_the_owners]),
    ("replayed-order", &[members::an_order_that_is_replayed]),
    ("others-order", &[members::an_order_that_is_not_the_owners]),
    ("order-after-removal", &[members::an_order_for_what_was_removed]),
    ("forged-tombstone", &[hosts::a_tombstone_that_nobody_made]),
    ("token-twice", &[members::a_token_that_is_not_used_up]),
    ("other-registry", &[members::what_was_said_to_another_registry]),
    ("stolen-session", &[hosts::a_request_in_anothers_name]),
    ("man-in-the-middle", &[wires::a_frame_altered_on_a_bare_wire]),
    ("wrong-key", &[wires::a_key_that_nobody_compares]),
    ("downgrade", &[wires::a_new_message_on_an_old_stream]),
    ("replay-after-restart", &[members::an_old_question_to_a_restarted_registry]),
    ("stale-placement", &[hosts::a_placement_that_is_not_the_registrys_or_not_the_last]),
];

#[test]
fn each_attack_succeeds_where_its_guard_is_missing() {
    for attack in ATTACKS {
        let proofs = PROOFS.iter().filter(|(name, _)| *name == attack.name).flat_map(|(_, proofs)| *proofs);
        let count = proofs.map(|proof| proof()).count();
        let is_bound = attack.defence == Defence::Bound;
        assert_eq!(count == 0, is_bound, "{}: {} proofs, {}", attack.name, count, attack.defence.name());
    }
    for (name, _) in PROOFS {
        assert!(ATTACKS.iter().any(|attack| attack.name == *name), "there is no attack {name}");
    }
}

/// A few against real processes, as the command does them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_attacks_on_processes() {
    let programs = Programs {
        node: env!("CARGO_BIN_EXE_wayfare-under-test").into(),
        registry: env!("CARGO_BIN_EXE_wayfare-registry-under-test").into(),
    };
    let names = ["forged-yes", "token-twice", "wrong-key"].map(str::to_owned);
    let summary = run_against(programs, &chosen(&names).unwrap(), true).await.unwrap();
    assert!(summary.is_clean(), "{summary}");
    assert_eq!(summary.attacks.len(), names.len());
}
