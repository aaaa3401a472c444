//! What outlives the daemon, and keys that are replaced under its eyes.

use rustix::process::Signal;

use super::support::{LEVELS, connect_as, paired, shown, token_by_secret, try_connect, with_secret};
use crate::support::client::{Client, Login, Version};
use crate::support::daemon::{Daemon, Home};
use crate::support::process;
use crate::support::raw::{RawClient, connect, packet};
use crate::support::{PATIENCE, eventually};

const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;

#[test]
fn pairings_and_revocations_that_were_answered_outlive_kill_minus_9() {
    let launch = Daemon::launch();
    let mut daemon = launch.clone().start();
    let kept = paired(&daemon, 4, "kept");
    let lost = paired(&daemon, 5, "lost");
    let token = daemon.token("guest");
    daemon
        .cli(&["device", "rename", "kept", "The one that stays"])
        .assert_code(0);
    for name in ["lost", "guest"] {
        daemon.cli(&["device", "revoke", name]).assert_code(0);
    }
    daemon.signal(Signal::KILL);
    daemon.exit(PATIENCE).expect("it is dead");
    let daemon = launch.start();
    assert_eq!(shown(&daemon, "kept")["label"], "The one that stays");
    assert_eq!(shown(&daemon, "lost")["state"], "revoked");
    with_secret(&daemon, 5, "c", "kept", &kept);
    for (name, password) in [("lost", &lost), ("guest", &token)] {
        let connect = connect_as(5, "d", Some(name), Some(password));
        assert_eq!(
            try_connect(daemon.mqtt, &connect).1,
            BAD_USER_NAME_OR_PASSWORD,
            "{name}"
        );
    }
}

#[test]
fn a_new_key_signs_while_old_tokens_live_on() {
    let daemon = Daemon::launch().start();
    let secret = paired(&daemon, 5, "phone");
    let unused = daemon.token("phone");
    let used = token_by_secret(&daemon, 5, "phone", &secret);
    let mut open = RawClient::admitted(daemon.mqtt, 5, "open", &used);
    daemon.cli(&["keys", "rotate"]).assert_code(0);
    let by_hand = daemon.token("phone");
    let by_secret = token_by_secret(&daemon, 5, "phone", &secret);
    for (number, token) in [&unused, &by_hand, &by_secret].into_iter().enumerate() {
        RawClient::admitted(daemon.mqtt, 5, &format!("c{number}"), token);
    }
    let names = [&unused, &by_hand, &by_secret].map(|token| token.split('.').next().unwrap().to_owned());
    assert!(
        names[0] != names[1] && names[1] == names[2],
        "the header names the key"
    );
    open.send(&packet(0xC0, &[]));
    assert_eq!(open.packet().expect("a PINGRESP"), [0xD0, 0]);

    std::thread::sleep(std::time::Duration::from_millis(1100));
    daemon.cli(&["keys", "rotate", "--void-tokens"]).assert_code(0);
    assert_eq!(open.disconnect_reason(), 0x98);
    for token in [&unused, &by_hand, &by_secret] {
        let (_, code) = try_connect(daemon.mqtt, &connect(5, "c", Some(token)));
        assert_eq!(code, BAD_USER_NAME_OR_PASSWORD);
    }
    with_secret(&daemon, 4, "c", "phone", &secret);
    RawClient::admitted(daemon.mqtt, 4, "d", &daemon.token("phone"));
}

#[test]
fn a_key_is_replaced_without_a_daemon_too() {
    let home = Home::new();
    let before = home.token_at("phone", std::time::SystemTime::now());
    process::finish(&mut home.command(&["keys", "rotate"])).assert_code(0);
    let daemon = Daemon::launch_in(home).start();
    for level in LEVELS {
        RawClient::admitted(daemon.mqtt, level, "before", &before);
    }
    RawClient::admitted(daemon.mqtt, 5, "after", &daemon.token("phone"));
}

#[tokio::test]
async fn a_session_that_outlived_the_daemon_goes_with_its_device() {
    let launch = Daemon::launch();
    let restart = |mut daemon: Daemon| {
        daemon.signal(Signal::KILL);
        daemon.exit(PATIENCE).expect("it is dead");
        launch.clone().start()
    };
    let daemon = launch.clone().start();
    let login = Login::new(Version::V5, &daemon, "phone", "sleeper").persistent();
    let mut client = Client::connect(daemon.mqtt, login).await.expect("admitted");
    client.subscribe("clawdbot/phone/x", 1).await;
    let daemon = restart(daemon);
    assert_eq!(daemon.metric("clawdbot_mqtt_sessions"), Some(1.0));
    daemon.cli(&["device", "revoke", "phone"]).assert_code(0);
    eventually("the session to end", || {
        (daemon.metric("clawdbot_mqtt_sessions") == Some(0.0)).then_some(())
    })
    .await;
    // What comes after it in the store is on disk, and so its end is.
    daemon.cli(&["device", "rename", "phone", "lost"]).assert_code(0);
    let daemon = restart(daemon);
    assert_eq!(daemon.metric("clawdbot_mqtt_sessions"), Some(0.0));
}
