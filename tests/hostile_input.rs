//! Thousands of broken conversations, made from Mosquitto's packet sequences by flipping, cutting, repeating
//! and mixing their bytes, while two clients that have nothing to do with it exchange numbered messages. Not
//! one of these may be lost, late in its order or there twice, and the daemon must be as it was.
//!
//!   `HOSTILE_SEED`   throws the conversations of this seed
//!   `HOSTILE_COUNT`  throws so many of them

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::conformance::sequence;
use crate::support::client::{Client, Login, Version};
use crate::support::daemon::Daemon;
use crate::support::random::{self, Random};
use crate::support::{PATIENCE, data, say};

const COUNT: u64 = 4000;
const THROWERS: usize = 4;

/// What the daemon may take of memory in the end. It was 20 MiB when this was written.
const MAX_RESIDENT_BYTES: u64 = 128 << 20;

/// A broken CONNECT ends everything before it began, so most are left whole.
const BROKEN_CONNECT_ONE_IN: usize = 4;

#[tokio::test]
async fn thousands_of_broken_conversations_are_noticed_by_nobody_else() {
    if data::shared("mqtt-sequences").is_none() {
        return;
    }
    let files = sequence::load().expect("it is there");
    let corpus: Vec<Vec<Vec<u8>>> = files.iter().flatten().map(sequence::Sequence::said).collect();
    let seed = random::seed("HOSTILE_SEED");
    println!("HOSTILE_SEED={seed}");
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let (mut sender, mut receiver) = witnesses(&daemon).await;

    let count = random::number("HOSTILE_COUNT").unwrap_or(COUNT);
    let inputs = inputs(&corpus, &mut Random::new(seed), count);
    let (address, next) = (daemon.mqtt, AtomicUsize::new(0));
    let throwers = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            for _ in 0..THROWERS {
                scope.spawn(|| {
                    while let Some(input) = inputs.get(next.fetch_add(1, Relaxed)) {
                        throw(address, input);
                    }
                });
            }
        });
    });
    let mut numbers = 0;
    while !throwers.is_finished() {
        exchange(&mut sender, &mut receiver, numbers).await;
        numbers += 1;
    }
    throwers.await.expect("every conversation came to its end");
    exchange(&mut sender, &mut receiver, numbers).await;

    assert_eq!(daemon.get("/health").0, 200);
    assert!(!daemon.log().contains("panicked"));
    let resident_bytes = resident_bytes(daemon.pid());
    say(&format!(
        "{count} broken conversations, and {numbers} messages between two others; \
         the daemon has {} MiB in the end",
        resident_bytes.map_or_else(|| "unknown".to_owned(), |bytes| (bytes >> 20).to_string())
    ));
    assert!(resident_bytes.is_none_or(|bytes| bytes < MAX_RESIDENT_BYTES));
}

async fn witnesses(daemon: &Daemon) -> (Client, Client) {
    let mut sender = Login::new(Version::V4, daemon, "witness", "witness that sends");
    let mut receiver = Login::new(Version::V5, daemon, "witness", "witness that receives");
    (sender.token, receiver.token) = (None, None);
    let sender = Client::connect(daemon.mqtt, sender).await.expect("let in");
    let mut receiver = Client::connect(daemon.mqtt, receiver).await.expect("let in");
    receiver.subscribe("witness/numbers", 2).await;
    (sender, receiver)
}

/// The next number goes over, and nothing else.
async fn exchange(sender: &mut Client, receiver: &mut Client, number: usize) {
    let qos = 1 + u8::from(number.is_multiple_of(2));
    let payload = number.to_string();
    sender
        .publish("witness/numbers", qos, false, payload.clone())
        .await;
    let message = receiver.message().await;
    assert_eq!((message.payload, message.qos), (payload.into_bytes(), qos));
}

fn inputs(corpus: &[Vec<Vec<u8>>], random: &mut Random, count: u64) -> Vec<Vec<u8>> {
    let broken = (0..count).map(|_| {
        let said = &corpus[random.below(corpus.len())];
        let mut whole = said.concat();
        let mut first = said.first().map_or(0, Vec::len);
        if random.one_in(BROKEN_CONNECT_ONE_IN) {
            first = 0;
        }
        let mut rest = whole.split_off(first);
        for _ in 0..1 + random.below(4) {
            let other = corpus[random.below(corpus.len())].concat();
            break_somewhere(&mut rest, &other, random);
        }
        whole.append(&mut rest);
        whole
    });
    broken.collect()
}

fn break_somewhere(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let place = random.below(bytes.len() + 1);
    let end = (place + 1 + random.below(16)).min(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(place),
        1 => drop(bytes.drain(place..end)),
        2 => {
            let again = bytes[place..end].to_vec();
            bytes.splice(place..place, again);
        }
        3 => {
            let any = [0, 1, 0x7F, 0x80, 0xFF, random.below(256) as u8];
            let inserted: Vec<u8> = (0..1 + random.below(8)).map(|_| random.pick(&any)).collect();
            bytes.splice(place..place, inserted);
        }
        4 => {
            bytes.truncate(place);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// Says it all, and listens until the daemon has closed: it has dealt with every byte then.
fn throw(address: SocketAddr, input: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the daemon accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a socket");
    // It may close in the middle, and then a reset may take the place of the end.
    let _closed = stream
        .write_all(input)
        .and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("not closed after {input:02X?}");
            }
            Err(_) => return,
        }
    }
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}
