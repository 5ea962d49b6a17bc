//! For `#[serde(with = "flat")]` on the entries of a snapshot: none of them is a snapshot. Few bytes of a damaged journal could
//! else nest so many of them that reading them exhausts the stack.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, EnumAccess, Error, IntoDeserializer, SeqAccess, Visitor, value::U32Deserializer},
    forward_to_deserialize_any,
};

use super::Entry;

pub(super) fn serialize<S: Serializer>(entries: &Vec<Entry>, serializer: S) -> Result<S::Ok, S::Error> {
    entries.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    deserializer.deserialize_seq(Entries)
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entries of a snapshot")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Entry>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element_seed(Plain)? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// An entry that is no snapshot.
struct Plain;

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        Entry::deserialize(Checked { inner: deserializer, snapshot: None })
    }
}

/// Passes everything on but the number of the variant that is a snapshot.
struct Checked<T> {
    inner: T,
    snapshot: Option<u32>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Checked<D> {
    type Error = D::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let snapshot = (0..).zip(variants).find(|(_, variant)| **variant == "Snapshot").map(|(number, _)| number);
        self.inner.deserialize_enum(name, variants, Checked { inner: visitor, snapshot })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("an entry is an enum"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Checked<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Checked { inner: access, snapshot: self.snapshot })
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Checked<A> {
    type Error = A::Error;
    type Variant = A::Variant;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, A::Variant), A::Error> {
        self.inner.variant_seed(Checked { inner: seed, snapshot: self.snapshot })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Checked<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let number = u32::deserialize(deserializer)?;
        if Some(number) == self.snapshot {
            return Err(D::Error::custom("a snapshot in a snapshot"));
        }
        let number: U32Deserializer<D::Error> = number.into_deserializer();
        self.inner.deserialize(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::ENTRY_BYTES_MAX, reject::Reject, wire};

    #[test]
    fn a_snapshot_has_no_snapshot_in_it() {
        let flat = Entry::Snapshot(vec![Entry::Cordoned { cordoned: true }, Entry::Finished { migs: vec![] }]);
        assert_eq!(Entry::from_bytes(&flat.to_bytes()), Ok(flat.clone()));
        let nested = Entry::Snapshot(vec![flat]);
        assert_eq!(Entry::from_bytes(&nested.to_bytes()), Err(Reject::Malformed));
    }

    #[test]
    fn however_many_are_nested_they_are_refused() {
        let one = wire::encode(&Entry::Snapshot(vec![Entry::Cordoned { cordoned: true }]));
        // The number of the variant, and one element: again and again.
        let nested = one[..12].repeat(ENTRY_BYTES_MAX / 12 - 1);
        assert_eq!(Entry::from_bytes(&[&[1], &nested[..]].concat()), Err(Reject::Malformed));
    }
}
