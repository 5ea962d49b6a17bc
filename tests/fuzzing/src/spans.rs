//! Where the fields of a message are in its bytes: what its `Deserialize` asks for, with the place from which the codec
//! (`protocol::wire`) would read it.

use std::ops::Range;

use serde::{
    de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor},
    forward_to_deserialize_any,
};

type Error = de::value::Error;

/// The places of the leaf fields of the `T` that `bytes` are: numbers, flags, tags, arrays, and of texts and lists first the
/// length, then what they hold. Those up to the first that cannot be read, if the bytes are no `T`.
pub fn spans<T: DeserializeOwned>(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut tracer = Tracer { bytes, at: 0, found: Vec::new() };
    let _ = T::deserialize(&mut tracer);
    tracer.found
}

struct Tracer<'a> {
    bytes: &'a [u8],
    at: usize,
    found: Vec<Range<usize>>,
}

impl<'a> Tracer<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let taken = self.at.checked_add(len).and_then(|end| self.bytes.get(self.at..end));
        self.at += taken.map_or(0, <[u8]>::len);
        taken.ok_or_else(|| de::Error::custom("no more bytes"))
    }

    fn leaf(&mut self, len: usize) -> Result<u64, Error> {
        let begin = self.at;
        let taken = self.take(len)?;
        self.found.push(begin..self.at);
        Ok(taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn long(&mut self) -> Result<&'a [u8], Error> {
        let len = self.leaf(8)?;
        let begin = self.at;
        let taken = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        self.found.push(begin..self.at);
        Ok(taken)
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $number:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.leaf(size_of::<$number>())? as $number)
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Tracer<'_> {
    type Error = Error;

    numbers! {
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // Part of an array, which is one field.
        visitor.visit_u8(self.take(1)?[0])
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.leaf(1)? == 1)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(f64::from_bits(self.leaf(8)?))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(std::str::from_utf8(self.long()?).map_err(de::Error::custom)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bytes(self.long()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.leaf(1)? == 0 { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.leaf(8)?;
        visitor.visit_seq(Elements { tracer: self, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let (begin, before) = (self.at, self.found.len());
        let value = visitor.visit_seq(Elements { tracer: self, left: len as u64 })?;
        // An array of bytes is one field; a tuple of others has theirs.
        if self.found.len() == before && self.at > begin {
            self.found.push(begin..self.at);
        }
        Ok(value)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &str, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements { tracer: self, left: names.len() as u64 })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("a type that this tracer does not know"))
    }

    forward_to_deserialize_any! { i8 i16 i32 i128 u128 f32 char unit unit_struct map identifier ignored_any }
}

struct Elements<'t, 'a> {
    tracer: &'t mut Tracer<'a>,
    left: u64,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.tracer).map(Some)
    }
}

impl<'de> EnumAccess<'de> for &mut Tracer<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let variant = self.leaf(4)? as u32;
        Ok((seed.deserialize(IntoDeserializer::<Error>::into_deserializer(variant))?, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Tracer<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements { tracer: self, left: len as u64 })
    }

    fn struct_variant<V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements { tracer: self, left: names.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::{
        ids::Nonce,
        migration::messages::{Lookup, Placement},
        wire,
    };

    use super::*;
    use crate::seeds;

    #[test]
    fn the_fields_of_a_message_cover_its_bytes() {
        let number = crate::decoders::messages().position(|name| name == "Placement").unwrap() as u8;
        let placements = seeds::messages().into_iter().filter(|seed| seed[0] == number);
        let bytes = placements.map(|seed| seed[1..].to_vec()).find(|bytes| wire::decode::<Placement>(bytes).is_ok());
        let bytes = bytes.expect("a placement is pinned");
        let fields = spans::<Placement>(&bytes);
        assert_eq!(
            (fields.first().map(|span| span.start), fields.last().map(|span| span.end)),
            (Some(0), Some(bytes.len()))
        );
        assert!(fields.is_sorted_by(|one, next| one.end == next.start));
        assert_eq!(fields.iter().filter(|span| span.len() == 32).count(), 5, "registry, host, key, previous, manifest");
        assert_eq!(spans::<Lookup>(&wire::encode(&Lookup::Name("kv".to_owned()))), [0..4, 4..12, 12..14]);
        assert_eq!(spans::<Nonce>(&[1; 16]).first(), Some(&(0..16)));
    }
}
