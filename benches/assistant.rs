//! How long the embedded assistant takes: the whole answer to a command over MQTT, asked alone and by sixteen clients at once; how
//! soon it is loaded, and what its process has in memory then. `benches/README.md` has what was found.
//!
//!     cargo bench --bench assistant [-- SENTENCES]
//!
//! The sentences are those of `tests/assistant`, both languages in turn.

mod support;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;

use models::assistant::score::{Labelled, read};
use models::{Engine, EngineOptions};
use serde_json::Value;
use support::{Anyhow, Client, Daemon, now_ns, tell};

const SENTENCES: usize = 400;
const AT_ONCE: usize = 16;
const SETS: [&str; 2] = ["tests/assistant/en-dev.jsonl", "tests/assistant/zh-dev.jsonl"];
const MAX_TOKENS: usize = 256;
/// Times that it is loaded.
const LOADS: usize = 20;

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    if matches!(
        first.as_deref(),
        Some("inference-worker" | "pack-weights" | "--data-dir")
    ) {
        return clawdbot::cli::main();
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("assistant: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Anyhow<()> {
    let count = std::env::args().filter_map(|arg| arg.parse().ok()).next();
    let sentences = sentences(count.unwrap_or(SENTENCES))?;
    let directory = tempfile::tempdir()?;
    let daemon = Daemon::start(directory.path(), "embedded", &[], &[])?;

    let mut tokens = 0;
    let mut alone = asked_by(daemon.port, "alone", &sentences, &mut tokens)?;
    println!(
        "an answer, {:.1} tokens in the mean:",
        tokens as f64 / sentences.len() as f64
    );
    tell("asked alone", &mut alone);

    let mut at_once = thread::scope(|scope| -> Anyhow<Vec<i64>> {
        let port = daemon.port;
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let mut own = sentences.clone();
                own.rotate_left(number * sentences.len() / AT_ONCE);
                scope.spawn(move || {
                    let asked = asked_by(port, &format!("client{number}"), &own, &mut 0);
                    asked.map_err(|error| error.to_string())
                })
            })
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| "a client has ended")??);
        }
        Ok(all)
    })?;
    tell("asked by sixteen clients at once", &mut at_once);

    let status = Command::new(std::env::current_exe()?)
        .arg("--data-dir")
        .arg(directory.path())
        .args(["status", "--json"])
        .output()?;
    let status: Value = serde_json::from_slice(&status.stdout)?;
    println!("  memory: {}", status["memory"]);
    loads(directory.path())
}

fn sentences(count: usize) -> Anyhow<Vec<String>> {
    let mut sets = Vec::new();
    for path in SETS {
        sets.push(read(&std::fs::read_to_string(path)?)?);
    }
    let longest = sets.iter().map(Vec::len).max().unwrap_or(0);
    let mixed = (0..longest).flat_map(|at| sets.iter().filter_map(move |set| set.get(at)));
    let texts: Vec<String> = mixed
        .map(|Labelled { text, .. }| text.clone())
        .take(count)
        .collect();
    match texts.is_empty() {
        true => Err("no sentence is to be asked".into()),
        false => Ok(texts),
    }
}

/// How long each answer took, from the last byte of the question to its last item.
fn asked_by(port: u16, name: &str, sentences: &[String], tokens: &mut u64) -> Anyhow<Vec<i64>> {
    let mut client = Client::connect(port, name)?;
    let mut times = Vec::with_capacity(sentences.len());
    for (number, sentence) in sentences.iter().enumerate() {
        let asked = client.ask(number, sentence, MAX_TOKENS)?;
        loop {
            let (item, came) = client.item()?;
            if item["done"] != true {
                continue;
            }
            if item["finish_reason"] != "stop" {
                return Err(format!("{sentence:?}: {item}").into());
            }
            *tokens += item["usage"]["completion_tokens"].as_u64().unwrap_or(0);
            times.push(came - asked);
            break;
        }
    }
    Ok(times)
}

/// As the inference process loads it, packed and cold caches of the processor aside.
fn loads(directory: &Path) -> Anyhow<()> {
    let embedded = directory.join("models/.embedded");
    let file = std::fs::read_dir(embedded)?
        .next()
        .ok_or("no model was written down")??;
    let mut times = Vec::new();
    for _ in 0..LOADS {
        let options = EngineOptions {
            packed_directory: Some(directory.join("packed")),
            ..EngineOptions::default()
        };
        let began = now_ns();
        let engine = Engine::load(&file.path(), options)?;
        times.push(now_ns() - began);
        drop(engine);
    }
    tell("loaded", &mut times);
    Ok(())
}
