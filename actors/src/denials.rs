//! What the access rules refuse: counted each time by what it was, and logged with the rule, but no device can fill
//! the log with it.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use topics::device::DeviceId;
use topics::packet::ReasonCode;

use crate::outside;
use crate::policy::log_quota::{Line, LogQuota, LogQuotaConfig};
use crate::stats::Stats;

/// Ten lines about a device in a minute tell what is wrong; a thousand devices that all do wrong do not make more
/// than a megabyte or two of them.
const QUOTA: LogQuotaConfig = LogQuotaConfig {
    lines: 10,
    interval: Duration::from_secs(60),
    max_speakers: 1_000,
};

/// Connections that are refused, by the address they come from: a proxy's brings many clients.
const REFUSED_QUOTA: LogQuotaConfig = LogQuotaConfig { lines: 100, ..QUOTA };

/// Topics, identifiers and rules may have 64 KiB each; what is logged of one is enough to find it by.
const MAX_LOGGED_CHARACTERS: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct Denials {
    quota: Mutex<LogQuota<Option<DeviceId>>>,
    refused: Mutex<LogQuota<Option<IpAddr>>>,
}

/// What a client was not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// To publish.
    Publish,
    /// To subscribe.
    Subscribe,
    /// To leave a will, or to have it told when the time came.
    Will,
    /// To have an answer published where its request said.
    ResponseTopic,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
            Self::ResponseTopic => "response topic",
        })
    }
}

impl Default for Denials {
    fn default() -> Self {
        Self {
            quota: Mutex::new(LogQuota::new(QUOTA)),
            refused: Mutex::new(LogQuota::new(REFUSED_QUOTA)),
        }
    }
}

impl Denials {
    /// Logs that a connection was refused, unless that was said often enough of its address lately. It is counted
    /// where the reason is known.
    pub(crate) fn connection_refused(
        &self,
        peer: Option<SocketAddr>,
        client_id: &str,
        reason: ReasonCode,
        why: &str,
    ) {
        if let Some(silence_s) = speak(&self.refused, peer.map(|peer| peer.ip())) {
            let client_id = shortened(client_id);
            tracing::info!(?peer, %client_id, %reason, why, only_counted_for_s = silence_s, "connection refused");
        }
    }

    /// Counts a refusal and, if this device was not the subject of too many lines lately, logs it.
    pub(crate) fn tell(
        &self,
        stats: &Stats,
        denied: Denied,
        (device, client_id): (Option<&DeviceId>, &str),
        topic: &str,
        rule: &dyn fmt::Display,
    ) {
        match denied {
            Denied::Publish => &stats.access_denied_publish,
            Denied::Subscribe => &stats.access_denied_subscribe,
            Denied::Will => &stats.access_denied_will,
            Denied::ResponseTopic => &stats.access_denied_response_topic,
        }
        .add(1);
        let Some(silence_s) = speak(&self.quota, device.cloned()) else {
            return;
        };
        tracing::info!(
            device = device.map_or("", DeviceId::as_str),
            client_id = %shortened(client_id),
            action = %denied,
            topic = %shortened(topic),
            rule = %shortened(&rule.to_string()),
            only_counted_for_s = silence_s,
            "not authorized"
        );
    }
}

/// None where nothing is to be logged; else for how many seconds nothing more will be, if this is the last line.
fn speak<K: Eq + Hash>(quota: &Mutex<LogQuota<K>>, who: K) -> Option<Option<u64>> {
    // Nothing panics while it is held; if something did, a line too many would be the worst of it.
    let mut quota = quota.lock().unwrap_or_else(PoisonError::into_inner);
    match quota.speak(outside::now(), who) {
        Line::LeftOut => None,
        Line::Written => Some(None),
        Line::Last(silence) => Some(Some(silence.as_secs() + 1)),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_LOGGED_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_of_a_long_text_is_short_and_whole_characters() {
        assert_eq!(shortened("a/b"), "a/b");
        let long = shortened(&"ä".repeat(30_000));
        assert!(
            long.ends_with("ä… (60000 bytes)") && long.chars().count() < 250,
            "{long}"
        );
    }
}
