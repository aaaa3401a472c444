//! Settings: from where they come, what they must look like, and what is said when they do not.
//!
//! Four sources, each stronger than the one before: the defaults that are built in, one file,
//! `CLAWDBOT__SECTION__KEY` variables, flags. [`load`] merges them with the `config` crate and turns
//! raw settings into checked ones; everything that is wrong comes out at once, each with the
//! place it was written at.

mod access;
mod backup;
mod broker;
mod check;
mod checked;
mod error;
mod former;
mod locate;
mod log;
mod mqtt;
mod raw;
mod store;
mod telemetry;

use std::collections::HashMap;

use config::Config;

use self::check::Checker;
use self::former::{FORMER, Fate};
use self::locate::{Entry, Layer, written};
use self::raw::RawSettings;

pub use checked::{
    Auth, AuthMode, Backup, Broker, BrokerAddress, BrokerMode, CertificateFiles, ClientCertificates,
    Collector, Conversation, Flapping, Hub, Log, LogFormat, LogPlace, MasterKeySource, Memory, Metrics,
    Model, Mqtt, NamedFile, OtlpProtocol, PasswordSource, PostgresServer, Scheduler, Settings, Shutdown,
    Store, StoreMode, Supervisor, Telemetry,
};
pub use error::{Problem, SettingsError};
pub use locate::{Flag, Origin, Sources};

/// The defaults, with an explanation of every setting: also what `clawdbot check --defaults` prints.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Reads, merges and checks everything. Nothing is written, and nothing is opened but the one file; whether
/// there are certificates of our own is looked at, since the listeners depend on it.
pub fn load(sources: &Sources) -> Result<Settings, SettingsError> {
    load_with(sources, FORMER)
}

fn load_with(sources: &Sources, former: &[(&str, Fate)]) -> Result<Settings, SettingsError> {
    let mut problems = Vec::new();
    let (mut layers, file) = sources.layers(&mut problems);
    let notices = former::take_over(&mut layers, former);
    refuse_unknown_keys(&mut layers, &mut problems);

    // Later layers are stronger, so what they insert is what remains.
    let mut access = None;
    for layer in &mut layers {
        if let Some(mut list) = layer.access.take() {
            problems.append(&mut list.problems);
            access = Some(list);
        }
    }
    let origins: HashMap<String, Origin> = layers
        .iter()
        .flat_map(|layer| &layer.entries)
        .map(|entry| (entry.key.clone(), entry.origin.clone()))
        .collect();
    let builder = layers
        .into_iter()
        .fold(Config::builder(), |builder, layer| builder.add_source(layer));
    let raw = match builder.build().and_then(Config::try_deserialize::<RawSettings>) {
        Ok(raw) => raw,
        Err(error) => {
            // Every key is known and every type is held, so only a fault of the program gets here.
            problems.push(Problem {
                key: String::new(),
                value: String::new(),
                origin: Origin::Default,
                reason: format!("the settings could not be merged: {error}; please report this"),
            });
            return Err(SettingsError { problems });
        }
    };

    let platform_data_dir = sources.platform_data_dir.as_deref();
    let mut checker = Checker {
        origins: &origins,
        platform_data_dir,
        file: file.as_deref(),
        problems: Vec::new(),
    };
    let mut settings = checker.settings(raw, access);
    settings.former = notices;
    problems.append(&mut checker.problems);
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(SettingsError { problems })
    }
}

/// Takes out the keys that do not exist, so that the others can still be checked.
fn refuse_unknown_keys(layers: &mut [Layer], problems: &mut Vec<Problem>) {
    let [defaults, given @ ..] = layers else { return };
    let keys = defaults.entries.iter().map(|entry| entry.key.as_str());
    let known: Vec<&str> = keys.chain([access::KEY]).collect();
    for layer in given {
        layer.entries.retain(|entry| {
            let is_known = known.contains(&entry.key.as_str());
            if !is_known {
                problems.push(Problem {
                    key: entry.key.clone(),
                    value: entry.kind.to_string(),
                    origin: entry.origin.clone(),
                    reason: unknown(entry, &known),
                });
            }
            is_known
        });
    }
}

fn unknown(entry: &Entry, known: &[&str]) -> String {
    let key = entry.key.as_str();
    if known.iter().any(|name| name.starts_with(&format!("{key}."))) {
        return format!("{key} is a section, not a setting; write its settings under [{key}]");
    }
    match suggestion(key, known) {
        Some(name) => format!(
            "there is no such setting; did you mean {}?",
            written(name, &entry.origin)
        ),
        None => "there is no such setting; `clawdbot check --defaults` lists all with their explanation"
            .to_owned(),
    }
}

/// The setting that was probably meant: the same name in another section, or nearly the same name.
fn suggestion<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    if let Some(name) = known.iter().find(|name| last(name) == last(key)) {
        return Some(name);
    }
    let near = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(name, key), *name));
    near.filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
