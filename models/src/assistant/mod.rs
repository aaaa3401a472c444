//! The embedded assistant: what people say to their home and their machine, turned into actions. What can be meant
//! ([`intents`]), how it is written ([`actions`]), and how well a model does ([`score`]). How it is trained is in
//! `models/training`, which users never compile.

pub mod actions;
pub mod asking;
pub mod intents;
pub mod score;
