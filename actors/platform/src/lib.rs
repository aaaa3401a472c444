//! The calls to the operating system, one small module a concern, without C dependencies, so that
//! every system's half is type-checked on every other.

pub mod disk;
pub mod files;
pub mod keychain;
pub mod memory;
pub mod network;
pub mod oom;
pub mod open_files;
pub mod priority;
pub mod user;
