//! `POST /pair` and `POST /token`: the two questions whose answers are secrets, for devices that speak HTTPS. Asked
//! beside the WebSocket, since a device finds both by one address; never by plain text from another machine.

use std::sync::Arc;
use std::time::SystemTime;

use actors::device_session::ByteStream;
use actors::gatekeeper::{Gatekeeper, Proof, Question};
use bytes::Bytes;
use httparse::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use topics::device::DeviceId;

use super::request::{Refusal, single};

/// The longest body: a code or a secret, and a transaction.
const MAX_BODY_BYTES: usize = 4096;

/// What is asked, and how long its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    path: Path,
    /// Where the body begins in what was read.
    body_at: usize,
    body_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Pair,
    Token,
}

/// Whether a request is one of ours, and in order. `body_at` is where its headers end.
pub(super) fn judge(request: &Request<'_, '_>, body_at: usize) -> Option<Result<Asked, Refusal>> {
    let path = match request.path {
        Some("/pair") => Path::Pair,
        Some("/token") => Path::Token,
        _ => return None,
    };
    Some(in_order(request).map(|body_bytes| Asked {
        path,
        body_at,
        body_bytes,
    }))
}

fn in_order(request: &Request<'_, '_>) -> Result<usize, Refusal> {
    if request.method != Some("POST") {
        let refusal = Refusal::new("405 Method Not Allowed", "this is asked with POST");
        return Err(refusal.with("Allow: POST\r\n"));
    }
    // No web page sends this to another site without asking, and asking is refused above: so none can spend the
    // guesses of a code through somebody's browser.
    let kind = single(request, "content-type").and_then(|kind| kind.split(';').next());
    if !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::new(
            "415 Unsupported Media Type",
            "the body is application/json",
        ));
    }
    let length = single(request, "content-length").and_then(|length| length.parse::<usize>().ok());
    match length {
        None => Err(Refusal::new("411 Length Required", "Content-Length is missing")),
        Some(length) if length > MAX_BODY_BYTES => Err(Refusal::new(
            "413 Content Too Large",
            "the body is longer than 4096 bytes",
        )),
        Some(length) => Ok(length),
    }
}

/// Reads the rest of the body, asks and answers.
pub(super) async fn serve<S: ByteStream>(
    mut stream: S,
    mut input: Vec<u8>,
    asked: Asked,
    gate: &Arc<dyn Gatekeeper>,
) -> std::io::Result<()> {
    let end = asked.body_at + asked.body_bytes;
    while input.len() < end {
        let room = (end - input.len()) as u64;
        if (&mut stream).take(room).read_buf(&mut input).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body = input.get(asked.body_at..end).unwrap_or_default();
    let (status, answer) = answer(asked.path, body, gate).await;
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

async fn answer(path: Path, body: &[u8], gate: &Arc<dyn Gatekeeper>) -> (&'static str, Vec<u8>) {
    let now = SystemTime::now();
    let question = match path {
        Path::Pair => Question::Pair(Bytes::copy_from_slice(body)),
        Path::Token => match known(body, gate, now) {
            Ok(question) => question,
            Err((status, error)) => {
                let answer = json!({"data": {}, "status": "error", "error": error});
                return (status, answer.to_string().into_bytes());
            }
        },
    };
    let answer = gate.answer(question, now).await;
    let is_ok = serde_json::from_slice::<Map<String, Value>>(&answer)
        .is_ok_and(|members| members.get("status").is_some_and(|status| status == "ok"));
    (if is_ok { "200 OK" } else { "403 Forbidden" }, answer)
}

#[derive(Deserialize)]
struct Credentials {
    device: String,
    secret: String,
    transaction: Option<Value>,
}

/// The question of a device that shows its secret along with it.
fn known(
    body: &[u8],
    gate: &Arc<dyn Gatekeeper>,
    now: SystemTime,
) -> Result<Question, (&'static str, String)> {
    // What serde_json says of a mistake would show a piece of the body.
    let credentials: Credentials = serde_json::from_slice(body).map_err(|_| {
        let why = "the body is not {\"device\": \"…\", \"secret\": \"…\"}";
        ("400 Bad Request", why.to_owned())
    })?;
    let device =
        DeviceId::parse(credentials.device.into()).map_err(|error| ("400 Bad Request", error.to_string()))?;
    let generation = gate
        .by_secret(&device, credentials.secret.as_bytes(), now)
        .map_err(|why| ("401 Unauthorized", why))?;
    let request = match credentials.transaction {
        Some(transaction) => json!({"transaction": transaction}).to_string(),
        None => String::new(),
    };
    Ok(Question::Token {
        device,
        proof: Proof::Secret { generation },
        request: request.into(),
    })
}
