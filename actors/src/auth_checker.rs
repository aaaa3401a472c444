//! The actor that decides who comes in. It is asked at CONNECT, and again when a client renews its token by
//! AUTH, and answers with compiled rules that the session keeps; it is not asked for each message. There is
//! one on each session arbiter, so that a connection waits for no other thread.

use std::sync::Arc;
use std::time::SystemTime;

use actix::prelude::*;
use bytes::Bytes;
use bytestring::ByteString;
use topics::access::{AccessPolicy, AccessRules, AclEntry, Substitutions};
use topics::device::DeviceId;
use topics::packet::ReasonCode;

use crate::stats::Stats;

/// Connections wait for room in the mailbox, each within its connect timeout.
const MAILBOX: usize = 1024;

/// The Authentication Method of MQTT 5 that we know: the token stands in the Authentication Data instead of
/// the password, and may be renewed by AUTH [MQTT5 4.12].
pub const AUTHENTICATION_METHOD: &str = "clawdbot-jwt";

/// Checks tokens. The daemon implements it; here nothing is known of keys or formats.
pub trait TokenVerifier: Send + Sync + 'static {
    /// Who the token says its bearer is, or in words that can be logged why it is not believed.
    fn verify(&self, token: &[u8], now: SystemTime) -> Result<Identity, String>;
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The subject: the device.
    pub device: String,
    /// Rules the token carries, in EMQX's form; they come before the device's own.
    pub acl: Vec<serde_json::Value>,
}

/// Who is let in, and how that is decided.
#[derive(Clone)]
pub enum Admittance {
    /// By a token in the password field, or by [`AUTHENTICATION_METHOD`], or by a certificate.
    Token(Arc<dyn TokenVerifier>),
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
    /// The token, if any.
    pub password: Option<Bytes>,
    /// The device that a certificate has proven the client to be, if it showed one.
    pub certified: Option<DeviceId>,
}

/// Who came in, and what it may do.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The device; None only where everybody is let in.
    pub device_id: Option<DeviceId>,
    /// Its rules, compiled.
    pub rules: Arc<AccessRules>,
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
        let verifier = match &self.admittance {
            Admittance::Token(verifier) => verifier,
            Admittance::Everybody => return Ok(everybody(msg)),
        };
        let refused = |why: String| Refusal {
            reason: ReasonCode::NotAuthorized,
            why,
        };
        let token = match (&msg.password, &msg.certified) {
            // Some clients cannot leave the password out.
            (Some(token), Some(_)) if token.is_empty() => None,
            (token, _) => token.as_ref(),
        };
        let token = match (token, &msg.certified) {
            (Some(token), _) => token,
            (None, Some(device_id)) => {
                let rules = self.rules(msg, device_id, Vec::new()).map_err(refused)?;
                return Ok(Admission {
                    rules: Arc::new(rules),
                    device_id: Some(device_id.clone()),
                });
            }
            (None, None) => {
                let why = "no token; put one from `clawdbot token DEVICE` into the password field";
                return Err(refused(why.to_owned()));
            }
        };
        let bad = |why| Refusal {
            reason: ReasonCode::BadUserNameOrPassword,
            why,
        };
        let identity = verifier.verify(token, SystemTime::now()).map_err(bad)?;
        let device_id = DeviceId::parse(identity.device.into())
            .map_err(|e| bad(format!("the token's subject is no device id: {e}")))?;
        if let Some(certified) = msg
            .certified
            .as_ref()
            .filter(|certified| **certified != device_id)
        {
            return Err(refused(format!(
                "its certificate is of the device {certified}, and its token of {device_id}; use one of them, or two \
                 of one device"
            )));
        }
        let rules = self.rules(msg, &device_id, identity.acl).map_err(bad)?;
        Ok(Admission {
            device_id: Some(device_id),
            rules: Arc::new(rules),
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

/// Without tokens a device is who it proves to be by a certificate, or says it is, by its user name; most
/// clients then are nobody's.
fn everybody(msg: &Authenticate) -> Admission {
    let claimed = || msg.username.clone().and_then(|name| DeviceId::parse(name).ok());
    let device_id = msg.certified.clone().or_else(claimed);
    Admission {
        device_id: device_id.map(|d| d.detached()),
        rules: Arc::new(AccessRules::unrestricted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Believes a token that is a device's name.
    struct ByName;

    impl TokenVerifier for ByName {
        fn verify(&self, token: &[u8], _: SystemTime) -> Result<Identity, String> {
            match str::from_utf8(token) {
                Ok(device) if !device.is_empty() => Ok(Identity {
                    device: device.to_owned(),
                    acl: Vec::new(),
                }),
                _ => Err("no token of ours".to_owned()),
            }
        }
    }

    fn ask(
        admittance: Admittance,
        token: Option<&str>,
        certified: Option<&str>,
    ) -> Result<Option<String>, ReasonCode> {
        let checker = AuthChecker::new(admittance, Arc::default());
        let asked = Authenticate {
            client_id: "client".into(),
            username: Some("name".into()),
            password: token.map(|token| Bytes::copy_from_slice(token.as_bytes())),
            certified: certified.map(|device| device.parse().unwrap()),
        };
        match checker.decide(&asked) {
            Ok(admission) => Ok(admission.device_id.map(|device| device.as_str().to_owned())),
            Err(refusal) => Err(refusal.reason),
        }
    }

    #[test]
    fn a_certificate_a_token_or_both_of_one_device_let_in_and_nothing_else_does() {
        let phone = || Ok(Some("phone".to_owned()));
        for (token, certified, answer) in [
            (Some("phone"), None, phone()),
            (None, Some("phone"), phone()),
            (Some(""), Some("phone"), phone()),
            (Some("phone"), Some("phone"), phone()),
            (Some("phone"), Some("tablet"), Err(ReasonCode::NotAuthorized)),
            (
                Some("\u{1}"),
                Some("phone"),
                Err(ReasonCode::BadUserNameOrPassword),
            ),
            (Some(""), None, Err(ReasonCode::BadUserNameOrPassword)),
            (None, None, Err(ReasonCode::NotAuthorized)),
        ] {
            let found = ask(Admittance::Token(Arc::new(ByName)), token, certified);
            assert_eq!(found, answer, "{token:?}, {certified:?}");
        }
    }

    #[test]
    fn where_nobody_asks_a_certificate_still_says_more_than_a_user_name() {
        let with = |certified| ask(Admittance::Everybody, None, certified);
        assert_eq!(with(Some("phone")), Ok(Some("phone".to_owned())));
        assert_eq!(with(None), Ok(Some("name".to_owned())));
    }
}
