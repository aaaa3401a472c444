//! Decisions as pure code: state and time in, decisions out.

pub mod backoff;
pub mod chores;
pub mod expiry;
pub mod failover;
pub mod flapping;
pub mod governor;
pub mod hanging;
pub mod log_quota;
pub mod priority;
pub mod schedule;
pub mod suspects;
