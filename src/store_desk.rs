//! What the owner may have done to the store while the daemon runs, over the status socket. What takes long is begun
//! here and asked after (`store-job`), because one answer may not take longer than a socket's patience.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::backup::{self, Subject, Target, Values};
use crate::security::MasterKeyPlace;
use crate::security::keys;
use crate::security::master_key::from_hex;
use crate::store::{ArchiveSecret, Caretaker, DurableStore, JobError};

/// See the module.
#[derive(Clone)]
pub struct StoreDesk {
    /// The store.
    pub store: Arc<DurableStore>,
    /// Who does what takes long.
    pub caretaker: Arc<Caretaker>,
    /// Where its master key is.
    pub master_key: MasterKeyPlace,
    /// What a backup has beside it.
    pub subject: Subject,
}

impl StoreDesk {
    /// None where it is not asked.
    pub async fn answer(
        &self,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Option<Result<Value, String>> {
        let begun = |begun: Result<u64, _>| match begun {
            Ok(job) => Ok(json!({"job": job})),
            Err(error) => Err(JobError::to_string(&error)),
        };
        Some(match command {
            "store-verify" => {
                let forget = arguments.get("forget").and_then(Value::as_bool);
                begun(self.caretaker.check(forget.unwrap_or(false)))
            }
            "store-export" => match export_of(arguments) {
                Some((file, secret)) => begun(self.caretaker.export(file, secret)),
                None => Err("name the file, and a passphrase or a key".to_owned()),
            },
            "backup-create" => match backup_of(arguments) {
                Some((target, passphrase)) => begun(self.backup(target, passphrase)),
                None => Err("name the file, or the directory and how many are kept there".to_owned()),
            },
            "store-job" => {
                let job = arguments.get("job").and_then(Value::as_u64).unwrap_or(0);
                Ok(self.caretaker.job(job))
            }
            "keys-rotate-master" => self.rotate_master().await,
            _ => return None,
        })
    }

    /// By the backup key where no passphrase is given: whoever asks has seen to it that there is one.
    fn backup(&self, target: Target, passphrase: Option<ArchiveSecret>) -> Result<u64, JobError> {
        let subject = self.subject.clone();
        self.caretaker.begin(Box::new(move |store, progress| {
            let secret = match passphrase {
                Some(passphrase) => Ok(passphrase),
                None => keys::load_backup_key(subject.dir()).map(ArchiveSecret::Key),
            };
            let secret = secret.map_err(|error| error.to_string())?;
            let (values, now) = (Values::Running(store), SystemTime::now());
            let made = backup::create(&subject, &values, &secret, &target, now, progress)
                .map_err(|error| format!("{}: {error}", target.display()))?;
            serde_json::to_value(made).map_err(|error| error.to_string())
        }))
    }

    async fn rotate_master(&self) -> Result<Value, String> {
        let (store, place) = (self.store.clone(), self.master_key.clone());
        // It waits for the disk.
        let rotated = tokio::task::spawn_blocking(move || place.rotate(&store)).await;
        rotated
            .map_err(|error| format!("the master key may not have been changed: {error}; look into the log"))?
            .map_err(|error| error.to_string())?;
        tracing::info!("the store has another master key from now on");
        Ok(Value::Null)
    }
}

fn export_of(arguments: &Map<String, Value>) -> Option<(PathBuf, ArchiveSecret)> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str);
    let secret = match (text("passphrase"), text("key")) {
        (Some(passphrase), None) => ArchiveSecret::Passphrase(passphrase.to_owned()),
        (None, Some(key)) => ArchiveSecret::Key(from_hex(&key.replace('-', ""))?),
        _ => return None,
    };
    Some((PathBuf::from(text("file")?), secret))
}

fn backup_of(arguments: &Map<String, Value>) -> Option<(Target, Option<ArchiveSecret>)> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str);
    let keep = arguments.get("keep").and_then(Value::as_u64);
    let target = match (text("file"), text("directory"), keep) {
        (Some(file), None, None) => Target::File(PathBuf::from(file)),
        (None, Some(directory), Some(keep)) if keep > 0 => {
            Target::Directory(PathBuf::from(directory), usize::try_from(keep).ok()?)
        }
        _ => return None,
    };
    let passphrase = text("passphrase").map(str::to_owned);
    Some((target, passphrase.map(ArchiveSecret::Passphrase)))
}
