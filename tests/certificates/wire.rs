//! What is spoken on the ports of TLS, by probes and by Mosquitto's clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{initialised, launch, own_of, publisher, s_client};
use crate::support::foreign::openssl;
use crate::support::{PATIENCE, process};

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
    for host in ["localhost", "127.0.0.1"] {
        let Some(mut publisher) = publisher(&daemon, host, &own.authority()) else {
            return;
        };
        process::finish(publisher.args(["-u", "phone", "-P", &daemon.token("phone")])).assert_code(0);
    }
    assert_eq!(daemon.metric("clawdbot_mqtt_messages_received_total"), Some(2.0));
    // Another spelling of the same address, which is not in it.
    let Some(mut publisher) = publisher(&daemon, "127.1", &own.authority()) else {
        return;
    };
    let finished = process::finish(publisher.args(["-u", "phone", "-P", &daemon.token("phone")]));
    assert!(!finished.status.success(), "{finished:#?}");
    assert_eq!(daemon.metric("clawdbot_mqtt_messages_received_total"), Some(2.0));
}

#[test]
fn a_connection_is_not_negotiated_anew_by_its_client() {
    // Until then it waits for an answer that does not come.
    let daemon = launch(initialised()).set("mqtt.connect_timeout_s", 1).start();
    for listener in ["tls", "secure websocket"] {
        let address = daemon.listener(listener).to_string();
        let Some(mut client) = openssl() else { return };
        client.args(["s_client", "-tls1_2", "-connect", &address]);
        // A line with an R makes it ask for another handshake.
        let asked = process::finish_with_input(&mut client, "R\n");
        assert!(!asked.status.success(), "{asked:#?}");
        let (_, after) = asked.stderr.split_once("RENEGOTIATING").expect("it asked");
        // A second handshake would show the certificate again.
        assert!(
            after.contains("error") && !after.contains("depth=0"),
            "{asked:#?}"
        );
        // Nor is it open to somebody in between who began it (RFC 5746).
        for part in ["Secure Renegotiation IS supported", "Compression: NONE"] {
            assert!(asked.stdout.contains(part), "{part:?} is missing in {asked:#?}");
        }
    }
}

/// A ClientHello by hand, since no program of today offers these.
fn client_hello(record_version: [u8; 2], version: [u8; 2], compression_methods: &[u8]) -> Vec<u8> {
    let vector = |length_bytes: usize, bytes: &[u8]| {
        let length = bytes.len().to_be_bytes();
        [&length[length.len() - length_bytes..], bytes].concat()
    };
    // ECDHE_RSA_WITH_AES_128_GCM_SHA256, and that renegotiation is known of.
    let ciphers = [0xC0, 0x2F, 0x00, 0xFF];
    let extension = |kind: u8, body: &[u8]| [&[0, kind][..], &vector(2, body)].concat();
    let extensions = [
        // X25519 and P-256; uncompressed points; RSA with SHA-256, PSS and PKCS#1; extended master secret.
        extension(10, &vector(2, &[0, 0x1D, 0, 0x17])),
        extension(11, &vector(1, &[0])),
        extension(13, &vector(2, &[8, 4, 4, 1])),
        extension(23, &[]),
    ];
    let body = [
        &version[..],
        &[7; 32],
        &vector(1, &[]),
        &vector(2, &ciphers),
        &vector(1, compression_methods),
        &vector(2, &extensions.concat()),
    ];
    let handshake = [&[1][..], &vector(3, &body.concat())].concat();
    [&[22][..], &record_version, &vector(2, &handshake)].concat()
}

/// The first record that comes back: its type and its body.
fn answer(address: SocketAddr, hello: &[u8]) -> (u8, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("the daemon accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(hello).expect("a socket");
    let mut header = [0; 5];
    stream.read_exact(&mut header).expect("an answer");
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut body).expect("all of it");
    (header[0], body)
}

#[test]
fn compression_is_not_agreed_to_nor_a_version_before_tls() {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let daemon = launch(initialised()).start();
    for listener in ["tls", "secure websocket"] {
        let address = daemon.listener(listener);
        let (tls_1_0, tls_1_2, ssl_3) = ([3, 1], [3, 3], [3, 0]);
        // Deflate first, and nothing as well.
        let (kind, hello) = answer(address, &client_hello(tls_1_0, tls_1_2, &[1, 0]));
        assert_eq!((kind, hello[0]), (HANDSHAKE, 2), "{hello:02x?}");
        let session_id_bytes = usize::from(hello[4 + 2 + 32]);
        let cipher = 4 + 2 + 32 + 1 + session_id_bytes;
        assert_eq!(hello[cipher..cipher + 3], [0xC0, 0x2F, 0], "{hello:02x?}");
        // Deflate alone.
        let (kind, alert) = answer(address, &client_hello(tls_1_0, tls_1_2, &[1]));
        assert_eq!((kind, alert[0]), (ALERT, 2), "{alert:02x?}");
        for old in [ssl_3, tls_1_0, [3, 2]] {
            let (kind, alert) = answer(address, &client_hello(ssl_3, old, &[0]));
            assert_eq!((kind, alert[0]), (ALERT, 2), "{old:?}: {alert:02x?}");
        }
    }
}
