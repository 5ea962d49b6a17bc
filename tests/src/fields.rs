//! The fields of a message, as its `Deserialize` asks for them: the tables are compared with this list, so that a field that
//! is added later cannot be forgotten.

use serde::{
    de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, SeqAccess, VariantAccess, Visitor},
    forward_to_deserialize_any,
};

/// The leaf fields of `T`, with dots. A newtype, a list, an enum and a signed envelope are leaves.
pub fn fields_of<T: DeserializeOwned>() -> Vec<String> {
    let mut fields = Vec::new();
    let _: T = T::deserialize(Tracer { path: String::new(), fields: &mut fields }).unwrap();
    fields
}

struct Tracer<'a> {
    path: String,
    fields: &'a mut Vec<String>,
}

impl Tracer<'_> {
    fn leaf(&mut self) {
        self.fields.push(self.path.clone());
    }
}

type Error = de::value::Error;

macro_rules! leaves {
    ($($method:ident $visit:ident $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.$visit($value)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    leaves! {
        deserialize_bool visit_bool false;
        deserialize_u8 visit_u8 0;
        deserialize_u16 visit_u16 0;
        deserialize_u32 visit_u32 0;
        deserialize_u64 visit_u64 0;
        deserialize_i64 visit_i64 0;
        deserialize_str visit_str "";
        deserialize_string visit_str "";
        deserialize_bytes visit_bytes b"";
        deserialize_byte_buf visit_bytes b"";
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_none()
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_seq(Nothing)
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_seq(Zeros { left: len })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &str, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(mut self, _: &str, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_newtype_struct(Tracer { path: String::new(), fields: &mut Vec::new() })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if matches!(name, "Signed" | "CoSigned") {
            self.leaf();
            let inner = &mut Vec::new();
            return visitor.visit_seq(Struct { path: "", names: names.iter(), fields: inner });
        }
        visitor.visit_seq(Struct { path: &self.path, names: names.iter(), fields: self.fields })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_enum(FirstVariant)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("a type that this tracer does not know"))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 f64 char unit unit_struct map identifier ignored_any
    }
}

struct Struct<'a> {
    path: &'a str,
    names: std::slice::Iter<'static, &'static str>,
    fields: &'a mut Vec<String>,
}

impl<'de> SeqAccess<'de> for Struct<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        let path = if self.path.is_empty() { (*name).to_owned() } else { format!("{}.{name}", self.path) };
        seed.deserialize(Tracer { path, fields: self.fields }).map(Some)
    }
}

/// An array of numbers.
struct Zeros {
    left: usize,
}

impl<'de> SeqAccess<'de> for Zeros {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Tracer { path: String::new(), fields: &mut Vec::new() }).map(Some)
    }
}

/// An empty list.
struct Nothing;

impl<'de> SeqAccess<'de> for Nothing {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, _: S) -> Result<Option<S::Value>, Error> {
        Ok(None)
    }
}

/// The first variant of an enum, whatever it holds.
struct FirstVariant;

impl<'de> EnumAccess<'de> for FirstVariant {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let first = de::value::U32Deserializer::<Error>::new(0);
        Ok((seed.deserialize(first)?, self))
    }
}

impl<'de> VariantAccess<'de> for FirstVariant {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(Tracer { path: String::new(), fields: &mut Vec::new() })
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("no message has such a variant"))
    }

    fn struct_variant<V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Struct { path: "", names: names.iter(), fields: &mut Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use wayfare_protocol::migration::messages::{Granted, Lookup, YesCloud};

    use super::*;

    #[test]
    fn nested_fields_are_listed_and_leaves_are_not_opened() {
        let fields = fields_of::<YesCloud>();
        assert_eq!(
            &fields[..4],
            ["request.service.registry", "request.service.unique", "request.epoch.era", "request.epoch.hop"]
        );
        assert_eq!(&fields[fields.len() - 3..], ["manifest", "mig", "expiry"]);
        assert_eq!(fields_of::<Granted>(), ["answer", "placement"]);
        assert_eq!(fields_of::<Lookup>(), [""]);
    }
}
