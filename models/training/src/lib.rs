//! How the embedded assistant came to be: sentences drawn from patterns ([`data`]), and a network that learns what they mean.
//! What is learnt is a GGUF file that `models` runs.

pub mod data;
pub mod export;
pub mod gguf;
pub mod learn;
pub mod network;
mod optimizers;
pub mod vocabulary;
