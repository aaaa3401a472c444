//! The session state machine, alone and joined in memory to others, under a clock that only tests move.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy.toml exempts tests, but sees none in an integration test's helpers"
)]

#[path = "session/admission.rs"]
mod admission;
#[path = "session/aliases.rs"]
mod aliases;
#[path = "session/authentication.rs"]
mod authentication;
#[path = "session/connections.rs"]
mod connections;
#[path = "session/conservation.rs"]
mod conservation;
#[path = "session/deliveries.rs"]
mod deliveries;
#[path = "session/explanations.rs"]
mod explanations;
#[path = "session/harness.rs"]
mod harness;
#[path = "session/nonsense.rs"]
mod nonsense;
#[path = "session/publishes.rs"]
mod publishes;
#[path = "session/shares.rs"]
mod shares;
#[path = "session/simulation.rs"]
mod simulation;
#[path = "session/wills.rs"]
mod wills;
