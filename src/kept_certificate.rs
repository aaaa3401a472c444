//! The certificate of a running daemon: from the settings to the actor that keeps it, and what status and
//! metrics tell of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::Actor;
use actors::certificate_keeper::{CertificateGauge, CertificateKeeper};
use actors::policy::expiry::{ExpiryConfig, Standing, Validity};
use opentelemetry::metrics::Meter;
use serde_json::{Value, json};

use crate::security::certificates::{WatchedCertificate, utc};
use crate::settings::Mqtt;
use crate::telemetry::observe;

/// From when on somebody is warned: time enough for whoever gets certificates from elsewhere.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
const WARN_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// What kept a renewal from working may pass: a full disk, a clock not set yet.
const RETRY_INTERVAL: Duration = Duration::from_secs(3600);

/// A certificate that an actor looks after.
#[derive(Clone, Debug)]
pub struct KeptCertificate {
    path: PathBuf,
    is_own: bool,
    gauge: Arc<CertificateGauge>,
}

impl KeptCertificate {
    /// Starts the actor.
    pub fn start(certificate: WatchedCertificate, mqtt: &Mqtt, meter: &Meter) -> KeptCertificate {
        let files = certificate.files();
        let gauge = Arc::<CertificateGauge>::default();
        let kept = KeptCertificate {
            path: files.certificate.path.clone(),
            is_own: files.own.is_some(),
            gauge: gauge.clone(),
        };
        observe::observe_certificate(meter, &gauge);
        let expiry = ExpiryConfig {
            renew_before: mqtt.tls_renew_before,
            warn_before: WARN_BEFORE,
            warn_interval: WARN_INTERVAL,
            retry_interval: RETRY_INTERVAL,
        };
        CertificateKeeper::new(Box::new(certificate), mqtt.tls_check_interval, expiry, gauge).start();
        kept
    }

    /// For `clawdbot status`.
    pub fn status(&self) -> Value {
        let at = |unix_s| UNIX_EPOCH + Duration::from_secs(unix_s);
        let validity = Validity {
            not_before: at(self.gauge.not_before_unix_s()),
            not_after: at(self.gauge.not_after_unix_s()),
        };
        let mut status = json!({
            "certificate": self.path.display().to_string(),
            "not_after": utc(validity.not_after),
            "days_left": days_left(&validity, SystemTime::now()),
            "renewed_by": if self.is_own { "this daemon" } else { "its owner" },
            "replaced": self.gauge.replaced(),
        });
        if let Some(trouble) = self.gauge.trouble() {
            status["trouble"] = json!(trouble);
        }
        status
    }
}

/// Whole days until it ends; negative once it has ended.
pub fn days_left(validity: &Validity, now: SystemTime) -> i64 {
    const DAY_S: u64 = 24 * 3600;
    match validity.not_after.duration_since(now) {
        Ok(left) => (left.as_secs() / DAY_S).cast_signed(),
        Err(over) => -over.duration().as_secs().div_ceil(DAY_S).cast_signed(),
    }
}

/// How long it lasts, in words.
pub fn lasts(validity: &Validity, now: SystemTime) -> String {
    let end = utc(validity.not_after);
    match validity.standing(now) {
        Standing::NotYetValid(_) => format!(
            "NOT VALID before {}: look whether this machine's clock is right",
            utc(validity.not_before)
        ),
        Standing::Valid(left) if left < WARN_BEFORE => {
            format!(
                "ENDS SOON: valid until {end}, {} days left",
                days_left(validity, now)
            )
        }
        Standing::Valid(_) => format!("valid until {end}, {} days left", days_left(validity, now)),
        Standing::Expired(_) => format!("EXPIRED on {end}: clients refuse it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_go_below_nothing() {
        let day = Duration::from_secs(24 * 3600);
        let begin = UNIX_EPOCH + 20_000 * day;
        let validity = Validity {
            not_before: begin,
            not_after: begin + 365 * day,
        };
        let second = Duration::from_secs(1);
        for (now, left, words) in [
            (begin - second, 365, "NOT VALID before 2024-10-04T00:00:00Z"),
            (begin, 365, "valid until 2025-10-04T00:00:00Z, 365 days left"),
            (
                begin + second,
                364,
                "valid until 2025-10-04T00:00:00Z, 364 days left",
            ),
            (
                begin + 364 * day,
                1,
                "ENDS SOON: valid until 2025-10-04T00:00:00Z, 1 days left",
            ),
            (begin + 365 * day, 0, "ENDS SOON"),
            (begin + 365 * day + second, -1, "EXPIRED on 2025-10-04T00:00:00Z"),
            (begin + 366 * day, -1, "EXPIRED"),
        ] {
            assert_eq!(days_left(&validity, now), left, "{words}");
            let said = lasts(&validity, now);
            assert!(said.starts_with(words), "{said}");
        }
    }
}
