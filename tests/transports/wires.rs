//! Connections over each transport, as wires for a raw client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

use super::Everywhere;
use crate::support::PATIENCE;
use crate::support::raw::{RawClient, Wire};

/// The ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
    Unix,
}

pub(super) const ALL: [Way; 5] = [
    Way::Tcp,
    Way::Tls,
    Way::WebSocket,
    Way::SecureWebSocket,
    Way::Unix,
];

pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Everywhere {
    /// A client that has spoken no MQTT yet.
    pub(super) fn open(&self, way: Way) -> RawClient {
        match way {
            Way::Tcp => RawClient::open(self.daemon.mqtt),
            Way::Tls => RawClient::over(self.tls("tls")),
            Way::WebSocket => RawClient::over(Frames::open(tcp(self.daemon.listener("websocket")))),
            Way::SecureWebSocket => RawClient::over(Frames::open(self.tls("secure websocket"))),
            Way::Unix => {
                let stream = UnixStream::connect(self.unix()).expect("the daemon accepts");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                RawClient::over(stream)
            }
        }
    }

    fn tls(&self, listener: &str) -> TlsStream {
        let pem = std::fs::read(&self.pair.certificate).expect("a certificate");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("a certificate")).expect("a root");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a TLS client");
        StreamOwned::new(session, tcp(self.daemon.listener(listener)))
    }
}

pub(super) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the daemon accepts");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

impl Wire for UnixStream {}
impl Wire for TlsStream {}
impl<S: Read + Write + Send> Wire for Frames<S> {}

/// MQTT's bytes on a WebSocket by a client that is not ours: each write is a frame.
pub(super) struct Frames<S> {
    pub(super) socket: WebSocket<S>,
    received: io::Cursor<Vec<u8>>,
}

impl<S: Read + Write> Frames<S> {
    pub(super) fn open(mut stream: S) -> Frames<S> {
        let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the daemon listens");
        let head = read_head(&mut stream);
        assert!(
            head.starts_with("HTTP/1.1 101 ") && head.contains("Sec-WebSocket-Protocol: mqtt\r\n"),
            "{head}"
        );
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Frames {
            socket: WebSocket::from_raw_socket(stream, Role::Client, None),
            received: io::Cursor::default(),
        }
    }
}

/// An HTTP head, to the empty line.
pub(super) fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).expect("the daemon answers") == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

impl<S: Read + Write> Read for Frames<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.received.read(bytes)?;
            if read > 0 {
                return Ok(read);
            }
            match self.socket.read() {
                Ok(Message::Binary(payload)) => self.received = io::Cursor::new(payload.into()),
                Ok(Message::Text(text)) => panic!("a text frame came: {text}"),
                Ok(_) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(0),
                Err(Error::Io(error)) => return Err(error),
                Err(other) => return Err(io::Error::new(ErrorKind::InvalidData, other)),
            }
        }
    }
}

impl<S: Read + Write> Write for Frames<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let message = Message::Binary(bytes.to_vec().into());
        self.socket.send(message).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
