//! An inference process that is made up: it says what [`answer`] has for a request, a token a step, and ends as it is told.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::ResponseFuture;
use actors::inference_worker::host::{Host, Hosted, Process, Shelf};
use actors::memory_governor::Meter;
use actors::policy::failover::Cause;
use actors::start_room::ModelSizes;
use actors::worker_protocol::{FrameReader, FromWorker, ToWorker, VERSION, WorkerStats, write_frame};
use models::{
    EngineStats, Event, FinishReason, GenerateRequest, KvPrecision, ModelSummary, PackedFile, Precision,
    Prompt, SequenceId,
};
use platform::memory::{Limit, MachineMemory, MemoryPressure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::world::{Chance, World};

/// Where the model is said to be.
pub(super) const MODEL: &str = "/simulated/model";
/// And what takes its place.
pub(super) const FALLBACK: &str = "/simulated/fallback";

/// The assistant beside it.
pub(super) const ASSISTANT: &str = "/simulated/assistant";

const TOTAL_BYTES: u64 = 8 << 30;
/// What the system has for itself.
const SYSTEM_BYTES: u64 = 1 << 30;
const KV_BYTES_PER_TOKEN: u64 = 1 << 19;
const PROMPT_TOKENS: usize = 40;
const PREFILL_TOKENS_PER_STEP: usize = 16;

fn weights_bytes(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 6 << 30,
        Precision::F16 => 4 << 30,
        Precision::Int8 => 2 << 30,
        Precision::Int4 => 1 << 30,
    }
}

/// The words of a request's answer, whoever gives it.
pub(super) fn answer(prompt: &str) -> impl Iterator<Item = (u32, String)> + use<> {
    let mut seed = prompt.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    seed ^= seed >> 29;
    let mut chance = Chance::new(seed);
    let length = 1 + chance.below(60);
    (0..length).map(move |_| {
        let token = u32::try_from(chance.below(50_000)).unwrap_or(0);
        (token, format!(" {token}"))
    })
}

/// What the assistant says of a prompt, where that is a command: one in three is.
pub(super) fn command(prompt: &str) -> Option<String> {
    let is_command = prompt.bytes().map(u32::from).sum::<u32>().is_multiple_of(3);
    is_command.then(|| format!("Done: {prompt}."))
}

/// The assistant's whole answer, in the form of its schema.
fn understood(prompt: &str) -> String {
    let (intent, slots, say) = match command(prompt) {
        Some(say) => ("HassTurnOn", json!({"name": prompt}), say),
        None => ("unsupported", json!({}), "No.".to_owned()),
    };
    json!({"actions": [{"intent": intent, "slots": slots}], "say": say}).to_string()
}

/// What the client named the request. A conversation's earlier turns change nothing of an answer here.
fn asked(request: &GenerateRequest) -> String {
    match &request.prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Messages(messages) => messages
            .last()
            .map_or_else(String::new, |last| last.content.clone()),
    }
}

/// A process that runs, for who ends it.
#[derive(Debug, Default)]
struct Control {
    end: Mutex<Option<(Cause, String)>>,
    ended: Notify,
    hangs: Mutex<bool>,
    memory_bytes: Mutex<(u64, u64)>,
}

impl Control {
    fn end(&self, cause: Cause, reason: &str) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert_with(|| (cause, reason.to_owned()));
        self.ended.notify_waiters();
    }

    fn has_ended(&self) -> Option<(Cause, String)> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn wait(&self) -> (Cause, String) {
        loop {
            let ended = self.ended.notified();
            if let Some(end) = self.has_ended() {
                return end;
            }
            ended.await;
        }
    }

    fn hangs(&self) -> bool {
        *self.hangs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where they run.
#[derive(Clone)]
pub(super) struct Machine {
    world: World,
    chance: Arc<Mutex<Chance>>,
    running: Running,
    /// The assistant's process.
    beside: Running,
}

type Running = Arc<Mutex<Option<Arc<Control>>>>;

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

impl Machine {
    pub(super) fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            chance: Arc::new(Mutex::new(world.chance())),
            running: Arc::default(),
            beside: Arc::default(),
        }
    }

    /// Ends the process that runs, if one does.
    pub(super) fn kill(&self, cause: Cause) {
        if let Some(control) = self.running() {
            control.end(cause, "the simulation ended it");
        }
    }

    /// Ends the assistant's, or has it say nothing more.
    pub(super) fn trouble_the_assistant(&self, hangs: bool) {
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match beside {
            Some(control) if hangs => {
                *control.hangs.lock().unwrap_or_else(PoisonError::into_inner) = true;
            }
            Some(control) => control.end(Cause::Memory, "the simulation ended it"),
            None => {}
        }
    }

    /// Has it say nothing more.
    pub(super) fn hang(&self) {
        if let Some(control) = self.running() {
            *control.hangs.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
    }

    fn running(&self) -> Option<Arc<Control>> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Host for Machine {
    fn start(&self) -> io::Result<Hosted> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner).fork();
        if !self.world.is_calm() && chance.one_in(40) {
            return Err(io::Error::other("the simulation has no process for it"));
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (read, write) = tokio::io::split(ours);
        let control = Arc::<Control>::default();
        let process = Simulated {
            world: self.world.clone(),
            chance,
            control: control.clone(),
            running: self.running.clone(),
            beside: self.beside.clone(),
            pipe: theirs,
            frames: FrameReader::default(),
            model: PathBuf::new(),
            precision: Precision::Int8,
            step_to: None,
            budget_bytes: u64::MAX,
            sequences: Vec::new(),
        };
        let ends = control.clone();
        actix_rt::spawn(async move {
            tokio::select! {
                biased;
                _ = ends.wait() => {}
                broken = process.run() => {
                    if let Err(error) = broken {
                        ends.end(Cause::Other, &format!("its pipe: {error}"));
                    }
                    ends.end(Cause::Other, "exit code 0");
                }
            }
        });
        Ok(Hosted {
            read: Box::new(read),
            write: Box::new(write),
            process: Box::new(Child(control)),
        })
    }

    fn shelf(&self, model: PathBuf, _: PathBuf) -> ResponseFuture<Option<Box<dyn Shelf>>> {
        let found = (model == Path::new(MODEL)).then(|| Box::new(AllPacked) as Box<dyn Shelf>);
        Box::pin(async move { found })
    }
}

struct AllPacked;

impl Shelf for AllPacked {
    fn packed(&self) -> Vec<PackedFile> {
        let packed = [Precision::F16, Precision::Int8, Precision::Int4];
        let file = |precision| PackedFile {
            precision,
            path: PathBuf::from(MODEL),
            bytes: weights_bytes(precision),
            is_stale: false,
        };
        packed.map(file).to_vec()
    }
}

struct Child(Arc<Control>);

impl Process for Child {
    fn id(&self) -> Option<u32> {
        self.0.has_ended().is_none().then_some(4711)
    }

    fn start_kill(&mut self) {
        self.0.end(Cause::Other, "killed by the daemon");
    }

    fn wait(&mut self) -> Pin<Box<dyn Future<Output = (Cause, String)> + '_>> {
        Box::pin(self.0.wait())
    }
}

impl Meter for Machine {
    fn limits(&self) -> io::Result<Vec<MachineMemory>> {
        let running = self.running().filter(|control| control.has_ended().is_none());
        let (weights, kv) = running.map_or((0, 0), |control| {
            *control
                .memory_bytes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        });
        // Pages of a mapped file could be had, as the system counts.
        let taken = SYSTEM_BYTES + self.world.hog_bytes() + kv;
        Ok(vec![MachineMemory {
            total_bytes: TOTAL_BYTES,
            available_bytes: TOTAL_BYTES.saturating_sub(taken),
            file_cache_bytes: weights,
            limit: Limit::Machine,
        }])
    }

    fn pressure(&self) -> Option<MemoryPressure> {
        None
    }

    fn refaulted_bytes(&self) -> Option<u64> {
        None
    }

    fn private_bytes(&self, _process: u32) -> u64 {
        0
    }
}

struct Sequence {
    id: SequenceId,
    prompt: String,
    words: Vec<(u32, String)>,
    said: usize,
    most: usize,
    left_to_prefill: usize,
    hurry: bool,
    is_paused: bool,
    /// At which word it ends the process.
    is_poison_at: Option<usize>,
}

impl Sequence {
    fn bytes(&self) -> u64 {
        (PROMPT_TOKENS - self.left_to_prefill + self.said) as u64 * KV_BYTES_PER_TOKEN
    }
}

struct Simulated {
    world: World,
    chance: Chance,
    control: Arc<Control>,
    running: Running,
    beside: Running,
    pipe: DuplexStream,
    frames: FrameReader,
    model: PathBuf,
    precision: Precision,
    step_to: Option<Precision>,
    budget_bytes: u64,
    sequences: Vec<Sequence>,
}

impl Simulated {
    async fn run(mut self) -> io::Result<()> {
        let heartbeat = Duration::from_secs(1);
        let mut next_heartbeat = Instant::now();
        let mut is_ready = false;
        let mut next_step = Instant::now();
        loop {
            if self.control.hangs() {
                return std::future::pending().await;
            }
            let due = if self.has_work() {
                next_step.min(next_heartbeat)
            } else {
                next_heartbeat
            };
            let due = if is_ready {
                due
            } else {
                Instant::now() + Duration::from_secs(3600)
            };
            let mut buffer = [0; 4096];
            match timeout_at(due, self.pipe.read(&mut buffer)).await {
                Ok(read) => {
                    let count = read?;
                    if count == 0 {
                        return Ok(());
                    }
                    self.frames.push(buffer.get(..count).unwrap_or_default());
                    while let Some(frame) = self.frames.next_frame().map_err(io::Error::other)? {
                        match frame {
                            ToWorker::Load { model, engine, .. } => {
                                is_ready = self.load(model, engine.precision).await?;
                                if !is_ready {
                                    return Ok(());
                                }
                                next_heartbeat = Instant::now();
                            }
                            ToWorker::Stop => return Ok(()),
                            other => self.obey(other).await?,
                        }
                    }
                    // What came is looked at between two steps.
                    next_step = next_step.max(Instant::now());
                }
                Err(_) if next_heartbeat <= Instant::now() => {
                    self.heartbeat().await?;
                    next_heartbeat = Instant::now() + heartbeat;
                }
                Err(_) => {
                    self.step().await?;
                    next_step = Instant::now() + self.chance.pause(20, 60);
                }
            }
        }
    }

    fn is_assistant(&self) -> bool {
        self.model == Path::new(ASSISTANT)
    }

    fn has_work(&self) -> bool {
        self.step_to.is_some() || self.sequences.iter().any(|sequence| !sequence.is_paused)
    }

    async fn load(&mut self, model: PathBuf, precision: Option<Precision>) -> io::Result<bool> {
        self.precision = precision.unwrap_or(Precision::Int8);
        self.model = model;
        let place = if self.is_assistant() {
            &self.beside
        } else {
            &self.running
        };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.control.clone());
        let pause = self.chance.pause(50, 1500);
        tokio::time::sleep(pause).await;
        if !self.world.is_calm() && self.chance.one_in(30) {
            let message = "the simulation has damaged it".to_owned();
            self.say(&FromWorker::LoadFailed { message }).await?;
            return Ok(false);
        }
        self.note_memory();
        let summary = summary(&self.model, self.precision);
        self.say(&FromWorker::Ready {
            version: VERSION,
            summary,
        })
        .await?;
        Ok(true)
    }

    async fn obey(&mut self, frame: ToWorker) -> io::Result<()> {
        match frame {
            ToWorker::Start { id, hurry, request } => self.begin(id, hurry, &request),
            ToWorker::Pause { id, .. } => self.with(id, |sequence| sequence.is_paused = true),
            ToWorker::Resume { id } => self.with(id, |sequence| sequence.is_paused = false),
            ToWorker::Cancel { id } => {
                if let Some(at) = self.sequences.iter().position(|sequence| sequence.id == id) {
                    let sequence = self.sequences.remove(at);
                    self.done(&sequence, FinishReason::Cancelled).await?;
                }
            }
            ToWorker::CacheBudget { bytes } => self.budget_bytes = bytes,
            ToWorker::StepTo { precision } => self.step_to = Some(precision),
            ToWorker::FreeKept { .. } | ToWorker::Load { .. } | ToWorker::Stop => {}
        }
        Ok(())
    }

    fn with(&mut self, id: SequenceId, change: impl FnOnce(&mut Sequence)) {
        if let Some(sequence) = self.sequences.iter_mut().find(|sequence| sequence.id == id) {
            change(sequence);
        }
    }

    fn begin(&mut self, id: SequenceId, hurry: bool, request: &GenerateRequest) {
        let prompt = asked(request);
        let words: Vec<_> = match self.is_assistant() {
            // It says all or nothing.
            true => vec![(7, understood(&prompt))],
            false => answer(&prompt).collect(),
        };
        let tokens = || words.iter().map(|(token, _)| *token);
        let said = if request.said_text.is_empty() {
            if !tokens().take(request.said.len()).eq(request.said.iter().copied()) {
                self.world
                    .fault(format!("{prompt} is to go on behind what it did not say"));
            }
            request.said.len()
        } else {
            let text: String = words.iter().map(|(_, word)| word.as_str()).collect();
            if !text.starts_with(&request.said_text) {
                self.world
                    .fault(format!("{prompt} is to go on behind a text it did not say"));
            }
            request.said_text.split_whitespace().count()
        };
        self.world.note(format!("begins {prompt} behind {said} words"));
        let is_poison_at = prompt.contains("poison").then_some(words.len() / 2);
        self.sequences.push(Sequence {
            id,
            most: request.max_tokens,
            said,
            left_to_prefill: PROMPT_TOKENS,
            hurry,
            is_paused: false,
            is_poison_at,
            prompt,
            words,
        });
    }

    async fn step(&mut self) -> io::Result<()> {
        if let Some(precision) = self.step_to.take() {
            let pause = self.chance.pause(100, 2000);
            tokio::time::sleep(pause).await;
            self.precision = precision;
            self.note_memory();
            self.world.note(format!("weights at {precision}"));
            return self.say(&FromWorker::SteppedTo { precision }).await;
        }
        let hurries = |sequence: &Sequence| sequence.hurry && sequence.left_to_prefill > 0;
        let in_a_hurry = self
            .sequences
            .iter()
            .any(|sequence| !sequence.is_paused && hurries(sequence));
        let mut room = self.budget_bytes;
        let mut at = 0;
        while let Some(sequence) = self.sequences.get_mut(at) {
            at += 1;
            // The oldest have the room, and one at least.
            let has_room = at == 1 || room >= sequence.bytes() + KV_BYTES_PER_TOKEN;
            room = room.saturating_sub(sequence.bytes());
            if sequence.is_paused || !has_room || (in_a_hurry && !hurries(sequence)) {
                continue;
            }
            if sequence.left_to_prefill > 0 {
                sequence.left_to_prefill = sequence.left_to_prefill.saturating_sub(PREFILL_TOKENS_PER_STEP);
                continue;
            }
            if sequence.is_poison_at == Some(sequence.said) {
                self.control.end(Cause::Other, "it was poisoned");
                return std::future::pending().await;
            }
            let word = sequence.words.get(sequence.said).cloned();
            sequence.said += usize::from(word.is_some());
            let end = match (
                sequence.said >= sequence.words.len(),
                sequence.said >= sequence.most,
            ) {
                (true, _) => Some(FinishReason::Stop),
                (_, true) => Some(FinishReason::Length),
                _ => None,
            };
            let id = sequence.id;
            if let Some((token, text)) = word {
                let event = Event::Text {
                    id,
                    text,
                    tokens: vec![token],
                    logprobs: Vec::new(),
                };
                self.say(&FromWorker::Event { event, spent: None }).await?;
            }
            if let Some(reason) = end {
                at -= 1;
                let sequence = self.sequences.remove(at);
                self.done(&sequence, reason).await?;
            }
        }
        self.note_memory();
        Ok(())
    }

    async fn done(&mut self, sequence: &Sequence, finish_reason: FinishReason) -> io::Result<()> {
        self.world
            .note(format!("ends {} after {} words", sequence.prompt, sequence.said));
        let event = Event::Done {
            id: sequence.id,
            finish_reason,
            prompt_tokens: PROMPT_TOKENS,
            cached_tokens: 0,
            completion_tokens: sequence.said,
        };
        self.say(&FromWorker::Event { event, spent: None }).await
    }

    fn kv_bytes(&self) -> u64 {
        self.sequences.iter().map(Sequence::bytes).sum()
    }

    fn note_memory(&self) {
        let bytes = (weights_bytes(self.precision), self.kv_bytes());
        *self
            .control
            .memory_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    async fn heartbeat(&mut self) -> io::Result<()> {
        let is_paused = |sequence: &&Sequence| sequence.is_paused;
        let weights = weights_bytes(self.precision);
        let stats = WorkerStats {
            precision: self.precision,
            is_stepping: self.step_to.is_some(),
            mapped_bytes: weights,
            private_weights_bytes: 0,
            resident_bytes: Some(weights),
            engine: EngineStats {
                running: self.sequences.len(),
                waiting: 0,
                paused: self.sequences.iter().filter(is_paused).count(),
                running_bytes: usize::try_from(self.kv_bytes()).unwrap_or(usize::MAX),
                kept_bytes: 0,
                cache_budget_bytes: usize::try_from(self.budget_bytes).ok(),
            },
        };
        self.say(&FromWorker::Heartbeat { stats }).await
    }

    async fn say(&mut self, frame: &FromWorker) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_frame(frame, &mut bytes).map_err(io::Error::other)?;
        self.pipe.write_all(&bytes).await
    }
}

/// What is known of the model before it is loaded.
#[derive(Debug)]
pub(super) struct Sizes(ModelSummary);

impl Default for Sizes {
    fn default() -> Self {
        Self(summary(Path::new(MODEL), Precision::F16))
    }
}

impl Sizes {
    pub(super) fn of_the_assistant() -> Self {
        Self(summary(Path::new(ASSISTANT), Precision::Int8))
    }
}

impl ModelSizes for Sizes {
    fn summary(&self) -> &ModelSummary {
        &self.0
    }

    fn weights_bytes(&self, precision: Precision) -> u64 {
        weights_bytes(precision)
    }

    fn cache_bytes(&self, tokens: usize, _: KvPrecision) -> u64 {
        tokens as u64 * KV_BYTES_PER_TOKEN
    }
}

/// What is known of the model.
fn summary(model: &Path, precision: Precision) -> ModelSummary {
    ModelSummary {
        name: model
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        architecture: "llama".into(),
        parameters: 2_000_000_000,
        weights_bytes: weights_bytes(Precision::F16),
        context_length: 4096,
        vocabulary_size: 50_000,
        has_chat_template: true,
        format: "simulated".into(),
        assistant: model == Path::new(ASSISTANT),
        precision,
    }
}
