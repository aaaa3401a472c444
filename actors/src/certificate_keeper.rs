//! The actor that keeps the certificate of the TLS doors fresh: looks whether its files changed, renews it
//! where that is ours to do, and warns before it ends. Connections that are open never notice.
//!
//! Where certificates are and what is in them the daemon knows: it implements [`ServerCertificate`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;

use crate::policy::expiry::{ExpiryConfig, ExpiryWatch, Standing, Step, Validity};

/// Nothing is sent to it yet but the start.
const MAILBOX: usize = 16;

/// The certificate that clients are shown, and the files behind it. All of it may block.
pub trait ServerCertificate: Send + 'static {
    /// Looks at the files, and shows what is in them from now on if they changed and can be used.
    fn refresh(&mut self) -> Refreshed;

    /// From when to when the one that is shown holds.
    fn validity(&self) -> Validity;

    /// Whether it is ours to renew, and whether that would make it last longer.
    fn is_renewable(&self, now: SystemTime) -> bool;

    /// Makes another and shows it from now on.
    fn renew(&mut self, now: SystemTime) -> Result<(), String>;

    /// What it is, for the log.
    fn place(&self) -> String;

    /// What helps when it ends, in words.
    fn remedy(&self) -> &'static str;
}

/// What became of a look at the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// They are as they were, or not read yet.
    Unchanged,
    /// Clients are shown what is in them now.
    Replaced,
    /// They changed and cannot be used: the one before stays. Said once for each change.
    Refused(String),
}

/// The certificate as it is, for metrics and status.
#[derive(Debug, Default)]
pub struct CertificateGauge {
    not_before_unix_s: AtomicU64,
    not_after_unix_s: AtomicU64,
    replaced: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl CertificateGauge {
    /// When it begins to hold, in seconds of Unix time.
    pub fn not_before_unix_s(&self) -> u64 {
        self.not_before_unix_s.load(Relaxed)
    }

    /// When it ends, in seconds of Unix time.
    pub fn not_after_unix_s(&self) -> u64 {
        self.not_after_unix_s.load(Relaxed)
    }

    /// How often another took its place since the start.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Relaxed)
    }

    /// Why the newest files are not used, or why it was not renewed.
    pub fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn publish(&self, validity: &Validity) {
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        self.not_before_unix_s
            .store(seconds(validity.not_before), Relaxed);
        self.not_after_unix_s.store(seconds(validity.not_after), Relaxed);
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// See the module.
pub struct CertificateKeeper {
    interval: Duration,
    /// None while a look at it is under way elsewhere, since files and the making of keys may take long.
    rounds: Option<Rounds>,
}

impl CertificateKeeper {
    /// An actor not started yet. The gauge tells of the certificate from now on.
    pub fn new(
        certificate: Box<dyn ServerCertificate>,
        interval: Duration,
        expiry: ExpiryConfig,
        gauge: Arc<CertificateGauge>,
    ) -> Self {
        gauge.publish(&certificate.validity());
        Self {
            interval,
            rounds: Some(Rounds::new(certificate, expiry, gauge)),
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(mut rounds) = self.rounds.take() else {
            return;
        };
        let round = actix_rt::task::spawn_blocking(move || {
            rounds.go(SystemTime::now(), Instant::now());
            rounds
        });
        let done = round.into_actor(self).map(|outcome, act, _| match outcome {
            Ok(rounds) => act.rounds = Some(rounds),
            Err(error) => {
                tracing::error!(%error, "nobody looks after the TLS certificate any more; restart the daemon");
            }
        });
        ctx.spawn(done);
    }
}

impl Actor for CertificateKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.look(ctx);
        ctx.run_interval(self.interval, Self::look);
    }
}

/// What is done at each look, on a thread that may block.
struct Rounds {
    certificate: Box<dyn ServerCertificate>,
    watch: ExpiryWatch,
    gauge: Arc<CertificateGauge>,
    /// Why the newest files are not used.
    refused: Option<String>,
    /// Why the last attempt to renew failed.
    not_renewed: Option<String>,
}

impl Rounds {
    fn new(
        certificate: Box<dyn ServerCertificate>,
        expiry: ExpiryConfig,
        gauge: Arc<CertificateGauge>,
    ) -> Self {
        Self {
            certificate,
            watch: ExpiryWatch::new(expiry),
            gauge,
            refused: None,
            not_renewed: None,
        }
    }

    fn go(&mut self, wall: SystemTime, now: Instant) {
        self.refresh();
        let renewable = self.certificate.is_renewable(wall);
        let validity = self.certificate.validity();
        match self.watch.look(&validity, renewable, wall, now) {
            // A clock that was wrong may have been the reason.
            Step::Rest if renewable => self.not_renewed = None,
            Step::Rest => {}
            Step::Warn(standing) => self.warn(standing),
            Step::Renew => self.renew(wall),
        }
        self.gauge.publish(&self.certificate.validity());
        self.gauge
            .set_trouble(self.refused.clone().or_else(|| self.not_renewed.clone()));
    }

    fn refresh(&mut self) {
        match self.certificate.refresh() {
            Refreshed::Unchanged => {}
            Refreshed::Replaced => {
                self.replaced();
                tracing::info!(
                    certificate = self.certificate.place(),
                    "the TLS certificate was replaced; new connections are shown the new one"
                );
            }
            Refreshed::Refused(why) => {
                tracing::error!(
                    why,
                    "the TLS certificate's files changed and cannot be used; the one before stays"
                );
                self.refused = Some(why);
            }
        }
    }

    fn renew(&mut self, wall: SystemTime) {
        let certificate = self.certificate.place();
        match self.certificate.renew(wall) {
            Ok(()) => {
                self.replaced();
                tracing::info!(
                    certificate,
                    "the TLS certificate was renewed; new connections are shown the new one"
                );
            }
            Err(why) => {
                // Attempts are hourly; the same reason is said once, and the warnings go on daily.
                if self.not_renewed.as_ref() != Some(&why) {
                    tracing::warn!(certificate, why, "the TLS certificate could not be renewed");
                }
                self.not_renewed = Some(why);
            }
        }
    }

    fn replaced(&mut self) {
        self.gauge.replaced.fetch_add(1, Relaxed);
        self.refused = None;
        self.not_renewed = None;
    }

    fn warn(&self, standing: Standing) {
        let (certificate, remedy) = (self.certificate.place(), self.certificate.remedy());
        match standing {
            Standing::Valid(left) => tracing::warn!(
                certificate,
                days_left = whole_days(left),
                "the TLS certificate ends soon; {remedy}"
            ),
            Standing::Expired(over) => tracing::warn!(
                certificate,
                days_over = whole_days(over),
                "the TLS certificate has expired, and clients refuse it; {remedy}"
            ),
            Standing::NotYetValid(until_then) => tracing::warn!(
                certificate,
                days_until_then = whole_days(until_then),
                "the TLS certificate is not valid yet; look whether this machine's clock is right"
            ),
        }
    }
}

fn whole_days(time: Duration) -> u64 {
    time.as_secs() / (24 * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A certificate that says what it is told to.
    struct Scripted {
        validity: Validity,
        refreshed: Vec<Refreshed>,
        renewable: bool,
        renewed: Result<Validity, String>,
    }

    impl ServerCertificate for Scripted {
        fn refresh(&mut self) -> Refreshed {
            self.refreshed.pop().unwrap_or(Refreshed::Unchanged)
        }

        fn validity(&self) -> Validity {
            self.validity
        }

        fn is_renewable(&self, _: SystemTime) -> bool {
            self.renewable
        }

        fn renew(&mut self, _: SystemTime) -> Result<(), String> {
            self.validity = self.renewed.clone()?;
            Ok(())
        }

        fn place(&self) -> String {
            "a certificate".to_owned()
        }

        fn remedy(&self) -> &'static str {
            "replace it"
        }
    }

    fn days(from: u32, to: u32) -> Validity {
        let at = |days| SystemTime::UNIX_EPOCH + days * DAY;
        Validity {
            not_before: at(from),
            not_after: at(to),
        }
    }

    fn config() -> ExpiryConfig {
        ExpiryConfig {
            renew_before: 30 * DAY,
            warn_before: 30 * DAY,
            warn_interval: DAY,
            retry_interval: Duration::from_secs(3600),
        }
    }

    fn rounds(certificate: Scripted) -> Rounds {
        Rounds::new(Box::new(certificate), config(), Arc::default())
    }

    #[test]
    fn what_is_renewed_is_told_with_its_new_end() {
        let mut rounds = rounds(Scripted {
            validity: days(100, 465),
            refreshed: Vec::new(),
            renewable: true,
            renewed: Ok(days(440, 805)),
        });
        rounds.go(SystemTime::UNIX_EPOCH + 440 * DAY, Instant::now());
        assert_eq!(rounds.gauge.not_after_unix_s(), 805 * DAY.as_secs());
        assert_eq!(rounds.gauge.not_before_unix_s(), 440 * DAY.as_secs());
        assert_eq!((rounds.gauge.replaced(), rounds.gauge.trouble()), (1, None));
    }

    #[test]
    fn trouble_is_told_until_a_certificate_takes_the_old_ones_place() {
        let mut rounds = rounds(Scripted {
            validity: days(100, 465),
            refreshed: vec![
                Refreshed::Replaced,
                Refreshed::Unchanged,
                Refreshed::Refused("it is broken".to_owned()),
            ],
            renewable: false,
            renewed: Err("not asked".to_owned()),
        });
        for trouble in [Some("it is broken"), Some("it is broken"), None] {
            rounds.go(SystemTime::UNIX_EPOCH + 200 * DAY, Instant::now());
            assert_eq!(rounds.gauge.trouble().as_deref(), trouble);
        }
        assert_eq!(rounds.gauge.replaced(), 1);
    }

    #[test]
    fn a_renewal_that_failed_is_told() {
        let mut rounds = rounds(Scripted {
            validity: days(100, 465),
            refreshed: Vec::new(),
            renewable: true,
            renewed: Err("the disk is full".to_owned()),
        });
        rounds.go(SystemTime::UNIX_EPOCH + 440 * DAY, Instant::now());
        assert_eq!(rounds.gauge.trouble().as_deref(), Some("the disk is full"));
        assert_eq!(rounds.gauge.not_after_unix_s(), 465 * DAY.as_secs());
        // The clock was wrong, and is put right.
        rounds.go(SystemTime::UNIX_EPOCH + 200 * DAY, Instant::now());
        assert_eq!(rounds.gauge.trouble(), None);
    }

    #[actix::test]
    async fn the_actor_looks_at_its_start_and_then_at_each_interval() {
        let gauge = Arc::<CertificateGauge>::default();
        let certificate = Scripted {
            validity: days(0, 365),
            refreshed: vec![Refreshed::Replaced; 3],
            renewable: false,
            renewed: Err("not asked".to_owned()),
        };
        let interval = Duration::from_millis(5);
        CertificateKeeper::new(Box::new(certificate), interval, config(), gauge.clone()).start();
        assert_eq!(gauge.not_after_unix_s(), 365 * DAY.as_secs());
        let deadline = Instant::now() + Duration::from_secs(20);
        while gauge.replaced() < 3 {
            assert!(Instant::now() < deadline, "it looked {} times", gauge.replaced());
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
