//! What is counted elsewhere as plain numbers, exported when somebody scrapes: nothing is paid for
//! it in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actors::certificate_keeper::CertificateGauge;
use actors::external_broker::LinkGauge;
use actors::inference_worker::WorkerGauge;
use actors::memory_governor::MemoryGauge;
use actors::scheduler::SchedulerGauge;
use actors::stats::Stats;
use actors::switchboard::{Mailboxes, Switchboard};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use platform::disk;

use super::panics;
use crate::backup::BackupGauge;
use crate::store::CareGauge;

/// Makes the observable instruments. They live as long as the meter's provider.
pub fn observe(
    meter: &Meter,
    switchboard: &Switchboard,
    requests: &Arc<SchedulerGauge>,
    memory: &Arc<MemoryGauge>,
) {
    broker(meter, switchboard.stats());
    let board = switchboard.clone();
    gauge(meter, "clawdbot.mqtt.retained", "Retained messages", move || {
        board.retained_len() as u64
    });
    let board = switchboard.clone();
    gauge(
        meter,
        "clawdbot.mqtt.deliveries.waiting",
        "Copies of messages that sessions hold and their clients do not have yet",
        move || board.deliveries_waiting() as u64,
    );
    let board = switchboard.clone();
    gauge(meter, "clawdbot.mqtt.subscriptions", "Subscriptions", move || {
        board.subscriptions_len() as u64
    });
    let gauges = requests.clone();
    gauge(
        meter,
        "clawdbot.requests.running",
        "Requests running",
        move || gauges.running(),
    );
    let gauges = requests.clone();
    gauge(
        meter,
        "clawdbot.requests.waiting",
        "Requests waiting",
        move || gauges.waiting(),
    );
    let gauges = requests.clone();
    gauge(
        meter,
        "clawdbot.requests.paused",
        "Requests that have begun and stand still for others",
        move || gauges.paused(),
    );
    account(meter, requests);
    let gauges = requests.clone();
    gauge(
        meter,
        "clawdbot.worker.ready",
        "1 while a model is loaded and answers",
        move || u64::from(gauges.is_ready()),
    );
    let gauges = requests.clone();
    counter(
        meter,
        "clawdbot.worker.lost",
        "Inference processes lost",
        move || gauges.workers_lost(),
    );
    let gauges = requests.clone();
    gauge(
        meter,
        "clawdbot.model.precision.bits",
        "Bits of a weight of the model that answers; 0 while none does",
        move || gauges.precision_bits().into(),
    );
    actors(meter, switchboard);
    owned(meter, memory);
    let decided = memory.clone();
    counter(
        meter,
        "clawdbot.memory.decisions",
        "Times that the memory governor gave something up or took it back",
        move || decided.decisions(),
    );
    let machine = memory.clone();
    bytes(
        meter,
        "clawdbot.machine.memory.total",
        "The machine's memory",
        move || machine.total_bytes(),
    );
    let machine = memory.clone();
    bytes(
        meter,
        "clawdbot.machine.memory.available",
        "Memory to be had without swapping",
        move || machine.available_bytes(),
    );
}

/// What owns memory.
fn owned(meter: &Meter, memory: &Arc<MemoryGauge>) {
    let memory = memory.clone();
    meter
        .u64_observable_gauge("clawdbot.memory.used")
        .with_unit("By")
        .with_description("Memory of the daemon and its inference processes, by what has it")
        .with_callback(move |observer| {
            for (owner, bytes) in memory.status().ledger.parts() {
                observer.observe(bytes, &[KeyValue::new("owner", owner.as_str())]);
            }
        })
        .build();
}

/// The actors that own topics, by their kind.
fn actors(meter: &Meter, switchboard: &Switchboard) {
    type Of = fn(&Mailboxes) -> u64;
    let looked = Arc::new(LookedAt::default());
    let gauges: [(&'static str, &'static str, Of); 3] = [
        ("clawdbot.actors", "Actors that own topics, by their kind", |of| {
            of.actors
        }),
        (
            "clawdbot.actor.mailbox.depth",
            "Messages in the fullest mailbox of a kind of actor",
            |of| of.deepest,
        ),
        (
            "clawdbot.actor.mailbox.bound",
            "Messages that each mailbox of a kind of actor holds",
            |of| of.bound,
        ),
    ];
    for (name, description, number) in gauges {
        let (board, looked) = (switchboard.clone(), looked.clone());
        meter
            .u64_observable_gauge(name)
            .with_description(description)
            .with_callback(move |observer| {
                for (actor, of) in looked.mailboxes(&board) {
                    observer.observe(number(&of), &[KeyValue::new("actor", actor)]);
                }
            })
            .build();
    }
    let board = switchboard.clone();
    meter
        .u64_observable_counter("clawdbot.actor.restarts")
        .with_description("Actors that took the place of one that had fallen, by their kind")
        .with_callback(move |observer| {
            for (actor, of) in looked.mailboxes(&board) {
                observer.observe(of.restarts, &[KeyValue::new("actor", actor)]);
            }
        })
        .build();
}

/// All topics that are owned are looked at once a scrape, not once a metric.
#[derive(Default)]
struct LookedAt(Mutex<Option<(Instant, BTreeMap<&'static str, Mailboxes>)>>);

impl LookedAt {
    const FRESH: Duration = Duration::from_millis(100);

    fn mailboxes(&self, board: &Switchboard) -> BTreeMap<&'static str, Mailboxes> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, mailboxes)) if at.elapsed() < Self::FRESH => mailboxes.clone(),
            _ => {
                let mailboxes = board.mailboxes();
                *last = Some((Instant::now(), mailboxes.clone()));
                mailboxes
            }
        }
    }
}

/// Makes the instruments of the model that was asked for, and of the assistant beside it.
pub fn observe_models(
    meter: &Meter,
    configured_bits: u32,
    worker: Option<Arc<WorkerGauge>>,
    commands: Option<Arc<SchedulerGauge>>,
) {
    meter
        .f64_observable_gauge("clawdbot.kv_cache.usage")
        .with_unit("1")
        .with_description("Keys and values of running requests, of the room that they may take up")
        .with_callback(move |observer| {
            let engine = worker
                .as_ref()
                .and_then(|worker| Some(worker.running()?.stats.engine));
            let budget = engine.and_then(|engine| Some((engine, engine.cache_budget_bytes?)));
            let used = budget.map_or(0.0, |(engine, budget)| {
                engine.running_bytes as f64 / budget.max(1) as f64
            });
            observer.observe(used, &[]);
        })
        .build();
    gauge(
        meter,
        "clawdbot.model.precision.configured.bits",
        "Bits of a weight of the model as it was asked for; 0 where there is none",
        move || configured_bits.into(),
    );
    let Some(commands) = commands else { return };
    let ready = commands.clone();
    gauge(
        meter,
        "clawdbot.commands.ready",
        "1 while the assistant beside the model understands commands",
        move || u64::from(ready.is_ready()),
    );
    counter(
        meter,
        "clawdbot.commands.lost",
        "Processes of the assistant beside the model that were lost",
        move || commands.workers_lost(),
    );
}

/// Makes the instruments of the process and of the disk that its data is on.
pub fn observe_process(meter: &Meter, data_dir: &Path) {
    counter(
        meter,
        "clawdbot.panics",
        "Times that a part of the daemon fell over a fault of its own",
        panics::count,
    );
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let started = since_1970.map_or(0, |since| since.as_secs());
    gauge_in(
        meter,
        "clawdbot.started.timestamp",
        "s",
        "When the daemon started, in Unix time",
        move || started,
    );
    let directory = data_dir.to_owned();
    bytes(
        meter,
        "clawdbot.disk.available",
        "What the disk of the data directory has room for",
        move || disk::free_bytes(&directory).unwrap_or(0),
    );
    let directory = data_dir.to_owned();
    bytes(
        meter,
        "clawdbot.disk.total",
        "The disk that the data directory is on",
        move || disk::total_bytes(&directory).unwrap_or(0),
    );
}

/// The terms of the conservation law: accepted is the sum of all others.
fn account(meter: &Meter, requests: &Arc<SchedulerGauge>) {
    let gauges = requests.clone();
    meter
        .u64_observable_gauge("clawdbot.requests.account")
        .with_unit("{request}")
        .with_description(
            "What became of all requests since the start, by priority: accepted is the sum of the others",
        )
        .with_callback(move |observer| {
            for (priority, state, count) in gauges.account() {
                let labels = [
                    KeyValue::new("priority", priority.as_str()),
                    KeyValue::new("state", state),
                ];
                observer.observe(count, &labels);
            }
        })
        .build();
}

/// Makes the instruments of the link to an external broker.
pub fn observe_link(meter: &Meter, link: &Arc<LinkGauge>) {
    for (at, (name, _)) in link.levels().into_iter().enumerate() {
        let link = link.clone();
        gauge(meter, name, "At the moment", move || {
            link.levels().get(at).map_or(0, |(_, level)| *level)
        });
    }
    for (at, (name, _)) in link.counters().into_iter().enumerate() {
        let link = link.clone();
        counter(meter, name, "Since the start", move || {
            link.counters().get(at).map_or(0, |(_, count)| *count)
        });
    }
}

/// Makes the instruments of the TLS listeners' certificate.
pub fn observe_certificate(meter: &Meter, certificate: &Arc<CertificateGauge>) {
    let kept = certificate.clone();
    gauge_in(
        meter,
        "clawdbot.tls.certificate.expiry.timestamp",
        "s",
        "When the certificate of the TLS listeners ends, in Unix time",
        move || kept.not_after_unix_s(),
    );
    let kept = certificate.clone();
    counter(
        meter,
        "clawdbot.tls.certificate.replaced",
        "How often another certificate was shown from then on, renewed or found in its files",
        move || kept.replaced(),
    );
    let kept = certificate.clone();
    gauge(
        meter,
        "clawdbot.tls.certificate.trouble",
        "1 while the newest files cannot be used, or a renewal failed",
        move || u64::from(kept.trouble().is_some()),
    );
}

/// Makes the instruments of the checks of the store.
pub fn observe_store(meter: &Meter, care: &Arc<CareGauge>, interval: Duration) {
    gauge_in(
        meter,
        "clawdbot.store.check.interval",
        "s",
        "How often the store is checked; 0 for never",
        move || interval.as_secs(),
    );
    let kept = care.clone();
    gauge_in(
        meter,
        "clawdbot.store.checked.timestamp",
        "s",
        "When the last check of the store was over, in Unix time; 0 before the first",
        move || kept.checked_at_unix_s(),
    );
    let kept = care.clone();
    gauge(
        meter,
        "clawdbot.store.orphans",
        "Values that the last check found alone: they harm nobody and go at the next start",
        move || kept.orphans(),
    );
    let kept = care.clone();
    gauge(
        meter,
        "clawdbot.store.set_aside",
        "Damaged values that are set aside, as of the last check",
        move || kept.set_aside(),
    );
}

/// Makes the instruments of backups that are made by themselves.
pub fn observe_backups(meter: &Meter, backups: &Arc<BackupGauge>, interval: Duration) {
    gauge_in(
        meter,
        "clawdbot.backup.interval",
        "s",
        "How often a backup is made; 0 for never",
        move || interval.as_secs(),
    );
    let made = backups.clone();
    gauge_in(
        meter,
        "clawdbot.backup.last.timestamp",
        "s",
        "When the newest backup in the directory was made, in Unix time; 0 where there is none",
        move || made.last_unix_s(),
    );
    let made = backups.clone();
    counter(
        meter,
        "clawdbot.backup.failures",
        "Times that a backup was due and could not be made",
        move || made.failures(),
    );
}

fn broker(meter: &Meter, stats: &Arc<Stats>) {
    for (at, (name, _)) in stats.all().into_iter().enumerate() {
        let stats = stats.clone();
        let read = move || stats.all().get(at).map_or(0, |(_, counter)| counter.get());
        if name.ends_with("connections") || name.ends_with("sessions") {
            gauge(meter, name, "Open now", read);
        } else {
            counter(meter, name, "Since the start", read);
        }
    }
}

fn gauge(meter: &Meter, name: &'static str, description: &'static str, read: impl Read) {
    gauge_in(meter, name, "", description, read);
}

fn bytes(meter: &Meter, name: &'static str, description: &'static str, read: impl Read) {
    gauge_in(meter, name, "By", description, read);
}

fn gauge_in(
    meter: &Meter,
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    read: impl Read,
) {
    meter
        .u64_observable_gauge(name)
        .with_unit(unit)
        .with_description(description)
        .with_callback(move |observer| observer.observe(read(), &[]))
        .build();
}

fn counter(meter: &Meter, name: &'static str, description: &'static str, read: impl Read) {
    meter
        .u64_observable_counter(name)
        .with_description(description)
        .with_callback(move |observer| observer.observe(read(), &[]))
        .build();
}

/// Reads a number that somebody else keeps.
trait Read: Fn() -> u64 + Send + Sync + 'static {}
impl<F: Fn() -> u64 + Send + Sync + 'static> Read for F {}
