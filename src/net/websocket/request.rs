//! The HTTP request that asks for a WebSocket, judged: RFC 6455 4.2.1 and [MQTT5 6].

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{Request, Status};
use ring::digest;

use super::Origins;
use super::counter::{self, Asked};

/// The one path at which MQTT is spoken.
const PATH: &str = "/mqtt";
/// Subprotocols in the order of our preference; the second is what MQTT 3.1 clients say.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// RFC 6455 1.3: what every accepting server adds to the client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const MAX_HEADERS: usize = 64;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More of it must come.
    Incomplete,
    /// The answer, and how long the request was.
    Accepted { response: String, length: usize },
    /// A question that is answered by HTTP.
    Asked(Asked),
    /// No WebSocket.
    Refused(Refusal),
}

/// A refusal in HTTP's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: &'static str,
    /// A header that says what would have been right.
    remedy: &'static str,
    /// For the client and the log.
    pub(super) why: &'static str,
}

impl Refusal {
    pub(super) const TOO_LARGE: Refusal = Refusal::new(
        "431 Request Header Fields Too Large",
        "the request is too long for one that asks for a WebSocket",
    );

    pub(super) const fn new(status: &'static str, why: &'static str) -> Refusal {
        Refusal {
            status,
            remedy: "",
            why,
        }
    }

    pub(super) const fn with(self, remedy: &'static str) -> Refusal {
        Refusal { remedy, ..self }
    }

    pub(super) fn response(&self) -> String {
        format!(
            "HTTP/1.1 {}\r\n{}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{}\n",
            self.status,
            self.remedy,
            self.why.len() + 1,
            self.why
        )
    }
}

/// Questions are refused like any other path where they may not be asked.
pub(super) fn judge(input: &[u8], origins: Origins, questions: bool) -> Verdict {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(input) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Verdict::Incomplete,
        Err(httparse::Error::TooManyHeaders) => return Verdict::Refused(Refusal::TOO_LARGE),
        Err(_) => {
            return Verdict::Refused(Refusal::new("400 Bad Request", "this is not an HTTP request"));
        }
    };
    let asked = questions.then(|| counter::judge(&request, length)).flatten();
    match asked {
        Some(Ok(asked)) => return Verdict::Asked(asked),
        Some(Err(refusal)) => return Verdict::Refused(refusal),
        None => {}
    }
    match agree(&request, origins) {
        Ok(response) => Verdict::Accepted { response, length },
        Err(refusal) => Verdict::Refused(refusal),
    }
}

fn agree(request: &Request<'_, '_>, origins: Origins) -> Result<String, Refusal> {
    let bad = |why| Refusal::new("400 Bad Request", why);
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(PATH) {
        return Err(Refusal::new("404 Not Found", "MQTT is spoken at the path /mqtt"));
    }
    if request.method != Some("GET") {
        let refusal = Refusal::new("405 Method Not Allowed", "a WebSocket is asked for with GET");
        return Err(refusal.with("Allow: GET\r\n"));
    }
    if request.version != Some(1) {
        return Err(bad("a WebSocket needs HTTP/1.1"));
    }
    if !lists(request, "upgrade", "websocket") || !lists(request, "connection", "upgrade") {
        let refusal = Refusal::new(
            "426 Upgrade Required",
            "this is a WebSocket for MQTT, and nothing to read",
        );
        return Err(refusal.with("Upgrade: websocket\r\n"));
    }
    if single(request, "sec-websocket-version") != Some("13") {
        let refusal = Refusal::new("426 Upgrade Required", "version 13 of WebSocket is spoken here");
        return Err(refusal.with("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"));
    }
    let key = single(request, "sec-websocket-key").unwrap_or_default();
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(bad("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    let offered = |name: &&&str| values(request, "sec-websocket-protocol").any(|offer| offer == **name);
    let Some(subprotocol) = SUBPROTOCOLS.iter().find(offered) else {
        // [MQTT-6.0.0-3]: a client must offer it, and nothing else is understood here.
        return Err(bad("the subprotocol mqtt is not among those offered"));
    };
    if origins == Origins::OwnMachine && single(request, "origin").is_some_and(|origin| !is_own(origin)) {
        return Err(Refusal::new(
            "403 Forbidden",
            "without authentication only web pages of this machine may connect",
        ));
    }
    let accept = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{KEY_SUFFIX}").as_bytes(),
    );
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
        STANDARD.encode(accept)
    ))
}

/// A header that must be there once.
pub(super) fn single<'a>(request: &'a Request<'_, '_>, name: &str) -> Option<&'a str> {
    let mut found = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name));
    let first = found.next()?;
    match found.next() {
        None => std::str::from_utf8(first.value).ok().map(str::trim),
        Some(_) => None,
    }
}

/// The elements of a header that is a list, however many lines it is spread over.
fn values<'a>(request: &'a Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a str> {
    request
        .headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn lists(request: &Request<'_, '_>, name: &str, wanted: &str) -> bool {
    values(request, name).any(|value| value.eq_ignore_ascii_case(wanted))
}

/// Whether a page came from this machine. Pages without an origin ("null") did not, as far as one knows.
fn is_own(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => authority.split(':').next(),
    };
    host.is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 6455 1.3, for MQTT, with one line exchanged or left out.
    fn request(replaced: &str, by: &str) -> String {
        let right = "GET /mqtt HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\
                     Sec-WebSocket-Version: 13\r\n\r\n";
        assert!(right.contains(replaced));
        right.replacen(replaced, by, 1)
    }

    fn verdict(request: &str) -> Verdict {
        judge(request.as_bytes(), Origins::Any, true)
    }

    fn status(request: &str, origins: Origins) -> u16 {
        match judge(request.as_bytes(), origins, true) {
            Verdict::Accepted { .. } => 101,
            Verdict::Asked(_) => 200,
            Verdict::Refused(refusal) => refusal.status[..3].parse().unwrap(),
            Verdict::Incomplete => panic!("{request:?} is whole"),
        }
    }

    #[test]
    fn the_key_is_answered_as_in_the_example_of_the_standard() {
        let whole = request("", "");
        let Verdict::Accepted { response, length } = verdict(&format!("{whole}rest")) else {
            panic!("it is refused")
        };
        assert_eq!(length, whole.len());
        assert!(
            response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{response}"
        );
    }

    #[test]
    fn what_is_wrong_is_answered_with_its_own_status() {
        for (replaced, by, expected) in [
            ("/mqtt", "/mqtt?x=1", 101),
            ("websocket", "WebSocket", 101),
            ("GET", "POST", 405),
            ("/mqtt", "/", 404),
            ("/mqtt", "/mqtt/", 404),
            ("HTTP/1.1", "HTTP/1.0", 400),
            ("Upgrade: websocket\r\n", "", 426),
            ("Connection: keep-alive, Upgrade\r\n", "", 426),
            ("Version: 13", "Version: 8", 426),
            ("Sec-WebSocket-Version: 13\r\n", "", 426),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "?", 400),
            ("Sec-WebSocket-Protocol: mqtt\r\n", "", 400),
            ("Protocol: mqtt", "Protocol: chat", 400),
            ("GET /mqtt HTTP/1.1", "\u{10}\u{0}", 400),
        ] {
            assert_eq!(status(&request(replaced, by), Origins::Any), expected, "{by:?}");
        }
    }

    #[test]
    fn a_question_is_a_post_of_json_with_a_length_and_only_where_it_may_be_asked() {
        let right = "POST /pair HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        for (replaced, by, expected) in [
            ("/pair", "/pair", 200),
            ("/pair", "/token", 200),
            ("application/json", "Application/JSON; charset=utf-8", 200),
            ("/pair", "/pairs", 404),
            ("POST", "GET", 405),
            ("POST", "OPTIONS", 405),
            ("application/json", "text/plain", 415),
            ("Content-Type: application/json\r\n", "", 415),
            ("Content-Length: 2\r\n", "", 411),
            ("Content-Length: 2", "Content-Length: -2", 411),
            ("Content-Length: 2", "Content-Length: 2\r\nContent-Length: 3", 411),
            ("Content-Length: 2", "Content-Length: 4097", 413),
        ] {
            let asked = right.replacen(replaced, by, 1);
            assert_eq!(status(&asked, Origins::Any), expected, "{by:?}");
        }
        let refused = judge(right.as_bytes(), Origins::Any, false);
        assert!(matches!(refused, Verdict::Refused(refusal) if refusal.status.starts_with("404")));
    }

    #[test]
    fn the_subprotocol_is_chosen_from_the_offer() {
        for (offer, chosen) in [
            ("mqttv3.1", "mqttv3.1"),
            ("chat, mqttv3.1, mqtt", "mqtt"),
            ("chat\r\nSec-WebSocket-Protocol: mqtt", "mqtt"),
        ] {
            let offering = request("Protocol: mqtt", &format!("Protocol: {offer}"));
            let Verdict::Accepted { response, .. } = verdict(&offering) else {
                panic!("{offer} is refused")
            };
            assert!(
                response.contains(&format!("Protocol: {chosen}\r\n")),
                "{offer}: {response}"
            );
        }
    }

    #[test]
    fn without_authentication_only_pages_of_this_machine_may_connect() {
        for (origin, own) in [
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:80", true),
            ("https://example.org", false),
            ("http://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("null", false),
        ] {
            let with_origin = request("Host: hub", &format!("Host: hub\r\nOrigin: {origin}"));
            assert_eq!(status(&with_origin, Origins::Any), 101, "{origin}");
            let expected = if own { 101 } else { 403 };
            assert_eq!(status(&with_origin, Origins::OwnMachine), expected, "{origin}");
        }
        assert_eq!(
            status(&request("", ""), Origins::OwnMachine),
            101,
            "no page at all"
        );
    }

    #[test]
    fn a_request_in_pieces_is_waited_for() {
        let whole = request("", "");
        for end in 0..whole.len() {
            assert_eq!(verdict(&whole[..end]), Verdict::Incomplete, "{end}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            judge(&bytes, Origins::OwnMachine, true);
        }
    }
}
