//! The actor that decides who comes in. It is asked at CONNECT, and again when a client renews its token by
//! AUTH or on its token topic, and answers with compiled rules that the session keeps; it is not asked for each
//! message. There is one on each session arbiter, so that a connection waits for no other thread.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use actix::prelude::*;
use bytes::Bytes;
use bytestring::ByteString;
use topics::access::{AccessPolicy, AccessRules, AclEntry, Substitutions};
use topics::device::DeviceId;
use topics::packet::ReasonCode;

use crate::gatekeeper::{Gate, Gatekeeper, Identity, PAIRING, Proof};
use crate::outside;
use crate::stats::Stats;

/// Connections wait for room in the mailbox, each within its connect timeout.
const MAILBOX: usize = 1024;

/// The Authentication Method of MQTT 5 that we know: the token stands in the Authentication Data instead of
/// the password, and may be renewed by AUTH [MQTT5 4.12].
pub const AUTHENTICATION_METHOD: &str = "clawdbot-jwt";

/// Who is let in, and how that is decided.
#[derive(Clone)]
pub enum Admittance {
    /// By a token or the device's secret in the password field, by a token by [`AUTHENTICATION_METHOD`], or by a
    /// certificate; and to be paired, while a code waits for a device.
    Known(Arc<dyn Gatekeeper>),
    /// Everybody, with every right: for benchmarks and conformance runs on loopback.
    Everybody,
}

/// See the module.
pub struct AuthChecker {
    admittance: Admittance,
    policy: AccessPolicy,
    stats: Arc<Stats>,
}

impl AuthChecker {
    /// An actor not started yet.
    pub fn new(admittance: Admittance, stats: Arc<Stats>) -> Self {
        Self {
            admittance,
            policy: AccessPolicy::default(),
            stats,
        }
    }

    /// With rules of the configuration, which come beside those of tokens.
    pub fn with_policy(self, policy: AccessPolicy) -> Self {
        Self { policy, ..self }
    }
}

impl Actor for AuthChecker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// May this client come in?
#[derive(Message)]
#[rtype(result = "Result<Admission, Refusal>")]
pub struct Authenticate {
    /// The client identifier, assigned by the broker if the client had none.
    pub client_id: ByteString,
    /// The user name, if any.
    pub username: Option<ByteString>,
    /// The token or secret, if any.
    pub password: Option<Bytes>,
    /// Nothing but a token will do: it came by AUTH, or where tokens are renewed.
    pub only_token: bool,
    /// The device that a certificate has proven the client to be, if it showed one.
    pub certified: Option<DeviceId>,
}

/// Who came in, and what it may do.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The device; None where everybody is let in, and for one that is yet to be paired.
    pub device_id: Option<DeviceId>,
    /// Its rules, compiled.
    pub rules: Arc<AccessRules>,
    /// What let it in.
    pub proof: Proof,
    /// How long that holds; None is for as long as the device is not revoked.
    pub until: Option<Instant>,
    /// Who knows the devices; None where everybody is let in.
    pub gate: Option<Gate>,
}

impl Admission {
    /// Whether the device was not revoked since. To be asked when it may have been: of a session that was kept
    /// nobody knows any more what it rests on, and so it goes.
    pub fn stands(&self) -> bool {
        if self.proof == Proof::Kept {
            return false;
        }
        match (&self.gate, &self.device_id) {
            (Some(Gate(gate)), Some(device)) => gate.stands(device, self.proof),
            _ => true,
        }
    }

    /// Whether it is only to be paired.
    pub fn is_pairing(&self) -> bool {
        self.proof == Proof::Pairing
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the client.
    pub reason: ReasonCode,
    /// For the log.
    pub why: String,
}

impl Handler<Authenticate> for AuthChecker {
    type Result = Result<Admission, Refusal>;

    fn handle(&mut self, msg: Authenticate, _: &mut Self::Context) -> Self::Result {
        let answer = self.decide(&msg);
        if answer.is_err() {
            self.stats.authentication_failures.add(1);
        }
        answer
    }
}

impl AuthChecker {
    fn decide(&self, msg: &Authenticate) -> Result<Admission, Refusal> {
        let Admittance::Known(gate) = &self.admittance else {
            return Ok(everybody(msg));
        };
        let now = outside::calendar();
        // Some clients cannot leave the password out.
        let shown = msg.password.as_ref().filter(|shown| !shown.is_empty());
        let admission = match (shown, &msg.certified) {
            // No secret has a dot, and no token is without.
            (Some(token), _) if msg.only_token || token.contains(&b'.') => {
                self.by_token(gate, msg, token, now)?
            }
            (Some(secret), _) => self.by_secret(gate, msg, secret, now)?,
            (None, Some(device_id)) => {
                gate.by_certificate(device_id, now)
                    .map_err(Refusal::not_authorized)?;
                self.admitted(gate, msg, device_id, Proof::Certificate)?
            }
            (None, None) if msg.username.as_deref() == Some(PAIRING) => return to_be_paired(gate, now),
            (None, None) if msg.password.is_some() => {
                return Err(Refusal::bad_password(
                    "the password is empty; put a token or the device's secret there",
                ));
            }
            (None, None) => {
                let why = "no token and no secret; put one into the password field (`clawdbot device pair NAME` lets a \
                           device get its secret, `clawdbot token DEVICE` prints a token)";
                return Err(Refusal::not_authorized(why));
            }
        };
        match (&msg.certified, &admission.device_id) {
            (Some(certified), Some(shown)) if certified != shown => Err(Refusal::not_authorized(format!(
                "its certificate is of the device {certified}, and what it shows beside it of {shown}; use one of them, \
                 or two of one device"
            ))),
            _ => Ok(admission),
        }
    }

    fn by_token(
        &self,
        gate: &Arc<dyn Gatekeeper>,
        msg: &Authenticate,
        token: &[u8],
        now: SystemTime,
    ) -> Result<Admission, Refusal> {
        let identity = gate
            .by_token(token, &msg.client_id, now)
            .map_err(Refusal::bad_password)?;
        let Identity {
            device,
            acl,
            expires_at,
            issued_at,
        } = identity;
        let rules = self.rules(msg, &device, acl).map_err(Refusal::bad_password)?;
        let left = expires_at.duration_since(now).unwrap_or_default();
        Ok(Admission {
            device_id: Some(device),
            rules: Arc::new(rules),
            proof: Proof::Token { issued_at },
            // A clock that is set later moves the end of no session.
            until: outside::now().checked_add(left),
            gate: Some(Gate(gate.clone())),
        })
    }

    /// A device that keeps its secret safe may as well connect by it: a small one then needs no clock and no
    /// renewal, and is revoked all the same.
    fn by_secret(
        &self,
        gate: &Arc<dyn Gatekeeper>,
        msg: &Authenticate,
        secret: &[u8],
        now: SystemTime,
    ) -> Result<Admission, Refusal> {
        let name = match msg.username.as_deref() {
            Some(PAIRING) => {
                return Err(Refusal::bad_password(
                    "to be paired connect without a password, and publish the code to clawdbot/bridge/request/pair",
                ));
            }
            Some(name) => name,
            None => {
                return Err(Refusal::bad_password(
                    "what the password holds is no token, and for a device's secret the user name is missing: the device",
                ));
            }
        };
        let device_id = DeviceId::parse(name.into()).map_err(|error| {
            Refusal::bad_password(format!(
                "what the password holds is no token, and for a device's secret the user name must be the device: {error}"
            ))
        })?;
        let generation = gate
            .by_secret(&device_id, secret, now)
            .map_err(Refusal::bad_password)?;
        self.admitted(gate, msg, &device_id, Proof::Secret { generation })
    }

    fn admitted(
        &self,
        gate: &Arc<dyn Gatekeeper>,
        msg: &Authenticate,
        device_id: &DeviceId,
        proof: Proof,
    ) -> Result<Admission, Refusal> {
        let rules = self
            .rules(msg, device_id, Vec::new())
            .map_err(Refusal::not_authorized)?;
        Ok(Admission {
            device_id: Some(device_id.detached()),
            rules: Arc::new(rules),
            proof,
            until: None,
            gate: Some(Gate(gate.clone())),
        })
    }

    /// The configuration's rules and the token's, and what every device may do with its own topics.
    fn rules(
        &self,
        msg: &Authenticate,
        device_id: &DeviceId,
        acl: Vec<serde_json::Value>,
    ) -> Result<AccessRules, String> {
        let acl = acl
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<Vec<AclEntry>, _>>()
            .map_err(|e| format!("the token's acl claim: {e}"))?;
        let client = Substitutions {
            client_id: &msg.client_id,
            username: msg.username.as_deref(),
            device_id,
        };
        AccessRules::for_client(&self.policy, &acl, &client).map_err(|e| e.to_string())
    }
}

/// Nobody is known yet, and so nothing is allowed but the one question, while its answer is waited for.
fn to_be_paired(gate: &Arc<dyn Gatekeeper>, now: SystemTime) -> Result<Admission, Refusal> {
    let until = gate.pairing_until(now).ok_or_else(|| {
        Refusal::not_authorized("no device is waited for; run `clawdbot device pair NAME` on the hub first")
    })?;
    let left = until.duration_since(now).unwrap_or_default();
    Ok(Admission {
        device_id: None,
        rules: Arc::new(AccessRules::publish_only([])),
        proof: Proof::Pairing,
        until: outside::now().checked_add(left),
        gate: Some(Gate(gate.clone())),
    })
}

impl Refusal {
    fn not_authorized(why: impl Into<String>) -> Self {
        Self {
            reason: ReasonCode::NotAuthorized,
            why: why.into(),
        }
    }

    fn bad_password(why: impl Into<String>) -> Self {
        Self {
            reason: ReasonCode::BadUserNameOrPassword,
            why: why.into(),
        }
    }
}

/// Without tokens a device is who it proves to be by a certificate, or says it is, by its user name; most
/// clients then are nobody's.
fn everybody(msg: &Authenticate) -> Admission {
    let claimed = || msg.username.clone().and_then(|name| DeviceId::parse(name).ok());
    let device_id = msg.certified.clone().or_else(claimed);
    Admission {
        device_id: device_id.map(|d| d.detached()),
        rules: Arc::new(AccessRules::unrestricted()),
        proof: Proof::Nothing,
        until: None,
        gate: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gatekeeper::{Answering, Question};

    /// Believes a token that is a device's name and a dot, and a secret that is its name backwards. A code waits
    /// for a device where it says so.
    struct ByName {
        pairs: bool,
    }

    impl Gatekeeper for ByName {
        fn by_token(&self, token: &[u8], _: &str, now: SystemTime) -> Result<Identity, String> {
            let device = str::from_utf8(token)
                .ok()
                .and_then(|token| token.strip_suffix('.'));
            match device.map(str::parse) {
                Some(Ok(device)) => Ok(Identity {
                    device,
                    acl: Vec::new(),
                    expires_at: now + Duration::from_secs(60),
                    issued_at: Some(now),
                }),
                _ => Err("no token of ours".to_owned()),
            }
        }

        fn by_secret(&self, device: &DeviceId, secret: &[u8], _: SystemTime) -> Result<u64, String> {
            let right: Vec<u8> = device.as_str().bytes().rev().collect();
            (secret == right)
                .then_some(1)
                .ok_or_else(|| "not its secret".to_owned())
        }

        fn by_certificate(&self, device: &DeviceId, _: SystemTime) -> Result<(), String> {
            (device.as_str() != "lost")
                .then_some(())
                .ok_or_else(|| "revoked".to_owned())
        }

        fn stands(&self, _: &DeviceId, _: Proof) -> bool {
            true
        }

        fn pairing_until(&self, now: SystemTime) -> Option<SystemTime> {
            self.pairs.then_some(now + Duration::from_secs(60))
        }

        fn answer(&self, _: Question, _: SystemTime) -> Answering {
            Box::pin(async { Vec::new() })
        }
    }

    fn decide(
        admittance: Admittance,
        username: Option<&str>,
        password: Option<&str>,
        certified: Option<&str>,
    ) -> Result<Admission, ReasonCode> {
        let asked = Authenticate {
            client_id: "client".into(),
            username: username.map(Into::into),
            password: password.map(|password| Bytes::copy_from_slice(password.as_bytes())),
            only_token: false,
            certified: certified.map(|device| device.parse().unwrap()),
        };
        AuthChecker::new(admittance, Arc::default())
            .decide(&asked)
            .map_err(|refusal| refusal.reason)
    }

    fn known() -> Admittance {
        Admittance::Known(Arc::new(ByName { pairs: false }))
    }

    #[test]
    fn a_certificate_a_token_a_secret_or_two_of_one_device_let_in_and_nothing_else_does() {
        const NO: ReasonCode = ReasonCode::NotAuthorized;
        const BAD: ReasonCode = ReasonCode::BadUserNameOrPassword;
        for (username, password, certified, answer) in [
            ("name", Some("phone."), None, Ok("phone")),
            ("name", None, Some("phone"), Ok("phone")),
            ("name", Some(""), Some("phone"), Ok("phone")),
            ("name", Some("phone."), Some("phone"), Ok("phone")),
            ("name", Some("phone."), Some("tablet"), Err(NO)),
            ("phone", Some("enohp"), None, Ok("phone")),
            ("phone", Some("enohp"), Some("phone"), Ok("phone")),
            ("phone", Some("enohp"), Some("tablet"), Err(NO)),
            ("tablet", Some("enohp"), None, Err(BAD)),
            ("bridge", Some("egdirb"), None, Err(BAD)),
            ("name", Some("\u{1}."), Some("phone"), Err(BAD)),
            ("name", None, Some("lost"), Err(NO)),
            ("name", Some(""), None, Err(BAD)),
            ("name", None, None, Err(NO)),
            ("pairing", None, None, Err(NO)),
            ("pairing", Some("gniriap"), None, Err(BAD)),
        ] {
            let found = decide(known(), Some(username), password, certified);
            let found = found.map(|admission| admission.device_id.unwrap().to_string());
            assert_eq!(
                found,
                answer.map(str::to_owned),
                "{username}, {password:?}, {certified:?}"
            );
        }
        assert_eq!(decide(known(), None, Some("enohp"), None).unwrap_err(), BAD);
    }

    #[test]
    fn only_a_token_has_an_end() {
        let until = |username, password| {
            decide(known(), Some(username), Some(password), None)
                .unwrap()
                .until
        };
        assert!(until("name", "phone.").is_some());
        assert_eq!(until("phone", "enohp"), None);
    }

    #[test]
    fn while_a_code_waits_a_stranger_may_come_and_do_nothing_but_ask() {
        let gate = || Admittance::Known(Arc::new(ByName { pairs: true }));
        for password in [None, Some("")] {
            let admission = decide(gate(), Some(PAIRING), password, None).unwrap();
            assert!(admission.is_pairing() && admission.until.is_some());
            assert_eq!(admission.device_id, None);
            let own = topics::name::TopicName::parse("clawdbot/pairing/x".into()).unwrap();
            assert!(!admission.rules.may_publish(&own, 0, false).is_allowed());
        }
        assert!(decide(gate(), Some("name"), None, None).is_err());
        // Who has a token may be called whatever it likes.
        let with_token = decide(gate(), Some(PAIRING), Some("phone."), None).unwrap();
        assert!(!with_token.is_pairing());
    }

    #[test]
    fn where_nobody_asks_a_certificate_still_says_more_than_a_user_name() {
        let with = |certified| {
            let admission = decide(Admittance::Everybody, Some("name"), None, certified).unwrap();
            admission.device_id.map(|device| device.to_string())
        };
        assert_eq!(with(Some("phone")).as_deref(), Some("phone"));
        assert_eq!(with(None).as_deref(), Some("name"));
    }
}
