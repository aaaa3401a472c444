//! The crate rumqttc as a client, with MQTT 3.1.1 and 5.0.

use std::time::Duration;

use crate::support::client::{BOTH, Client, Login, Version};
use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, stories};

#[tokio::test]
async fn messages_pass_at_every_qos_both_ways() {
    let daemon = Daemon::launch().start();
    for version in BOTH {
        let login = Login::new(version, &daemon, "phone", "phone");
        let mut client = Client::connect(daemon.mqtt, login).await.unwrap();
        for granted in 0..=2 {
            let filter = format!("clawdbot/phone/{granted}/+");
            client.subscribe(&filter, granted).await;
            for published in 0..=2 {
                let topic = format!("clawdbot/phone/{granted}/{published}");
                client.publish(&topic, published, false, "x").await;
                let message = client.message().await;
                assert_eq!(
                    (message.topic, message.qos),
                    (topic, granted.min(published)),
                    "{version:?}"
                );
            }
            client.unsubscribe(&filter).await;
            client
                .publish(&format!("clawdbot/phone/{granted}/0"), 1, false, "unheard")
                .await;
        }
        assert!(
            client.is_quiet(),
            "{version:?}: a message after the unsubscription"
        );
    }
}

#[tokio::test]
async fn a_phone_of_the_original_design_works_as_it_is() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut watcher = Client::of(&daemon, "mobile", "watcher").await;
    watcher.subscribe("clawdbot/mobile/lwt", 1).await;
    let login = Login::new(Version::V4, &daemon, "mobile", "mobile_123");
    assert_eq!(login.keep_alive, Duration::from_secs(30));
    let login = login.will("clawdbot/mobile/lwt", "offline", 1, false);
    let mut phone = Client::connect(daemon.mqtt, login).await.unwrap();
    phone.subscribe("clawdbot/mobile/reply", 1).await;
    phone.publish("clawdbot/mobile/command", 1, false, PROMPT).await;
    let answer = phone.next_answer().await;
    answer.assert_whole();
    assert!(answer.text().len() > 20, "{answer:?}");
    assert!(answer.end()["id"].is_string(), "{answer:?}");
    // Lost without a goodbye.
    drop(phone);
    let will = watcher.message().await;
    assert_eq!(
        (will.topic.as_str(), will.payload.as_slice(), will.qos),
        ("clawdbot/mobile/lwt", &b"offline"[..], 1)
    );
}

#[tokio::test]
async fn a_goodbye_takes_the_will_back() {
    let daemon = Daemon::launch().start();
    for version in BOTH {
        let mut watcher = Client::of(&daemon, "phone", "watcher").await;
        watcher.subscribe("clawdbot/phone/lwt", 1).await;
        let login =
            Login::new(version, &daemon, "phone", "polite").will("clawdbot/phone/lwt", "lost", 1, false);
        Client::connect(daemon.mqtt, login)
            .await
            .unwrap()
            .disconnect()
            .await;
        watcher.publish("clawdbot/phone/lwt", 1, false, "later").await;
        assert_eq!(watcher.message().await.payload, b"later", "{version:?}");
    }
}

#[tokio::test]
async fn a_kept_session_gets_what_came_meanwhile_and_a_clean_one_does_not() {
    let daemon = Daemon::launch().start();
    for version in BOTH {
        let login = Login::new(version, &daemon, "phone", &format!("kept-{version:?}")).persistent();
        let mut kept = Client::connect(daemon.mqtt, login.clone()).await.unwrap();
        assert!(!kept.session_present, "{version:?}");
        kept.subscribe("clawdbot/phone/in", 2).await;
        kept.disconnect().await;
        let mut sender = Client::of(&daemon, "phone", "sender").await;
        for (number, qos) in [1, 2, 1].into_iter().enumerate() {
            sender
                .publish("clawdbot/phone/in", qos, false, number.to_string())
                .await;
        }
        let mut kept = Client::connect(daemon.mqtt, login.clone()).await.unwrap();
        assert!(kept.session_present, "{version:?}");
        for number in 0..3 {
            assert_eq!(
                kept.message().await.payload,
                number.to_string().as_bytes(),
                "{version:?}"
            );
        }
        kept.disconnect().await;
        let clean = Login {
            clean: true,
            session_expiry_s: None,
            ..login
        };
        assert!(
            !Client::connect(daemon.mqtt, clean).await.unwrap().session_present,
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn the_newer_connection_of_a_client_id_takes_the_session_over() {
    let daemon = Daemon::launch().start();
    for version in BOTH {
        let login =
            Login::new(version, &daemon, "phone", "twin").will("clawdbot/phone/lwt", "lost", 1, false);
        let mut watcher = Client::of(&daemon, "phone", "watcher").await;
        watcher.subscribe("clawdbot/phone/lwt", 1).await;
        let mut first = Client::connect(daemon.mqtt, login.clone()).await.unwrap();
        let mut second = Client::connect(daemon.mqtt, login).await.unwrap();
        first.closed().await;
        assert_eq!(watcher.message().await.payload, b"lost", "{version:?}");
        second.subscribe("clawdbot/phone/x", 1).await;
        second.publish("clawdbot/phone/x", 1, false, "works").await;
        assert_eq!(second.message().await.payload, b"works", "{version:?}");
        second.disconnect().await;
    }
}
