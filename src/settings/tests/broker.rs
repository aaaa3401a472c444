//! A broker of others.

use super::*;

const EXTERNAL: &str = "[broker]\nmode = \"external\"\nclient_id = \"hub-1\"\n";

#[test]
fn an_external_broker_is_named_by_a_url_with_a_port_of_its_own_or_the_usual_one() {
    for (written, tls, host, port) in [
        ("mqtts://broker.example:8884", true, "broker.example", 8884),
        ("mqtts://broker.example", true, "broker.example", 8883),
        ("mqtt://localhost", false, "localhost", 1883),
        ("mqtt://[::1]:1884", false, "[::1]", 1884),
        ("mqtt://[::1]", false, "[::1]", 1883),
    ] {
        let settings = setup()
            .file(&format!("{EXTERNAL}address = \"{written}\"\n"))
            .settings();
        let expected = BrokerAddress {
            tls,
            host: host.to_owned(),
            port,
        };
        assert_eq!(settings.broker.address, Some(expected), "{written}");
    }
    for written in [
        "broker.example",
        "http://x",
        "mqtts://",
        "mqtts://a b",
        "mqtt://x:0",
        "mqtt://x:y",
        "mqtts://u:p@x",
    ] {
        let setup = setup().file(&format!("{EXTERNAL}address = \"{written}\"\n"));
        assert_says(
            &setup.message(),
            &[&setup.at_line(4), "mqtts://broker.example:8883"],
        );
    }
}

#[test]
fn an_external_broker_needs_an_address_and_a_name_for_us() {
    let setup = setup().file("[broker]\nmode = \"external\"\n");
    assert_says(
        &setup.message(),
        &[
            "2 faults",
            "broker.client_id",
            "give each daemon its own",
            "broker.address",
        ],
    );
}

#[test]
fn a_password_never_goes_over_the_network_in_plain_text_unasked() {
    let plain = format!("{EXTERNAL}address = \"mqtt://10.0.0.1\"\n");
    let refused = setup().file(&plain);
    assert_says(
        &refused.message(),
        &[
            &refused.at_line(4),
            "broker.allow_plaintext_beyond_loopback = true",
        ],
    );
    let allowed = setup().file(&format!("{plain}allow_plaintext_beyond_loopback = true\n"));
    assert!(allowed.settings().broker.allow_plaintext_beyond_loopback);
}

#[test]
fn what_cannot_go_together_in_the_broker_section_is_said() {
    let tls = "address = \"mqtts://x\"\n";
    for (lines, said) in [
        ("address = \"mqtts://[::1]\"\n".to_owned(), "needs a name"),
        (format!("{tls}client_id = \"a/b\"\n"), "fits into a topic"),
        (format!("{tls}share_group = \"\"\n"), "same name"),
        (format!("{tls}password_file = \"x\"\n"), "set broker.username"),
        (
            format!("{tls}username = \"u\"\npassword_file = \"x\"\npassword_variable = \"X\"\n"),
            "one source",
        ),
        (
            format!("{tls}client_key = \"x\"\n"),
            "set broker.client_certificate too",
        ),
        (
            "address = \"mqtt://127.0.0.1\"\nca_certificate = \"x\"\n".to_owned(),
            "use mqtts://",
        ),
        (format!("{tls}keep_alive_s = 4\n"), "from 5 to 65535"),
    ] {
        let head = if lines.contains("client_id") {
            EXTERNAL.replace("client_id = \"hub-1\"\n", "")
        } else {
            EXTERNAL.to_owned()
        };
        let setup = setup().file(&format!("{head}{lines}"));
        assert_says(&setup.message(), &[said]);
    }
}

#[test]
fn what_an_external_broker_needs_is_not_asked_for_while_ours_is_used() {
    let setup = setup().file("[broker]\naddress = \"mqtt://10.0.0.1\"\n");
    assert_eq!(setup.settings().broker.mode, BrokerMode::Embedded);
}
