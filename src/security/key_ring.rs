//! The keys that tokens are checked by: the one that signs, and those that did until lately. A rotation puts a new key
//! in the place of the old one, and the old one beside it, under a name that says since when it signs nothing more and
//! until when its tokens are still believed.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::DataDir;
use super::keys::{self, KeyError, Which};
use super::tokens::{CLOCK_SKEW, Claims, TokenError, TokenKey};

/// How long a former key is kept: the longest that a token may live, by whatever setting it was signed.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Former keys looked at; of more the oldest go.
const MAX_FORMER: usize = 16;

/// See the module.
pub struct KeyRing {
    current: TokenKey,
    former: Vec<Former>,
}

struct Former {
    key: TokenKey,
    place: Place,
}

/// Where a former key is, and what its name says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    retired_at: SystemTime,
    until: SystemTime,
    path: PathBuf,
}

impl KeyRing {
    /// Reads the keys, and makes the first where there is none. Former keys whose time is over are removed.
    pub fn load_or_create(dir: &DataDir, now: SystemTime) -> Result<KeyRing, KeyError> {
        let current = keys::load_or_create(dir)?;
        let mut former = Vec::new();
        for place in places(dir)? {
            if place.until <= now {
                // Its tokens have ended: what is left of it is only worth something to a thief.
                let _ = fs::remove_file(&place.path);
                continue;
            }
            let key = TokenKey::new(&keys::read_at(Which::Signing, &place.path)?);
            former.push(Former { key, place });
        }
        Ok(KeyRing { current, former })
    }

    /// Makes a new key that signs from now on. Tokens of the old one live out their time, unless they are all to
    /// be void at once.
    pub fn rotate(dir: &DataDir, void: bool, now: SystemTime) -> Result<KeyRing, KeyError> {
        let current = dir.token_signing_key();
        keys::load_or_create(dir)?;
        if !void {
            let path = former_path(dir, now);
            // Linked before it is replaced, so that it is never gone. A second rotation within a second finds
            // the first one's link, and the key in between has signed nothing to speak of.
            if let Err(source) = fs::hard_link(&current, &path)
                && source.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(KeyError::io("keeping", &path, source));
            }
        }
        keys::replace(&current)?;
        let mut places = places(dir)?;
        places.sort();
        let keep = if void { 0 } else { MAX_FORMER };
        for place in places.iter().rev().skip(keep) {
            fs::remove_file(&place.path).map_err(|source| KeyError::io("removing", &place.path, source))?;
        }
        KeyRing::load_or_create(dir, now)
    }

    /// Signs a token for a device, valid from `now` on for `lifetime`.
    pub fn issue(&self, device_id: &str, now: SystemTime, lifetime: Duration) -> Result<String, TokenError> {
        self.current.issue(device_id, now, lifetime)
    }

    /// Checks a token by the key that it names, or by each where it names none.
    pub fn verify(&self, token: &[u8], now: SystemTime) -> Result<Claims, TokenError> {
        let named = TokenKey::named_by(token);
        let may_be = |key: &TokenKey| named.as_deref().is_none_or(|name| name == key.name());
        let mut refused = TokenError::BadSignature;
        if named.is_none() || may_be(&self.current) {
            match self.current.verify(token, now) {
                Err(TokenError::BadSignature) => {}
                other => return other,
            }
        }
        for Former { key, place } in &self.former {
            if place.until <= now || !may_be(key) {
                continue;
            }
            match key.verify(token, now) {
                Err(TokenError::BadSignature) => {}
                Ok(claims) if signed_in_its_time(&claims, place.retired_at) => return Ok(claims),
                // Whoever has got hold of an old key signs nothing new with it.
                Ok(_) => refused = TokenError::RetiredKey,
                Err(other) => return Err(other),
            }
        }
        Err(refused)
    }
}

fn signed_in_its_time(claims: &Claims, retired_at: SystemTime) -> bool {
    claims.issued_at.is_some_and(|at| at <= retired_at + CLOCK_SKEW)
}

fn former_path(dir: &DataDir, now: SystemTime) -> PathBuf {
    let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let until_s = now_s + MAX_TOKEN_LIFETIME.as_secs();
    dir.keys().join(format!("token-signing-{now_s}-{until_s}.key"))
}

fn places(dir: &DataDir) -> Result<Vec<Place>, KeyError> {
    let keys = dir.keys();
    let entries = fs::read_dir(&keys).map_err(|source| KeyError::io("listing", &keys, source))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| read_name(entry.path()))
        .collect())
}

fn read_name(path: PathBuf) -> Option<Place> {
    let name = path.file_name()?.to_str()?;
    let (retired_s, until_s) = name
        .strip_prefix("token-signing-")?
        .strip_suffix(".key")?
        .split_once('-')?;
    let time = |text: &str| UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok()?));
    Some(Place {
        retired_at: time(retired_s)?,
        until: time(until_s)?,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(900);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::prepare(temp.path()).unwrap();
        (temp, dir)
    }

    fn verify(ring: &KeyRing, token: &str, now: SystemTime) -> Result<String, TokenError> {
        ring.verify(token.as_bytes(), now).map(|claims| claims.device_id)
    }

    #[test]
    fn tokens_of_the_old_key_live_out_their_time_and_not_longer() {
        let (_temp, dir) = dir();
        let before = KeyRing::load_or_create(&dir, at(0)).unwrap();
        let old = before.issue("old", at(0), LIFETIME).unwrap();
        let longest = before.issue("long", at(0), MAX_TOKEN_LIFETIME * 2).unwrap();
        let after = KeyRing::rotate(&dir, false, at(10)).unwrap();
        let new = after.issue("new", at(10), LIFETIME).unwrap();
        for ring in [&after, &KeyRing::load_or_create(&dir, at(20)).unwrap()] {
            assert_eq!(verify(ring, &old, at(20)).unwrap(), "old");
            assert_eq!(verify(ring, &new, at(20)).unwrap(), "new");
            assert_eq!(verify(ring, &old, at(900)), Err(TokenError::Expired));
        }
        assert_eq!(verify(&before, &new, at(20)), Err(TokenError::BadSignature));
        let end = at(10) + MAX_TOKEN_LIFETIME;
        assert!(verify(&after, &longest, end - Duration::from_secs(1)).is_ok());
        assert_eq!(verify(&after, &longest, end), Err(TokenError::BadSignature));
        KeyRing::load_or_create(&dir, end).unwrap();
        assert_eq!(
            fs::read_dir(dir.keys()).unwrap().count(),
            1,
            "a key that is worth nothing is gone"
        );
    }

    #[test]
    fn an_old_key_signs_nothing_new() {
        let (_temp, dir) = dir();
        let before = KeyRing::load_or_create(&dir, at(0)).unwrap();
        let after = KeyRing::rotate(&dir, false, at(0)).unwrap();
        let forged = before.issue("phone", at(100), LIFETIME).unwrap();
        assert_eq!(verify(&after, &forged, at(100)), Err(TokenError::RetiredKey));
    }

    #[test]
    fn whoever_fears_a_thief_voids_everything_at_once() {
        let (_temp, dir) = dir();
        let first = KeyRing::load_or_create(&dir, at(0)).unwrap();
        let second = KeyRing::rotate(&dir, false, at(1)).unwrap();
        let tokens = [&first, &second].map(|ring| ring.issue("phone", at(0), LIFETIME).unwrap());
        let third = KeyRing::rotate(&dir, true, at(2)).unwrap();
        for token in &tokens {
            assert_eq!(verify(&third, token, at(3)), Err(TokenError::BadSignature));
        }
        assert_eq!(fs::read_dir(dir.keys()).unwrap().count(), 1);
    }

    #[test]
    fn a_token_that_names_no_key_is_tried_with_each_and_one_that_names_another_with_none() {
        let (_temp, dir) = dir();
        let ring = KeyRing::load_or_create(&dir, at(0)).unwrap();
        let token = ring.issue("phone", at(0), LIFETIME).unwrap();
        let secret = fs::read(dir.token_signing_key()).unwrap();
        KeyRing::rotate(&dir, false, at(0)).unwrap();
        let ring = KeyRing::load_or_create(&dir, at(1)).unwrap();
        assert!(verify(&ring, &token, at(1)).is_ok());
        let with_name = |name: Option<&str>| {
            let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
            header.kid = name.map(str::to_owned);
            let claims = serde_json::json!({"sub": "phone", "iat": 1_800_000_000, "exp": 1_800_000_900});
            let key = jsonwebtoken::EncodingKey::from_secret(&secret);
            jsonwebtoken::encode(&header, &claims, &key).unwrap()
        };
        assert!(verify(&ring, &with_name(None), at(1)).is_ok());
        let another = verify(&ring, &with_name(Some("another")), at(1));
        assert_eq!(another, Err(TokenError::BadSignature));
    }

    #[test]
    fn many_rotations_keep_a_bounded_number_of_keys() {
        let (_temp, dir) = dir();
        for number in 0..20 {
            KeyRing::rotate(&dir, false, at(number)).unwrap();
        }
        assert_eq!(fs::read_dir(dir.keys()).unwrap().count(), 1 + MAX_FORMER);
        let stranger = dir.keys().join("token-signing-x-y.key");
        fs::write(&stranger, "").unwrap();
        KeyRing::load_or_create(&dir, at(20)).unwrap();
    }
}
