//! The rooms: every actix actor of Clawdbot, and only here `Actor` and `Handler` code.
//!
//! What actix does not give is made up for here: every mailbox is bounded and each sender names
//! what happens when it is full (wait, refuse with an item, reject to the publisher, drop and
//! count); supervision starts new values, not the same one; requests outlive the worker they run
//! on; nothing queues in a `SyncArbiter`. Where an actor needs the outside (a token check), the
//! trait stands here and the daemon implements it.

pub mod auth_checker;
pub mod bans;
pub mod bound_topics;
pub mod bridge;
pub mod broker_statistics;
pub mod certificate_keeper;
pub mod commander;
pub mod conversation;
pub mod denials;
pub mod device_session;
pub mod events;
pub mod external_broker;
pub mod gatekeeper;
pub mod holdings;
pub mod hub;
pub mod inference_worker;
pub mod mailbox;
pub mod memory_governor;
pub mod metrics;
pub mod outbox;
pub mod outside;
pub mod packer;
mod payload;
pub mod policy;
mod presence;
pub mod pulse;
pub mod received;
pub mod reception;
mod request_trace;
pub mod restoration;
pub mod route;
pub mod scheduler;
pub mod served;
mod sharing;
pub mod start_room;
pub mod stats;
pub mod store;
pub mod supervisor;
pub mod switchboard;
pub mod topic_router;
pub mod worker_protocol;
