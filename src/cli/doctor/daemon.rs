//! What a running daemon says and does: asked as its clients and Prometheus ask it.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Patient;
use crate::cli::report::{Checked, Finding};
use crate::cli::{Failure, ask, block_on};
use crate::settings::BrokerMode;

/// For a connection to a port of this machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the answer to a question: a large model on a busy machine reads for a while before it speaks.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// The design's bound for a request.
const SLOW_ANSWER: Duration = Duration::from_millis(500);
/// In whose name `clawdbot ask` asks as well.
const DEVICE: &str = "cli";
/// A question that the assistant understands and that any other model answers in a few words.
const QUESTION: &str = "what time is it?";

fn at<'v>(patient: &'v Patient, path: &str) -> &'v Value {
    let status = patient.status.as_ref();
    status
        .and_then(|status| status.pointer(path))
        .unwrap_or(&Value::Null)
}

pub(super) fn runs(patient: &Patient) -> Checked {
    let (version, pid) = (at(patient, "/version"), at(patient, "/pid"));
    let uptime = at(patient, "/uptime_s").as_u64().unwrap_or(0);
    let told = format!(
        "version {} runs as process {pid} since {uptime} s",
        version.as_str().unwrap_or("?")
    );
    if version.as_str() != Some(env!("CARGO_PKG_VERSION")) {
        let message = format!("{told}, and this program is {}", env!("CARGO_PKG_VERSION"));
        return Err(Finding::warning(message, "restart the daemon"));
    }
    Ok(told)
}

fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => [127, 0, 0, 1].into(),
            SocketAddr::V6(_) => [0, 0, 0, 0, 0, 0, 0, 1].into(),
        });
    }
    address
}

pub(super) fn listeners(patient: &Patient) -> Checked {
    let settings = &patient.settings;
    let listeners = settings.opened();
    for (setting, address) in &listeners {
        TcpStream::connect_timeout(&reachable(*address), PATIENCE).map_err(|error| {
            let message = format!("{address} does not answer: {error}");
            let hint = "was the daemon started with other settings or flags? Restart it, and look at what it logs at its start";
            Finding::error(message, hint).about(setting)
        })?;
    }
    Ok(format!("{} ports take connections", listeners.len()))
}

pub(super) fn model(patient: &Patient) -> Checked {
    let name = at(patient, "/inference/model/name").as_str().unwrap_or("?");
    let lost = at(patient, "/inference/workers_lost").as_u64().unwrap_or(0);
    match at(patient, "/inference/worker").as_str() {
        Some("ready") if lost == 0 => Ok(format!("{name} answers")),
        Some("ready") => {
            let message =
                format!("{name} answers, but {lost} of its processes were lost since the daemon's start");
            let hint = "look in the log for \"inference process lost\": it says how each ended; a lack of memory is seen in `clawdbot top`";
            Err(Finding::warning(message, hint))
        }
        Some("no_model") => {
            let hint = "set model.path to \"embedded\", or to a model that `clawdbot model pull` brings";
            Err(Finding::info("none is configured", hint).about("model.path"))
        }
        Some("unavailable") => {
            let reason = at(patient, "/inference/reason")
                .as_str()
                .unwrap_or("no reason is known");
            let hint = "`clawdbot model show` and `clawdbot model fit` tell whether the file and the memory are as they must be";
            Err(Finding::error(format!("it cannot be loaded: {reason}"), hint).about("model.path"))
        }
        _ => {
            let percent = at(patient, "/inference/packed_percent").as_u64();
            let message = match percent {
                Some(percent) => format!("it is being loaded: {percent} % of its weights are packed"),
                None if lost > 0 => format!("it is being loaded anew: {lost} processes were lost"),
                None => "it is being loaded".to_owned(),
            };
            Err(Finding::warning(message, "wait a moment, and run doctor again"))
        }
    }
}

pub(super) fn precision(patient: &Patient) -> Checked {
    let now = at(patient, "/inference/model/precision").as_str();
    let Some(now) = now else {
        return Ok("nothing runs".to_owned());
    };
    let wanted = patient.settings.model.precision.map(|precision| precision.name());
    match wanted {
        Some(wanted) if wanted != now && at(patient, "/inference/model/assistant") != true => {
            let message = format!("the model runs at {now}, not at {wanted} as is configured");
            let hint = "memory is short, or its process was lost: `clawdbot top` says why; it comes back by itself when there is room";
            Err(Finding::warning(message, hint).about("model.precision"))
        }
        _ => Ok(format!("the model runs at {now}")),
    }
}

pub(super) fn commands(patient: &Patient) -> Checked {
    match at(patient, "/commands").as_str() {
        None if patient.settings.model.commands && at(patient, "/inference/model/assistant") == false => {
            let hint = "the log of its start says why; see that the models folder can be written and has room, and restart the daemon";
            Err(
                Finding::warning("the assistant does not stand beside the model", hint)
                    .about("model.commands"),
            )
        }
        None => Ok("understood by the model itself, or by nobody".to_owned()),
        Some("ready") => Ok("understood by the assistant beside the model".to_owned()),
        Some(_) => {
            let hint =
                "look in the log for \"inference process lost\"; meanwhile the model answers all of it";
            Err(Finding::warning("the assistant beside the model is not there", hint).about("model.commands"))
        }
    }
}

pub(super) fn store(patient: &Patient) -> Checked {
    let count = |name: &str| {
        let counters = at(patient, "/counters");
        counters.get(name).and_then(Value::as_u64).unwrap_or(0)
    };
    let (damaged, failures) = (count("clawdbot.store.damaged"), count("clawdbot.store.failures"));
    if damaged > 0 {
        let message = format!("{damaged} damaged values were found and set aside");
        let hint = "`clawdbot store verify` says what; put a backup back if it is missed, and have the disk checked (smartctl)";
        return Err(Finding::error(message, hint).about(patient.settings.data_dir.display()));
    }
    if failures > 0 {
        let message = format!("it could not be written {failures} times since the daemon's start");
        let hint =
            "see whether the disk is or was full (df), and the log for \"the store cannot be written\"";
        return Err(Finding::warning(message, hint).about(patient.settings.data_dir.display()));
    }
    Ok(format!(
        "{} commits, none failed",
        count("clawdbot.store.commits")
    ))
}

pub(super) fn request(patient: &Patient) -> Checked {
    let settings = &patient.settings;
    if settings.broker.mode == BrokerMode::External {
        return Ok("not tried: an external broker carries the messages".to_owned());
    }
    if at(patient, "/inference/worker").as_str() == Some("no_model") {
        return Ok("not tried: no model is configured".to_owned());
    }
    let began = Instant::now();
    let asked = block_on(async {
        match tokio::time::timeout(ANSWER_PATIENCE, ask::question(settings, DEVICE, QUESTION)).await {
            Ok(answered) => answered,
            Err(_) => Err(Failure::AtRunTime(format!(
                "there was no whole answer within {} s",
                ANSWER_PATIENCE.as_secs()
            ))),
        }
    });
    let took = began.elapsed();
    let hint = "`clawdbot status` says what runs and waits; the log says what went wrong";
    match asked {
        Ok(()) if took <= SLOW_ANSWER => Ok(format!(
            "a token was made, a client let in, and its question answered within {} ms",
            took.as_millis()
        )),
        Ok(()) => {
            let message = format!(
                "a question was answered, but within {} ms instead of 500",
                took.as_millis()
            );
            let hint = "with a model that talks, that is what its words take; else see what the machine does beside (`clawdbot top`)";
            Err(Finding::info(message, hint))
        }
        Err(Failure::AtRunTime(message) | Failure::Misconfigured(message)) => {
            Err(Finding::error(message, hint).about(settings.mqtt.tcp))
        }
        Err(Failure::Interrupted) => Err(Finding::error("it was interrupted", hint)),
    }
}

pub(super) fn metrics(patient: &Patient) -> Checked {
    let address = reachable(patient.settings.metrics.listen);
    let unread = |problem: String| {
        let hint = "was the daemon started with another metrics.listen? Restart it, and look at what it logs at its start";
        Finding::error(problem, hint).about("metrics.listen")
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .proxy(None)
        .build()
        .into();
    let scraped = agent
        .get(format!("http://{address}/metrics"))
        .call()
        .and_then(|mut response| response.body_mut().read_to_string());
    let text =
        scraped.map_err(|error| unread(format!("http://{address}/metrics cannot be read: {error}")))?;
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    if !text.contains("clawdbot_mqtt_connections ") {
        return Err(unread(format!(
            "http://{address}/metrics is not a daemon's: clawdbot_mqtt_connections is not among its {series} series"
        )));
    }
    Ok(format!("{series} series at http://{address}/metrics"))
}
