//! What people ask a Registry by way of this node: orders and lookups, over the node's own stream, answered to whoever asked.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::oneshot;
use wayfare_protocol::{
    ids::Digest,
    migration::messages::{Found, RegistryFrame},
    order::OrderState,
    registry::lookup_hash,
};

/// Questions that wait for an answer. More: not asked.
const QUESTIONS_MAX: usize = 64;
/// How long an answer may take before it is worth to ask again.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What a Registry said.
#[derive(Debug)]
pub(crate) enum Told {
    /// How far an order is.
    Order(OrderState),
    /// Where a service is, if anywhere.
    Found(Box<Found>),
    /// No, by this name.
    Refused(String),
}

/// A question, and who wants to know.
pub(crate) struct Question {
    pub(crate) frame: RegistryFrame,
    pub(crate) reply: oneshot::Sender<Told>,
}

/// Who waits for which answer.
#[derive(Debug, Default)]
pub(crate) struct Questions(BTreeMap<Digest, Vec<oneshot::Sender<Told>>>);

impl Questions {
    /// Remembers who asks, and gives back what to send. `None` if too many do, or if it is no question.
    pub(crate) fn ask(&mut self, Question { frame, reply }: Question) -> Option<RegistryFrame> {
        self.0.retain(|_, waiting| {
            waiting.retain(|reply| !reply.is_closed());
            !waiting.is_empty()
        });
        let about = match &frame {
            RegistryFrame::Order(order) => order.order.hash(),
            RegistryFrame::Lookup(lookup) => lookup_hash(lookup),
            _ => return None,
        };
        if self.0.values().map(Vec::len).sum::<usize>() >= QUESTIONS_MAX {
            return None;
        }
        self.0.entry(about).or_default().push(reply);
        Some(frame)
    }

    /// Whether somebody here waited for this frame: then they have it.
    pub(crate) fn answered(&mut self, frame: &RegistryFrame) -> bool {
        let about = match frame {
            RegistryFrame::OrderState(state) => state.order,
            RegistryFrame::Found(found) => lookup_hash(&found.lookup),
            RegistryFrame::Refused(refused) => refused.about,
            _ => return false,
        };
        let Some(waiting) = self.0.remove(&about) else { return matches!(frame, RegistryFrame::OrderState(_)) };
        for reply in waiting {
            let told = match frame {
                RegistryFrame::OrderState(state) => Told::Order(state.clone()),
                RegistryFrame::Found(found) => Told::Found(Box::new(found.clone())),
                RegistryFrame::Refused(refused) => Told::Refused(refused.reason.clone()),
                _ => continue,
            };
            // Who has gone needs no answer.
            let _ = reply.send(told);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::migration::messages::{Lookup, Refused};

    use super::*;

    fn lookup(name: &str) -> Lookup {
        Lookup::Name(name.to_owned())
    }

    fn ask(questions: &mut Questions, name: &str) -> Option<oneshot::Receiver<Told>> {
        let (reply, answer) = oneshot::channel();
        questions.ask(Question { frame: RegistryFrame::Lookup(lookup(name)), reply }).map(|_| answer)
    }

    #[test]
    fn everybody_who_asked_the_same_is_answered_and_nobody_else() {
        let mut questions = Questions::default();
        let mut asked: Vec<_> = ["a", "a", "b"].map(|name| ask(&mut questions, name).unwrap()).into();
        let found = Found { lookup: lookup("a"), service: None, addresses: vec![] };
        assert!(questions.answered(&RegistryFrame::Found(found.clone())));
        assert!(!questions.answered(&RegistryFrame::Found(found)), "it may be the gateway's own");
        assert!(matches!(asked[1].try_recv(), Ok(Told::Found(_))) && matches!(asked[0].try_recv(), Ok(Told::Found(_))));
        assert!(asked[2].try_recv().is_err());
        let refused = Refused { about: lookup_hash(&lookup("b")), reason: "revoked".to_owned() };
        assert!(questions.answered(&RegistryFrame::Refused(refused)));
        assert!(matches!(asked[2].try_recv(), Ok(Told::Refused(reason)) if reason == "revoked"));
    }

    #[test]
    fn who_has_gone_takes_up_no_room() {
        let mut questions = Questions::default();
        let waiting: Vec<_> = (0..QUESTIONS_MAX).map(|_| ask(&mut questions, "a").unwrap()).collect();
        assert!(ask(&mut questions, "b").is_none());
        drop(waiting);
        assert!(ask(&mut questions, "b").is_some());
    }
}
