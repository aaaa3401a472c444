//! What benchmarks of the whole daemon have in common: the daemon, its clients, and how times are told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use bytes::BytesMut;
use serde_json::{Value, json};
use topics::packet::{
    Ack, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling,
    Subscribe, SubscribeFilter, SubscriptionOptions, decode,
};

const V5: ProtocolVersion = ProtocolVersion::V5;

/// Whatever happens, nothing is measured then.
pub(crate) type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// Nanoseconds of the clock that all processes have in common.
pub(crate) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// The times of something, in nanoseconds.
pub(crate) fn tell(what: &str, times: &mut [i64]) {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len().saturating_sub(1) as f64 * share) as usize;
        times.get(place).copied().unwrap_or(0) as f64 / 1e6
    };
    println!(
        "  {what}: median {:.3} ms, P99 {:.3} ms, most {:.3} ms ({} times)",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
}

/// A daemon in a process of its own, which is this program; with its data directory it goes.
pub(crate) struct Daemon {
    process: Child,
    /// Of plain MQTT.
    pub(crate) port: u16,
}

impl Daemon {
    /// With this model and these settings beside, and these variables; it is ready then.
    pub(crate) fn start(
        directory: &std::path::Path,
        model: &str,
        settings: &[&str],
        variables: &[(&str, &str)],
    ) -> Anyhow<Daemon> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--data-dir")
            .arg(directory)
            .args(["serve", "--model", model]);
        for set in [
            "mqtt.tcp=127.0.0.1:0",
            "mqtt.websocket=127.0.0.1:0",
            "metrics.listen=127.0.0.1:0",
            "log.format=json",
            "auth.mode=none",
            "memory.keep_free_percent=0",
        ]
        .iter()
        .chain(settings)
        {
            command.args(["--set", set]);
        }
        command.envs(variables.iter().copied());
        let mut process = command.stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(process.stderr.take().ok_or("no log")?).lines();
        let mut port = None;
        loop {
            let line = log.next().ok_or("the daemon has ended")??;
            let line: Value = serde_json::from_str(&line).map_err(|_| line)?;
            match line["message"].as_str() {
                Some("mqtt listens") => {
                    let address = line["address"].as_str().unwrap_or_default();
                    port = Some(address.rsplit(':').next().unwrap_or_default().parse()?);
                }
                Some("model loaded") => break,
                _ => {}
            }
        }
        // It must not wait for somebody to read what it logs.
        std::thread::spawn(move || log.for_each(drop));
        let port = port.ok_or("it did not say where it listens")?;
        Ok(Daemon { process, port })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// A device, over MQTT 5.
pub(crate) struct Client {
    name: String,
    socket: TcpStream,
    input: BytesMut,
}

impl Client {
    /// Connects, and subscribes to its replies.
    pub(crate) fn connect(port: u16, name: &str) -> Anyhow<Client> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        let mut client = Client {
            name: name.to_owned(),
            socket,
            input: BytesMut::new(),
        };
        client.send(Packet::Connect(Box::new(Connect {
            protocol: V5,
            is_bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_id: name.into(),
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        })))?;
        let filter = SubscribeFilter {
            filter: format!("clawdbot/{name}/reply").into(),
            options: SubscriptionOptions {
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::default(),
            },
        };
        client.send(Packet::Subscribe(Subscribe {
            packet_id: 1,
            subscription_identifier: None,
            user_properties: Default::default(),
            filters: vec![filter],
        }))?;
        while !matches!(client.receive()?, Packet::SubAck(_)) {}
        Ok(client)
    }

    /// Asks, and says when the last byte was on its way.
    pub(crate) fn ask(&mut self, number: usize, prompt: &str, max_tokens: usize) -> Anyhow<i64> {
        let request = json!({"id": number.to_string(), "prompt": prompt, "max_tokens": max_tokens});
        let asked = now_ns();
        self.send(Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: format!("clawdbot/{}/command", self.name).into(),
            packet_id: u16::try_from(number % 60_000)? + 1,
            properties: None,
            payload: request.to_string().into(),
        }))?;
        Ok(asked)
    }

    /// The next item, and when it came.
    pub(crate) fn item(&mut self) -> Anyhow<(Value, i64)> {
        loop {
            if let Packet::Publish(publish) = self.receive()? {
                let came = now_ns();
                self.send(Packet::PubAck(Ack::new(publish.packet_id, ReasonCode::Success)))?;
                return Ok((serde_json::from_slice(&publish.payload)?, came));
            }
        }
    }

    fn receive(&mut self) -> Anyhow<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, Some(V5), 1 << 20)? {
                return Ok(packet);
            }
            let mut chunk = [0; 4096];
            let count = self.socket.read(&mut chunk)?;
            if count == 0 {
                return Err("the daemon closed the connection".into());
            }
            self.input
                .extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }

    fn send(&mut self, packet: Packet) -> Anyhow<()> {
        let mut bytes = BytesMut::new();
        packet.encode(V5, &mut bytes)?;
        Ok(self.socket.write_all(&bytes)?)
    }
}
