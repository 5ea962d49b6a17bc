//! Small searches, complete in seconds; and each removed guard found out.

use super::{
    guards::Off,
    removals::{REMOVALS, Removal},
    scopes::{SCOPES, Scope},
    search::{Found, search},
};

fn searched(name: &str) -> Found {
    search(Scope::named(name).expect("it exists"), Off::NONE, 1, None).expect("it begins")
}

#[test]
fn a_small_scope_is_searched_to_its_end() {
    let found = searched("chaos");
    assert!(found.is_clean(), "{found}");
    assert!(found.unique > 1000 && found.checked.len() >= 10, "{found}");
    let json = serde_json::to_value(&found).expect("it is JSON");
    for key in ["scope", "without", "complete", "states", "unique", "depth", "seconds", "counterexamples"] {
        assert!(json.get(key).is_some(), "{key}");
    }
}

#[test]
fn a_search_says_when_it_is_not_complete() {
    let found = search(Scope::named("chaos").expect("it exists"), Off::NONE, 1, Some(2000)).expect("it begins");
    assert!(!found.complete && !found.is_clean() && found.to_string().contains("NOT COMPLETE"), "{found}");
}

#[test]
fn the_same_scope_is_the_same_twice() {
    let [first, second] = [(); 2].map(|()| searched("plain"));
    assert_eq!((first.unique, first.states, first.depth), (second.unique, second.states, second.depth));
}

#[test]
fn a_removed_guard_is_found_and_its_story_told() {
    let small = |removal: &&Removal| matches!(removal.scope, "chaos" | "revoked");
    let mut tried = 0;
    for removal in REMOVALS.iter().filter(small) {
        let found = search(Scope::named(removal.scope).expect("it exists"), removal.off, 1, None).expect("it begins");
        let shortest = found.counterexamples.first().expect("a promise breaks");
        assert!(shortest.story.iter().any(|line| line.contains("hears from") && line.contains("4 Request")), "{found}");
        tried += 1;
    }
    assert!(tried >= 4, "{tried}");
}

#[test]
fn names_are_unique_and_removals_have_scopes() {
    let mut names: Vec<&str> = SCOPES.iter().map(|scope| scope.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SCOPES.len());
    for removal in REMOVALS {
        assert!(Scope::named(removal.scope).is_some_and(|scope| !scope.large), "{removal:?}");
        assert_eq!(Off::named(&removal.off.names()), Ok(removal.off));
    }
}
