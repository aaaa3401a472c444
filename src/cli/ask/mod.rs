//! `clawdbot ask`: an MQTT 5 client like any other, over the same listener, with a token of its own.
//! What works here works for every device.

mod answer;
mod connection;

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Map, Value, json};

use self::connection::Conversation;
use super::form::{FormFlags, read_json};
use super::token::check_device_id;
use super::{Failure, GlobalFlags, block_on};
use crate::security::{DataDir, keys, random};
use crate::settings::{AuthMode, BrokerMode, Settings};

#[derive(Debug, Args)]
pub(super) struct AskFlags {
    /// What to ask; `-` reads it from standard input
    text: String,
    /// Address of the daemon [default: the setting mqtt.tcp]
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Device in whose name to ask
    #[arg(long, value_name = "NAME", default_value = "cli")]
    device: String,
    /// Token of that device [default: signed with the key in the data directory]
    #[arg(long, value_name = "JWT")]
    token: Option<String>,
    /// Print the items of the answer as they come, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// Options that travel in the request. What they may be is for the daemon to say.
#[derive(Debug, Args)]
struct Options {
    /// Longest answer, in tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// 0 always takes the likeliest token, 1 draws as the model was trained
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Draw among this many likeliest tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<u64>,
    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Draw among tokens with at least this share of the likeliest one's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Above 1 makes repetitions less likely
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f64>,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// urgent, interactive or background
    #[arg(long, value_name = "P")]
    priority: Option<String>,
    #[command(flatten)]
    form: FormFlags,
    /// Tools that the model may call, as OpenAI writes them: a JSON list in a file; each call is printed as a line of
    /// JSON
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// none, auto or required, or the name of the tool that must be called
    #[arg(long, value_name = "CHOICE", requires = "tools")]
    tool_choice: Option<String>,
    /// Each token's log-probability, with this many of the likeliest tokens; in the items of --json
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<u64>,
}

pub(super) fn run(global: &GlobalFlags, flags: AskFlags) -> Result<(), Failure> {
    check_device_id(&flags.device)?;
    let settings = global.settings(Vec::new())?;
    let (host, port) = address(flags.connect.as_deref(), &settings)?;
    let token = token(flags.token.as_deref(), &flags.device, &settings)?;
    let prompt = if flags.text == "-" {
        standard_input()?
    } else {
        flags.text
    };
    let unique = random::hex::<8>()
        .ok_or_else(|| Failure::AtRunTime("the system gave no random numbers; try again".to_owned()))?;
    let conversation = Conversation {
        host,
        port,
        token,
        request: flags.options.request(&prompt, &unique)?.to_string(),
        device: flags.device,
        unique,
        json: flags.json,
    };
    block_on(conversation.hold(io::stdout().lock()))
}

/// Asks a running daemon in this device's name, as any client of it would, and throws the answer away.
pub(super) async fn question(settings: &Settings, device: &str, prompt: &str) -> Result<(), Failure> {
    let unique = random::hex::<8>()
        .ok_or_else(|| Failure::AtRunTime("the system gave no random numbers; try again".to_owned()))?;
    let (host, port) = address(None, settings)?;
    let request = json!({"id": unique, "prompt": prompt, "max_tokens": 64, "history": false});
    let conversation = Conversation {
        host,
        port,
        token: token(None, device, settings)?,
        request: request.to_string(),
        device: device.to_owned(),
        unique,
        json: false,
    };
    conversation.hold(io::sink()).await
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|error| {
        Failure::AtRunTime(format!(
            "standard input could not be read: {error}; it must be UTF-8 text"
        ))
    })?;
    Ok(text)
}

fn address(connect: Option<&str>, settings: &Settings) -> Result<(String, u16), Failure> {
    if let Some(text) = connect {
        return text
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(|| {
                let example = "write it as HOST:PORT, for example 127.0.0.1:1883";
                Failure::Misconfigured(format!("--connect {text:?} is no address; {example}"))
            });
    }
    if settings.broker.mode == BrokerMode::External {
        let message = "broker.mode is \"external\", so this daemon has no listener to ask at; ask by a client of \
                       that broker, or name the listener of another daemon with --connect";
        return Err(Failure::Misconfigured(message.to_owned()));
    }
    let mut address = settings.mqtt.tcp;
    if address.ip().is_unspecified() {
        // Listening on every address means that this machine's own is among them.
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            [0, 0, 0, 0, 0, 0, 0, 1].into()
        });
    }
    let host = if address.is_ipv4() {
        address.ip().to_string()
    } else {
        format!("[{}]", address.ip())
    };
    Ok((host, address.port()))
}

fn token(given: Option<&str>, device: &str, settings: &Settings) -> Result<Option<String>, Failure> {
    if let Some(token) = given {
        return Ok(Some(token.trim().to_owned()));
    }
    if settings.auth.mode == AuthMode::None {
        return Ok(None);
    }
    let elsewhere = |error: &dyn std::error::Error| {
        Failure::AtRunTime(format!(
            "{error}; or give a token with --token, if the daemon runs elsewhere"
        ))
    };
    let dir = DataDir::open(&settings.data_dir).map_err(|error| elsewhere(&error))?;
    let key = keys::load(&dir).map_err(|error| elsewhere(&error))?;
    key.issue(device, SystemTime::now(), settings.auth.token_lifetime)
        .map(Some)
        .map_err(Failure::at_run_time)
}

impl Options {
    fn request(self, prompt: &str, id: &str) -> Result<Value, Failure> {
        let format = self.form.response_format()?.map(serde_json::to_value);
        let tools: Option<Value> = self.tools.map(|path| read_json("--tools", &path)).transpose()?;
        let tool_choice = self.tool_choice.map(|choice| match choice.as_str() {
            "none" | "auto" | "required" => Value::from(choice),
            name => json!({"type": "function", "function": {"name": name}}),
        });
        let optional = [
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("temperature", self.temperature.map(Value::from)),
            ("top_k", self.top_k.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("min_p", self.min_p.map(Value::from)),
            ("repetition_penalty", self.repetition_penalty.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
            (
                "stop",
                Some(self.stop).filter(|texts| !texts.is_empty()).map(Value::from),
            ),
            ("priority", self.priority.map(Value::from)),
            (
                "response_format",
                format.transpose().map_err(Failure::misconfigured)?,
            ),
            ("tools", tools),
            ("tool_choice", tool_choice),
            ("logprobs", self.logprobs.map(|_| Value::from(true))),
            ("top_logprobs", self.logprobs.map(Value::from)),
        ];
        let given = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let required = [("prompt".to_owned(), json!(prompt)), ("id".to_owned(), json!(id))];
        Ok(Value::Object(
            required.into_iter().chain(given).collect::<Map<_, _>>(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &str) -> Options {
        #[derive(clap::Parser)]
        struct Alone {
            #[arg(long)]
            json: bool,
            #[command(flatten)]
            options: Options,
        }
        let alone: Alone = clap::Parser::parse_from(["ask"].into_iter().chain(flags.split_whitespace()));
        assert!(alone.json || !flags.contains("--json "));
        alone.options
    }

    #[test]
    fn a_request_carries_only_the_options_that_were_given() {
        let options = Options {
            stop: vec!["\n".to_owned()],
            ..options("--max-tokens 7 --temperature 0")
        };
        let expected =
            json!({"prompt": "Hi", "id": "x", "max_tokens": 7, "temperature": 0.0, "stop": ["\n"]});
        assert_eq!(options.request("Hi", "x").unwrap(), expected);
    }

    #[test]
    fn forms_tools_and_log_probabilities_travel_in_openais_words() {
        let request = options("--choice yes --choice no --json --logprobs 2").request("Hi", "x");
        let expected = json!({"prompt": "Hi", "id": "x",
            "response_format": {"type": "choice", "choices": ["yes", "no"]}, "logprobs": true, "top_logprobs": 2});
        assert_eq!(request.unwrap(), expected);
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let schema = file("schema.json", r#"{"type": "object"}"#);
        let tools = file(
            "tools.json",
            r#"[{"type": "function", "function": {"name": "f"}}]"#,
        );
        let flags = format!("--json-schema {schema} --tools {tools} --tool-choice f");
        let request = options(&flags).request("Hi", "x").unwrap();
        assert_eq!(
            request["response_format"]["json_schema"]["schema"]["type"],
            "object"
        );
        assert_eq!(request["tools"][0]["function"]["name"], "f");
        assert_eq!(request["tool_choice"]["function"]["name"], "f");
        let broken = file("broken.json", "{");
        for flags in [format!("--json-schema {broken}"), "--tools /nowhere".to_owned()] {
            let failure = options(&flags).request("Hi", "x").unwrap_err();
            assert!(format!("{failure:?}").contains("give a JSON file"), "{failure:?}");
        }
    }
}
