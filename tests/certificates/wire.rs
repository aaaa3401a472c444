//! What is spoken on the ports of TLS, by probes and by Mosquitto's clients.

use super::{initialised, launch, own_of, publisher, s_client};
use crate::support::process;

#[test]
fn versions_1_2_and_1_3_are_spoken_and_nothing_older() {
    let daemon = launch(initialised()).start();
    let own = own_of(daemon.home());
    for listener in ["tls", "secure websocket"] {
        let address = daemon.listener(listener);
        // Without the lower security level this client would not even ask for the old ones.
        let ask = |version: &str| s_client(address, &format!("{version} -cipher DEFAULT:@SECLEVEL=0"));
        for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
            let arguments = format!(
                "{version} -verify_return_error -verify_hostname localhost -CAfile {}",
                own.authority().display()
            );
            let Some(spoken) = s_client(address, &arguments) else {
                return;
            };
            spoken.assert_code(0);
            for part in [
                name,
                "Verify return code: 0 (ok)",
                "Server public key is 2048 bit",
            ] {
                assert!(spoken.stdout.contains(part), "{part:?} is missing in {spoken:#?}");
            }
            // The server's, and its authority's.
            assert_eq!(spoken.stdout.matches(" s:CN").count(), 2, "{spoken:#?}");
        }
        for version in ["-tls1_1", "-tls1"] {
            let Some(refused) = ask(version) else { return };
            assert!(!refused.status.success(), "{refused:#?}");
            // By the server, and not by the client's own configuration. Such clients also lack an extension, whose
            // absence rustls notices first.
            refused.assert_says(&["alert handshake failure"]);
        }
        // Ciphers without forward secrecy, without authenticated encryption, or without any.
        for cipher in [
            "AES128-GCM-SHA256",
            "AES256-SHA",
            "ECDHE-RSA-AES128-SHA",
            "DES-CBC3-SHA",
            "aNULL",
            "eNULL",
        ] {
            let Some(refused) = s_client(address, &format!("-tls1_2 -cipher {cipher}:@SECLEVEL=0")) else {
                return;
            };
            assert!(!refused.status.success(), "{cipher}: {refused:#?}");
        }
    }
}

#[test]
fn mosquitto_pub_trusts_the_authority_alone_and_only_by_the_names_in_the_certificate() {
    let daemon = launch(initialised()).start();
    let own = own_of(daemon.home());
    let token = daemon.token("phone");
    for host in ["localhost", "127.0.0.1"] {
        let Some(mut publisher) = publisher(&daemon, host, &own.authority()) else {
            return;
        };
        process::finish(publisher.args(["-u", "phone", "-P", &token])).assert_code(0);
    }
    assert_eq!(daemon.metric("clawdbot_mqtt_messages_received_total"), Some(2.0));
    // Another spelling of the same address, which is not in it.
    let Some(mut publisher) = publisher(&daemon, "127.1", &own.authority()) else {
        return;
    };
    let finished = process::finish(publisher.args(["-u", "phone", "-P", &token]));
    assert!(!finished.status.success(), "{finished:#?}");
    assert_eq!(daemon.metric("clawdbot_mqtt_messages_received_total"), Some(2.0));
}
