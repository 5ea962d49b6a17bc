//! That the tables forget nothing.

use serde::de::DeserializeOwned;
use wayfare_tests::{alter::Table, fields::fields_of};

/// One message at one receiver, and the fields that its table alters.
pub(crate) struct Covered {
    message: &'static str,
    receiver: &'static str,
    expected: Vec<String>,
    altered: Vec<String>,
}

/// What `table` covers at `receiver`.
pub(crate) fn covers<T: DeserializeOwned + 'static>(receiver: &'static str, table: &Table<T>) -> Covered {
    let message = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    Covered { message, receiver, expected: fields_of::<T>(), altered: table.fields() }
}

fn all() -> Vec<Covered> {
    [
        crate::registry::covered(),
        crate::target::covered(),
        crate::source::covered(),
        crate::clients::covered(),
        crate::gateway::covered(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_field_of_every_message_is_altered() {
    let mut missing = Vec::new();
    for Covered { message, receiver, expected, altered } in all() {
        let forgotten = expected.iter().filter(|field| !altered.contains(field));
        missing.extend(forgotten.map(|field| format!("{message}.{field} at {receiver}: no row")));
        let unknown = altered.iter().filter(|field| !expected.contains(field));
        missing.extend(unknown.map(|field| format!("{message}.{field} at {receiver}: no such field")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
