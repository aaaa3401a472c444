//! What is backed up beside the store: small files, each with its name in the data directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::format::{Head, MAX_MEMBER_BYTES, Member, SETTINGS, is_kept_certificate, is_kept_key};
use crate::library::Library;
use crate::security::DataDir;
use crate::settings::{PasswordSource, Settings};

/// A data directory, and the settings that it is used with.
#[derive(Clone, Debug)]
pub struct Subject {
    dir: DataDir,
    settings_file: Option<PathBuf>,
    /// Which the settings name, in the library or not.
    models: Vec<PathBuf>,
    outside: Vec<String>,
}

impl Subject {
    /// That of these settings.
    pub fn of(settings: &Settings, dir: DataDir) -> Subject {
        Subject {
            dir,
            settings_file: settings.file.clone(),
            models: [&settings.model.path, &settings.model.fallback]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            outside: outside(settings),
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &DataDir {
        &self.dir
    }

    pub(super) fn head(&self, made_at_unix_s: u64, has_store: bool) -> Result<Head, BackupError> {
        let library = Library::of(self.dir.root());
        let models = library.entries()?;
        // Those in the library are told of by their names; one that was laid beside them by hand is in no backup either.
        let is_unknown =
            |path: &&PathBuf| **path != library.embedded() && !models.iter().any(|entry| entry.is_at(path));
        let mut outside: Vec<String> = self
            .models
            .iter()
            .filter(is_unknown)
            .map(|path| path.display().to_string())
            .collect();
        outside.dedup();
        outside.extend(self.outside.iter().cloned());
        Ok(Head {
            made_at_unix_s,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            has_store,
            models: models.into_iter().map(|entry| entry.manifest).collect(),
            outside,
        })
    }

    pub(super) fn members(&self) -> Result<Vec<Member>, BackupError> {
        let mut members = Vec::new();
        if let Some(path) = &self.settings_file {
            members.extend(read(SETTINGS.to_owned(), path)?);
        }
        let keys = below(&self.dir.keys(), "keys", is_kept_key)?;
        if !keys.iter().any(|key| key.name == "keys/token-signing.key") {
            return Err(BackupError::NothingThere(self.dir.root().to_path_buf()));
        }
        members.extend(keys);
        let certificates = self.dir.certificates();
        if certificates.directory().exists() {
            // Not while they are renewed, or a certificate would come with another one's key.
            let _lock = certificates.lock()?;
            members.extend(below(certificates.directory(), "certs", is_kept_certificate)?);
        }
        Ok(members)
    }
}

/// Files besides models that the settings name, for people: they lie somewhere else, and their owners look after them.
fn outside(settings: &Settings) -> Vec<String> {
    let certificate = settings.mqtt.certificate.as_ref();
    let clients = certificate.and_then(|files| files.clients.as_ref());
    let server = certificate.filter(|files| files.own.is_none());
    let own = settings.broker.client_certificate.as_ref();
    let postgres = settings.store.postgres.as_ref();
    let passwords = [
        settings.broker.password.as_ref(),
        postgres.and_then(|server| server.password.as_ref()),
    ];
    let passwords = passwords.into_iter().map(|source| match source {
        Some(PasswordSource::File(path)) => Some(path),
        _ => None,
    });
    let files = [
        server.map(|files| &files.certificate.path),
        server.map(|files| &files.key.path),
        clients.map(|clients| &clients.authority.path),
        settings.broker.ca_certificate.as_ref(),
        own.map(|(certificate, _)| certificate),
        own.map(|(_, key)| key),
        postgres.and_then(|server| server.ca_certificate.as_ref()),
        settings.hub.token_file.as_ref(),
    ];
    files
        .into_iter()
        .chain(passwords)
        .flatten()
        .map(|path| path.display().to_string())
        .collect()
}

/// The files of a directory that are kept, in the order of their names.
fn below(directory: &Path, name: &str, is_kept: fn(&str) -> bool) -> Result<Vec<Member>, BackupError> {
    let failed = |source| BackupError::io("listing the directory", directory, source);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut members = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        if let Some(file) = file.to_str().filter(|file| is_kept(file)) {
            members.extend(read(format!("{name}/{file}"), &entry.path())?);
        }
    }
    members.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(members)
}

/// A file, or none where there is none any more: a former key's time may just be over.
fn read(name: String, path: &Path) -> Result<Option<Member>, BackupError> {
    let failed = |source| BackupError::io("reading", path, source);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let most = MAX_MEMBER_BYTES as u64;
    if metadata.len() > most {
        return Err(BackupError::TooLarge(path.to_path_buf()));
    }
    let mut member = Member {
        name,
        mode: metadata.permissions().mode() & 0o777,
        // All of it at once, so that nothing of a key is left behind where it grew.
        bytes: Vec::with_capacity(MAX_MEMBER_BYTES.min(metadata.len() as usize) + 32),
    };
    file.take(most + 1)
        .read_to_end(&mut member.bytes)
        .map_err(failed)?;
    if member.bytes.len() > MAX_MEMBER_BYTES {
        return Err(BackupError::TooLarge(path.to_path_buf()));
    }
    Ok(Some(member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::keys;

    #[test]
    fn keys_and_certificates_and_the_settings_file_are_taken_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let dir = DataDir::prepare(&root).unwrap();
        let mut settings = Settings::default_for_tests(&root);
        settings.hub.token_file = Some(PathBuf::from("/somewhere/token"));
        let nothing = Subject::of(&settings, dir.clone()).members();
        assert!(matches!(nothing, Err(BackupError::NothingThere(_))));

        keys::load_or_create(&dir).unwrap();
        keys::load_or_create_backup_key(&dir).unwrap();
        for (name, text) in [
            ("keys/master.key", "secret"),
            ("keys/token-signing-1-2.key", "former"),
            ("keys/token-signing.1234.tmp", "draft"),
            ("keys/backup.shown", ""),
            ("store.redb", "values"),
            ("elsewhere.toml", "[log]\n"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        fs::create_dir(root.join("certs")).unwrap();
        fs::write(root.join("certs/ca.pem"), "authority").unwrap();
        fs::create_dir(root.join("certs/odd.pem")).unwrap();
        settings.file = Some(root.join("elsewhere.toml"));
        settings.model.path = Some(root.join("models/by-hand.gguf"));
        settings.model.fallback = Some(Library::of(&root).embedded());
        let subject = Subject::of(&settings, dir);
        let members = subject.members().unwrap();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "clawdbot.toml",
                "keys/backup.key",
                "keys/token-signing-1-2.key",
                "keys/token-signing.key",
                "certs/ca.pem"
            ]
        );
        let by_hand = root.join("models/by-hand.gguf").display().to_string();
        assert_eq!(
            subject.head(1, true).unwrap().outside,
            [by_hand, "/somewhere/token".to_owned()],
            "a model that the library does not know, and not the embedded one"
        );

        fs::write(root.join("certs/ca.pem"), vec![b'x'; MAX_MEMBER_BYTES + 1]).unwrap();
        assert!(matches!(subject.members(), Err(BackupError::TooLarge(_))));
    }
}
