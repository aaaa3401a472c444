//! MQTT's language as pure code: topic names and filters, packets, the session state machine,
//! retained messages, access rules. Bytes and time come in, effects go out: no sockets, no clock,
//! no actix, so that two peers can be joined in memory and stepped by hand.

pub mod access;
pub mod confidential;
pub mod device;
pub mod filter;
pub mod message;
pub mod name;
pub mod packet;
pub mod pattern;
pub mod retained;
pub mod session;
pub mod shared;
pub mod subscriptions;
