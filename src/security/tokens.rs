//! The tokens that devices show: JWT, HS256, in the MQTT password field. The time is passed in, so
//! that tests step it by hand and a session can be judged at the time its packet came.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{crypto_provider, random};

/// How far a token's `iat` or `nbf` may lie ahead of our clock: small machines drift by seconds.
/// There is no such grace for `exp`, since we sign most tokens ourselves, with this very clock.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Longest token looked at. An access list of a few dozen rules fits; a megabyte of JSON does not
/// get as far as the parser.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The key that signs and checks tokens.
#[derive(Clone)]
pub struct TokenKey {
    /// So that it is known which key signed a token: nothing can be learned of the key from it.
    name: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// Whose token it is: the claim `sub`. Whether it makes a legal topic level is for the caller.
    pub device_id: String,
    /// When it was signed: `iat`.
    pub issued_at: Option<SystemTime>,
    /// From when on it is worthless: `exp`.
    pub expires_at: SystemTime,
    /// Its own name: `jti`.
    pub token_id: Option<String>,
    /// EMQX's `acl` rules as they stand in the token; empty where there are none.
    pub acl: Vec<Value>,
}

/// Why a token was refused, or could not be made. No variant carries the token or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64 with JSON in them, or a claim of the wrong type.
    #[error("the token is not a well-formed JWT; get a new one with `clawdbot token DEVICE`")]
    Malformed,
    /// Signed by another key, or changed afterwards.
    #[error(
        "the token's signature is not from this daemon's key; sign one here with `clawdbot token DEVICE`"
    )]
    BadSignature,
    /// Signed by a former key when that signed nothing more.
    #[error(
        "the token was signed by a key that had been replaced; get a new one with `clawdbot token DEVICE`"
    )]
    RetiredKey,
    /// `none`, RS256 and everything else but HS256.
    #[error(
        "the token's algorithm is not HS256, the only one taken; get a new one with `clawdbot token DEVICE`"
    )]
    UnsupportedAlgorithm,
    /// `exp` has come.
    #[error("the token has expired; get a new one with `clawdbot token DEVICE`")]
    Expired,
    /// `iat` or `nbf` is further ahead than clocks differ.
    #[error("the token is not valid yet; compare the clocks of the machine that signed it and of this one")]
    NotYetValid,
    /// A claim without which nothing can be decided.
    #[error("the token lacks the claim `{0}`; get a complete one with `clawdbot token DEVICE`")]
    MissingClaim(&'static str),
    /// No random numbers, or a clock before 1970.
    #[error("no token could be signed: the system gave no random numbers or its clock is before 1970")]
    Unsignable,
}

#[derive(Serialize)]
struct SignedClaims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
}

/// Claims as found. Times are numbers with a fraction in RFC 7519, so an integer is too little.
#[derive(Deserialize)]
struct FoundClaims {
    sub: Option<String>,
    iat: Option<f64>,
    nbf: Option<f64>,
    exp: Option<f64>,
    jti: Option<String>,
    acl: Option<Vec<Value>>,
}

impl TokenKey {
    /// A key of these bytes; [`super::keys`] reads them from the data directory.
    pub fn new(secret: &[u8]) -> TokenKey {
        crypto_provider::install();
        let hash = digest::digest(&digest::SHA256, secret);
        let name = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}"));
        TokenKey {
            name: name.collect(),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
        }
    }

    /// Signs a token for a device, valid from `now` on for `lifetime`.
    pub fn issue(&self, device_id: &str, now: SystemTime, lifetime: Duration) -> Result<String, TokenError> {
        let iat = now
            .duration_since(UNIX_EPOCH)
            .map_err(|_| TokenError::Unsignable)?
            .as_secs();
        let claims = SignedClaims {
            sub: device_id,
            iat,
            exp: iat.saturating_add(lifetime.as_secs()),
            jti: random::hex::<16>().ok_or(TokenError::Unsignable)?,
        };
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.name.clone());
        jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(|_| TokenError::Unsignable)
    }

    /// What tokens call the key: `kid`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that a token says it was signed by, believed or not.
    pub fn named_by(token: &[u8]) -> Option<String> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        jsonwebtoken::decode_header(token).ok()?.kid
    }

    /// Checks a token as it stood in the password field.
    pub fn verify(&self, token: &[u8], now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let found = jsonwebtoken::decode::<FoundClaims>(token, &self.decoding, &signature_only())
            .map_err(|error| refusal(error.kind()))?
            .claims;
        let device_id = found
            .sub
            .filter(|subject| !subject.is_empty())
            .ok_or(TokenError::MissingClaim("sub"))?;
        let expires_at = numeric_date(found.exp.ok_or(TokenError::MissingClaim("exp"))?)?;
        if now >= expires_at {
            return Err(TokenError::Expired);
        }
        let issued_at = found.iat.map(numeric_date).transpose()?;
        let not_before = found.nbf.map(numeric_date).transpose()?;
        let latest = now.checked_add(CLOCK_SKEW).unwrap_or(now);
        if issued_at.is_some_and(|time| time > latest) || not_before.is_some_and(|time| time > latest) {
            return Err(TokenError::NotYetValid);
        }
        Ok(Claims {
            device_id,
            issued_at,
            expires_at,
            token_id: found.jti,
            acl: found.acl.unwrap_or_default(),
        })
    }
}

/// Leaves to jsonwebtoken what it does without a clock: the algorithm and the signature.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    // No audience is ours; a token that names one is judged by its signature like any other.
    validation.validate_aud = false;
    validation
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidAlgorithmName => {
            TokenError::UnsupportedAlgorithm
        }
        _ => TokenError::Malformed,
    }
}

fn numeric_date(seconds: f64) -> Result<SystemTime, TokenError> {
    let since_epoch = Duration::try_from_secs_f64(seconds.max(0.0)).map_err(|_| TokenError::Malformed)?;
    UNIX_EPOCH.checked_add(since_epoch).ok_or(TokenError::Malformed)
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenKey(..)")
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
