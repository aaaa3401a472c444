//! Mosquitto's own clients against our broker, with MQTT 3.1.1 and 5.0.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::answer::Answer;
use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, expected_story, stories};
use crate::support::foreign::mosquitto;
use crate::support::process::{self, Finished};
use crate::support::{PATIENCE, wait_for};

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// `mosquitto_pub` or `mosquitto_sub` as a client of the device `phone`.
fn client(daemon: &Daemon, program: &str, version: &str, arguments: &[&str]) -> Option<Command> {
    let mut command = mosquitto(program)?;
    let port = daemon.mqtt.port().to_string();
    let token = daemon.token("phone");
    command
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-V",
            version,
            "-u",
            "phone",
            "-P",
            &token,
        ])
        .args(arguments)
        .stdin(Stdio::null());
    Some(command)
}

/// Publishes and expects that it works.
#[track_caller]
fn publish(daemon: &Daemon, version: &str, arguments: &[&str]) -> Option<Finished> {
    let finished = process::finish(&mut client(daemon, "mosquitto_pub", version, arguments)?);
    finished.assert_code(0);
    Some(finished)
}

/// A `mosquitto_sub` at work, that ends by itself after a number of messages.
struct Subscriber<'a> {
    daemon: &'a Daemon,
    child: Option<Child>,
    subscriptions_before: Option<f64>,
}

impl<'a> Subscriber<'a> {
    /// Started, and subscribed.
    fn start(
        daemon: &'a Daemon,
        version: &str,
        messages: usize,
        arguments: &[&str],
    ) -> Option<Subscriber<'a>> {
        let subscriber = Subscriber::spawn(daemon, version, messages, arguments)?;
        wait_for("the subscription", || {
            let now = daemon.metric("clawdbot_mqtt_subscriptions");
            (now > subscriber.subscriptions_before).then_some(())
        });
        Some(subscriber)
    }

    fn spawn(
        daemon: &'a Daemon,
        version: &str,
        messages: usize,
        arguments: &[&str],
    ) -> Option<Subscriber<'a>> {
        let subscriptions_before = daemon.metric("clawdbot_mqtt_subscriptions");
        let (count, patience) = (messages.to_string(), PATIENCE.as_secs().to_string());
        let mut command = client(daemon, "mosquitto_sub", version, &["-C", &count, "-W", &patience])?;
        let child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Some(Subscriber {
            daemon,
            child: Some(child),
            subscriptions_before,
        })
    }

    /// What it printed until it ended.
    #[track_caller]
    fn output(mut self) -> String {
        let finished = process::collect(self.child.take().expect("a child"), "", "mosquitto_sub");
        finished.assert_code(0);
        // The next one counts subscriptions, too.
        wait_for("the end of the subscription", || {
            let now = self.daemon.metric("clawdbot_mqtt_subscriptions");
            (now <= self.subscriptions_before).then_some(())
        });
        finished.stdout
    }
}

impl Drop for Subscriber<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

#[test]
fn messages_pass_at_every_qos_both_ways() {
    let daemon = Daemon::launch().start();
    for version in VERSIONS {
        for granted in ["0", "1", "2"] {
            let format = ["-t", "clawdbot/phone/in/+", "-q", granted, "-F", "%t %q %p"];
            let Some(subscriber) = Subscriber::start(&daemon, version, 3, &format) else {
                return;
            };
            let mut expected = String::new();
            for published in ["0", "1", "2"] {
                let topic = format!("clawdbot/phone/in/{published}");
                publish(&daemon, version, &["-t", &topic, "-q", published, "-m", "hello"]);
                expected += &format!("{topic} {} hello\n", granted.min(published));
            }
            assert_eq!(
                subscriber.output(),
                expected,
                "{version}, subscribed at QoS {granted}"
            );
        }
    }
}

#[test]
fn a_retained_message_waits_for_subscribers_until_an_empty_one_clears_it() {
    let daemon = Daemon::launch().start();
    for version in VERSIONS {
        let topic = format!("clawdbot/phone/kept/{version}");
        if publish(&daemon, version, &["-t", &topic, "-r", "-q", "1", "-m", "kept"]).is_none() {
            return;
        }
        let format = ["-t", "clawdbot/phone/kept/#", "-F", "%t %r %p"];
        // It may have its message, and be gone, before anybody sees that it came.
        let output = Subscriber::spawn(&daemon, version, 1, &format)
            .expect("it was there before")
            .output();
        assert_eq!(output, format!("{topic} 1 kept\n"));
        publish(&daemon, version, &["-t", &topic, "-r", "-n", "-q", "1"]);
        let silent = Subscriber::start(&daemon, version, 1, &format).expect("it was there before");
        publish(&daemon, version, &["-t", &topic, "-q", "1", "-m", "fresh"]);
        assert_eq!(silent.output(), format!("{topic} 0 fresh\n"));
    }
}

#[test]
fn a_kept_session_has_what_came_while_its_client_was_away() {
    let daemon = Daemon::launch().start();
    for version in VERSIONS {
        let keeper = format!("keeper-{version}");
        let mut keeps = vec!["-c", "-i", &keeper, "-q", "2", "-t", "clawdbot/phone/kept/+"];
        if version == "mqttv5" {
            // Without it, a session of MQTT 5 ends with its connection.
            keeps.extend(["-x", "600"]);
        }
        let subscribe = [&keeps[..], &["-E"]].concat();
        let Some(mut subscriber) = client(&daemon, "mosquitto_sub", version, &subscribe) else {
            return;
        };
        process::finish(&mut subscriber).assert_code(0);
        for qos in ["0", "1", "2"] {
            let topic = format!("clawdbot/phone/kept/{qos}");
            publish(&daemon, version, &["-t", &topic, "-q", qos, "-m", "meanwhile"]);
        }
        let receive = [&keeps[..], &["-C", "2", "-W", "60", "-F", "%t %q %p"]].concat();
        let mut subscriber =
            client(&daemon, "mosquitto_sub", version, &receive).expect("it was there before");
        let finished = process::finish(&mut subscriber);
        finished.assert_code(0);
        // QoS 0 is not kept for somebody away.
        let expected = "clawdbot/phone/kept/1 1 meanwhile\nclawdbot/phone/kept/2 2 meanwhile\n";
        assert_eq!(finished.stdout, expected, "{version}");
    }
}

#[test]
fn properties_of_mqtt_5_arrive_as_they_were_sent() {
    let daemon = Daemon::launch().start();
    let format = "%C|%P|%F|%R|%D|%S|%p";
    let subscribe = [
        "-t",
        "clawdbot/phone/said",
        "-q",
        "2",
        "-D",
        "subscribe",
        "subscription-identifier",
        "7",
        "-F",
        format,
    ];
    let Some(subscriber) = Subscriber::start(&daemon, "mqttv5", 1, &subscribe) else {
        return;
    };
    let mut said = vec!["-t", "clawdbot/phone/said", "-q", "2", "-m", "hello"];
    for property in [
        &["content-type", "text/plain"][..],
        &["user-property", "why", "because"],
        &["payload-format-indicator", "1"],
        &["response-topic", "clawdbot/phone/answers"],
        &["correlation-data", "number seven"],
        &["message-expiry-interval", "600"],
    ] {
        said.extend(["-D", "publish"]);
        said.extend(property);
    }
    publish(&daemon, "mqttv5", &said);
    assert_eq!(
        subscriber.output(),
        "text/plain|why:because|1|clawdbot/phone/answers|number seven|7|hello\n"
    );
}

#[test]
fn wildcards_match_levels() {
    let daemon = Daemon::launch().start();
    for version in VERSIONS {
        let filters = ["-t", "clawdbot/phone/+/b/#", "-F", "%t"];
        let Some(subscriber) = Subscriber::start(&daemon, version, 3, &filters) else {
            return;
        };
        for topic in ["a/b", "a/b/c/d", "a/c", "b", "x/y/b", "/b/"] {
            publish(
                &daemon,
                version,
                &["-t", &format!("clawdbot/phone/{topic}"), "-q", "1", "-m", "x"],
            );
        }
        let expected = ["a/b", "a/b/c/d", "/b/"]
            .map(|topic| format!("clawdbot/phone/{topic}\n"))
            .concat();
        assert_eq!(subscriber.output(), expected, "{version}");
    }
}

#[test]
fn the_will_of_a_killed_client_is_told() {
    let daemon = Daemon::launch().start();
    for version in VERSIONS {
        let format = ["-t", "clawdbot/phone/lwt", "-q", "1", "-F", "%t %q %p"];
        let Some(watcher) = Subscriber::start(&daemon, version, 1, &format) else {
            return;
        };
        let will = [
            "-t",
            "clawdbot/phone/x",
            "--will-topic",
            "clawdbot/phone/lwt",
            "--will-payload",
            "offline",
            "--will-qos",
            "1",
        ];
        let victim = Subscriber::start(&daemon, version, 1, &will).expect("it was there before");
        process::signal(victim.child.as_ref().expect("a child").id(), Signal::KILL);
        assert_eq!(watcher.output(), "clawdbot/phone/lwt 1 offline\n", "{version}");
    }
}

#[test]
fn a_wrong_token_is_refused_by_the_protocols_code() {
    let daemon = Daemon::launch().start();
    let port = daemon.mqtt.port().to_string();
    for (version, wrong, none) in [
        ("mqttv311", "bad user name or password", "not authori"),
        ("mqttv5", "bad user", "not authorized"),
    ] {
        for (credentials, says) in [(&["-u", "phone", "-P", "wrong"][..], wrong), (&[][..], none)] {
            let Some(mut command) = mosquitto("mosquitto_pub") else {
                return;
            };
            command.args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-V",
                version,
                "-t",
                "clawdbot/phone/x",
                "-m",
                "x",
            ]);
            let finished = process::finish(command.args(credentials));
            assert_ne!(finished.status.code(), Some(0), "{finished:?}");
            let told = finished.stderr.to_lowercase();
            assert!(
                told.contains(says),
                "{version}: {says:?} is missing in {finished:?}"
            );
        }
    }
    assert_eq!(
        daemon.metric("clawdbot_mqtt_authentication_failures_total"),
        Some(4.0)
    );
}

#[test]
fn a_request_is_answered_on_its_response_topic_with_its_correlation_data_after_the_asker_has_left() {
    let (Some(model), Some(story)) = (stories(), expected_story()) else {
        return;
    };
    let daemon = Daemon::with_model(&model);
    let topic = "clawdbot/phone/reply/terminal";
    let max_tokens = 20;
    let request =
        format!(r#"{{"prompt": "{PROMPT}", "temperature": 0, "max_tokens": {max_tokens}, "id": "one"}}"#);
    // One item for each token at most; the subscriber is ended when the last one was seen.
    let format = ["-t", topic, "-q", "1", "-F", "%D|%p"];
    let Some(subscriber) = Subscriber::start(&daemon, "mqttv5", 10_000, &format) else {
        return;
    };
    let asked = [
        "-t",
        "clawdbot/phone/command",
        "-q",
        "1",
        "-m",
        &request,
        "-D",
        "publish",
        "response-topic",
        topic,
        "-D",
        "publish",
        "correlation-data",
        "number seven",
    ];
    publish(&daemon, "mqttv5", &asked);
    // The publisher has left already; the subscriber gets it all.
    let items = until_done(&daemon, subscriber);
    let mut answer = Answer::default();
    for line in items.lines() {
        let (properties, item) = line
            .split_once("|{")
            .unwrap_or_else(|| panic!("{line:?} is no item"));
        assert!(properties.contains("number seven"), "{line:?}");
        answer.take(serde_json::from_str(&format!("{{{item}")).expect("an item"));
    }
    answer.assert_whole();
    assert_eq!(answer.end()["usage"]["completion_tokens"], max_tokens);
    assert!(
        story.starts_with(&format!("{PROMPT}{}", answer.text())),
        "{answer:?}"
    );
}

#[test]
fn plain_text_over_3_1_1_is_answered_on_the_reply_topic() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let Some(subscriber) = Subscriber::start(
        &daemon,
        "mqttv311",
        10_000,
        &["-t", "clawdbot/phone/reply", "-q", "1"],
    ) else {
        return;
    };
    publish(
        &daemon,
        "mqttv311",
        &["-t", "clawdbot/phone/command", "-m", PROMPT],
    );
    let answer = Answer::of_lines(&until_done(&daemon, subscriber));
    answer.assert_whole();
    assert!(answer.text().len() > 20, "{answer:?}");
}

/// Everything a subscriber printed about one answer.
fn until_done(daemon: &Daemon, mut subscriber: Subscriber<'_>) -> String {
    wait_for("the answer's end", || {
        (daemon.metric("clawdbot_requests_ended_total") == Some(1.0)).then_some(())
    });
    let mut child = subscriber.child.take().expect("a child");
    let mut stdout = child.stdout.take().expect("a pipe");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::Read;
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            all.extend_from_slice(&buffer[..count]);
            if sender.send(String::from_utf8_lossy(&all).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut last = String::new();
    while !(last.contains("\"done\":true") && last.ends_with('\n')) {
        let waited: Result<String, _> = receiver.recv_timeout(PATIENCE);
        last = waited.unwrap_or_else(|error| panic!("no end of the answer ({error}): {last}"));
    }
    process::signal(child.id(), Signal::TERM);
    process::wait(&mut child, Duration::from_secs(10));
    last
}
