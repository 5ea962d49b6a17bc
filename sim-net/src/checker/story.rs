//! A way to a state, as people read it: who does what, by the names and numbers of PROTOCOL 3.

use stateright::Path;

use super::{
    memo::InputId,
    message::Party,
    model::{Action, Scoped, State},
    world::NAMES,
};

/// One line for each step.
pub(super) fn tell(model: &Scoped, path: Path<State, Action>) -> Vec<String> {
    let steps = path.into_vec();
    let ways = steps.iter().zip(steps.iter().skip(1)).enumerate();
    ways.map(|(index, ((before, action), (after, _)))| {
        let happened = action.as_ref().map_or_else(String::new, |action| describe(model, before, *action));
        format!("{:>3}  {happened}{}", index + 1, consequences(model, before, after))
    })
    .collect()
}

fn name(party: Party) -> &'static str {
    NAMES.get(usize::from(party)).copied().unwrap_or("?")
}

fn describe(model: &Scoped, before: &State, Action { party, input }: Action) -> String {
    let who = name(party);
    match input {
        InputId::Deliver(envelope) => {
            let forged = !before.sent.contains(&envelope);
            let envelope = model.memo.envelope(envelope);
            let from = if envelope.from == envelope.to { "a client" } else { name(envelope.from) };
            let by = if forged && Some(envelope.from) != model.memo.world.attacking() && from != "a client" {
                " (made by the attacker)"
            } else {
                ""
            };
            format!("{who} hears from {from}{by}: {}", envelope.name())
        }
        InputId::Timeout => format!("{who} waits no longer"),
        InputId::Pass => "ten seconds pass for everybody".to_owned(),
        InputId::Sync => format!("what {who} wrote reaches its disk"),
        InputId::Crash(kept) => format!("{who} crashes and starts again; {kept} unsynced writes survive"),
        InputId::Move(to) => format!("{who}'s operator moves the service to {}", name(to)),
        InputId::PeerLost(peer) => format!("{who} loses its stream to {}", name(peer)),
        InputId::Revoke(revoked) => format!("the registry's operator revokes {}", name(revoked)),
        InputId::ForgetDisk => format!("{who} will not crash any more"),
    }
}

/// What is sent for the first time, and who serves if that changes.
fn consequences(model: &Scoped, before: &State, after: &State) -> String {
    let new = after.sent.iter().filter(|envelope| !before.sent.contains(envelope));
    let mut text: Vec<String> = new
        .map(|envelope| model.memo.envelope(*envelope))
        .map(|envelope| format!("sends {} to {}", envelope.name(), name(envelope.to)))
        .collect();
    let serving = |state: &State| {
        let serving = model.serving(state).into_iter().map(|(party, epoch)| format!("{} {epoch}", name(party)));
        serving.collect::<Vec<_>>().join(" and ")
    };
    let (was, is) = (serving(before), serving(after));
    if was != is {
        text.push(if is.is_empty() { "nobody serves".to_owned() } else { format!("now serving: {is}") });
    }
    if text.is_empty() { String::new() } else { format!("; {}", text.join(", ")) }
}
