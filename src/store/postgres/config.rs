//! How the server is reached: never in plain text beyond this machine, and never one whose certificate does not prove
//! that it is the one that was meant.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ::postgres::config::{Host, SslMode};
use ::postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresError;
use crate::outbound::{self, PasswordSettings};
use crate::settings::PostgresServer;

const PASSWORD: PasswordSettings = PasswordSettings {
    file: "store.postgres_password_file",
    variable: "store.postgres_password_variable",
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may leave unanswered what was sent to it, before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(20);

const EXAMPLE: &str = "write for example \"postgresql://clawdbot@127.0.0.1/clawdbot\"";

/// What the settings mean, or what is wrong with the URL.
pub(crate) fn config(server: &PostgresServer) -> Result<Config, String> {
    if server.url.is_empty() {
        return Err(format!("with store.mode = \"postgres\" it is needed; {EXAMPLE}"));
    }
    let mut config = Config::from_str(&server.url)
        .map_err(|error| format!("no connection string: {}; {EXAMPLE}", super::whole(&error)))?;
    if config.get_password().is_some() {
        return Err(
            "there is a password in it, which settings show; write it in store.postgres_password_file"
                .to_owned(),
        );
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(format!("no host is in it; {EXAMPLE}"));
    }
    let is_wanted = server.ca_certificate.is_some() || config.get_ssl_mode() == SslMode::Require;
    let mode = match (is_loopback(&config), config.get_ssl_mode()) {
        (true, _) if !is_wanted => SslMode::Disable,
        (false, SslMode::Disable) => {
            return Err(
                "sslmode=disable beyond this machine would show the password to the network; leave it out"
                    .to_owned(),
            );
        }
        // What "prefer" falls back to is no choice of ours.
        _ => SslMode::Require,
    };
    config
        .ssl_mode(mode)
        .application_name("clawdbot")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(SILENCE)
        .keepalives_idle(SILENCE);
    Ok(config)
}

/// Whether every address that may be taken is this machine.
fn is_loopback(config: &Config) -> bool {
    // Addresses go before names.
    if !config.get_hostaddrs().is_empty() {
        return config.get_hostaddrs().iter().all(IpAddr::is_loopback);
    }
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Host::Unix(_) => true,
    })
}

pub(super) fn connect(server: &PostgresServer) -> Result<Client, PostgresError> {
    let mut config = config(server).map_err(PostgresError::Setting)?;
    if let Some(source) = &server.password {
        config.password(outbound::password(source, PASSWORD)?);
    }
    let connected = if config.get_ssl_mode() == SslMode::Disable {
        config.connect(NoTls)
    } else {
        let tls = outbound::tls("store.postgres_ca_certificate", server.ca_certificate.as_deref())?;
        config.connect(MakeRustlsConnect::new(tls.with_no_client_auth()))
    };
    connected.map_err(PostgresError::Connect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str, ca_certificate: Option<&str>) -> Result<SslMode, String> {
        let server = PostgresServer {
            url: url.to_owned(),
            password: None,
            ca_certificate: ca_certificate.map(Into::into),
        };
        config(&server).map(|config| config.get_ssl_mode())
    }

    #[test]
    fn beyond_this_machine_the_connection_is_always_tls() {
        for beyond in [
            "postgresql://db.example/clawdbot",
            "postgresql://db.example/clawdbot?sslmode=prefer",
            "postgresql://10.0.0.2/clawdbot",
            "host=127.0.0.1,db.example",
            "host=localhost hostaddr=10.0.0.2",
        ] {
            assert_eq!(mode(beyond, None), Ok(SslMode::Require), "{beyond}");
            let plain = format!(
                "{beyond}{}sslmode=disable",
                if beyond.contains("://") { "?" } else { " " }
            );
            let refused = mode(plain.trim_end_matches('?'), None);
            assert!(
                refused.is_err() || beyond.contains("prefer"),
                "{plain}: {refused:?}"
            );
        }
        for here in [
            "postgresql://localhost/clawdbot",
            "postgresql://127.0.0.1/clawdbot?sslmode=prefer",
            "postgresql://[::1]/clawdbot",
            "host=/run/postgresql",
        ] {
            assert_eq!(mode(here, None), Ok(SslMode::Disable), "{here}");
            assert_eq!(mode(here, Some("ca.pem")), Ok(SslMode::Require), "{here}");
        }
        assert_eq!(mode("host=127.0.0.1 sslmode=require", None), Ok(SslMode::Require));
    }

    #[test]
    fn what_is_no_connection_string_is_refused_and_a_password_in_it_is_not_shown() {
        for (url, said) in [
            ("", "it is needed"),
            ("postgresql://", "no host"),
            ("nonsense", "no connection string"),
            ("postgresql://db.example:port/x", "no connection string"),
            ("postgresql://u:secret@127.0.0.1/x", "postgres_password_file"),
        ] {
            let fault = mode(url, None).unwrap_err();
            assert!(
                fault.contains(said) && !fault.contains("secret"),
                "{url}: {fault}"
            );
        }
    }
}
