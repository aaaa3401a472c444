//! MQTT over WebSocket [MQTT5 6]: the HTTP request that begins it, and then a stream of bytes on
//! binary frames, which the session cannot tell from TCP.

mod counter;
mod frames;
mod request;
mod stream;

use std::io;
use std::sync::Arc;

use actors::device_session::ByteStream;
use actors::gatekeeper::Gatekeeper;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::request::{Refusal, Verdict};
use self::stream::WebSocketStream;

/// The longest request with all its headers; browsers that send cookies along stay well below.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// A client that goes on sending after a refusal is not listened to for long.
const MAX_DRAINED_READS: usize = 64;

/// Whose web pages may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origins {
    /// Every page's: it must know a token, and a browser adds none by itself.
    Any,
    /// Those of this machine. Where no token is asked for, any page that somebody here visits could
    /// otherwise speak to us through the browser.
    OwnMachine,
}

/// Reads the request and answers it: with a stream, with what was asked, and then there is nothing more, or with
/// HTTP's own refusal and an error for the log. Secrets are asked for of the gatekeeper, where there is one.
pub(super) async fn accept<S: ByteStream>(
    mut stream: S,
    origins: Origins,
    gate: Option<&Arc<dyn Gatekeeper>>,
) -> io::Result<Option<impl ByteStream + use<S>>> {
    let mut input = Vec::new();
    loop {
        match request::judge(&input, origins, gate.is_some()) {
            Verdict::Accepted { response, length } => {
                stream.write_all(response.as_bytes()).await?;
                stream.flush().await?;
                let rest = input.split_off(length);
                return Ok(Some(WebSocketStream::new(stream, rest)));
            }
            Verdict::Asked(asked) => {
                if let Some(gate) = gate {
                    counter::serve(stream, input, asked, gate).await?;
                }
                return Ok(None);
            }
            Verdict::Refused(refusal) => return Err(refuse(stream, refusal).await),
            Verdict::Incomplete if input.len() >= MAX_REQUEST_BYTES => {
                return Err(refuse(stream, Refusal::TOO_LARGE).await);
            }
            Verdict::Incomplete => {}
        }
        let room = MAX_REQUEST_BYTES - input.len();
        if (&mut stream).take(room as u64).read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn refuse(mut stream: impl ByteStream, refusal: Refusal) -> io::Error {
    let answer = async {
        stream.write_all(refusal.response().as_bytes()).await?;
        stream.shutdown().await?;
        // A socket closed with bytes unread resets the connection, and the answer might be lost.
        let mut ignored = [0; 1024];
        for _ in 0..MAX_DRAINED_READS {
            if stream.read(&mut ignored).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // A client that does not wait for its refusal loses nothing.
    let _ = answer.await;
    io::Error::new(io::ErrorKind::InvalidData, refusal.why)
}
