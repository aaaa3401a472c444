//! The process in which the model runs: frames in on the socket that is its standard input, frames
//! out on the same. It has no settings and opens nothing but the model; when the daemon is gone,
//! the socket ends, and so does it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use actors::worker_protocol::{FrameReader, FromWorker, Spent, ToWorker, VERSION, WorkerStats, write_frame};
use clap::Args;
use models::{Date, Engine, Event, ModelError, SequenceId};
use platform::memory;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

/// Commands that wait while a step is computed; the daemon sends a start and a cancel for each of a
/// handful of sequences. The reader waits when it is full, and so does the daemon's socket.
const COMMANDS_WAITING: usize = 64;

#[derive(Debug, Args)]
pub(super) struct WorkerFlags {}

pub(super) fn run(_flags: WorkerFlags) -> Result<(), Failure> {
    let broken = |error: io::Error| {
        Failure::AtRunTime(format!(
            "{error}. This command is started by `clawdbot serve`, not by hand"
        ))
    };
    let _signals = leave_signals_to_the_daemon().map_err(broken)?;
    // Messages go before words: the broker's threads take what they need, the model what is left. Refused, it
    // only competes with them.
    let _refused = platform::priority::step_back();
    // And when the system is short of memory it is this process that it shall take, which is begun anew, not the broker.
    let _refused = platform::oom::go_first();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(broken)?);
    // A terminal or a file is no socket of the daemon's.
    socket.peer_addr().map_err(broken)?;
    let commands = read_commands(socket.try_clone().map_err(broken)?);
    serve(
        &commands,
        &mut Output {
            socket,
            bytes: Vec::new(),
        },
    )
    .map_err(broken)
}

/// A signal for the whole group (Ctrl-C, the end of a service) is for the daemon, which lets what
/// runs finish and then says stop. Handlers nobody listens to do nothing.
fn leave_signals_to_the_daemon() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let guard = runtime.enter();
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        drop(signal(kind)?);
    }
    drop(guard);
    Ok(runtime)
}

fn serve(commands: &Receiver<ToWorker>, output: &mut Output) -> io::Result<()> {
    let Ok(ToWorker::Load {
        version,
        model,
        engine,
        heartbeat_interval_ms,
    }) = commands.recv()
    else {
        return Ok(());
    };
    if version != VERSION {
        return output.say(&FromWorker::LoadFailed {
            message: format!(
                "the daemon speaks version {version}, this program {VERSION}: restart the daemon"
            ),
        });
    }
    let mut told = None;
    let loaded = Engine::load_with(&model, engine, &mut |done, of| {
        let percent = u8::try_from(done * 100 / of.max(1)).unwrap_or(100);
        if told.replace(percent) != Some(percent) {
            // A daemon that is gone is noticed when the model is ready.
            let _gone = output.say(&FromWorker::Packing { percent });
        }
    });
    let mut engine = match loaded {
        Ok(engine) => {
            if let Some(reason) = engine.model().not_kept() {
                // Where the disk is full, stderr may be on it.
                let _unsaid = writeln!(
                    io::stderr(),
                    "the packed weights could not be kept for the next start: {reason}"
                );
            }
            engine
        }
        Err(error) => {
            return output.say(&FromWorker::LoadFailed {
                message: error.to_string(),
            });
        }
    };
    output.say(&FromWorker::Ready {
        version: VERSION,
        summary: engine.summary().clone(),
    })?;

    let heartbeat = Duration::from_millis(heartbeat_interval_ms.max(100));
    let mut last_heartbeat = Instant::now();
    let mut last_step = Duration::ZERO;
    let mut clocks = Clocks::default();
    output.say(&heartbeat_of(&engine))?;
    loop {
        // What the governor wanted is done with the next look at the commands; it hears so at once.
        let mut says_how_it_stands = false;
        // Between two steps everything that came is looked at; an idle engine sleeps until
        // something comes or a heartbeat is due.
        loop {
            let command = if engine.has_work() || engine.change().is_some() {
                commands.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else {
                commands.recv_timeout(heartbeat.saturating_sub(last_heartbeat.elapsed()))
            };
            match command {
                Ok(ToWorker::Start { id, hurry, request }) => {
                    if let Some(today) = today() {
                        engine.set_today(today);
                    }
                    match engine.begin(id, &request) {
                        Ok(_) => {
                            clocks.began(id);
                            if hurry {
                                engine.hurry(id);
                            }
                        }
                        Err(error) => {
                            let (code, message) = (error.code().to_owned(), error.to_string());
                            output.add(&FromWorker::Refused { id, code, message })?;
                        }
                    }
                }
                Ok(ToWorker::Cancel { id }) => {
                    // One that ended meanwhile has said so already.
                    engine.cancel(id);
                    if !engine.has_work() {
                        break;
                    }
                }
                // One that ended meanwhile has said so already.
                Ok(ToWorker::Pause { id, cache }) => {
                    engine.pause(id, cache);
                }
                Ok(ToWorker::Resume { id }) => {
                    engine.resume(id);
                }
                Ok(ToWorker::FreeKept { bytes }) => {
                    engine.free_kept(usize::try_from(bytes).unwrap_or(usize::MAX));
                    says_how_it_stands = true;
                }
                Ok(ToWorker::CacheBudget { bytes }) => {
                    engine.set_cache_budget(Some(usize::try_from(bytes).unwrap_or(usize::MAX)));
                    says_how_it_stands = true;
                }
                Ok(ToWorker::StepTo { precision }) => match engine.begin_change(precision) {
                    Ok(_) => says_how_it_stands = true,
                    Err(error) => step_failed(&engine, &error, output)?,
                },
                Ok(ToWorker::Load { .. }) => {}
                Ok(ToWorker::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => break,
            }
            // Whoever waits for a word shall not wait for the next heartbeat as well.
            if says_how_it_stands || output.has_words() {
                break;
            }
        }
        // As many parts as take the time of a step, then a step: answers go on at half their pace, and the memory is back
        // soon.
        let change = Instant::now();
        while let Some(advanced) = engine.advance_change() {
            match advanced {
                Ok(_) if engine.change().is_some() => {}
                Ok(_) => {
                    let precision = engine.summary().precision;
                    output.add(&FromWorker::SteppedTo { precision })?;
                    says_how_it_stands = true;
                }
                Err(error) => step_failed(&engine, &error, output)?,
            }
            if change.elapsed() >= last_step {
                break;
            }
        }
        // So that no step is as long as the daemon waits for a sign of life.
        let step = Instant::now();
        let events = engine.step();
        last_step = step.elapsed();
        engine.took(last_step);
        for event in events {
            let spent = clocks.said(&event);
            output.add(&FromWorker::Event { event, spent })?;
        }
        if says_how_it_stands || last_heartbeat.elapsed() >= heartbeat {
            last_heartbeat = Instant::now();
            output.add(&heartbeat_of(&engine))?;
        }
        output.flush()?;
    }
}

/// When sequences that have not ended began, and when their first text came.
#[derive(Default)]
struct Clocks(HashMap<SequenceId, (Instant, Option<Instant>)>);

impl Clocks {
    fn began(&mut self, id: SequenceId) {
        self.0.insert(id, (Instant::now(), None));
    }

    /// With the last event of a sequence, where its time went.
    fn said(&mut self, event: &Event) -> Option<Spent> {
        let now = Instant::now();
        match event {
            Event::Text { id, .. } | Event::ToolCalls { id, .. } => {
                let (_, first) = self.0.get_mut(id)?;
                first.get_or_insert(now);
                None
            }
            Event::Done { id, .. } | Event::Failed { id, .. } => {
                let (began, first) = self.0.remove(id)?;
                Some(Spent {
                    pid: std::process::id(),
                    prefill: first.unwrap_or(now) - began,
                    decode: first.map(|first| now - first),
                })
            }
        }
    }
}

fn heartbeat_of(engine: &Engine) -> FromWorker {
    let model = engine.model();
    let mapped = model.mapped_weights();
    let mapped_bytes = mapped.iter().map(|part| part.len() as u64).sum();
    let resident = mapped.iter().map(|part| memory::resident_bytes_of(part));
    let weights_bytes = model
        .packed_bytes()
        .map_or(model.summary().weights_bytes, |bytes| bytes as u64);
    FromWorker::Heartbeat {
        stats: WorkerStats {
            precision: model.precision(),
            is_stepping: engine.change().is_some(),
            mapped_bytes,
            private_weights_bytes: weights_bytes.saturating_sub(mapped_bytes),
            // A system that does not say has all of it counted.
            resident_bytes: resident.sum::<io::Result<u64>>().ok(),
            engine: engine.stats(),
        },
    }
}

fn step_failed(engine: &Engine, error: &ModelError, output: &mut Output) -> io::Result<()> {
    let (precision, message) = (engine.summary().precision, error.to_string());
    output.add(&FromWorker::StepFailed { precision, message })
}

/// The day that chat templates mention, in UTC; none with a clock before 1970.
pub(super) fn today() -> Option<Date> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since_1970.as_secs()).ok()?;
    let date = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?.date();
    Some(Date {
        year: u16::try_from(date.year()).ok()?,
        month: date.month().into(),
        day: date.day(),
    })
}

fn read_commands(mut socket: UnixStream) -> Receiver<ToWorker> {
    let (sender, receiver) = mpsc::sync_channel(COMMANDS_WAITING);
    std::thread::spawn(move || {
        let (mut reader, mut buffer) = (FrameReader::default(), vec![0; 64 * 1024]);
        // The daemon's end, and a daemon that talks nonsense, mean the same: there is nothing left to do.
        while let Ok(count @ 1..) = socket.read(&mut buffer) {
            reader.push(buffer.get(..count).unwrap_or_default());
            loop {
                match reader.next_frame() {
                    Ok(Some(command)) => {
                        if sender.send(command).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    });
    receiver
}

/// Frames of one step go out in one write.
struct Output {
    socket: UnixStream,
    bytes: Vec<u8>,
}

impl Output {
    fn add(&mut self, frame: &FromWorker) -> io::Result<()> {
        write_frame(frame, &mut self.bytes).map_err(io::Error::other)
    }

    fn has_words(&self) -> bool {
        !self.bytes.is_empty()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    fn say(&mut self, frame: &FromWorker) -> io::Result<()> {
        self.add(frame)?;
        self.flush()
    }
}
