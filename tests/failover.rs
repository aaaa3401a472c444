//! The inference process dies in the middle of answers, in every way a process can, and whoever listens hears them whole.

use rustix::process::Signal;
use serde_json::json;

use crate::support::answer::Answer;
use crate::support::client::{Client, Version};
use crate::support::daemon::{Daemon, Launch};
use crate::support::data::{PROMPT, stories};
use crate::support::process;
use crate::support::{eventually, say};

const TOKENS: usize = 450;

fn greedy(id: &str) -> String {
    greedy_of(id, TOKENS)
}

fn greedy_of(id: &str, tokens: usize) -> String {
    json!({"id": id, "prompt": PROMPT, "temperature": 0, "max_tokens": tokens}).to_string()
}

async fn device(daemon: &Daemon, name: &str) -> Client {
    let mut client = Client::of(daemon, name, name).await;
    client.subscribe(&format!("clawdbot/{name}/reply"), 1).await;
    client
}

fn launch() -> Option<Launch> {
    let model = stories()?;
    Some(Daemon::launch().model(&model).set("supervisor.min_backoff_ms", 1))
}

/// Asks, and does this to the process when some of the answer has come. An answer that was over before has been in vain.
async fn interrupted(client: &mut Client, daemon: &Daemon, name: &str, act: impl Fn(&Daemon)) -> Answer {
    for round in 0..50 {
        let command = format!("clawdbot/{name}/command");
        client
            .publish(&command, 1, false, greedy(&format!("q{round}")))
            .await;
        let mut answer = Answer::default();
        while answer.items.len() < 3 {
            answer.take(client.item().await);
        }
        act(daemon);
        while !answer.is_complete() {
            answer.take(client.item().await);
        }
        if answer.end()["attempt"] != 1 {
            return answer;
        }
    }
    panic!("fifty answers were over before their process was killed");
}

async fn undisturbed(client: &mut Client, name: &str) -> Answer {
    let command = format!("clawdbot/{name}/command");
    client.publish(&command, 1, false, greedy("undisturbed")).await;
    client.answer("undisturbed").await
}

/// The attempts and precisions of an answer's items, each once.
fn course(answer: &Answer) -> Vec<(u64, String)> {
    let of = |item: &serde_json::Value| {
        let precision = item["precision"].as_str().unwrap_or("none");
        (item["attempt"].as_u64().expect("a number"), precision.to_owned())
    };
    let mut course: Vec<_> = answer.items.iter().map(of).collect();
    course.dedup();
    course
}

fn f32_at(attempts: &[u64]) -> Vec<(u64, String)> {
    attempts
        .iter()
        .map(|attempt| (*attempt, "f32".to_owned()))
        .collect()
}

#[tokio::test]
async fn after_a_fault_an_answer_goes_on_where_it_was_at_the_same_precision() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = device(&daemon, "phone").await;
    let whole = undisturbed(&mut client, "phone").await;
    assert_eq!(course(&whole), f32_at(&[1]));
    let _slow = daemon.slow_workers();
    let fault = |daemon: &Daemon| process::signal(daemon.worker_pid(), Signal::ILL);
    let answer = interrupted(&mut client, &daemon, "phone", fault).await;
    assert_eq!(answer.text(), whole.text());
    assert_eq!(answer.end()["usage"], whole.end()["usage"]);
    assert_eq!(answer.finish_reason(), whole.finish_reason());
    assert_eq!(course(&answer), f32_at(&[1, 2]));
}

#[tokio::test]
async fn after_a_kill_an_answer_goes_on_with_fewer_bits_and_says_so() {
    let Some(launch) = launch() else { return };
    let daemon = launch.set("model.precision", "int8").start();
    let mut client = device(&daemon, "phone").await;
    let whole = undisturbed(&mut client, "phone").await;
    let _slow = daemon.slow_workers();
    let kill = |daemon: &Daemon| process::signal(daemon.worker_pid(), Signal::KILL);
    let mut steward = Client::steward(&daemon, Version::V5).await;
    steward.subscribe("clawdbot/bridge/event", 0).await;
    let answer = interrupted(&mut client, &daemon, "phone", kill).await;
    let mut events = Vec::new();
    while events.last() != Some(&json!("worker_ready")) {
        let event: serde_json::Value = serde_json::from_slice(&steward.message().await.payload).unwrap();
        assert!(event["at_s"].is_u64(), "{event}");
        if event["event"] == "worker_lost" {
            assert_eq!(event["precision"], "int4", "{event}");
        }
        events.push(event["event"].clone());
    }
    assert_eq!(events, ["request_begun", "worker_lost", "worker_ready"]);
    let course = course(&answer);
    assert_eq!(course, [(1, "int8".to_owned()), (2, "int4".to_owned())]);
    let first = answer.items.iter().filter(|item| item["attempt"] == 1);
    let begun: String = first.filter_map(|item| item["delta"].as_str()).collect();
    assert!(!begun.is_empty() && whole.text().starts_with(&begun), "{begun}");
    assert_eq!(answer.end()["usage"]["completion_tokens"], TOKENS);
    assert_eq!(daemon.status()["inference"]["model"]["precision"], "int4");
    // One that had rather wait than be answered worse is told.
    let picky = json!({"id": "picky", "prompt": PROMPT, "min_precision": "int8"});
    client
        .publish("clawdbot/phone/command", 1, false, picky.to_string())
        .await;
    let refused = client.answer("picky").await;
    assert_eq!(refused.error().0, "precision_unavailable", "{refused:?}");
    assert!(refused.error().1.contains("int4"), "{refused:?}");
}

#[tokio::test]
async fn when_nothing_fails_for_long_the_better_precision_is_tried_again() {
    let Some(launch) = launch() else { return };
    let daemon = launch.set("supervisor.step_up_after_s", 1).start();
    process::signal(daemon.worker_pid(), Signal::KILL);
    let precision = || daemon.status()["inference"]["model"]["precision"].clone();
    eventually("fewer bits", || (precision() == "f16").then_some(())).await;
    eventually("all bits again", || (precision() == "f32").then_some(())).await;
    let mut client = device(&daemon, "phone").await;
    assert_eq!(course(&undisturbed(&mut client, "phone").await), f32_at(&[1]));
    assert_eq!(daemon.status()["inference"]["workers_lost"], 1);
}

#[tokio::test]
async fn a_smaller_model_takes_over_when_the_first_one_fails_at_its_lowest_precision_too() {
    let (Some(launch), Some(model)) = (launch(), stories()) else {
        return;
    };
    let daemon = launch
        .set("model.precision", "int4")
        .set("model.fallback", model.with_file_name("hf").display())
        .start();
    let mut client = device(&daemon, "phone").await;
    let _slow = daemon.slow_workers();
    let first = daemon.worker_pid();
    // Nobody asks anything yet: once may be chance.
    while daemon.worker_pid() == first {
        process::signal(first, Signal::ILL);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    eventually("the model to be there again", || {
        (daemon.status()["inference"]["worker"] == "ready").then_some(())
    })
    .await;
    let fault = |daemon: &Daemon| process::signal(daemon.worker_pid(), Signal::ILL);
    let answer = interrupted(&mut client, &daemon, "phone", fault).await;
    answer.assert_whole();
    assert_eq!(answer.end()["attempt"], 2, "{answer:?}");
    let by_another = answer.items.iter().filter(|item| item["attempt"] == 2);
    for item in by_another {
        assert_eq!(item["model"], "hf", "{item}");
        assert_eq!(item["precision"], "f32", "{item}");
    }
    assert!(
        answer
            .items
            .iter()
            .any(|item| item["attempt"] == 1 && item["model"].is_null())
    );
    assert_eq!(daemon.status()["inference"]["model"]["name"], "hf");
}

#[tokio::test]
async fn a_process_that_hangs_is_replaced_and_its_answers_go_on() {
    let Some(launch) = launch() else { return };
    let daemon = launch
        .set("supervisor.heartbeat_interval_s", 1)
        .set("supervisor.heartbeat_timeout_s", 3)
        .start();
    let mut client = device(&daemon, "phone").await;
    let whole = undisturbed(&mut client, "phone").await;
    let hang = |daemon: &Daemon| process::signal(daemon.worker_pid(), Signal::STOP);
    let answer = interrupted(&mut client, &daemon, "phone", hang).await;
    assert_eq!(answer.text(), whole.text());
    assert_eq!(course(&answer), f32_at(&[1, 2]));
}

#[tokio::test]
async fn sixteen_answers_at_once_go_on_over_a_kill_and_nobody_is_asked_twice() {
    let Some(launch) = launch() else { return };
    let daemon = launch.set("model.max_sequences", 16).start();
    let names: Vec<String> = (0..16).map(|number| format!("phone{number}")).collect();
    let mut clients = Vec::new();
    for name in &names {
        clients.push(device(&daemon, name).await);
    }
    clients[0]
        .publish(
            &format!("clawdbot/{}/command", names[0]),
            1,
            false,
            greedy_of("undisturbed", 100),
        )
        .await;
    let whole = clients[0].answer("undisturbed").await;
    let _slow = daemon.slow_workers();
    for (client, name) in clients.iter_mut().zip(&names) {
        let command = format!("clawdbot/{name}/command");
        client.publish(&command, 1, false, greedy_of("q", 100)).await;
    }
    let first = clients[15].item().await;
    process::signal(daemon.worker_pid(), Signal::ILL);
    let mut interrupted = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = Answer::default();
        if number == 15 {
            answer.take(first.clone());
        }
        while !answer.is_complete() {
            answer.take(client.item().await);
        }
        assert_eq!(answer.text(), whole.text(), "{number}");
        interrupted += usize::from(answer.end()["attempt"] == 2);
    }
    say(&format!("{interrupted} of 16 answers were interrupted"));
    assert!(interrupted > 0, "the process was killed in the middle of none");
}

#[tokio::test]
async fn a_request_that_kills_the_process_twice_is_set_aside_and_the_others_are_answered() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let _slow = daemon.slow_workers();
    let mut guilty = device(&daemon, "guilty").await;
    let mut other = device(&daemon, "other").await;
    // Killed whenever it has begun to answer this one. A process that is gone already takes no harm.
    let mut deaths = 0;
    let (mut answer, mut waits) = (Answer::default(), true);
    let long = json!({"id": "guilty", "prompt": PROMPT, "temperature": 0, "max_tokens": 500});
    guilty
        .publish("clawdbot/guilty/command", 1, false, long.to_string())
        .await;
    while !answer.is_complete() {
        let item = guilty.item().await;
        let attempt = item["attempt"].as_u64().unwrap();
        answer.take(item);
        if std::mem::take(&mut waits) {
            other
                .publish("clawdbot/other/command", 1, false, greedy("other"))
                .await;
        }
        if !answer.is_complete() && attempt > deaths {
            deaths = attempt;
            process::signal(daemon.worker_pid(), Signal::ILL);
        }
    }
    let (code, message) = answer.error();
    assert_eq!(code, "dead_lettered", "{answer:?}");
    assert!(message.contains("set aside"), "{message}");
    assert!((2..=3).contains(&deaths), "{deaths} deaths");
    other.answer("other").await.assert_whole();
    let after = undisturbed(&mut guilty, "guilty").await;
    after.assert_whole();
}

#[tokio::test]
async fn every_request_has_ended_in_one_of_the_named_ways() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = device(&daemon, "phone").await;
    undisturbed(&mut client, "phone").await.assert_whole();
    let nothing = json!({"id": "late", "prompt": PROMPT, "deadline_ms": 0});
    client
        .publish("clawdbot/phone/command", 1, false, nothing.to_string())
        .await;
    assert_eq!(client.answer("late").await.error().0, "expired");
    let fault = |daemon: &Daemon| process::signal(daemon.worker_pid(), Signal::ILL);
    interrupted(&mut client, &daemon, "phone", fault)
        .await
        .assert_whole();
    daemon.accounts_add_up().await;
    let completed = daemon.metric_where("clawdbot_requests_account", "state=\"completed\"");
    assert!(completed >= Some(2.0), "{completed:?}");
}

#[tokio::test]
async fn requests_that_wait_for_their_device_s_turn_are_accounted_for() {
    let Some(launch) = launch() else { return };
    let daemon = launch.set("conversation.max_queued", 2).start();
    let mut client = device(&daemon, "phone").await;
    let frozen = daemon.freeze_worker();
    let of = |state: &str| daemon.metric_where("clawdbot_requests_account", &format!("state=\"{state}\""));
    for number in 0..4 {
        let request = greedy_of(&format!("q{number}"), 3);
        client.publish("clawdbot/phone/command", 1, false, request).await;
    }
    assert_eq!(client.answer("q3").await.error().0, "queue_full");
    eventually("two that wait for their turn", || {
        (of("waiting_for_turn") == Some(2.0)).then_some(())
    })
    .await;
    assert_eq!(of("accepted"), Some(4.0));
    assert_eq!((of("refused"), of("cancelled")), (Some(1.0), Some(0.0)));
    client.publish("clawdbot/phone/cancel", 1, false, "q1").await;
    assert_eq!(client.answer("q1").await.finish_reason(), "cancelled");
    eventually("its end to be counted", || {
        (of("cancelled") == Some(1.0) && of("waiting_for_turn") == Some(1.0)).then_some(())
    })
    .await;
    drop(frozen);
    client.answer("q0").await.assert_whole();
    client.answer("q2").await.assert_whole();
    daemon.accounts_add_up().await;
    assert_eq!(of("completed"), Some(2.0));
}
