//! A bare byte relay, for `benches/brokers.sh`: what the sockets alone allow on this machine.
//!
//! It answers the CONNECT and SUBSCRIBE of `mqtt-load` and then only copies bytes: what publisher `p{run}x{i}`
//! sends to its subscribers `s{run}x{i}x{j}`, and what the first of these answers back to the publisher, so
//! that its acknowledgements are the subscriber's own. No packet is looked at after the handshake.
//!
//! `cargo bench` runs every bench target; without a port this one has nothing to do and ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

const CHUNK_BYTES: usize = 64 * 1024;

/// Subscribers that wait for their publisher.
type Waiting = Rc<RefCell<HashMap<String, Vec<TcpStream>>>>;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip_while(|arg| arg != "--port").skip(1);
    let Some(port) = args.next().and_then(|port| port.parse::<u16>().ok()) else {
        println!("relay_peer: give it `--port N`; benches/brokers.sh does");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let waiting = Waiting::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let waiting = waiting.clone();
            spawn_local(async move {
                if let Err(error) = greet(stream, waiting).await {
                    eprintln!("relay_peer: {error}");
                }
            });
        }
    })
}

async fn greet(mut stream: TcpStream, waiting: Waiting) -> io::Result<()> {
    let connect = read_packet(&mut stream).await?;
    // Protocol name, level, flags and keep-alive are ten bytes; the client identifier comes next.
    let client_id = connect
        .get(12..)
        .map(|id| String::from_utf8_lossy(id).into_owned())
        .unwrap_or_default();
    stream.write_all(&[0x20, 2, 0, 0]).await?;
    let (role, pair) = client_id.split_at_checked(1).unwrap_or(("", ""));
    if role == "p" {
        let subscribers = waiting.borrow_mut().remove(pair).unwrap_or_default();
        return relay(stream, subscribers).await;
    }
    let subscribe = read_packet(&mut stream).await?;
    let qos = subscribe.last().copied().unwrap_or(0);
    let packet_id = subscribe.get(..2).unwrap_or(&[0, 0]);
    stream
        .write_all(&[&[0x90, 3], packet_id, &[qos]].concat())
        .await?;
    let pair = pair.rsplit_once('x').map_or(pair, |(pair, _)| pair);
    waiting
        .borrow_mut()
        .entry(pair.to_owned())
        .or_default()
        .push(stream);
    Ok(())
}

/// The body of a packet of fewer than 128 bytes, as all of the handshake are.
async fn read_packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; usize::from(header[1])];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn relay(publisher: TcpStream, subscribers: Vec<TcpStream>) -> io::Result<()> {
    let (mut from_publisher, to_publisher) = publisher.into_split();
    let mut to_publisher = Some(to_publisher);
    let mut to_subscribers = Vec::new();
    for subscriber in subscribers {
        let (mut answers, subscriber) = subscriber.into_split();
        to_subscribers.push(subscriber);
        // Only the first one's answers are the publisher's acknowledgements.
        let first = to_publisher.take();
        spawn_local(async move {
            match first {
                Some(mut publisher) => tokio::io::copy(&mut answers, &mut publisher).await,
                None => tokio::io::copy(&mut answers, &mut tokio::io::sink()).await,
            }
        });
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from_publisher.read(&mut chunk).await?;
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        for subscriber in &mut to_subscribers {
            subscriber.write_all(bytes).await?;
        }
    }
}
