//! Doors: they take a permit and hand a byte stream to reception, on the arbiter where its session
//! is to live. TLS and WebSocket are layers on the way there, and their handshakes run on that arbiter,
//! so that no stranger holds up the next one. What the bytes mean is decided in reception.

mod doors;
mod entrance;
pub mod open_files;
pub mod peers;
pub mod permits;
mod tcp;
mod unix;
mod websocket;

pub use doors::{DoorError, Doors};
pub use entrance::{Entrance, Room};
pub use unix::UnixError;
