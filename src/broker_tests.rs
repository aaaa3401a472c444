//! What is said when certificates or the password are not where the settings say.

use std::fs;
use std::path::Path;
use std::time::Duration;

use actors::policy::backoff::BackoffConfig;

use super::*;
use crate::settings::PasswordSource;

const BACKOFF: BackoffConfig = BackoffConfig {
    min_backoff: Duration::from_secs(1),
    max_backoff: Duration::from_secs(1),
    random_factor: 0.0,
    reset_backoff_after: Duration::from_secs(1),
};

fn settings(directory: &Path, change: impl FnOnce(&mut Broker)) -> Settings {
    let mut settings = Settings::default_for_tests(directory);
    settings.broker.mode = BrokerMode::External;
    settings.broker.client_id = "hub-1".to_owned();
    settings.broker.username = Some("hub".to_owned());
    settings.broker.address = Some(BrokerAddress {
        tls: true,
        host: "localhost".to_owned(),
        port: 8883,
    });
    settings.broker.ca_certificate = Some(directory.join("ca.pem"));
    change(&mut settings.broker);
    settings
}

fn said(settings: &Settings) -> String {
    match link_config(settings, BACKOFF) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_that_is_missing_or_something_else_is_named_with_its_setting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let missing = said(&settings(path, |_| {}));
    assert!(
        missing.contains("broker.ca_certificate") && missing.contains("cannot be read"),
        "{missing}"
    );
    fs::write(path.join("ca.pem"), "something else").unwrap();
    let not_pem = said(&settings(path, |_| {}));
    assert!(not_pem.contains("no certificate in it"), "{not_pem}");
}

#[test]
fn the_password_is_the_first_line_of_its_file_or_a_variable_and_in_no_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let from = |source| {
        settings(path, |broker| {
            broker.password = Some(source);
            broker.address.as_mut().unwrap().tls = false;
        })
    };
    let file = path.join("password");
    fs::write(&file, "secret\nnot this\n").unwrap();
    let config = link_config(&from(PasswordSource::File(file.clone())), BACKOFF);
    let config = config.unwrap_or_else(|error| panic!("{error}")).unwrap();
    assert_eq!(config.credentials, Some(("hub".to_owned(), "secret".to_owned())));
    fs::write(&file, "\nsecret").unwrap();
    let empty = said(&from(PasswordSource::File(file)));
    assert!(
        empty.contains("first line is empty") && !empty.contains("secret"),
        "{empty}"
    );
    let unset = said(&from(PasswordSource::Variable(
        "CLAWDBOT_NO_SUCH_VARIABLE".to_owned(),
    )));
    assert!(unset.contains("CLAWDBOT_NO_SUCH_VARIABLE"), "{unset}");
}

#[test]
fn nothing_is_read_for_the_embedded_broker() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = settings(directory.path(), |broker| broker.mode = BrokerMode::Embedded);
    assert!(link_config(&embedded, BACKOFF).is_ok_and(|config| config.is_none()));
}
