//! Baselines: what a platform must be to be certified (PROTOCOL 6; the pre-defined baseline configuration of Aslam, Bouget and
//! Raza, section 3).
//!
//! A baseline names the controls of a security framework that a platform has in place, the measurements that it must show, and
//! how well both must be vouched for. Baselines are partially ordered by what they demand, never by their names:
//! [`Baseline::satisfies`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::Message;
use crate::{
    ids::Digest,
    limits::{CONTROL_BYTES_MAX, CONTROLS_MAX, MEASUREMENTS_MAX, TEXT_BYTES_MAX},
    reject::Reject,
    suite::digest,
    wire::{self, Wire},
};

/// A control of a framework's catalogue as OSCAL writes it: `ac-2.1` of NIST SP 800-53, say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ControlId(String);

impl ControlId {
    /// Takes an OSCAL token of ASCII letters, digits, `.`, `-` and `_` that begins with a letter or `_`, at most
    /// [`CONTROL_BYTES_MAX`] bytes. Case matters, as it does in OSCAL.
    pub fn parse(text: &str) -> Option<Self> {
        let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let token = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        (begins && token && text.len() <= CONTROL_BYTES_MAX).then(|| Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ControlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How well it is known what a platform is. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Assurance {
    /// Its operator says so, and signed it.
    Declared,
    /// The node measured its binary and configuration itself.
    Measured,
    /// A TPM 2.0 quoted the measurements under a fresh nonce.
    Attested,
}

impl Assurance {
    /// Every level, lowest first.
    pub const ALL: [Self; 3] = [Self::Declared, Self::Measured, Self::Attested];

    /// The word for people and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Measured => "measured",
            Self::Attested => "tpm2",
        }
    }

    /// Reads [`Assurance::name`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == text)
    }
}

/// `sig_R(BASELINE)`: what a platform must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Baseline {
    /// A short name, as commands take it.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// The document that the controls are from: BLAKE3 of its bytes.
    pub source: Digest,
    /// Controls that must be in place.
    pub controls: BTreeSet<ControlId>,
    /// Measurements that must be shown, by name, and the values that will do: SHA-256 of the node's binary, say.
    pub measurements: BTreeMap<String, BTreeSet<Digest>>,
    /// How well it must be vouched for.
    pub assurance: Assurance,
}

impl Wire for Baseline {
    const LIMIT: usize = 64 * 1024;
}

impl Message for Baseline {
    const LABEL: &'static str = "wayfare/1 BASELINE";
}

/// What one baseline lacks of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shortfall {
    /// Controls that it does not ask for.
    pub controls: BTreeSet<ControlId>,
    /// Measurements that it does not ask for, or for which it takes values that the other does not.
    pub measurements: BTreeSet<String>,
    /// The level that the other asks for, if its own is lower.
    pub assurance: Option<Assurance>,
}

impl Shortfall {
    /// Whether nothing is lacking.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let listed = |items: &mut dyn Iterator<Item = &str>| items.collect::<Vec<_>>().join(", ");
        if !self.controls.is_empty() {
            parts.push(format!("controls {}", listed(&mut self.controls.iter().map(ControlId::as_str))));
        }
        if !self.measurements.is_empty() {
            parts.push(format!("measurements {}", listed(&mut self.measurements.iter().map(String::as_str))));
        }
        if let Some(level) = self.assurance {
            parts.push(format!("assurance {}", level.name()));
        }
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join("; ")) }
    }
}

impl Baseline {
    /// Checks what a signature does not: lengths and counts.
    ///
    /// # Errors
    /// [`Reject::FieldTooLong`].
    pub fn check(&self) -> Result<(), Reject> {
        let text = |text: &str| !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
        let values: usize = self.measurements.values().map(BTreeSet::len).sum();
        let fits = text(&self.id)
            && text(&self.title)
            && self.controls.len() <= CONTROLS_MAX
            && self.controls.iter().all(|control| ControlId::parse(&control.0).is_some())
            && self.measurements.len() <= MEASUREMENTS_MAX
            && values <= MEASUREMENTS_MAX
            && self.measurements.iter().all(|(name, values)| text(name) && !values.is_empty());
        if fits { Ok(()) } else { Err(Reject::FieldTooLong) }
    }

    /// Its hash: what manifests and tokens name it by.
    pub fn digest(&self) -> Digest {
        digest("wayfare/1 baseline", &[&wire::encode(self)])
    }

    /// What a platform certified against this one may lack of `required`. Nothing: this one satisfies it.
    pub fn shortfall(&self, required: &Self) -> Shortfall {
        let weaker = |(name, values): &(&String, &BTreeSet<Digest>)| {
            self.measurements.get(*name).is_none_or(|own| !own.is_subset(values))
        };
        Shortfall {
            controls: required.controls.difference(&self.controls).cloned().collect(),
            measurements: required.measurements.iter().filter(weaker).map(|(name, _)| name.clone()).collect(),
            assurance: Some(required.assurance).filter(|level| self.assurance < *level),
        }
    }

    /// Whether every platform certified against this one is also what `required` demands.
    pub fn satisfies(&self, required: &Self) -> bool {
        self.shortfall(required).is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*, sample};

    use super::*;

    fn control(text: &str) -> ControlId {
        ControlId::parse(text).unwrap()
    }

    fn baseline(controls: &[&str], assurance: Assurance) -> Baseline {
        Baseline {
            id: "low".to_owned(),
            title: "Low impact".to_owned(),
            source: Digest([1; 32]),
            controls: controls.iter().map(|text| control(text)).collect(),
            measurements: BTreeMap::new(),
            assurance,
        }
    }

    #[test]
    fn a_control_is_an_oscal_token() {
        for good in ["ac-2.1", "pm-1", "_x", "AC-6_obj.a"] {
            assert_eq!(control(good).to_string(), good);
        }
        for bad in ["", "1-a", "ac 2", "ac/2", "-ac", "é-1", &"a".repeat(CONTROL_BYTES_MAX + 1)] {
            assert_eq!(ControlId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let mut required = baseline(&["ac-1", "ac-2", "ac-3"], Assurance::Measured);
        let values = |values: &[u8]| values.iter().map(|value| Digest([*value; 32])).collect::<BTreeSet<_>>();
        required.measurements = BTreeMap::from([("binary".to_owned(), values(&[1, 2]))]);
        let mut own = baseline(&["ac-1", "ac-9"], Assurance::Declared);
        let lacks = own.shortfall(&required);
        assert_eq!(lacks.to_string(), "controls ac-2, ac-3; measurements binary; assurance measured");
        own = Baseline { id: "other".to_owned(), ..required.clone() };
        assert!(own.satisfies(&required) && own.shortfall(&required).to_string() == "nothing");
        own.measurements.insert("binary".to_owned(), values(&[1]));
        assert!(own.satisfies(&required), "it takes fewer values");
        own.measurements.insert("binary".to_owned(), values(&[1, 3]));
        assert!(!own.satisfies(&required), "it takes a value that the other does not");
    }

    #[test]
    fn what_is_too_long_or_empty_is_refused() {
        let good = baseline(&["ac-1"], Assurance::Attested);
        assert_eq!(good.check(), Ok(()));
        let many = (0..=CONTROLS_MAX).map(|number| control(&format!("c-{number}"))).collect();
        let unnamed = BTreeMap::from([(String::new(), BTreeSet::from([Digest([0; 32])]))]);
        let valueless = BTreeMap::from([("binary".to_owned(), BTreeSet::new())]);
        for bad in [
            Baseline { id: String::new(), ..good.clone() },
            Baseline { title: "t".repeat(TEXT_BYTES_MAX + 1), ..good.clone() },
            Baseline { controls: many, ..good.clone() },
            Baseline { controls: BTreeSet::from([ControlId("a b".to_owned())]), ..good.clone() },
            Baseline { measurements: unnamed, ..good.clone() },
            Baseline { measurements: valueless, ..good.clone() },
        ] {
            assert_eq!(bad.check(), Err(Reject::FieldTooLong));
        }
    }

    #[test]
    fn its_digest_covers_every_field_and_its_bytes_are_canonical() {
        let good = baseline(&["ac-2", "ac-1"], Assurance::Declared);
        let same = baseline(&["ac-1", "ac-2"], Assurance::Declared);
        assert_eq!(good.digest(), same.digest());
        let decoded: Baseline = wire::decode(&wire::encode(&good)).unwrap();
        assert_eq!(decoded, good);
        let binary = BTreeMap::from([("binary".to_owned(), BTreeSet::from([Digest([0; 32])]))]);
        for other in [
            Baseline { id: "x".to_owned(), ..good.clone() },
            Baseline { title: "x".to_owned(), ..good.clone() },
            Baseline { source: Digest([2; 32]), ..good.clone() },
            Baseline { measurements: binary, ..good.clone() },
            baseline(&["ac-1"], Assurance::Declared),
            baseline(&["ac-1", "ac-2"], Assurance::Measured),
        ] {
            assert_ne!(other.digest(), good.digest());
        }
    }

    fn any_baseline() -> impl Strategy<Value = Baseline> {
        let names = ["ac-1", "ac-2", "ac-3", "au-1"];
        let controls = sample::subsequence(names.to_vec(), 0..=names.len());
        let values = collection::btree_set((0_u8..3).prop_map(|value| Digest([value; 32])), 1..3);
        let measurements =
            collection::btree_map(sample::select(vec!["binary".to_owned(), "boot".to_owned()]), values, 0..3);
        (controls, measurements, sample::select(Assurance::ALL.to_vec()))
            .prop_map(|(controls, measurements, level)| Baseline { measurements, ..baseline(&controls, level) })
    }

    proptest! {
        #[test]
        fn satisfying_is_a_partial_order_of_what_is_demanded(a in any_baseline(), b in any_baseline(), c in any_baseline()) {
            prop_assert!(a.satisfies(&a));
            prop_assert!(!(a.satisfies(&b) && b.satisfies(&c)) || a.satisfies(&c));
            prop_assert!(!(a.satisfies(&b) && b.satisfies(&a)) || a == b, "names and source apart, which are the same here");
            let renamed = Baseline { id: "renamed".to_owned(), ..b.clone() };
            prop_assert_eq!(a.satisfies(&b), a.satisfies(&renamed));
        }
    }
}
