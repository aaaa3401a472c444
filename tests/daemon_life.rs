//! Starting, stopping and refusing to start; what is left behind and what is not.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::Client;
use crate::support::daemon::{Daemon, Home, start};
use crate::support::data::{PROMPT, stories};
use crate::support::process::{self, Finished};
use crate::support::raw::RawClient;
use crate::support::{PATIENCE, eventually, wait_for};

const SERVER_SHUTTING_DOWN: u8 = 0x8B;

fn request(id: &str, max_tokens: usize) -> String {
    json!({"id": id, "prompt": PROMPT, "temperature": 0, "max_tokens": max_tokens}).to_string()
}

#[test]
fn sigterm_and_ctrl_c_end_it_with_exit_code_0_and_take_the_child_along() {
    let Some(model) = stories() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::with_model(&model);
        let worker = daemon.worker_pid();
        assert!(process::is_running(worker));
        let before = Instant::now();
        daemon.signal(signal);
        let status = daemon.exit(PATIENCE).expect("it exits");
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(
            before.elapsed() < Duration::from_secs(10),
            "idle, it took {:?}",
            before.elapsed()
        );
        assert!(!process::is_running(worker), "{signal:?}: the child outlived it");
        assert!(!daemon.home().data_dir().join("clawdbot.sock").exists());
    }
}

#[tokio::test]
async fn what_runs_at_sigterm_is_finished_or_told_and_clients_hear_why_they_are_closed() {
    let Some(model) = stories() else { return };
    // Time enough for a machine that has other things to do: what ends by the clock is another test's.
    let mut daemon = Daemon::launch()
        .model(&model)
        .set("shutdown.timeout_s", 100)
        .start();
    let worker = daemon.worker_pid();
    let mut clients = Vec::new();
    for device in ["phone", "tablet", "watch"] {
        let mut client = Client::of(&daemon, device, device).await;
        client.subscribe(&format!("clawdbot/{device}/reply"), 1).await;
        client
            .publish(
                &format!("clawdbot/{device}/command"),
                1,
                false,
                request("runs", 300),
            )
            .await;
        client
            .publish(
                &format!("clawdbot/{device}/command"),
                1,
                false,
                request("waits", 300),
            )
            .await;
        clients.push(client);
    }
    // rumqttc does not tell why a broker disconnects it.
    let mut raw = RawClient::admitted(daemon.mqtt, 5, "raw", &daemon.token("raw"));
    daemon.signal(Signal::TERM);
    for client in &mut clients {
        client.answer("runs").await.assert_whole();
        let waited = client.answer("waits").await;
        assert!(
            waited.finish_reason() != "error" || waited.error().0 == "shutting_down",
            "{waited:?}"
        );
        client.closed().await;
    }
    assert_eq!(raw.disconnect_reason(), SERVER_SHUTTING_DOWN);
    let status = daemon.exit(PATIENCE).expect("it exits");
    assert_eq!(status.code(), Some(0));
    assert!(!process::is_running(worker));
}

#[tokio::test]
async fn a_hung_model_does_not_keep_it_from_stopping_in_time_and_new_requests_are_refused_meanwhile() {
    let Some(model) = stories() else { return };
    let mut daemon = Daemon::launch()
        .model(&model)
        .set("shutdown.timeout_s", 5)
        .start();
    let worker = daemon.worker_pid();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let mut other = Client::of(&daemon, "tablet", "tablet").await;
    other.subscribe("clawdbot/tablet/reply", 1).await;
    let _frozen = daemon.freeze_worker();
    client
        .publish("clawdbot/phone/command", 1, false, request("runs", 30))
        .await;
    eventually("the request to run", || {
        (daemon.metric("clawdbot_requests_running") == Some(1.0)).then_some(())
    })
    .await;
    let before = Instant::now();
    daemon.signal(Signal::TERM);
    eventually("the listener to close", || {
        std::net::TcpStream::connect(daemon.mqtt).is_err().then_some(())
    })
    .await;
    other
        .publish("clawdbot/tablet/command", 1, false, request("new", 30))
        .await;
    let refused = other.answer("new").await;
    assert_eq!(refused.error().0, "shutting_down", "{refused:?}");
    let ended = client.answer("runs").await;
    assert_eq!(ended.error().0, "shutting_down", "{ended:?}");
    let status = daemon.exit(PATIENCE).expect("it exits");
    assert_eq!(status.code(), Some(0));
    // The configured time, and generously what a busy machine needs to run at all.
    assert!(
        before.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        before.elapsed()
    );
    wait_for("the child to be gone", || {
        (!process::is_running(worker)).then_some(())
    });
}

#[test]
fn the_child_ends_by_itself_when_the_daemon_is_killed() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let worker = daemon.worker_pid();
    daemon.signal(Signal::KILL);
    wait_for("the child to end", || {
        (!process::is_running(worker)).then_some(())
    });
}

#[test]
fn it_can_be_started_again_on_what_a_killed_one_left() {
    let mut daemon = Daemon::launch().start();
    let token = daemon.token("phone");
    daemon.signal(Signal::KILL);
    daemon.exit(PATIENCE).expect("it is dead");
    assert!(
        daemon.home().data_dir().join("clawdbot.sock").exists(),
        "killed, it left its socket"
    );
    let mut command = daemon.home().command(&["serve"]);
    command.env("CLAWDBOT__LOG__FORMAT", "json");
    let mut again = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = wait_for("the second daemon to answer", || {
        let finished = daemon.cli(&["status", "--json"]);
        (finished.status.code() == Some(0)).then_some(finished.stdout)
    });
    assert!(status.contains(&format!("\"pid\":{}", again.id())), "{status}");
    // The key was kept, so tokens from before are good.
    assert_eq!(daemon.token("phone").len(), token.len());
    process::signal(again.id(), Signal::TERM);
    assert_eq!(
        process::wait(&mut again, PATIENCE).expect("it exits").code(),
        Some(0)
    );
}

#[test]
fn the_data_directory_is_the_owners_alone() {
    let daemon = Daemon::launch().start();
    let mode = |path: &str| {
        let path = daemon.home().data_dir().join(path);
        let metadata = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        format!("{:o}", metadata.permissions().mode() & 0o777)
    };
    assert_eq!((mode("").as_str(), mode("keys").as_str()), ("700", "700"));
    for file in ["keys/token-signing.key", "clawdbot.sock", "clawdbot.lock"] {
        assert_eq!(mode(file), "600", "{file}");
    }
}

#[test]
fn a_data_directory_that_others_can_write_to_is_refused_with_the_command_that_helps() {
    let home = Home::new();
    fs::create_dir(home.data_dir()).unwrap();
    fs::set_permissions(home.data_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    for command in ["serve", "check", "token"] {
        let arguments: &[&str] = if command == "token" {
            &["token", "phone"]
        } else {
            &[command]
        };
        process::finish(&mut home.command(arguments))
            .assert_code(2)
            .assert_says(&["chmod go-w"]);
    }
}

#[test]
fn a_bare_clawdbot_serves() {
    let home = Home::new();
    let bare = home.command::<&str>(&[]);
    let daemon = start(home, bare);
    assert_eq!(daemon.status()["inference"]["worker"], "no_model");
}

#[test]
fn status_tells_people_and_programs_how_it_is() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let status = daemon.status();
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["inference"]["worker"], "ready");
    assert_eq!(status["inference"]["model"]["name"], "stories260K");
    assert_eq!(status["counters"]["clawdbot.mqtt.connections"], 0);
    let people = daemon.cli(&["status"]);
    people.assert_code(0);
    assert!(
        people.stdout.contains("worker: ready") && people.stdout.contains("name: stories260K"),
        "{people:?}"
    );
}

#[test]
fn status_and_ask_say_so_when_no_daemon_runs() {
    let home = Home::new();
    let never = process::finish(&mut home.command(&["status"]));
    never.assert_code(1).assert_says(&["clawdbot serve"]);
    process::finish(&mut home.command(&["token", "cli"])).assert_code(0);
    process::finish(&mut home.command(&["status"]))
        .assert_code(1)
        .assert_says(&["no daemon runs", "clawdbot serve"]);
    let ask = process::finish(
        home.command(&["ask", "hello"])
            .env("CLAWDBOT__MQTT__TCP", "127.0.0.1:9"),
    );
    ask.assert_code(1)
        .assert_says(&["no daemon answers at 127.0.0.1:9", "clawdbot serve"]);
}

#[test]
fn settings_come_from_file_environment_and_flags_in_that_order() {
    let home = Home::new();
    let file = home.path().join("my.toml");
    fs::write(
        &file,
        "[conversation]\nmax_prompt_bytes = 11\nmax_tokens_limit = 12\ndefault_max_tokens = 9\n",
    )
    .unwrap();
    let mut command = home.command(&["serve", "--set", "conversation.max_tokens_limit=14", "--config"]);
    command
        .arg(&file)
        .env("CLAWDBOT__CONVERSATION__MAX_TOKENS_LIMIT", "13");
    let daemon = start(home, command);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let mut client = Client::of(&daemon, "phone", "phone").await;
            client.subscribe("clawdbot/phone/reply", 1).await;
            client
                .publish("clawdbot/phone/command", 1, false, "more than eleven bytes")
                .await;
            assert!(client.next_answer().await.error().1.contains("at most 11"));
            client
                .publish(
                    "clawdbot/phone/command",
                    1,
                    false,
                    r#"{"prompt": "a", "max_tokens": 15}"#,
                )
                .await;
            assert!(client.next_answer().await.error().1.contains("at most 14"));
        });
}

/// Runs `serve` with a file of settings, which must stop the start.
fn serve_with_file(content: &str) -> Finished {
    let home = Home::new();
    let file = home.path().join("my.toml");
    fs::write(&file, content).expect("a file of settings");
    process::finish(home.command(&["serve", "--config"]).arg(&file))
}

#[test]
fn a_wrong_setting_stops_the_start_and_its_line_is_named() {
    for (content, says) in [
        ("[mqtt]\n\ntcp = \"nowhere\"\n", "my.toml:3: mqtt.tcp"),
        ("[mqtt]\ntpc = \"127.0.0.1:1\"\n", "my.toml:2: mqtt.tpc"),
        (
            "[conversation]\nmax_queued = \"lots\"\n",
            "my.toml:2: conversation.max_queued",
        ),
        (
            "[mqtt]\nmax_connections = 0\n",
            "my.toml:2: mqtt.max_connections = 0: out of range",
        ),
        (
            "[log]\nlevel = \"info\"\nformat = \"xml\"\n",
            "\"pretty\" or \"json\"",
        ),
        ("[mqtt\n", "my.toml:1"),
    ] {
        // The variables would hide what the file says about the same key.
        let home = Home::new();
        let file = home.path().join("my.toml");
        fs::write(&file, content).unwrap();
        let mut command = home.command(&["serve", "--config"]);
        command.arg(&file).env_remove("CLAWDBOT__MQTT__TCP");
        process::finish(&mut command).assert_code(2).assert_says(&[says]);
    }
    serve_with_file("[a]\nb = 1\n")
        .assert_code(2)
        .assert_says(&["my.toml:"]);
    let home = Home::new();
    let missing = process::finish(&mut home.command(&["serve", "--config", "/nowhere/my.toml"]));
    missing.assert_code(2).assert_says(&["/nowhere/my.toml"]);
    let variable = process::finish(home.command(&["serve"]).env("CLAWDBOT__AUTH__MODE", "guess"));
    variable
        .assert_code(2)
        .assert_says(&["CLAWDBOT__AUTH__MODE", "\"token\" or \"none\""]);
    let flag = process::finish(&mut home.command(&["serve", "--set", "mqtt.max_connections=many"]));
    flag.assert_code(2)
        .assert_says(&["mqtt.max_connections", "a whole number"]);
    process::finish(&mut home.command(&["serve", "--nonsense"]))
        .assert_code(2)
        .assert_says(&["--nonsense"]);
}

#[test]
fn a_wrong_model_stops_the_start_and_is_named_with_what_is_wrong() {
    let Some(model) = stories() else { return };
    let good = fs::read(&model).unwrap();
    let home = Home::new();
    let mut foreign = good.clone();
    replace_all(&mut foreign, b"llama", b"lorem");
    for (name, bytes, says) in [
        ("truncated.gguf", &good[..good.len() / 2], "truncated.gguf"),
        ("beheaded.gguf", &good[..100], "beheaded.gguf"),
        ("empty.gguf", &[][..], "empty.gguf"),
        (
            "garbage.gguf",
            &b"this is no model, but a text in its place"[..],
            "garbage.gguf",
        ),
        ("foreign.gguf", &foreign[..], "lorem"),
    ] {
        let path = home.path().join(name);
        fs::write(&path, bytes).unwrap();
        for command in ["serve", "check"] {
            let finished = process::finish(home.command(&[command, "--model"]).arg(&path));
            finished.assert_code(2).assert_says(&[says, "model.path"]);
        }
    }
    let missing = process::finish(&mut home.command(&["serve", "--model", "/nowhere/model.gguf"]));
    missing.assert_code(2).assert_says(&["/nowhere/model.gguf"]);
    let directory = process::finish(home.command(&["serve", "--model"]).arg(home.path()));
    directory.assert_code(2).assert_says(&["config.json"]);
}

fn replace_all(bytes: &mut [u8], what: &[u8], by: &[u8]) {
    for at in 0..bytes.len() - what.len() {
        if bytes[at..].starts_with(what) {
            bytes[at..at + by.len()].copy_from_slice(by);
        }
    }
}

#[test]
fn a_port_in_use_is_a_failure_at_run_time_that_names_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new();
    for (variable, setting) in [
        ("CLAWDBOT__MQTT__TCP", "mqtt.tcp"),
        ("CLAWDBOT__MQTT__WEBSOCKET", "mqtt.websocket"),
        ("CLAWDBOT__METRICS__LISTEN", "metrics.listen"),
    ] {
        let finished = process::finish(home.command(&["serve"]).env(variable, &address));
        finished
            .assert_code(1)
            .assert_says(&[setting, &address, "another port"]);
    }
}

#[test]
fn a_second_daemon_on_the_same_data_directory_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::launch().start();
    let second = process::finish(&mut daemon.home().command(&["serve"]));
    second
        .assert_code(1)
        .assert_says(&[&format!("process {}", daemon.pid()), "--data-dir"]);
    assert_eq!(daemon.status()["pid"], daemon.pid());
}

#[test]
fn check_says_what_would_happen_and_creates_nothing() {
    let Some(model) = stories() else { return };
    let home = Home::new();
    let fine = process::finish(home.command(&["check", "--model"]).arg(&model));
    fine.assert_code(0);
    assert!(
        fine.stdout.contains("model: stories260K (llama, gguf f32"),
        "{fine:#?}"
    );
    assert!(!home.data_dir().exists());
    let both = process::finish(
        home.command(&["check"])
            .env("CLAWDBOT__LOG__FORMAT", "xml")
            .env("CLAWDBOT__MQTT__TCP", "x"),
    );
    both.assert_code(2).assert_says(&["log.format", "mqtt.tcp"]);
}

#[test]
fn a_token_is_the_only_thing_on_stdout_and_bad_names_get_none() {
    let home = Home::new();
    let finished = process::finish(&mut home.command(&["token", "phone"]));
    finished.assert_code(0);
    assert_eq!(finished.stdout.trim().split('.').count(), 3, "{finished:#?}");
    assert_eq!(finished.stdout.lines().count(), 1);
    for name in ["bridge", "a/b", "a+", "#", "$x", ""] {
        let finished = process::finish(&mut home.command(&["token", name]));
        finished.assert_code(2);
        assert_eq!(finished.stdout, "", "{name}");
    }
}

#[test]
fn what_would_let_strangers_in_is_refused_without_a_word_that_allows_it() {
    let home = Home::new();
    let beyond = process::finish(home.command(&["serve"]).env("CLAWDBOT__MQTT__TCP", "0.0.0.0:0"));
    beyond
        .assert_code(2)
        .assert_says(&["mqtt.tcp", "mqtt.allow_plaintext_beyond_loopback"]);
    let metrics = process::finish(
        home.command(&["serve"])
            .env("CLAWDBOT__METRICS__LISTEN", "0.0.0.0:0"),
    );
    metrics
        .assert_code(2)
        .assert_says(&["metrics.listen", "metrics.allow_beyond_loopback"]);
    let open = process::finish(
        home.command(&["serve", "--set", "auth.mode=none"])
            .env("CLAWDBOT__MQTT__TCP", "0.0.0.0:0")
            .env("CLAWDBOT__MQTT__ALLOW_PLAINTEXT_BEYOND_LOOPBACK", "true"),
    );
    open.assert_code(2).assert_says(&["auth.mode", "loopback"]);
    let allowed = Home::new();
    let mut command = allowed.command(&["serve"]);
    command
        .env("CLAWDBOT__MQTT__TCP", "0.0.0.0:0")
        .env("CLAWDBOT__MQTT__ALLOW_PLAINTEXT_BEYOND_LOOPBACK", "true");
    assert_eq!(start(allowed, command).get("/health").0, 200);
}
