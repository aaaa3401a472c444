//! Decisions as pure code: state and time in, decisions out.

pub mod backoff;
pub mod flapping;
pub mod queue;
