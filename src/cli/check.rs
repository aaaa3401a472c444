//! `clawdbot check`: everything that would stop the daemon from starting, said at once.

use std::time::SystemTime;

use actors::certificate_keeper::ServerCertificate;
use clap::Args;

use super::serve::ServeFlags;
use super::{Failure, GlobalFlags, say};
use crate::broker::link_config;
use crate::daemon;
use crate::kept_certificate::lasts;
use crate::library::Library;
use crate::security::certificates::WatchedCertificate;
use crate::security::{DataDir, DataDirError, KeyError, keys};
use crate::settings::{BrokerMode, DEFAULT_TOML, Mqtt, Settings};
use crate::telemetry::logging;

#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    #[command(flatten)]
    serve: ServeFlags,
    /// Print all settings with their defaults and explanations, and check nothing
    #[arg(long)]
    defaults: bool,
}

pub(super) fn run(global: &GlobalFlags, flags: CheckFlags) -> Result<(), Failure> {
    if flags.defaults {
        return say(DEFAULT_TOML.trim_end());
    }
    let settings = global.settings(flags.serve.settings().into_iter().collect())?;
    say(listeners(&settings))?;
    for notice in &settings.former {
        say(format!("settings: {notice}"))?;
    }

    let mut faults = Vec::new();
    for finding in look(&settings) {
        match finding {
            Ok(line) => say(line)?,
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::Misconfigured(faults.join("\nclawdbot: ")))
}

/// What is fine, and what would stop the daemon from starting.
pub(super) fn look(settings: &Settings) -> impl Iterator<Item = Result<String, String>> {
    let findings = [
        Some(data_dir(settings)),
        Some(tls(settings)),
        Some(model(settings)),
        broker(settings),
        log(settings),
    ];
    findings.into_iter().flatten()
}

fn listeners(settings: &Settings) -> String {
    let mqtt = match &settings.broker.address {
        Some(address) if settings.broker.mode == BrokerMode::External => format!("MQTT by {}", address.url()),
        _ => doors(&settings.mqtt),
    };
    format!("settings: fine ({mqtt}, HTTP on {})", settings.metrics.listen)
}

fn doors(mqtt: &Mqtt) -> String {
    let mut doors = format!("MQTT on {}", mqtt.tcp);
    if let Some(address) = mqtt.websocket {
        doors += &format!(", WebSocket on {address}");
    }
    if let Some(path) = &mqtt.unix {
        doors += &format!(", MQTT on {}", path.display());
    }
    doors
}

/// Looks without creating anything: what is missing now is made at the first start.
fn data_dir(settings: &Settings) -> Result<String, String> {
    let path = settings.data_dir.display();
    let dir = match DataDir::open(&settings.data_dir) {
        Ok(dir) => dir,
        Err(DataDirError::Missing(_)) => {
            return Ok(format!(
                "data directory: {path} (does not exist yet; serve creates it)"
            ));
        }
        Err(error) => return Err(error.to_string()),
    };
    dir.check_keys().map_err(|error| error.to_string())?;
    match keys::load(&dir) {
        Ok(_) => Ok(format!("data directory: {path} (fine, with a signing key)")),
        Err(KeyError::Missing { .. }) => Ok(format!(
            "data directory: {path} (fine; serve makes the signing key)"
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn tls(settings: &Settings) -> Result<String, String> {
    let Some(files) = &settings.mqtt.certificate else {
        return Ok(
            "TLS: none (make a certificate by `clawdbot certs init`, or set mqtt.tls_certificate and mqtt.tls_key)"
                .to_owned(),
        );
    };
    let certificate = WatchedCertificate::open(files.clone()).map_err(|error| error.to_string())?;
    let listeners: Vec<String> = [
        ("MQTT", settings.mqtt.tls),
        ("WebSocket", settings.mqtt.secure_websocket),
    ]
    .into_iter()
    .filter_map(|(name, address)| Some(format!("{name} on {}", address?)))
    .collect();
    Ok(format!(
        "TLS: {} (fine, with its key; {}; {})",
        files.certificate.path.display(),
        lasts(&certificate.validity(), SystemTime::now()),
        listeners.join(", ")
    ))
}

fn model(settings: &Settings) -> Result<String, String> {
    let Some(path) = &settings.model.path else {
        return Ok(
            "model: none (requests are answered with an explanation; set one with --model, `clawdbot model pull` brings one)".to_owned(),
        );
    };
    if *path == Library::of(&settings.data_dir).embedded() {
        return Ok("model: the embedded assistant, which comes with the program and understands commands (for one that talks: \
             `clawdbot model pull`, then model.path)".to_owned());
    }
    let model = models::inspect(path).map_err(|error| {
        format!("model.path: {error} (`clawdbot model list` shows the models that are here, `clawdbot model pull` brings one)")
    })?;
    let commands = match settings.model.commands && !model.assistant {
        true => "; commands are understood by the embedded assistant",
        false => "",
    };
    Ok(format!(
        "model: {} ({}, {}, {} parameters, context of {} tokens){commands}",
        model.name, model.architecture, model.format, model.parameters, model.context_length
    ))
}

fn log(settings: &Settings) -> Option<Result<String, String>> {
    logging::look(&settings.log)
        .map_err(|error| error.to_string())
        .transpose()
}

/// Reads what the link to an external broker needs, and connects to nobody.
fn broker(settings: &Settings) -> Option<Result<String, String>> {
    match link_config(settings, daemon::backoff(settings)) {
        Ok(None) => None,
        Ok(Some(link)) => Some(Ok(format!(
            "broker: external, {}:{} (not asked) as client {}",
            link.host, link.port, link.client_id
        ))),
        Err(error) => Some(Err(error.to_string())),
    }
}
