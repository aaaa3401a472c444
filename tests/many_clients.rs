//! Two hundred clients at once: each gets the whole of its own answer, whatever happens to the model.

use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::answer::Answer;
use crate::support::client::{Client, Properties};
use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, expected_story, stories};
use crate::support::raw::{RawClient, connect};
use crate::support::{eventually, process};

const CLIENTS: usize = 200;
/// Two clients belong to each device.
const DEVICES: usize = CLIENTS / 2;

struct Asker {
    client: Client,
    number: usize,
}

impl Asker {
    async fn connect(daemon: &Daemon, number: usize) -> Asker {
        let device = format!("device{}", number % DEVICES);
        let mut client = Client::of(daemon, &device, &format!("client{number}")).await;
        client
            .subscribe(&format!("clawdbot/{device}/reply/{number}"), 1)
            .await;
        Asker { client, number }
    }

    /// Neighbours ask for answers of different lengths, so that one cannot pass for the other.
    fn max_tokens(&self) -> usize {
        6 + self.number % 17
    }

    async fn ask(&mut self) {
        let (number, device) = (self.number, self.number % DEVICES);
        let request = json!({
            "id": format!("request{number}"), "prompt": PROMPT, "temperature": 0, "max_tokens": self.max_tokens(),
        });
        let properties = Properties {
            response_topic: Some(format!("clawdbot/device{device}/reply/{number}")),
            correlation_data: Some(number.to_string().into_bytes()),
            ..Properties::default()
        };
        self.client
            .publish_with(
                &format!("clawdbot/device{device}/command"),
                request.to_string(),
                properties,
            )
            .await;
    }

    /// Every item must be for this client, by topic, correlation data and id.
    async fn answer(&mut self) -> Answer {
        let (number, mut answer) = (self.number, Answer::default());
        while !answer.is_complete() {
            let message = self.client.message().await;
            assert!(
                message.topic.ends_with(&format!("/reply/{number}")),
                "{number} got {message:?}"
            );
            assert_eq!(
                message.correlation_data.as_deref(),
                Some(number.to_string().as_bytes())
            );
            let item: serde_json::Value = serde_json::from_slice(&message.payload).expect("an item");
            assert_eq!(item["id"], format!("request{number}"));
            answer.take(item);
        }
        answer
    }
}

async fn connect_all(daemon: &Daemon) -> Vec<Asker> {
    let mut askers = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        askers.push(Asker::connect(daemon, number).await);
    }
    askers
}

#[tokio::test]
async fn two_hundred_clients_at_once_all_get_their_own_whole_answer_in_order() {
    let (Some(model), Some(story)) = (stories(), expected_story()) else {
        return;
    };
    let daemon = Daemon::with_model(&model);
    let mut tasks = JoinSet::new();
    for mut asker in connect_all(&daemon).await {
        tasks.spawn(async move {
            asker.ask().await;
            let answer = asker.answer().await;
            (asker, answer)
        });
    }
    let mut askers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (asker, answer) = done.expect("every client gets its answer");
        answer.assert_whole();
        assert_eq!(answer.end()["usage"]["completion_tokens"], asker.max_tokens());
        let told = format!("{PROMPT}{}", answer.text());
        assert!(story.starts_with(&told) && told.len() > PROMPT.len(), "{told:?}");
        askers.push(asker);
    }
    assert_eq!(askers.len(), CLIENTS);
    assert!(
        askers.iter_mut().all(|asker| asker.client.is_quiet()),
        "an item too many"
    );
    assert_eq!(
        daemon.metric("clawdbot_requests_ended_total"),
        Some(CLIENTS as f64)
    );
}

#[tokio::test]
async fn when_the_models_process_is_killed_every_client_is_answered_by_the_next_one() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut askers = connect_all(&daemon).await;
    // Frozen first, so that every one of them still waits when it dies.
    let worker = daemon.worker_pid();
    let frozen = daemon.freeze_worker();
    let mut tasks = JoinSet::new();
    for mut asker in askers.drain(..) {
        tasks.spawn(async move {
            asker.ask().await;
            asker
        });
    }
    while let Some(asker) = tasks.join_next().await {
        askers.push(asker.expect("every request is taken"));
    }
    eventually("every device to ask the model", || {
        let waiting =
            daemon.metric("clawdbot_requests_waiting")? + daemon.metric("clawdbot_requests_running")?;
        (waiting == DEVICES as f64).then_some(())
    })
    .await;
    process::signal(worker, Signal::KILL);
    drop(frozen);

    let mut tasks = JoinSet::new();
    for mut asker in askers {
        tasks.spawn(async move {
            let answer = asker.answer().await;
            (asker, answer)
        });
    }
    let mut again = 0;
    while let Some(done) = tasks.join_next().await {
        let (_, answer) = done.expect("every client hears how it ended");
        answer.assert_whole();
        again += usize::from(answer.end()["attempt"] == 2);
    }
    assert!(again > 0, "those that ran when it died were begun anew");
    assert_eq!(daemon.metric("clawdbot_worker_lost_total"), Some(1.0));
    assert_ne!(daemon.worker_pid(), worker);
    eventually("the killed process to be gone", || {
        (!process::is_running(worker)).then_some(())
    })
    .await;
}

#[test]
fn a_client_that_comes_back_at_once_is_let_in_every_time() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    // Each connection meets the end of the session before it, at a slightly different moment.
    for round in 0..1000 {
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&connect(4, "again", None));
        assert_eq!(client.connack_code(), 0, "round {round}");
        client.send(&[0xE0, 0]);
    }
}
