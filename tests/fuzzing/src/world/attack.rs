//! What an attacker makes of a message: fields altered, and what is signed signed anew, by a key that he has.

use serde::de::DeserializeOwned;
use wayfare_protocol::{
    advert::Gossip,
    gateway::messages::{Call, ClientFrame, Hello, Open, client_id, request_hash},
    ids::{HostId, RegistryId},
    migration::messages::{Answer, MigrateFrame, RegistryFrame},
    suite::{Secret, Suite},
    trust::{CoSigned, Message as Signable, Receiver, Signed},
    wire::{self, Frame, Wire},
};

use super::{Attacker, Content, Message, Stream, World};
use crate::{input::Input, spans::spans};

/// Keys that the attacker keeps, at most.
const KEYS_MAX: usize = 24;

impl Attacker {
    /// He has got hold of a key.
    pub(super) fn learn_key(&mut self, secret: Secret) {
        // The first are his own.
        if self.keys.len() >= KEYS_MAX {
            self.keys.remove(4);
        }
        self.keys.push(secret);
    }
}

struct Forger<'a, 'i> {
    input: &'a mut Input<'i>,
    keys: &'a [Secret],
    words: &'a [Vec<u8>],
    registry: RegistryId,
    rogue: RegistryId,
    from: HostId,
    to: HostId,
}

/// What a frame has that is signed, and for whom.
macro_rules! parts {
    ($forger:expr, $($part:expr => $receiver:expr),+) => {{
        let count = [$(stringify!($part)),+].len();
        let chosen = $forger.input.index(count);
        let mut numbers = 0..;
        $(if numbers.next() == Some(chosen) {
            $part.forge::<S>($forger, $receiver);
        })+
    }};
}

trait Forge {
    fn forge<S: Suite>(&mut self, forger: &mut Forger<'_, '_>, receiver: Receiver);
}

impl<T: Signable> Forge for Signed<T> {
    fn forge<S: Suite>(&mut self, forger: &mut Forger<'_, '_>, receiver: Receiver) {
        let Ok(message) = self.unverified() else { return };
        let how = forger.input.byte();
        // The one who signed it, if the attacker is he.
        let mine = |key: &&Secret| {
            self.verify::<S, wayfare_protocol::reject::Strict>(&S::public_key(key), forger.registry, receiver).is_ok()
        };
        let signer = if how.is_multiple_of(4) { None } else { forger.keys.iter().find(mine) };
        let altered = if how & 64 == 0 { forger.altered(&message) } else { message };
        let Some(signer) = signer.or_else(|| forger.input.pick(forger.keys)) else { return };
        let (realm, receiver) = forger.misdirected(how, receiver);
        *self = Self::sign::<S>(signer, realm, receiver, &altered);
    }
}

impl<T: Signable> Forge for CoSigned<T> {
    fn forge<S: Suite>(&mut self, forger: &mut Forger<'_, '_>, receiver: Receiver) {
        let Ok(message) = self.unverified() else { return };
        let how = forger.input.byte();
        let altered = if how & 64 == 0 { forger.altered(&message) } else { message };
        let (Some(placement), Some(host)) = (forger.input.pick(forger.keys), forger.input.pick(forger.keys)) else {
            return;
        };
        let (realm, receiver) = forger.misdirected(how, receiver);
        *self = Self::sign::<S>(placement, host, realm, receiver, &altered);
    }
}

impl Forger<'_, '_> {
    /// Mostly for whom it should be.
    fn misdirected(&self, how: u8, receiver: Receiver) -> (RegistryId, Receiver) {
        match how >> 2 & 15 {
            13 => (self.registry, Receiver::Anyone),
            14 => (self.registry, Receiver::Host(self.from)),
            15 => (self.rogue, receiver),
            _ => (self.registry, receiver),
        }
    }

    /// `value` with other fields; as it was if that makes none.
    fn altered<T: Wire>(&mut self, value: &T) -> T {
        let honest = wire::encode(value);
        let mut bytes = honest.clone();
        for _ in 0..1 + self.input.byte() % 2 {
            self.alter::<T>(&mut bytes);
        }
        wire::decode(&bytes).or_else(|_| wire::decode(&honest)).expect("it was one before")
    }

    fn alter<T: DeserializeOwned>(&mut self, bytes: &mut [u8]) {
        let fields = spans::<T>(bytes);
        let Some(field) = self.input.pick(&fields).cloned() else { return };
        let field = &mut bytes[field];
        let how = self.input.byte();
        match how % 8 {
            0 if !field.is_empty() => field[usize::from(how >> 3) % field.len()] ^= 1 << (how >> 5),
            1 => field.fill(0),
            2 => field.fill(0xff),
            3 | 4 if field.len() <= 8 => {
                let number = field.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
                let number = if how % 8 == 3 { number.wrapping_add(1) } else { number.wrapping_sub(1) };
                field.copy_from_slice(&number.to_le_bytes()[..field.len()]);
            }
            5 if field.len() <= 8 => field.copy_from_slice(&self.input.number().to_le_bytes()[..field.len()]),
            _ => {
                let fitting: Vec<&Vec<u8>> = self.words.iter().filter(|word| word.len() == field.len()).collect();
                match self.input.pick(&fitting) {
                    Some(word) => field.copy_from_slice(word),
                    None => field.iter_mut().for_each(|byte| *byte ^= how),
                }
            }
        }
    }

    fn registry_frame<S: Suite>(&mut self, frame: &mut RegistryFrame) {
        use RegistryFrame as F;
        let (registry, to) = (Receiver::Registry(self.registry), Receiver::Host(self.to));
        match frame {
            F::VerifyCloud(frame) => parts!(self, frame.request => registry, frame.advert => Receiver::Anyone),
            F::YesCloud(signed) => signed.forge::<S>(self, to),
            F::NoCloud(signed) => signed.forge::<S>(self, to),
            F::VerifyService(signed) => signed.forge::<S>(self, registry),
            F::YesService(signed) => signed.forge::<S>(self, to),
            F::NoService(signed) => signed.forge::<S>(self, to),
            F::Complete(frame) => {
                parts!(self, frame.complete => registry, frame.consent => Receiver::Host(self.from));
            }
            F::Placement(signed) => signed.forge::<S>(self, Receiver::Anyone),
            F::Released(signed) => signed.forge::<S>(self, registry),
            F::Register(frame) => parts!(self, frame.register => registry, frame.manifest => Receiver::Anyone),
            F::Renew(signed) => signed.forge::<S>(self, registry),
            F::Reclaim(signed) => signed.forge::<S>(self, registry),
            F::Cancel(signed) => signed.forge::<S>(self, registry),
            F::Granted(granted) => match (&mut granted.answer, self.input.byte() % 2) {
                (_, 0) => granted.placement.forge::<S>(self, Receiver::Anyone),
                (Answer::Lease(signed), _) => signed.forge::<S>(self, to),
                (Answer::Aborted(signed), _) => signed.forge::<S>(self, to),
                (Answer::Outcome(signed), _) => signed.forge::<S>(self, to),
            },
            F::Enrol(signed) => signed.forge::<S>(self, registry),
            F::Enrolled(enrolled) => enrolled.certificate.forge::<S>(self, Receiver::Anyone),
            F::Found(found) => match &mut found.service {
                Some((placement, manifest)) => {
                    parts!(self, placement => Receiver::Anyone, manifest => Receiver::Anyone);
                }
                None => *found = self.altered(found),
            },
            F::Shown(frame) => parts!(self, frame.shown => registry, frame.certificate => Receiver::Anyone),
            F::Order(frame) => match &mut frame.manifest {
                Some(manifest) => parts!(self, manifest => Receiver::Anyone, frame.order => registry),
                None => frame.order.forge::<S>(self, registry),
            },
            F::OrderDone(signed) => signed.forge::<S>(self, registry),
            F::Removed(signed) => signed.forge::<S>(self, Receiver::Anyone),
            F::Refused(refused) => *refused = self.altered(refused),
            F::Lookup(lookup) => *lookup = self.altered(lookup),
            F::Recovering(recovering) => *recovering = self.altered(recovering),
            F::OrderState(state) => *state = self.altered(state),
        }
    }

    fn migrate_frame<S: Suite>(&mut self, frame: &mut MigrateFrame) {
        use MigrateFrame as F;
        let (to, from) = (Receiver::Host(self.to), Receiver::Host(self.from));
        match frame {
            F::Request(frame) => {
                parts!(self, frame.request => to, frame.verdict => from, frame.manifest => Receiver::Anyone);
            }
            F::Response(frame) => parts!(self, frame.response => to, frame.verdict => from),
            F::Transfer(consent) => consent.forge::<S>(self, to),
            F::TransferAck(signed) => signed.forge::<S>(self, to),
            F::Refused(refused) => *refused = self.altered(refused),
            F::Abandon(about) => *about = self.altered(about),
            F::RecordsAcked(acked) => *acked = self.altered(acked),
        }
    }

    fn client_frame<S: Suite>(&mut self, frame: &mut ClientFrame) {
        use ClientFrame as F;
        match frame {
            F::Hello(hello) => hello.certificate.forge::<S>(self, Receiver::Anyone),
            F::Moved(signed) | F::Placement(signed) => signed.forge::<S>(self, Receiver::Anyone),
            F::Open(body) => *body = self.altered(body),
            F::Opened(body) => *body = self.altered(body),
            F::Call(body) => {
                *body = self.altered(body);
                body.hash = request_hash(&body.request);
            }
            F::Reply(body) => *body = self.altered(body),
            F::NotExecuted(body) => *body = self.altered(body),
            F::LatencyReport(body) => *body = self.altered(body),
            F::Gone(body) => *body = self.altered(body),
        }
    }

    fn gossip<S: Suite>(&mut self, gossip: &mut Gossip) {
        match gossip {
            Gossip::Advert(signed) => signed.forge::<S>(self, Receiver::Anyone),
            Gossip::Placement(signed) => signed.forge::<S>(self, Receiver::Anyone),
        }
    }

    fn frame<S: Suite>(&mut self, stream: Stream, bytes: &mut Vec<u8>) {
        // Now and then a byte, wherever it is: nothing is signed anew.
        if self.input.byte().is_multiple_of(8) {
            let at = self.input.index(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= self.input.byte();
            }
            return;
        }
        macro_rules! forged {
            ($frame:ident, $forge:ident) => {
                if let Ok(mut frame) = $frame::from_bytes(bytes) {
                    self.$forge::<S>(&mut frame);
                    *bytes = frame.to_bytes();
                }
            };
        }
        match stream {
            Stream::Registry => forged!(RegistryFrame, registry_frame),
            Stream::Migrate => forged!(MigrateFrame, migrate_frame),
            Stream::Client => forged!(ClientFrame, client_frame),
            Stream::Gossip => forged!(Gossip, gossip),
        }
    }
}

impl<S: Suite> World<S> {
    /// Who can be made to say something: the attacker's parties, in their places.
    fn speaker(&self, stream: Stream, to: HostId) -> HostId {
        let rogue = HostId(S::public_key(&self.attacker.registry.secret));
        match stream {
            Stream::Registry if to == self.registry.host() => self.attacker.host,
            Stream::Registry => rogue,
            Stream::Client if to != self.gateway => self.attacker.gateway,
            Stream::Migrate | Stream::Client | Stream::Gossip => self.attacker.host,
        }
    }

    /// Makes `message` another: its fields, its signatures, who says it to whom. What is relayed by gossip comes from anybody.
    pub fn forge(&self, input: &mut Input<'_>, mut message: Message, to: HostId) -> Message {
        message.to = to;
        match &mut message.content {
            Content::State(mig, records) => {
                // Its place decides whether a record is opened; what is in it is sealed.
                message.from = self.attacker.host;
                let known: Vec<&Vec<u8>> = self.words.iter().filter(|word| word.len() == mig.0.len()).collect();
                if input.byte().is_multiple_of(4)
                    && let Some(word) = input.pick(&known)
                {
                    mig.0.copy_from_slice(word);
                }
                let at = input.index(records.len());
                match (input.byte() % 4, records.get_mut(at)) {
                    (0, Some(record)) => record.number = input.number(),
                    (1, Some(record)) => record.sealed.truncate(input.byte().into()),
                    (2, Some(_)) => drop(records.remove(at)),
                    _ => records.reverse(),
                }
            }
            Content::Frame(stream, bytes) => {
                message.from = self.speaker(*stream, to);
                let (from, words, keys) = (message.from, &self.words, &self.attacker.keys);
                let (registry, rogue) = (self.registry.id(), self.attacker.registry.id);
                Forger { input, keys, words, registry, rogue, from, to }.frame::<S>(*stream, bytes);
            }
        }
        message
    }

    /// The attacker's gateway greets a host, opens a session, and asks for something.
    pub fn intrude(&mut self, input: &mut Input<'_>, to: HostId) {
        let (from, incarnation) = (self.attacker.gateway, u64::from(input.byte() % 4));
        let client = client_id(from, incarnation);
        let service = self.service(input.index(3));
        let hello = Hello { certificate: self.attacker.gateway_certificate.clone(), incarnation };
        let request = [b"POST /", input.some(16)].concat();
        let (hash, sequence) = (request_hash(&request), u64::from(input.byte() % 8));
        let acked_below = u64::from(input.byte() % 8);
        let call = Call { service, client, sequence, hash, acked_below, request };
        let frames = [ClientFrame::Hello(hello), ClientFrame::Open(Open { service, client }), ClientFrame::Call(call)];
        for frame in frames {
            self.send(from, to, Content::Frame(Stream::Client, frame.to_bytes()));
        }
    }
}
