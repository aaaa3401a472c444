//! Everything at once, at random, from a seed: requests of every kind, cancellations, deadlines, and a process that is
//! killed, faults and hangs. Each request ends exactly once, no item is missing or comes twice, and the sums add up.
//!
//! `CLAWDBOT_CHAOS_ROUNDS` says how many acts there are, `CLAWDBOT_CHAOS_SEED` repeats a run.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::answer::Answer;
use crate::support::client::Client;
use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, stories};
use crate::support::random::{self, Random};
use crate::support::{process, say};

/// Acts where nobody says otherwise.
const ROUNDS: u64 = 300;
const DEVICES: usize = 5;

/// A device and the answers that it waits for.
struct Asker {
    name: String,
    client: Client,
    asked: u64,
    open: BTreeMap<String, Answer>,
    ends: BTreeMap<String, usize>,
}

impl Asker {
    async fn of(daemon: &Daemon, name: String) -> Asker {
        let mut client = Client::of(daemon, &name, &name).await;
        client.subscribe(&format!("clawdbot/{name}/reply"), 1).await;
        Asker {
            name,
            client,
            asked: 0,
            open: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    async fn ask(&mut self, chance: &mut Random) {
        let id = format!("{}-{}", self.name, self.asked);
        self.asked += 1;
        let priority = chance.pick(&["urgent", "interactive", "background"]);
        let mut request = json!({
            "id": id, "prompt": PROMPT, "max_tokens": 1 + chance.below(120),
            "priority": priority,
        });
        if chance.one_in(4) {
            request["temperature"] = json!(0);
        }
        if chance.one_in(5) {
            request["deadline_ms"] = json!(chance.below(3000));
        }
        if chance.one_in(6) {
            request["min_precision"] = json!("int8");
        }
        if chance.one_in(6) {
            request["response_format"] = json!({"type": "choice", "choices": ["yes", "no", "perhaps"]});
        }
        self.open.insert(id, Answer::default());
        let topic = format!("clawdbot/{}/command", self.name);
        self.client.publish(&topic, 1, false, request.to_string()).await;
    }

    async fn cancel(&mut self, chance: &mut Random) {
        let Some(id) = self.open.keys().nth(chance.below(self.open.len().max(1))) else {
            return;
        };
        let (topic, id) = (format!("clawdbot/{}/cancel", self.name), id.clone());
        self.client.publish(&topic, 1, false, id).await;
    }

    /// Hears everything that is left to be said to it.
    async fn hear_out(&mut self) {
        while !self.open.is_empty() {
            let item = self.client.item().await;
            let id = item["id"].as_str().expect("an id").to_owned();
            // One that has ended already has no place here any more.
            let answer = self
                .open
                .get_mut(&id)
                .unwrap_or_else(|| panic!("{item} after its end"));
            answer.take(item);
            if answer.is_complete() {
                let how = match answer.finish_reason() {
                    "error" => answer.error().0.to_owned(),
                    reason => reason.to_owned(),
                };
                *self.ends.entry(how).or_default() += 1;
                self.open.remove(&id);
            }
        }
    }
}

#[tokio::test]
async fn whatever_happens_every_request_ends_once_in_one_of_the_named_ways() {
    let Some(model) = stories() else { return };
    let seed = random::seed("CLAWDBOT_CHAOS_SEED");
    let rounds = random::number("CLAWDBOT_CHAOS_ROUNDS").unwrap_or(ROUNDS);
    println!("{rounds} acts, CLAWDBOT_CHAOS_SEED={seed}");
    let mut chance = Random::new(seed);
    let daemon = Daemon::launch()
        .model(&model)
        .set("model.precision", "int8")
        .set("model.max_sequences", 3)
        .set("scheduler.max_queued", 4)
        .set("scheduler.max_queued_background", 3)
        .set("conversation.max_queued", 6)
        .set("supervisor.min_backoff_ms", 1)
        .set("supervisor.max_backoff_ms", 50)
        .set("supervisor.heartbeat_interval_s", 1)
        .set("supervisor.heartbeat_timeout_s", 2)
        .start();
    let mut askers = Vec::new();
    for number in 0..DEVICES {
        askers.push(Asker::of(&daemon, format!("device{number}")).await);
    }
    let mut hangs = 0;
    for _ in 0..rounds {
        let asker = &mut askers[chance.below(DEVICES)];
        match chance.below(20) {
            0 => process::signal(daemon.worker_pid(), Signal::KILL),
            1 => process::signal(daemon.worker_pid(), Signal::ILL),
            2 => {
                let worker = daemon.worker_pid();
                process::signal(worker, Signal::STOP);
                // Most go on in time; a few are found hanging and replaced.
                if chance.one_in(4) && hangs < 3 {
                    hangs += 1;
                } else {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    process::signal(worker, Signal::CONT);
                }
            }
            3..6 => asker.cancel(&mut chance).await,
            6..9 => tokio::time::sleep(Duration::from_millis(chance.below(60) as u64)).await,
            _ => asker.ask(&mut chance).await,
        }
    }
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let mut asked = 0;
    for asker in &mut askers {
        asker.hear_out().await;
        asked += asker.asked as usize;
        for (how, count) in &asker.ends {
            *ends.entry(how.clone()).or_default() += count;
        }
    }
    say(&format!("{asked} requests: {ends:?}"));
    assert_eq!(ends.values().sum::<usize>(), asked);
    let known = [
        "stop",
        "length",
        "cancelled",
        "queue_full",
        "expired",
        "deadline_unreachable",
        "dead_lettered",
        "precision_unavailable",
        "model_unavailable",
    ];
    assert!(ends.keys().all(|how| known.contains(&how.as_str())), "{ends:?}");
    daemon.accounts_add_up().await;
    // And it works.
    askers[0].open.insert("after".to_owned(), Answer::default());
    let request = json!({"id": "after", "prompt": PROMPT, "max_tokens": 5});
    askers[0]
        .client
        .publish("clawdbot/device0/command", 1, false, request.to_string())
        .await;
    askers[0].hear_out().await;
}
