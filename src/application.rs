//! Actors of one's own. A topic is a mailbox: say which topics an actor owns, and what is published
//! there arrives decoded, one message at a time; what the actor publishes goes to whoever subscribed.
//!
//! This is a whole one, and the one that `tests/application.rs` runs:
//!
//! ```no_run
#![doc = include_str!("../tests/thermostat.rs")]
//! ```
//!
//! A program that has such actors is a Clawdbot with all of its commands:
//!
//! ```no_run
//! # use clawdbot::application::{ApplicationError, Hub};
//! # async fn install(_: Hub) -> Result<(), ApplicationError> { Ok(()) }
//! fn main() -> std::process::ExitCode {
//!     clawdbot::cli::main_with(install)
//! }
//! ```
//!
//! (The process in which the model runs is started from the program's own file, which is why the
//! command line belongs to it. A program that sets `model.path = ""` may call [`daemon::run_with`] instead.)
//!
//! What to know:
//!
//! - [`Hub::bind`] gives a topic, or every topic of a pattern, to one actor; [`Hub::bind_each`] makes an
//!   actor for each distinct set of the levels in braces, and stops it when it is idle and holds nothing.
//! - The levels in braces are fields of the struct that the payload is read into, and a payload cannot
//!   forge them. A level that the struct has no field for is an error of the binding.
//! - A payload that cannot be read never reaches the actor: the publisher is told Payload format invalid
//!   (MQTT 5, QoS 1 and 2), and it is counted.
//! - [`Mailbox`] says how many messages the actor may hold and what happens to one more. A message counts
//!   until the actor drops its [`Received`], so one kept for work in the background counts as well.
//! - [`Received::reply`] answers on the Response Topic, with the correlation data.
//! - Who may publish to the topic is a matter of access rules: by default a device may use the topics
//!   below `clawdbot/{its name}/`.
//! - `clawdbot topics` shows every bound topic with its actor and its mailbox.
//!
//! With an external broker (`broker.mode = "external"`) all of it is the same, for one or for several
//! daemons that share the messages. What is different is who answers for what, and that is in
//! `config/external-broker/README.md`; in short:
//!
//! - A message at QoS 1 is acknowledged to the broker when the actor has dropped its [`Received`], and what was
//!   published up to then has arrived. Until then it comes again, to this daemon or to another, and so it may
//!   be handled twice. One that is kept holds up the acknowledgements of all that come after it.
//! - A full mailbox with [`Overflow::Reject`] makes messages wait, since there is no publisher to be told.
//! - What an actor publishes goes to the broker, which brings it to the owner of the topic, too.
//! - The publisher is known by the topic only: below `clawdbot/{device_id}/` it is that device, elsewhere
//!   nobody, who may name no Response Topic.

pub use actors::hub::{Destination, Hub, PublishError, PublishOptions};
pub use actors::mailbox::{Mailbox, Overflow};
pub use actors::received::Received;
pub use actors::switchboard::{Inbound, Publisher};
pub use actors::topic_router::BindError;
pub use topics::pattern::Params;

#[allow(unused_imports, reason = "for the links above")]
use crate::daemon;
pub use crate::daemon::ApplicationError;
