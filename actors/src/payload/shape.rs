//! What a type is read from, asked of its own `Deserialize` before any message comes: so a pattern
//! whose levels the type has no fields for is an error when it is bound.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};

/// What a type is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An object with these fields.
    Fields(&'static [&'static str]),
    /// Any object, or one value that has no parts.
    Open,
    /// Something in which a field is known by its place, or that may be missing.
    Closed(&'static str),
}

/// Asks a type what it is read from.
pub(crate) fn shape<T: DeserializeOwned>() -> Shape {
    let mut shape = Shape::Open;
    // Nothing is ever given to it, so it cannot succeed; that it asked is enough.
    let _refused = T::deserialize(Probe(&mut shape));
    shape
}

struct Probe<'a>(&'a mut Shape);

impl Probe<'_> {
    fn found<T>(self, shape: Shape) -> Result<T, Error> {
        *self.0 = shape;
        Err(Error::custom("a type was only asked for its shape"))
    }
}

macro_rules! answer {
    ($shape:expr => $($method:ident($($argument:ident: $kind:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* _: V) -> Result<V::Value, Error> {
            self.found($shape)
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.found(Shape::Fields(fields))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    answer! { Shape::Open =>
        deserialize_any() deserialize_map() deserialize_ignored_any() deserialize_bool() deserialize_i8()
        deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128() deserialize_u8()
        deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128() deserialize_f32()
        deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
    }

    answer! { Shape::Closed("bytes") => deserialize_bytes() deserialize_byte_buf() }
    answer! { Shape::Closed("an Option") => deserialize_option() }
    answer! { Shape::Closed("nothing") => deserialize_unit() deserialize_unit_struct(_name: &'static str) }
    answer! { Shape::Closed("a list") =>
        deserialize_seq() deserialize_tuple(_len: usize)
        deserialize_tuple_struct(_name: &'static str, _len: usize)
    }
    answer! { Shape::Closed("an enum without #[serde(tag = \"…\")]") =>
        deserialize_enum(_name: &'static str, _variants: &'static [&'static str]) deserialize_identifier()
    }
}
