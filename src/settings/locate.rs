//! The sources of settings, and the memory of which one a value came from: a message that names
//! the line, the variable or the flag saves its reader the search.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use config::{ConfigError, Environment, Map, Source, Value, ValueKind};
use directories::ProjectDirs;
use toml::de::{DeTable, DeValue};

use super::access::{self, AccessList};
use super::{DEFAULT_TOML, Problem};

/// Name of the settings file in the directories where it is looked for.
const FILE_NAME: &str = "clawdbot.toml";
/// What the names of our variables begin with.
const VARIABLE_PREFIX: &str = "CLAWDBOT";
const VARIABLE_SEPARATOR: &str = "__";

/// Where settings are taken from. `Default` is no source at all, which is where tests begin.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file of `--config`; without it, `clawdbot.toml` in the data directory and then in the
    /// platform's configuration directory is taken where it exists.
    pub config_file: Option<PathBuf>,
    /// The environment; only `CLAWDBOT__…` is looked at.
    pub environment: HashMap<String, OsString>,
    /// Flags, the last one strongest.
    pub flags: Vec<Flag>,
    /// The platform's directory for the data of this program.
    pub platform_data_dir: Option<PathBuf>,
    /// The platform's directory for the configuration of this program.
    pub platform_config_dir: Option<PathBuf>,
}

/// A setting from the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as typed: `--model`, `--set`.
    pub name: &'static str,
    /// The setting, as `section.key`.
    pub key: String,
    /// Its value as typed.
    pub value: String,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults that are built in.
    Default,
    /// A line of a file.
    Line(PathBuf, usize),
    /// A file as a whole.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

/// The settings of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) entries: Vec<Entry>,
    /// The one list among the settings, if this source has it.
    pub(super) access: Option<AccessList>,
}

/// One setting of one source.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) kind: ValueKind,
    pub(super) origin: Origin,
}

impl Sources {
    /// The sources of this process.
    pub fn of_process(config_file: Option<PathBuf>, flags: Vec<Flag>) -> Sources {
        let platform = ProjectDirs::from("", "", "clawdbot");
        Sources {
            config_file,
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
            flags,
            platform_data_dir: platform.as_ref().map(|dirs| dirs.data_dir().to_path_buf()),
            platform_config_dir: platform.as_ref().map(|dirs| dirs.config_dir().to_path_buf()),
        }
    }

    /// What a service of the system sees: the directory that it is started with, and a settings file; nothing of a shell's variables
    /// or of a person's files.
    pub fn of_service(data_dir: &Path, config_file: Option<PathBuf>) -> Sources {
        let data_dir = Flag {
            name: "--data-dir",
            key: "data_dir".to_owned(),
            value: data_dir.display().to_string(),
        };
        Sources {
            config_file,
            flags: vec![data_dir],
            ..Sources::default()
        }
    }

    /// All layers, the weakest first, and the file of one. What cannot be read becomes a problem, and the rest goes on.
    pub(super) fn layers(&self, problems: &mut Vec<Problem>) -> (Vec<Layer>, Option<PathBuf>) {
        let environment = self.environment_layer(problems);
        let flags = self.flag_layer();
        let file = self.settings_file(&environment, &flags);
        let of_file = file.as_deref().map(|path| file_layer(path, problems));
        let defaults = parse(DEFAULT_TOML, |_| Origin::Default).unwrap_or_default();
        let layers = [Some(defaults), of_file, Some(environment), Some(flags)];
        (layers.into_iter().flatten().collect(), file)
    }

    /// The settings file that is read, if there is one.
    pub fn file(&self) -> Option<PathBuf> {
        // What cannot be read of the environment is said where the settings are loaded.
        self.settings_file(&self.environment_layer(&mut Vec::new()), &self.flag_layer())
    }

    fn settings_file(&self, environment: &Layer, flags: &Layer) -> Option<PathBuf> {
        if self.config_file.is_some() {
            return self.config_file.clone();
        }
        let chosen = [flags, environment]
            .into_iter()
            .find_map(|layer| layer.text("data_dir"))
            .map(PathBuf::from);
        let data_dir = chosen.or_else(|| self.platform_data_dir.clone());
        [data_dir, self.platform_config_dir.clone()]
            .into_iter()
            .flatten()
            .map(|directory| directory.join(FILE_NAME))
            .find(|path| path.exists())
    }

    fn environment_layer(&self, problems: &mut Vec<Problem>) -> Layer {
        let mut readable = Map::new();
        for (name, value) in &self.environment {
            if !name
                .to_uppercase()
                .starts_with(&format!("{VARIABLE_PREFIX}{VARIABLE_SEPARATOR}"))
            {
                continue;
            }
            match value.to_str() {
                Some(text) => {
                    readable.insert(name.to_uppercase(), text.to_owned());
                }
                None => problems.push(Problem {
                    key: String::new(),
                    value: String::new(),
                    origin: Origin::Variable(name.clone()),
                    reason: "its value is not UTF-8; write it in UTF-8".to_owned(),
                }),
            }
        }
        let environment = Environment::with_prefix(VARIABLE_PREFIX)
            .separator(VARIABLE_SEPARATOR)
            .source(Some(readable));
        // Collecting a map of text cannot fail; if it ever did, the variables would count as unset.
        let mut entries: Vec<Entry> = environment
            .collect()
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| Entry {
                origin: Origin::Variable(variable_name(&key)),
                kind: value.kind,
                key,
            })
            .collect();
        // The environment has no order of its own; messages should have one.
        entries.sort_by(|left, right| left.key.cmp(&right.key));
        Layer::of_texts(entries)
    }

    fn flag_layer(&self) -> Layer {
        let entry = |flag: &Flag| Entry {
            key: flag.key.clone(),
            kind: ValueKind::String(flag.value.clone()),
            origin: Origin::Flag(flag.name),
        };
        Layer::of_texts(self.flags.iter().map(entry).collect())
    }
}

/// The variable that sets a key.
fn variable_name(key: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{VARIABLE_SEPARATOR}{}",
        key.to_uppercase().replace('.', VARIABLE_SEPARATOR)
    )
}

/// How a setting is written where another one came from.
pub(super) fn written(key: &str, origin: &Origin) -> String {
    match origin {
        Origin::Variable(_) => variable_name(key),
        _ => key.to_owned(),
    }
}

fn file_layer(path: &Path, problems: &mut Vec<Problem>) -> Layer {
    let mut refuse = |origin, reason| {
        problems.push(Problem {
            key: String::new(),
            value: String::new(),
            origin,
            reason,
        });
        Layer::default()
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let reason = format!("the settings file cannot be read: {error}; correct the path or the file");
            return refuse(Origin::File(path.to_path_buf()), reason);
        }
    };
    match parse(&text, |line| Origin::Line(path.to_path_buf(), line)) {
        Ok(layer) => layer,
        Err((line, message)) => refuse(
            Origin::Line(path.to_path_buf(), line),
            format!(
                "this is not TOML: {message}; correct the line (text stands in quotes, sections in [brackets])"
            ),
        ),
    }
}

/// The settings of a TOML text, flat, each with its line; or the line of the first syntax error.
fn parse(text: &str, origin: impl Fn(usize) -> Origin) -> Result<Layer, (usize, String)> {
    let line_of = |offset: usize| {
        1 + text.as_bytes()[..offset.min(text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
    };
    let table = DeTable::parse(text).map_err(|error| {
        (
            line_of(error.span().map_or(text.len(), |span| span.start)),
            error.message().trim().to_owned(),
        )
    })?;
    let access = table
        .get_ref()
        .get(access::KEY)
        .map(|list| access::read(list, &|offset| origin(line_of(offset))));
    let mut entries = Vec::new();
    flatten(table.get_ref(), "", &mut |key, offset, kind| {
        entries.push((
            offset,
            Entry {
                key,
                kind,
                origin: origin(line_of(offset)),
            },
        ));
    });
    // Tables are sorted by name; messages follow the file.
    entries.sort_by_key(|(offset, _)| *offset);
    Ok(Layer {
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        access,
    })
}

fn flatten(table: &DeTable<'_>, prefix: &str, emit: &mut impl FnMut(String, usize, ValueKind)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            _ if key == access::KEY => {}
            DeValue::Table(inner) if prefix.is_empty() => flatten(inner, &key, emit),
            scalar => emit(key, name.span().start, kind_of(scalar)),
        }
    }
}

fn kind_of(value: &DeValue<'_>) -> ValueKind {
    match value {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Boolean(truth) => ValueKind::Boolean(*truth),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => ValueKind::I64(number),
            // Too large for any setting: kept as text, which no number check accepts.
            Err(_) => ValueKind::String(number.to_string()),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(ValueKind::Nil, ValueKind::Float),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(_) => ValueKind::Array(Vec::new()),
        DeValue::Table(_) => ValueKind::Table(Map::new()),
    }
}

impl Layer {
    /// Of a source that knows only text.
    fn of_texts(mut entries: Vec<Entry>) -> Layer {
        let lists = entries.extract_if(.., |entry| entry.key == access::KEY);
        // The last one is the strongest.
        let access = lists
            .filter_map(|entry| match &entry.kind {
                ValueKind::String(text) => Some(access::read_text(text, &entry.origin)),
                _ => None,
            })
            .last();
        Layer { entries, access }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.key == key)
            .and_then(|entry| match &entry.kind {
                ValueKind::String(text) if !text.is_empty() => Some(text.as_str()),
                _ => None,
            })
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = |entry: &Entry| Value::new(Some(&entry.origin.to_string()), entry.kind.clone());
        Ok(self
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), value(entry)))
            .collect())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => formatter.write_str("built-in default"),
            Origin::Line(path, line) => write!(formatter, "{}:{line}", path.display()),
            Origin::File(path) => write!(formatter, "{}", path.display()),
            Origin::Variable(name) => write!(formatter, "environment variable {name}"),
            Origin::Flag(name) => write!(formatter, "flag {name}"),
        }
    }
}
