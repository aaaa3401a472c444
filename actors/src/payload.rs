//! From a payload and the levels of a topic to a value: the levels in braces of a pattern become
//! fields of the same struct, beside those of the JSON object in the payload.
//!
//! A level always wins: a field of its name in the payload is passed over unread, so that nobody can
//! write another device's name into it. For the same reason only values that are read by field name
//! are made from both; an array, which serde would take for a struct's fields in their order, is refused.

mod level;
mod shape;

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess,
    Visitor,
};
use topics::pattern::Params;

use level::Level;
pub(crate) use shape::{Shape, shape};

/// Reads a payload. An empty one says what an empty object says: a topic can be a message by itself.
pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8], levels: &Params) -> Result<T, serde_json::Error> {
    let payload = if payload.is_empty() { b"{}" } else { payload };
    let mut json = serde_json::Deserializer::from_slice(payload);
    let value = if levels.is_empty() {
        T::deserialize(&mut json)?
    } else {
        T::deserialize(WithLevels {
            json: &mut json,
            levels,
        })?
    };
    json.end()?;
    Ok(value)
}

/// A deserializer that puts the levels before the fields of the object it reads.
struct WithLevels<'a, D> {
    json: D,
    levels: &'a Params,
}

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.json.$method(visitor)
        }
    )*};
}

macro_rules! refuse {
    ($($method:ident($($argument:ident: $kind:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* _: V) -> Result<V::Value, D::Error> {
            Err(no_place())
        }
    )*};
}

fn no_place<E: serde::de::Error>() -> E {
    E::custom("the levels of the topic have no place in a value without named fields")
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for WithLevels<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let levels = self.levels;
        self.json.deserialize_any(Merging { visitor, levels })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let levels = self.levels;
        self.json.deserialize_map(Merging { visitor, levels })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_ignored_any
    }

    refuse! {
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_unit()
        deserialize_unit_struct(_name: &'static str)
        deserialize_seq()
        deserialize_tuple(_len: usize)
        deserialize_tuple_struct(_name: &'static str, _len: usize)
        deserialize_enum(_name: &'static str, _variants: &'static [&'static str])
        deserialize_identifier()
    }
}

/// Gives an object to its visitor with the levels before it.
struct Merging<'a, V> {
    visitor: V,
    levels: &'a Params,
}

macro_rules! pass_on {
    ($($method:ident($kind:ty))*) => {$(
        fn $method<E: serde::de::Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Merging<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Merged {
            levels: self.levels,
            next_level: 0,
            value: None,
            object,
        })
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    // No `visit_seq`: see the module.
    pass_on! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
    }
}

/// The levels, then the object's own fields, without those that have a level's name.
struct Merged<'a, A> {
    levels: &'a Params,
    next_level: usize,
    value: Option<&'a str>,
    object: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Merged<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if let Some((name, value)) = self.levels.iter().nth(self.next_level) {
            self.next_level += 1;
            self.value = Some(value);
            return seed.deserialize(StrDeserializer::new(name)).map(Some);
        }
        while let Some(key) = self.object.next_key::<String>()? {
            if self.levels.get(&key).is_none() {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            self.object.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.value.take() {
            Some(level) => seed
                .deserialize(Level::new(level))
                .map_err(|e: level::Error| A::Error::custom(e)),
            None => self.object.next_value_seed(seed),
        }
    }
}

#[cfg(test)]
#[path = "payload/tests.rs"]
mod tests;
