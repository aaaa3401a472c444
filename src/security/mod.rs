//! Secrets and who may touch them: the data directory, the signing key in it, the tokens that the
//! key signs, certificates and their keys. Nothing in this room shows a key or a token in an error or a log line.

pub mod certificates;
pub mod crypto_provider;
pub mod data_dir;
pub mod key_ring;
pub mod keys;
pub mod master_key;
pub mod random;
pub mod tokens;

pub use data_dir::{DataDir, DataDirError};
pub use key_ring::KeyRing;
pub use keys::KeyError;
pub use master_key::MasterKeyPlace;
pub use tokens::{Claims, TokenError, TokenKey};
