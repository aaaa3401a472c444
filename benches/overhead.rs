//! What the daemon adds to a model: the time from a request's last byte to the first work of the inference process, and from a
//! token of that process to the subscriber, with a hundred idle clients. `benches/README.md` has what was found.
//!
//!     cargo bench --bench overhead [-- REQUESTS]
//!
//! The daemon is the real one, in a process of its own; it starts its inference process from its own program, which is this
//! one, and here that process computes nothing: it notes when a request is there and when it says a token, by the clock that
//! all processes of a machine share, and tells both as the token's text. In the second half two threads of it are busy all
//! the time, as a model's are, at the priority that the real one has. Requests come one after the other, as from a phone.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use actors::worker_protocol::{FrameReader, FromWorker, ToWorker, VERSION, WorkerStats, write_frame};
use bytes::BytesMut;
use models::{EngineStats, Event, FinishReason};
use serde_json::{Value, json};
use topics::packet::{
    Ack, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling,
    Subscribe, SubscribeFilter, SubscriptionOptions, decode,
};

const IDLE_CLIENTS: usize = 100;
const TOKENS: usize = 16;
/// A model of 3 billion parameters takes about so long for a token on a small machine.
const TOKEN_TIME: Duration = Duration::from_millis(30);
const REQUESTS: usize = 300;
const BUSY: &str = "CLAWDBOT_BENCH_BUSY";
const V5: ProtocolVersion = ProtocolVersion::V5;

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

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

/// Nanoseconds of the clock that all processes have in common.
fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
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
                        say(&mut socket, &FromWorker::Event { event })?;
                    }
                    WORKS.store(false, Relaxed);
                    let event = Event::Done {
                        id,
                        finish_reason: FinishReason::Stop,
                        prompt_tokens: 1,
                        cached_tokens: 0,
                        completion_tokens: TOKENS,
                    };
                    say(&mut socket, &FromWorker::Event { event })?;
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
        let daemon = Daemon::start(directory.path(), model, busy)?;
        let idle: Vec<Client> = (0..IDLE_CLIENTS)
            .map(|number| Client::connect(daemon.port, &format!("idle{number}")))
            .collect::<Result<_, _>>()?;
        let mut phone = Client::connect(daemon.port, "phone")?;
        let (mut to_engine, mut to_subscriber) = (Vec::new(), Vec::new());
        for number in 0..requests {
            let asked = phone.ask(number)?;
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

fn tell(what: &str, times: &mut [i64]) {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len().saturating_sub(1) as f64 * share) as usize;
        times.get(place).copied().unwrap_or(0) as f64 / 1e6
    };
    println!(
        "  {what}: median {:.3} ms, P99 {:.3} ms, most {:.3} ms ({} times)",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
}

struct Daemon {
    process: Child,
    port: u16,
}

impl Daemon {
    fn start(directory: &std::path::Path, model: &str, busy: bool) -> Anyhow<Daemon> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--data-dir")
            .arg(directory)
            .args(["serve", "--model", model]);
        for set in [
            "mqtt.tcp=127.0.0.1:0",
            "mqtt.websocket=127.0.0.1:0",
            "metrics.listen=127.0.0.1:0",
            "log.format=json",
            "auth.mode=none",
            "memory.keep_free_percent=0",
            "supervisor.heartbeat_timeout_s=3600",
        ] {
            command.args(["--set", set]);
        }
        if busy {
            command.env(BUSY, "1");
        }
        let mut process = command.stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(process.stderr.take().ok_or("no log")?).lines();
        let mut port = None;
        loop {
            let line = log.next().ok_or("the daemon has ended")??;
            let line: Value = serde_json::from_str(&line).map_err(|_| line)?;
            match line["message"].as_str() {
                Some("mqtt listens") => {
                    let address = line["address"].as_str().unwrap_or_default();
                    port = Some(address.rsplit(':').next().unwrap_or_default().parse()?);
                }
                Some("model loaded") => break,
                _ => {}
            }
        }
        // It must not wait for somebody to read what it logs.
        std::thread::spawn(move || log.for_each(drop));
        let port = port.ok_or("it did not say where it listens")?;
        Ok(Daemon { process, port })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

struct Client {
    name: String,
    socket: TcpStream,
    input: BytesMut,
}

impl Client {
    /// Connects, and subscribes to its replies.
    fn connect(port: u16, name: &str) -> Anyhow<Client> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        let mut client = Client {
            name: name.to_owned(),
            socket,
            input: BytesMut::new(),
        };
        client.send(Packet::Connect(Box::new(Connect {
            protocol: V5,
            is_bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_id: name.into(),
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        })))?;
        let filter = SubscribeFilter {
            filter: format!("clawdbot/{name}/reply").into(),
            options: SubscriptionOptions {
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::default(),
            },
        };
        client.send(Packet::Subscribe(Subscribe {
            packet_id: 1,
            subscription_identifier: None,
            user_properties: Default::default(),
            filters: vec![filter],
        }))?;
        while !matches!(client.receive()?, Packet::SubAck(_)) {}
        Ok(client)
    }

    /// Asks, and says when the last byte was on its way.
    fn ask(&mut self, number: usize) -> Anyhow<i64> {
        let request = json!({"id": number.to_string(), "prompt": "what time is it", "max_tokens": TOKENS});
        let asked = now_ns();
        self.send(Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: format!("clawdbot/{}/command", self.name).into(),
            packet_id: u16::try_from(number % 60_000)? + 1,
            properties: None,
            payload: request.to_string().into(),
        }))?;
        Ok(asked)
    }

    /// The next item, and when it came.
    fn item(&mut self) -> Anyhow<(Value, i64)> {
        loop {
            if let Packet::Publish(publish) = self.receive()? {
                let came = now_ns();
                self.send(Packet::PubAck(Ack::new(publish.packet_id, ReasonCode::Success)))?;
                return Ok((serde_json::from_slice(&publish.payload)?, came));
            }
        }
    }

    fn receive(&mut self) -> Anyhow<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, Some(V5), 1 << 20)? {
                return Ok(packet);
            }
            let mut chunk = [0; 4096];
            let count = self.socket.read(&mut chunk)?;
            if count == 0 {
                return Err("the daemon closed the connection".into());
            }
            self.input
                .extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }

    fn send(&mut self, packet: Packet) -> Anyhow<()> {
        let mut bytes = BytesMut::new();
        packet.encode(V5, &mut bytes)?;
        Ok(self.socket.write_all(&bytes)?)
    }
}
