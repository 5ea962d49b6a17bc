//! What others on the machine see of a process that holds keys: nothing.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps this process's memory to itself: it leaves no core dump, and no debugger of the same user can attach. (Root can do
/// either all the same.)
pub fn forbid() {
    // Both, as a core dump that goes to a program does not mind the limit alone.
    let limit = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    for error in [limit.err(), dumpable.err()].into_iter().flatten() {
        tracing::warn!(%error, "core dumps cannot be switched off: they would hold keys");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn neither_a_dump_nor_a_debugger() {
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
        forbid();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }
}
