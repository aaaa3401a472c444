//! Who is banned for flapping: the policy, shared by all receptions and by every connection that ends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use topics::device::DeviceId;

use crate::auth_checker::Admission;
use crate::outside;
use crate::policy::flapping::{Flapping, FlappingConfig};
use crate::stats::Stats;

/// Identifiers longer than this are watched under a short name: what is kept of ten thousand clients that
/// left must not grow with theirs.
const MAX_WATCHED_BYTES: usize = 256;

/// See the module.
pub struct Bans {
    flapping: Mutex<Flapping<Visitor>>,
    stats: Arc<Stats>,
}

/// A client identifier, as used by one device: nobody gets another device's clients banned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Visitor {
    device_id: Option<DeviceId>,
    client_id: ByteString,
}

/// A connection from its admission to its end, whose disconnect is counted when this is dropped.
pub struct Visit {
    bans: Arc<Bans>,
    visitor: Visitor,
    // Given back with it.
    _permit: Option<Box<dyn Send>>,
}

impl Bans {
    /// Nobody banned yet.
    pub fn new(config: FlappingConfig, stats: Arc<Stats>) -> Arc<Self> {
        Arc::new(Self {
            flapping: Mutex::new(Flapping::new(config)),
            stats,
        })
    }

    /// How long this client is still banned, if it is.
    pub fn left(&self, visitor: &Visitor) -> Option<Duration> {
        self.flapping().ban_left(outside::now(), visitor)
    }

    /// The client was let in.
    pub fn visit(self: &Arc<Self>, visitor: Visitor, permit: Option<Box<dyn Send>>) -> Visit {
        Visit {
            bans: self.clone(),
            visitor,
            _permit: permit,
        }
    }

    fn flapping(&self) -> MutexGuard<'_, Flapping<Visitor>> {
        // Nothing panics while it is held; if something did, a count too few would be the worst of it.
        self.flapping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let banned = self.bans.flapping().disconnected(outside::now(), &self.visitor);
        if banned {
            self.bans.stats.clients_banned.add(1);
            tracing::warn!(
                client_id = %self.visitor.client_id,
                "client banned: it disconnected flapping.max_disconnects times within flapping.window_s"
            );
        }
    }
}

impl Visitor {
    /// As admitted.
    pub fn new(client_id: &ByteString, admission: &Admission) -> Self {
        Self {
            device_id: admission.device_id.clone(),
            client_id: watched_name(client_id),
        }
    }
}

/// The identifier, or what stands for a long one. Whoever finds two of the same hash has only its own
/// device's clients counted as one.
fn watched_name(client_id: &ByteString) -> ByteString {
    if client_id.len() <= MAX_WATCHED_BYTES {
        return client_id.clone();
    }
    let mut hasher = DefaultHasher::new();
    client_id.hash(&mut hasher);
    let beginning: String = client_id.chars().take(32).collect();
    let (bytes, hash) = (client_id.len(), hasher.finish());
    format!("{beginning}… of {bytes} bytes, {hash:016x}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_identifier_is_watched_under_a_short_name_of_its_own() {
        let long = |last: char| ByteString::from(format!("{}{last}", "ä".repeat(30_000)));
        let (one, other) = (watched_name(&long('1')), watched_name(&long('2')));
        assert!(one.len() <= MAX_WATCHED_BYTES, "{one}");
        assert_ne!(one, other);
        assert_eq!(one, watched_name(&long('1')));
        let short = ByteString::from_static("short");
        assert_eq!(watched_name(&short), short);
    }
}
