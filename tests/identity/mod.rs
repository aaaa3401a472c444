//! Who comes in, and for how long: pairing, secrets, tokens and their end, as seen from outside.

mod https;
mod lasting;
mod pairing;
mod secrecy;
pub(crate) mod support;
mod tokens;
