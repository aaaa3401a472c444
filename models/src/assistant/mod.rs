//! The embedded assistant: what people say to their home and their machine, turned into actions. What can be meant
//! ([`intents`]) and how it is written ([`actions`]). Its training is in `models/training`, which users never compile.

pub mod actions;
pub mod intents;
