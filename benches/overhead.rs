//! What the daemon adds to a model: the time from a request's last byte to the first work of the inference process, and from a
//! token of that process to the subscriber, with a hundred idle clients. `benches/README.md` has what was found.
//!
//!     cargo bench --bench overhead [-- REQUESTS]
//!
//! The daemon is the real one, in a process of its own; it starts its inference process from its own program, which is this
//! one, and here that process computes nothing: it notes when a request is there and when it says a token, by the clock that
//! all processes of a machine share, and tells both as the token's text. In the second half two threads of it are busy all
//! the time, as a model's are, at the priority that the real one has. Requests come one after the other, as from a phone.

mod support;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use actors::worker_protocol::{FrameReader, FromWorker, ToWorker, VERSION, WorkerStats, write_frame};
use models::{EngineStats, Event, FinishReason};
use support::{Anyhow, Client, Daemon, now_ns, tell};

const IDLE_CLIENTS: usize = 100;
const TOKENS: usize = 16;
/// A model of 3 billion parameters takes about so long for a token on a small machine.
const TOKEN_TIME: Duration = Duration::from_millis(30);
const REQUESTS: usize = 300;
const BUSY: &str = "CLAWDBOT_BENCH_BUSY";
fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    let outcome = match first.as_deref() {
        Some("inference-worker") => worker(),
        Some("--data-dir") => return clawdbot::cli::main(),
        _ => load(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overhead: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The process in the model's place.
fn worker() -> Anyhow<()> {
    static WORKS: AtomicBool = AtomicBool::new(false);
    let _refused = platform::priority::step_back();
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if std::env::var_os(BUSY).is_some() {
        for _ in 0..2 {
            std::thread::spawn(|| {
                loop {
                    while WORKS.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
    }
    let mut reader = FrameReader::default();
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let there = now_ns();
        reader.push(buffer.get(..count).unwrap_or_default());
        while let Some(frame) = reader.next_frame()? {
            match frame {
                ToWorker::Load { model, .. } => {
                    let summary = models::inspect(&model)?;
                    let precision = summary.precision;
                    say(
                        &mut socket,
                        &FromWorker::Ready {
                            version: VERSION,
                            summary,
                        },
                    )?;
                    let stats = WorkerStats {
                        precision,
                        is_stepping: false,
                        mapped_bytes: 0,
                        private_weights_bytes: 0,
                        resident_bytes: None,
                        engine: EngineStats::default(),
                    };
                    let mut beats = socket.try_clone()?;
                    std::thread::spawn(move || {
                        // The end of the daemon is seen by the other thread.
                        while say(&mut beats, &FromWorker::Heartbeat { stats }).is_ok() {
                            std::thread::sleep(Duration::from_secs(3600));
                        }
                    });
                }
                ToWorker::Start { id, .. } => {
                    WORKS.store(true, Relaxed);
                    for token in 0..TOKENS {
                        std::thread::sleep(TOKEN_TIME);
                        let event = Event::Text {
                            id,
                            text: format!("{there} {}\n", now_ns()),
                            tokens: vec![u32::try_from(token)?],
                            logprobs: Vec::new(),
                        };
                        say(&mut socket, &FromWorker::Event { event, spent: None })?;
                    }
                    WORKS.store(false, Relaxed);
                    let event = Event::Done {
                        id,
                        finish_reason: FinishReason::Stop,
                        prompt_tokens: 1,
                        cached_tokens: 0,
                        completion_tokens: TOKENS,
                    };
                    say(&mut socket, &FromWorker::Event { event, spent: None })?;
                }
                ToWorker::Stop => return Ok(()),
                _ => {}
            }
        }
    }
}

fn say(socket: &mut UnixStream, frame: &FromWorker) -> Anyhow<()> {
    let mut bytes = Vec::new();
    write_frame(frame, &mut bytes)?;
    Ok(socket.write_all(&bytes)?)
}

fn load() -> Anyhow<()> {
    let requests = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .next()
        .unwrap_or(REQUESTS);
    let model = "../shared/data/models/stories260K/stories260K-f32.gguf";
    if !std::path::Path::new(model).exists() {
        println!("overhead: {model} is missing, whose header the daemon reads; nothing is measured");
        return Ok(());
    }
    for busy in [false, true] {
        let directory = tempfile::tempdir()?;
        let daemon = Daemon::start(
            directory.path(),
            model,
            &["supervisor.heartbeat_timeout_s=3600"],
            if busy { &[(BUSY, "1")] } else { &[] },
        )?;
        let idle: Vec<Client> = (0..IDLE_CLIENTS)
            .map(|number| Client::connect(daemon.port, &format!("idle{number}")))
            .collect::<Result<_, _>>()?;
        let mut phone = Client::connect(daemon.port, "phone")?;
        let (mut to_engine, mut to_subscriber) = (Vec::new(), Vec::new());
        for number in 0..requests {
            let asked = phone.ask(number, "what time is it", TOKENS)?;
            let mut begun = None;
            loop {
                let (item, came) = phone.item()?;
                if item["done"] == true {
                    if item["finish_reason"] != "stop" {
                        return Err(format!("{item}").into());
                    }
                    break;
                }
                let delta = item["delta"].as_str().unwrap_or_default();
                for line in delta.lines() {
                    let (there, said) = line.split_once(' ').ok_or("not what the process said")?;
                    begun.get_or_insert(there.parse::<i64>()? - asked);
                    to_subscriber.push(came - said.parse::<i64>()?);
                }
            }
            // The first requests find everything cold.
            if number >= 20 {
                to_engine.extend(begun);
            } else {
                to_subscriber.clear();
            }
        }
        let how = if busy {
            "two threads of the inference process busy"
        } else {
            "the inference process idle"
        };
        println!("{} clients idle, {how}:", idle.len());
        tell(
            "from a request's last byte to the inference process",
            &mut to_engine,
        );
        tell("from a token to the subscriber", &mut to_subscriber);
    }
    Ok(())
}
