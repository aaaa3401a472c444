//! What the owner shows a device that is to be paired: as a URI for its camera, and in words.

use serde_json::Value;

use super::Failure;

/// As the daemon gave it.
pub(super) struct Shown<'a> {
    name: &'a str,
    code: &'a str,
    minutes: u64,
    tries: u64,
    host: &'a str,
    address: Option<&'a str>,
    port: u64,
    tls: bool,
    ca: Option<&'a str>,
}

impl<'a> Shown<'a> {
    pub(super) fn read(answer: &'a Value) -> Result<Shown<'a>, Failure> {
        let to = &answer["invitation"];
        let read = || {
            Some(Shown {
                name: answer["name"].as_str()?,
                code: answer["code"].as_str()?,
                minutes: answer["expires_in_s"].as_u64()? / 60,
                tries: answer["tries"].as_u64()?,
                host: to["host"].as_str()?,
                address: to["address"].as_str(),
                port: to["port"].as_u64()?,
                tls: to["tls"].as_bool()?,
                ca: to["ca"].as_str(),
            })
        };
        read().ok_or_else(|| {
            Failure::AtRunTime("the daemon's answer lacks something; is it of the same version?".to_owned())
        })
    }

    /// All that a device must know.
    pub(super) fn uri(&self) -> String {
        let mut uri = format!("clawdbot://pair?host={}", encoded(self.host));
        if let Some(address) = self.address {
            uri.push_str(&format!("&address={}", encoded(address)));
        }
        uri.push_str(&format!("&port={}", self.port));
        match (self.tls, self.ca) {
            (false, _) => uri.push_str("&tls=no"),
            (true, Some(ca)) => uri.push_str(&format!("&ca=sha256:{ca}")),
            (true, None) => {}
        }
        uri.push_str(&format!("&code={}&name={}", self.code, encoded(self.name)));
        uri
    }

    pub(super) fn for_people(&self) -> String {
        let Shown {
            name,
            code,
            minutes,
            tries,
            host,
            port,
            ..
        } = self;
        let address = self
            .address
            .map(|address| format!(" or {address}"))
            .unwrap_or_default();
        let way = match (self.tls, self.ca) {
            (true, Some(_)) => "TLS; the device needs ca.pem (`clawdbot certs show` says where it is)",
            (true, None) => "TLS",
            (false, _) => "plain text, from this machine alone; for others run `clawdbot certs init` first",
        };
        format!(
            "{uri}\n\n\
             code     {code}   ({minutes} minutes, {tries} tries)\n\
             device   {name}\n\
             host     {host}{address}, port {port}, {way}\n\n\
             The device connects with the user name `pairing` and no password, publishes the code to\n\
             clawdbot/bridge/request/pair, and is given its secret on clawdbot/bridge/response/pair.",
            uri = self.uri(),
        )
    }
}

/// With everything but letters, digits and `-._~:[]` as percent signs and numbers.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_uri_says_where_the_hub_is_how_it_is_known_and_who_the_device_is() {
        let mut answer = json!({
            "name": "büro & co", "code": "ABCD-2345", "expires_in_s": 600, "tries": 5,
            "invitation": {"host": "hub.local", "address": "fd00::1", "port": 8883, "tls": true, "ca": "0a0b"},
        });
        assert_eq!(
            Shown::read(&answer).unwrap().uri(),
            "clawdbot://pair?host=hub.local&address=fd00::1&port=8883&ca=sha256:0a0b&code=ABCD-2345\
             &name=b%C3%BCro%20%26%20co"
        );
        answer["invitation"] = json!({"host": "127.0.0.1", "port": 1883, "tls": false});
        let shown = Shown::read(&answer).unwrap();
        assert!(shown.uri().contains("host=127.0.0.1&port=1883&tls=no&code="));
        assert!(shown.for_people().contains("certs init"));
        answer["invitation"] = json!({});
        assert!(Shown::read(&answer).is_err());
    }
}
