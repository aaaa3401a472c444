//! Who knows the devices: which tokens, secrets and certificates are believed, and since when no more. The daemon
//! implements it; here nothing is known of keys, formats or of how devices are kept.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use topics::device::DeviceId;

/// The user name of a connection that wants to be paired, and may do nothing else.
pub const PAIRING: &str = "pairing";

/// An answer in the bridge's form, as JSON. It may hold a secret, and so is never printed.
pub type Answering = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// See the module. Shared by all session arbiters; nothing here waits but answers.
pub trait Gatekeeper: Send + Sync + 'static {
    /// Who a token says its bearer is, or in words that can be logged why it is not believed. From its first use on
    /// it is this client's.
    fn by_token(&self, token: &[u8], client_id: &str, now: SystemTime) -> Result<Identity, String>;

    /// Whether this is the device's secret, and how many it was given before.
    fn by_secret(&self, device: &DeviceId, secret: &[u8], now: SystemTime) -> Result<u64, String>;

    /// Whether a device that showed a certificate may come in.
    fn by_certificate(&self, device: &DeviceId, now: SystemTime) -> Result<(), String>;

    /// Whether what let a device in would still do so, but for its time. Asked when a device was revoked, and
    /// by connections that were on their way meanwhile.
    fn stands(&self, device: &DeviceId, proof: Proof) -> bool;

    /// Until when a code waits for a device; None where there is none.
    fn pairing_until(&self, now: SystemTime) -> Option<SystemTime>;

    /// Answers a question whose answer is a secret.
    fn answer(&self, question: Question, now: SystemTime) -> Answering;
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The subject: the device.
    pub device: DeviceId,
    /// Rules the token carries, in EMQX's form; they come before the device's own.
    pub acl: Vec<serde_json::Value>,
    /// From when on it is worthless.
    pub expires_at: SystemTime,
    /// When it was signed.
    pub issued_at: Option<SystemTime>,
}

/// What let a client in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: everybody is let in.
    Nothing,
    /// A certificate.
    Certificate,
    /// A token.
    Token {
        /// When it was signed.
        issued_at: Option<SystemTime>,
    },
    /// The device's secret.
    Secret {
        /// How many it was given before this one.
        generation: u64,
    },
    /// Nothing yet: it may try a code.
    Pairing,
    /// Something that was not kept along with the session: nobody has come to it since the daemon started.
    Kept,
}

/// A question whose answer is a secret.
pub enum Question {
    /// A code for a secret: the code, or a JSON object with it.
    Pair(Bytes),
    /// A token for a device that has shown its secret.
    Token {
        /// Who asks.
        device: DeviceId,
        /// What it has shown.
        proof: Proof,
        /// Empty, or a JSON object with a transaction.
        request: Bytes,
    },
}

/// The gatekeeper as an admission remembers it.
#[derive(Clone)]
pub struct Gate(pub Arc<dyn Gatekeeper>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
