//! The daemon: the only place that wires. It turns settings into checked settings, opens listeners
//! and files, starts the actors of the crate `actors`, and stops them again. What a message means
//! is decided in `topics`, `models` and `actors`; nothing here knows a protocol rule.

pub mod admin;
pub mod application;
pub mod backup;
pub mod broker;
pub mod cli;
pub mod daemon;
pub mod http;
mod hub;
mod identity;
pub mod kept_certificate;
pub mod library;
pub mod net;
pub mod outbound;
pub mod security;
mod service;
pub mod settings;
pub mod store;
pub mod store_desk;
pub mod telemetry;
