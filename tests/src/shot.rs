//! Bytes to send, and the rejection that they must provoke.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wayfare_protocol::{
    ids::RegistryId,
    reject::Reject,
    suite::{Dalek, Secret},
    trust::{CoSigned, Message, Receiver, Signed},
    wire::{self, Frame, VERSION, Wire},
};

use sim_net::attack::sign;
pub use sim_net::attack::sign::{CoSigner, Signer, thief};

use crate::alter::{Expect, Table};

/// One thing to send.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Message and alteration, for people.
    pub name: String,
    /// A frame's content.
    pub bytes: Vec<u8>,
    /// The named rejection; `None`: it is ignored.
    pub expect: Option<Reject>,
}

impl Shot {
    /// A shot.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>, expect: Reject) -> Self {
        Self { name: name.into(), bytes, expect: Some(expect) }
    }

    /// A shot that is ignored.
    pub fn ignored(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes, expect: None }
    }

    /// A shot of what `expect` says; `None` if that is not to be sent.
    pub fn expecting(name: impl Into<String>, bytes: Vec<u8>, expect: Expect) -> Option<Self> {
        match expect {
            Expect::Refused(reject) => Some(Self::new(name, bytes, reject)),
            Expect::Ignored(_) => Some(Self::ignored(name, bytes)),
            Expect::Free(_) => None,
        }
    }

    /// A frame that is well formed.
    pub fn frame(name: impl Into<String>, frame: &impl Frame, expect: Reject) -> Self {
        Self::new(name, frame.to_bytes(), expect)
    }
}

/// Encodes like `T`, under another label.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "T: Serialize + DeserializeOwned")]
struct Relabelled<T>(T);

impl<T: Serialize + DeserializeOwned> Wire for Relabelled<T> {}

impl<T: Serialize + DeserializeOwned> Message for Relabelled<T> {
    const LABEL: &'static str = "wayfare/1 another message";
}

fn convert<A: Wire, B: Wire>(value: &A) -> B {
    wire::decode(&wire::encode(value)).unwrap()
}

/// What an attacker makes of an honest signer's messages.
pub trait Altered {
    /// `altered` under the signature of `honest`.
    fn forge<T: Message>(&self, honest: &T, altered: &T) -> Signed<T>;

    /// The same message signed with another key, for another receiver, in another realm, as another message.
    fn misdirected<T: Message + Clone>(&self, message: &T) -> Vec<(&'static str, Signed<T>)>;

    /// Every row of `table` that alters something, altered with and without signing anew, and the message misdirected. `base` makes an honest
    /// message, `frame` the bytes around it; `bad` is what a signature that does not verify leads to there.
    fn shots<T: Message + Clone + 'static>(
        &self,
        table: &Table<T>,
        base: impl FnMut() -> T,
        frame: impl Fn(Signed<T>) -> Vec<u8>,
        bad: Reject,
    ) -> Vec<Shot>;
}

impl Altered for Signer {
    fn forge<T: Message>(&self, honest: &T, altered: &T) -> Signed<T> {
        unsigned(&self.sign(honest), altered)
    }

    fn misdirected<T: Message + Clone>(&self, message: &T) -> Vec<(&'static str, Signed<T>)> {
        let other = RegistryId([0xee; 32]);
        let receivers = [Receiver::Anyone, Receiver::Registry(self.registry)];
        let receiver = receivers.into_iter().find(|receiver| *receiver != self.receiver).unwrap();
        let (thief, relabelled) = (thief(), Relabelled(wire::decode::<T>(&wire::encode(message)).unwrap()));
        let relabelled = Signed::sign::<Dalek>(&self.secret, self.registry, self.receiver, &relabelled);
        vec![
            ("signed by another key", Signed::sign::<Dalek>(&thief, self.registry, self.receiver, message)),
            ("signed for another receiver", Signed::sign::<Dalek>(&self.secret, self.registry, receiver, message)),
            ("signed for another registry", Signed::sign::<Dalek>(&self.secret, other, self.receiver, message)),
            ("signed as another message", convert(&relabelled)),
        ]
    }

    fn shots<T: Message + Clone + 'static>(
        &self,
        table: &Table<T>,
        mut base: impl FnMut() -> T,
        frame: impl Fn(Signed<T>) -> Vec<u8>,
        bad: Reject,
    ) -> Vec<Shot> {
        let mut shots = Vec::new();
        for row in &table.0 {
            let (name, honest) = (format!("{} {}", T::LABEL, row.field), base());
            let mut altered = honest.clone();
            (row.edit)(&mut altered);
            if wire::encode(&altered) == wire::encode(&honest) {
                continue;
            }
            let anew = frame(self.sign(&altered));
            shots.extend(Shot::expecting(format!("{name}, signed anew"), anew, row.resigned));
            let raw = row.raw.unwrap_or(bad);
            shots.push(Shot::new(format!("{name}, not signed anew"), frame(self.forge(&honest, &altered)), raw));
        }
        for (how, signed) in self.misdirected(&base()) {
            shots.push(Shot::new(format!("{} {how}", T::LABEL), frame(signed), bad));
        }
        shots
    }
}

/// `altered` in the envelope of `honest`.
pub fn unsigned<T: Message>(honest: &Signed<T>, altered: &T) -> Signed<T> {
    sign::unsigned(honest, altered).unwrap()
}

/// What an attacker makes of honest consents and completions.
pub trait CoAltered {
    /// As [`Altered::shots`].
    fn shots<T: Message + Clone + 'static>(
        &self,
        table: &Table<T>,
        base: impl Fn() -> T,
        frame: impl Fn(CoSigned<T>) -> Vec<u8>,
    ) -> Vec<Shot>;

    /// `altered` under the signatures of `honest`.
    fn forge<T: Message>(&self, honest: &T, altered: &T) -> CoSigned<T>;
}

impl CoAltered for CoSigner {
    fn shots<T: Message + Clone + 'static>(
        &self,
        table: &Table<T>,
        base: impl Fn() -> T,
        frame: impl Fn(CoSigned<T>) -> Vec<u8>,
    ) -> Vec<Shot> {
        let mut shots = Vec::new();
        for row in &table.0 {
            let (name, honest) = (format!("{} {}", T::LABEL, row.field), base());
            let mut altered = honest.clone();
            (row.edit)(&mut altered);
            if wire::encode(&altered) == wire::encode(&honest) {
                continue;
            }
            let anew = frame(self.sign(&altered));
            shots.extend(Shot::expecting(format!("{name}, signed anew"), anew, row.resigned));
            let raw = row.raw.unwrap_or(Reject::BadCoSignature);
            shots.push(Shot::new(format!("{name}, not signed anew"), frame(self.forge(&honest, &altered)), raw));
        }
        let sign = |placement: &Secret, host: &Secret, registry, receiver| {
            frame(CoSigned::sign::<Dalek>(placement, host, registry, receiver, &base()))
        };
        let (thief, other, receiver) = (thief(), RegistryId([0xee; 32]), Receiver::Anyone);
        let Self { placement, host, registry, receiver: to } = self;
        for (how, bytes, reject) in [
            ("with another placement key", sign(&thief, host, *registry, *to), Reject::BadSignature),
            ("with another host's key", sign(placement, &thief, *registry, *to), Reject::BadCoSignature),
            ("for another receiver", sign(placement, host, *registry, receiver), Reject::BadCoSignature),
            ("for another registry", sign(placement, host, other, *to), Reject::BadCoSignature),
        ] {
            shots.push(Shot::new(format!("{} signed {how}", T::LABEL), bytes, reject));
        }
        shots
    }

    fn forge<T: Message>(&self, honest: &T, altered: &T) -> CoSigned<T> {
        let envelope = wire::encode(&self.sign(honest));
        let inner = Signed::sign::<Dalek>(&self.placement, self.registry, self.receiver, honest);
        let mut bytes = wire::encode(&unsigned(&inner, altered));
        bytes.extend_from_slice(&envelope[envelope.len() - 64..]);
        wire::decode(&bytes).unwrap()
    }
}

/// An honest frame that is longer than its stream allows: the stream cannot go on.
pub fn oversized<F: Frame>(honest: &F) -> Shot {
    let mut long = honest.to_bytes();
    long.resize(F::BYTES_MAX + 1, 0);
    Shot::new(format!("{} longer than its stream allows", honest.name()), long, Reject::FrameTooLarge)
}

/// An honest frame cut short, with bytes too many, of another version, of no kind, longer than its kind allows. `limit` is
/// the longest body of its kind.
pub fn misshapen<F: Frame>(honest: &F, limit: usize) -> Vec<Shot> {
    let (name, bytes) = (honest.name(), honest.to_bytes());
    let shot = |how: &str, bytes: Vec<u8>, expect| Shot::new(format!("{name} {how}"), bytes, expect);
    let mut shots = vec![
        shot("cut short", bytes[..bytes.len() - 1].to_vec(), Reject::Malformed),
        shot("with a byte more", [&bytes[..], &[0]].concat(), Reject::Malformed),
        shot("without a body", bytes[..2].to_vec(), Reject::Malformed),
        shot("of another version", [&[bytes[0] + 1], &bytes[1..]].concat(), Reject::WrongVersion),
        shot("of an unknown kind", [&[VERSION, 255], &bytes[2..]].concat(), Reject::UnknownMessage),
    ];
    if limit + 3 <= F::BYTES_MAX {
        let mut long = bytes;
        long.resize(limit + 3, 0);
        shots.push(shot("longer than its kind allows", long, Reject::FrameTooLarge));
    }
    shots
}
