//! What is kept on disk is sealed: AES-256-GCM over every value, bound to its place [NIST SP 800-38D].
//!
//! The *data key* seals values and lies in the store, sealed itself by the *master key*, which lies in a file of
//! its own. Each time a store is opened it seals with a key of that opening, derived from the data key and fresh
//! random bytes (HKDF, RFC 5869): a nonce then need only be unique within one opening, where it is a count. So none
//! repeats, even where an old copy of the store is put back and goes on from there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

/// Bytes of a master key, and of a data key.
pub const KEY_BYTES: usize = 32;

/// Random bytes of an opening.
pub(super) const OPENING_BYTES: usize = 16;

/// A sealed value begins with the number of its opening and its count there.
const HEADER_BYTES: usize = 12;

/// Under one key no more values are sealed than keep a forgery unlikely [SP 800-38D, 8.3]; an opening that comes
/// so far has sealed a million values a second for two centuries.
const MAX_SEALED: u64 = 1 << 62;

/// Why a value could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The key is not the one it was sealed with, or the value was changed, or it lies in another's place.
    #[error("the value was changed, or sealed with another key or for another place")]
    Forged,
    /// It is too short to be one.
    #[error("the value is cut short")]
    CutShort,
    /// The opening that sealed it is not known.
    #[error("the value was sealed by an opening of the store that is not known any more")]
    UnknownOpening,
    /// The system has no random numbers.
    #[error("the system gave no random numbers; try again when it has finished starting")]
    NoRandomness,
    /// The nonces of this opening are used up.
    #[error("too many values were sealed; start the daemon again")]
    Exhausted,
}

/// A key that must not be seen.
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// From bytes read elsewhere.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A new one.
    pub fn random() -> Result<Self, VaultError> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| VaultError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Seals another key with this one, for a place.
    pub fn wrap(&self, key: &Key, place: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_LEN];
        // A key is wrapped a few times in its life, so that a random nonce does not repeat.
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| VaultError::NoRandomness)?;
        let mut sealed = nonce.to_vec();
        let mut bytes = key.0.to_vec();
        aead(&self.0)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut bytes)
            .map_err(|_| VaultError::Forged)?;
        sealed.extend_from_slice(&bytes);
        Ok(sealed)
    }

    /// Opens what [`wrap`](Self::wrap) made.
    pub fn unwrap(&self, wrapped: &[u8], place: &[u8]) -> Result<Key, VaultError> {
        let (nonce, sealed) = wrapped
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(VaultError::CutShort)?;
        let mut bytes = sealed.to_vec();
        let opened = aead(&self.0)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place), &mut bytes)
            .map_err(|_| VaultError::Forged)?;
        let key = <[u8; KEY_BYTES]>::try_from(&*opened).map_err(|_| VaultError::CutShort)?;
        bytes[..].zeroize();
        Ok(Key(key))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The master keys that may open a store: the one in use, and where a change of it may have been cut off, the one
/// that was to be.
pub struct Masters {
    /// The one in use.
    pub current: Key,
    /// The one that was about to take its place.
    pub pending: Option<Key>,
}

/// Which of the two it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenedBy {
    /// The one in use.
    #[default]
    Current,
    /// The other, which is the one in use from now on.
    Pending,
}

impl Masters {
    /// Opens what was wrapped by either of them.
    pub(super) fn unwrap(&self, wrapped: &[u8], place: &[u8]) -> Result<(Key, OpenedBy), VaultError> {
        let current = self.current.unwrap(wrapped, place);
        match (current, &self.pending) {
            (Ok(key), _) => Ok((key, OpenedBy::Current)),
            (Err(_), Some(pending)) => Ok((pending.unwrap(wrapped, place)?, OpenedBy::Pending)),
            (Err(error), None) => Err(error),
        }
    }
}

impl From<Key> for Masters {
    fn from(current: Key) -> Self {
        Self {
            current,
            pending: None,
        }
    }
}

/// Random bytes of one opening of a store.
pub(super) type Opening = [u8; OPENING_BYTES];

/// New ones.
pub(super) fn new_opening() -> Result<Opening, VaultError> {
    let mut opening = [0; OPENING_BYTES];
    SystemRandom::new()
        .fill(&mut opening)
        .map_err(|_| VaultError::NoRandomness)?;
    Ok(opening)
}

/// Seals for one opening, and opens for all that are known.
pub(super) struct Vault {
    number: u32,
    sealed: AtomicU64,
    keys: HashMap<u32, LessSafeKey>,
    names: hmac::Key,
}

impl Vault {
    /// A vault of the opening `number`, which must be among `openings`.
    pub(super) fn new(data_key: &Key, openings: &[(u32, Opening)], number: u32) -> Result<Self, VaultError> {
        let keys = openings
            .iter()
            .map(|(number, opening)| {
                let mut key = derive(data_key, opening, b"values")?;
                let sealing = aead(&key)?;
                key.zeroize();
                Ok((*number, sealing))
            })
            .collect::<Result<HashMap<_, _>, VaultError>>()?;
        if !keys.contains_key(&number) {
            return Err(VaultError::UnknownOpening);
        }
        Ok(Self {
            number,
            sealed: AtomicU64::new(0),
            keys,
            names: hmac::Key::new(hmac::HMAC_SHA256, &derive(data_key, b"", b"names")?),
        })
    }

    /// Under what name something is kept whose own name could tell something about a person.
    pub(super) fn name(&self, table: &str, name: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.names);
        context.update(table.as_bytes());
        context.update(&[0]);
        context.update(name);
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        short
    }

    /// Seals a value for its place.
    pub(super) fn seal(&self, table: &str, name: &[u8], value: &[u8]) -> Result<Vec<u8>, VaultError> {
        let count = self.sealed.fetch_add(1, Relaxed);
        if count >= MAX_SEALED {
            return Err(VaultError::Exhausted);
        }
        let mut header = [0; HEADER_BYTES];
        let (number, counted) = header.split_at_mut(4);
        number.copy_from_slice(&self.number.to_be_bytes());
        counted.copy_from_slice(&count.to_be_bytes());
        let key = self.keys.get(&self.number).ok_or(VaultError::UnknownOpening)?;
        let mut sealed = Vec::with_capacity(HEADER_BYTES + value.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&header);
        let mut text = value.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(header),
            Aad::from(place(table, name)),
            &mut text,
        )
        .map_err(|_| VaultError::Exhausted)?;
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens what [`seal`](Self::seal) made for this place.
    pub(super) fn open(&self, table: &str, name: &[u8], sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let (header, text) = sealed
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(VaultError::CutShort)?;
        let number = header.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let key = self.keys.get(&number).ok_or(VaultError::UnknownOpening)?;
        let mut text = text.to_vec();
        let length = key
            .open_in_place(
                Nonce::assume_unique_for_key(*header),
                Aad::from(place(table, name)),
                &mut text,
            )
            .map_err(|_| VaultError::Forged)?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

fn place(table: &str, name: &[u8]) -> Vec<u8> {
    [table.as_bytes(), &[0], name].concat()
}

fn aead(key: &[u8]) -> Result<LessSafeKey, VaultError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| VaultError::CutShort)
}

fn derive(key: &Key, salt: &[u8], purpose: &[u8]) -> Result<[u8; KEY_BYTES], VaultError> {
    let secret: Prk = Salt::new(HKDF_SHA256, salt).extract(&key.0);
    let mut derived = [0; KEY_BYTES];
    secret
        .expand(&[b"clawdbot store ", purpose], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut derived))
        .map_err(|_| VaultError::CutShort)?;
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vault(data_key: &Key, openings: &[Opening]) -> Vault {
        let numbered: Vec<_> = (1..).zip(openings.iter().copied()).collect();
        Vault::new(data_key, &numbered, openings.len() as u32).unwrap()
    }

    #[test]
    fn a_value_is_opened_in_its_own_place_and_no_other() {
        let key = Key::random().unwrap();
        let vault = vault(&key, &[new_opening().unwrap()]);
        let sealed = vault.seal("retained", b"a", b"secret").unwrap();
        assert_eq!(vault.open("retained", b"a", &sealed).unwrap(), b"secret");
        assert_eq!(vault.open("retained", b"b", &sealed), Err(VaultError::Forged));
        assert_eq!(vault.open("devices", b"a", &sealed), Err(VaultError::Forged));
        assert_eq!(vault.open("retained\0a", b"", &sealed), Err(VaultError::Forged));
        assert_eq!(
            vault.open("retained", b"a", &sealed[..9]),
            Err(VaultError::CutShort)
        );
    }

    #[test]
    fn what_an_earlier_opening_sealed_is_opened_and_nothing_is_sealed_alike_twice() {
        let key = Key::random().unwrap();
        let (first, second) = (new_opening().unwrap(), new_opening().unwrap());
        let before = vault(&key, &[first]);
        let sealed = before.seal("t", b"n", b"value").unwrap();
        assert_ne!(sealed, before.seal("t", b"n", b"value").unwrap());
        // The same number of opening and the same count, as after a backup was put back.
        let put_back = vault(&key, &[second]);
        assert_ne!(sealed[12..], put_back.seal("t", b"n", b"value").unwrap()[12..]);
        let after = vault(&key, &[first, second]);
        assert_eq!(after.open("t", b"n", &sealed).unwrap(), b"value");
        assert_eq!(put_back.open("t", b"n", &sealed), Err(VaultError::Forged));
    }

    #[test]
    fn a_data_key_is_unwrapped_by_its_master_key_alone() {
        let (master, other, data) = (
            Key::random().unwrap(),
            Key::random().unwrap(),
            Key::random().unwrap(),
        );
        let wrapped = master.wrap(&data, b"here").unwrap();
        assert_eq!(master.unwrap(&wrapped, b"here").unwrap().0, data.0);
        assert!(master.unwrap(&wrapped, b"there").is_err());
        assert!(other.unwrap(&wrapped, b"here").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_changed_of_a_sealed_value_is_noticed(
            value in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let vault = vault(&Key::new([7; KEY_BYTES]), &[[1; OPENING_BYTES], [2; OPENING_BYTES]]);
            let mut sealed = vault.seal("t", b"n", &value).unwrap();
            prop_assert_eq!(&vault.open("t", b"n", &sealed).unwrap(), &value);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(vault.open("t", b"n", &sealed).is_err());
        }
    }
}
