//! The key that opens the store: where it is, and how another takes its place.
//!
//! The new key is written beside the old one, then the store is made to be opened by it, and then it gets the old
//! one's name. Whoever starts between two of these finds both and tries both.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use platform::keychain;
use zeroize::Zeroize;

use super::DataDir;
use super::keys::{self, KEY_BYTES, KeyError, Which};
use crate::settings::MasterKeySource;
use crate::store::{DatabaseError, DurableStore, Key, Masters, OpenedBy, StorePlace};

/// Where the master key of a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeyPlace {
    /// The file that this program made in its data directory.
    Own(PathBuf),
    /// A file that somebody else made.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// The service of a password in the System keychain.
    Keychain(String),
}

/// Why the master key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The key's file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store.
    #[error("the master key was not changed, because the store could not be: {0}")]
    Store(#[from] DatabaseError),
}

impl MasterKeyPlace {
    /// As it is set.
    pub fn of(dir: &DataDir, source: Option<&MasterKeySource>) -> Self {
        match source {
            None => Self::Own(dir.master_key()),
            Some(MasterKeySource::File(path)) => Self::File(path.clone()),
            Some(MasterKeySource::Variable(name)) => Self::Variable(name.clone()),
            Some(MasterKeySource::Keychain(service)) => Self::Keychain(service.clone()),
        }
    }

    /// Reads it, and makes it first where it is ours and neither it nor the store's file is there. (Of a server it is
    /// found out later whether it has a store that another key opens.)
    pub fn load_or_create(&self, store: &StorePlace) -> Result<Masters, KeyError> {
        let is_store_there = store.file().is_some_and(Path::exists);
        match (self, self.load()) {
            (Self::Own(path), Err(KeyError::Missing { .. })) if !is_store_there => {
                keys::create(path)?;
                self.load()
            }
            (_, Err(KeyError::Missing { path, .. })) if is_store_there => Err(KeyError::Lost(path)),
            (Self::File(_), Err(KeyError::Missing { path, .. })) => Err(KeyError::NotThere(path)),
            (_, read) => read,
        }
    }

    /// Reads the key that must be there, and the one that was about to take its place.
    pub fn load(&self) -> Result<Masters, KeyError> {
        let path = match self {
            Self::Own(path) | Self::File(path) => path,
            Self::Variable(name) => return from_variable(name).map(Masters::from),
            Self::Keychain(service) => return from_keychain(service).map(Masters::from),
        };
        let pending = match read(&next_to(path)) {
            Ok(key) => Some(key),
            Err(KeyError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Masters {
            current: read(path)?,
            pending,
        })
    }

    /// After the store was opened: finishes a change that was cut off, or takes it back where it had not come to the
    /// store.
    pub fn settle(&self, opened_by: OpenedBy) -> Result<(), KeyError> {
        let (Self::Own(path) | Self::File(path)) = self else {
            return Ok(());
        };
        let next = next_to(path);
        let (action, done) = match opened_by {
            OpenedBy::Pending => ("renaming", fs::rename(&next, path)),
            OpenedBy::Current => ("removing", fs::remove_file(&next)),
        };
        match done {
            Ok(()) => keys::sync_directory(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(KeyError::io(action, &next, source)),
        }
    }

    /// Makes another key the one that opens a store, which may be in use meanwhile.
    pub fn rotate(&self, store: &DurableStore) -> Result<(), RotationError> {
        let path = match self {
            Self::Own(path) | Self::File(path) => path,
            Self::Variable(name) => {
                return Err(KeyError::NotAFile(format!("the environment variable {name}")).into());
            }
            Self::Keychain(service) => {
                return Err(KeyError::NotAFile(format!("the keychain's item {service}")).into());
            }
        };
        // An earlier attempt may have come to its end on disk and not have heard of it.
        self.settle(store.opened_by(self.load()?)?)?;
        let next = next_to(path);
        keys::create(&next)?;
        let masters = self.load()?;
        if let Some(pending) = masters.pending {
            store.rewrap(masters.current, pending)?;
            self.settle(OpenedBy::Pending)?;
        }
        Ok(())
    }
}

fn next_to(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".next");
    PathBuf::from(name)
}

/// As this program writes it, or as text, which is easier to write by hand.
fn read(path: &Path) -> Result<Key, KeyError> {
    match keys::read_at(Which::Master, path) {
        Err(KeyError::WrongLength { which, path, found }) => {
            let mut text = String::new();
            // The file is its owner's alone: that was looked at first.
            let read = File::open(&path).and_then(|file| file.take(256).read_to_string(&mut text));
            let key = read.ok().and_then(|_| from_hex(&text)).map(into_key);
            text.zeroize();
            key.ok_or(KeyError::WrongLength { which, path, found })
        }
        other => other.map(into_key),
    }
}

fn into_key(mut bytes: [u8; KEY_BYTES]) -> Key {
    let key = Key::new(bytes);
    bytes.zeroize();
    key
}

fn from_variable(name: &str) -> Result<Key, KeyError> {
    let mut text = std::env::var(name).unwrap_or_default();
    let key = from_hex(&text).map(into_key);
    text.zeroize();
    key.ok_or_else(|| KeyError::NoVariable(name.to_owned()))
}

fn from_keychain(service: &str) -> Result<Key, KeyError> {
    let mut text = keychain::system_password(service).map_err(|source| KeyError::Keychain {
        service: service.to_owned(),
        source,
    })?;
    let key = str::from_utf8(&text).ok().and_then(from_hex).map(into_key);
    text.zeroize();
    key.ok_or_else(|| KeyError::NotInKeychain(service.to_owned()))
}

/// A key as 64 hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.trim().as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[path = "master_key_tests.rs"]
mod tests;
