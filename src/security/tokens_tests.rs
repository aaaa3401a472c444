//! Attacks on tokens, each named for what it tries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn key() -> TokenKey {
    TokenKey::new(SECRET)
}

fn good() -> Value {
    json!({"sub": "mobile", "iat": NOW_S, "exp": NOW_S + 900})
}

/// A token made by hand, so that it can be wrong in every way: HMAC-SHA256 over whatever stands there.
fn forge(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!(
        "{}.{}",
        base64(header.to_string().as_bytes()),
        base64(claims.to_string().as_bytes())
    );
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", base64(signature.as_ref()))
}

fn signed(claims: &Value) -> String {
    forge(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |bits: u32| char::from(ALPHABET[(bits & 63) as usize]);
    let encode = |chunk: &[u8]| {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len())
            .map(|place| digit(bits >> (18 - 6 * place)))
            .collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

fn verify(token: &str) -> Result<Claims, TokenError> {
    key().verify(token.as_bytes(), now())
}

#[test]
fn an_issued_token_says_who_until_when_and_has_a_name_of_its_own() {
    let token = key().issue("mobile", now(), Duration::from_secs(900)).unwrap();
    let claims = verify(&token).unwrap();
    assert_eq!(claims.device_id, "mobile");
    assert_eq!(claims.issued_at, Some(now()));
    assert_eq!(claims.expires_at, now() + Duration::from_secs(900));
    assert_eq!(claims.acl, Vec::<Value>::new());
    let another = verify(&key().issue("mobile", now(), Duration::from_secs(900)).unwrap()).unwrap();
    assert_ne!(claims.token_id.unwrap(), another.token_id.unwrap());
}

#[test]
fn a_token_made_elsewhere_with_the_same_key_is_taken() {
    assert_eq!(verify(&signed(&good())).unwrap().device_id, "mobile");
}

#[test]
fn access_rules_are_handed_on_as_they_stand() {
    let rule = json!({"permission": "allow", "action": "publish", "topic": "a/#"});
    let mut claims = good();
    claims["acl"] = json!([rule]);
    assert_eq!(verify(&signed(&claims)).unwrap().acl, vec![rule]);
}

#[test]
fn a_token_ends_in_the_very_second_that_it_names() {
    let token = key().issue("a", now(), Duration::from_secs(10)).unwrap();
    let at = |seconds: u64| key().verify(token.as_bytes(), now() + Duration::from_secs(seconds));
    assert!(at(9).is_ok());
    assert_eq!(at(10), Err(TokenError::Expired));
    assert_eq!(at(11), Err(TokenError::Expired));
}

#[test]
fn other_algorithms_are_refused_however_they_are_signed() {
    for algorithm in ["HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA"] {
        let token = forge(&json!({"alg": algorithm}), &good(), SECRET);
        assert_eq!(
            verify(&token),
            Err(TokenError::UnsupportedAlgorithm),
            "{algorithm}"
        );
    }
}

#[test]
fn the_algorithm_none_is_refused_with_and_without_a_signature() {
    for algorithm in ["none", "None", "NONE", "nOnE", "hs256", ""] {
        let token = forge(&json!({"alg": algorithm}), &good(), SECRET);
        assert!(verify(&token).is_err(), "{algorithm}");
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        assert!(
            verify(&format!("{unsigned}.")).is_err(),
            "{algorithm} without a signature"
        );
        assert!(verify(unsigned).is_err(), "{algorithm} without a third part");
    }
}

#[test]
fn another_key_is_refused() {
    let token = forge(&json!({"alg": "HS256"}), &good(), b"another key");
    assert_eq!(verify(&token), Err(TokenError::BadSignature));
    assert_eq!(
        verify(&forge(&json!({"alg": "HS256"}), &good(), b"")),
        Err(TokenError::BadSignature)
    );
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let token = signed(&good());
    for place in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        assert!(key().verify(&bytes, now()).is_err(), "byte {place}");
    }
}

#[test]
fn a_shortened_signature_is_refused() {
    let token = signed(&good());
    for cut in 1..=43 {
        assert!(
            verify(&token[..token.len() - cut]).is_err(),
            "{cut} characters less"
        );
    }
}

#[test]
fn claims_that_are_needed_must_be_there() {
    for (claim, error) in [
        ("sub", TokenError::MissingClaim("sub")),
        ("exp", TokenError::MissingClaim("exp")),
    ] {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(claim);
        assert_eq!(verify(&signed(&claims)), Err(error));
        claims[claim] = Value::Null;
        assert_eq!(verify(&signed(&claims)), Err(error), "{claim} is null");
    }
    let mut claims = good();
    claims["sub"] = json!("");
    assert_eq!(verify(&signed(&claims)), Err(TokenError::MissingClaim("sub")));
}

#[test]
fn claims_of_the_wrong_type_or_beyond_time_are_malformed() {
    let wrong = [
        ("sub", json!(7)),
        ("exp", json!("tomorrow")),
        ("exp", json!([1])),
        ("exp", json!(1e300)),
        ("iat", json!("now")),
        ("acl", json!("all")),
        ("acl", json!({})),
    ];
    for (claim, value) in wrong {
        let mut claims = good();
        claims[claim] = value.clone();
        assert_eq!(
            verify(&signed(&claims)),
            Err(TokenError::Malformed),
            "{claim} = {value}"
        );
    }
    let mut claims = good();
    claims["exp"] = json!(-1);
    assert_eq!(verify(&signed(&claims)), Err(TokenError::Expired));
}

#[test]
fn a_token_from_the_future_is_refused_beyond_what_clocks_differ() {
    for claim in ["iat", "nbf"] {
        let mut claims = good();
        claims[claim] = json!(NOW_S + CLOCK_SKEW.as_secs());
        assert!(verify(&signed(&claims)).is_ok(), "{claim}");
        claims[claim] = json!(NOW_S + CLOCK_SKEW.as_secs() + 1);
        assert_eq!(verify(&signed(&claims)), Err(TokenError::NotYetValid), "{claim}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "password",
        "\u{0}",
        "eyJhbGciOiJIUzI1NiJ9..",
        &long,
    ] {
        assert!(verify(text).is_err(), "{text:.20}");
    }
    assert!(key().verify(&[0xff, 0xfe, b'.', 0x80, b'.'], now()).is_err());
    assert_eq!(verify(&long), Err(TokenError::Malformed));
}

#[test]
fn neither_key_nor_token_shows_in_debug_output_or_errors() {
    let secret_text = String::from_utf8(SECRET.to_vec()).unwrap();
    assert!(!format!("{:?}", key()).contains(&secret_text));
    let token = signed(&good()) + "x";
    let error = verify(&token).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&token[..20]));
}
