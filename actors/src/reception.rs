//! Where a connection is received: CONNECT is read and checked, the client admitted, its session
//! found or made, and the connection handed to it. Runs on the arbiter the session is to live on.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use dashmap::mapref::entry::Entry;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use topics::confidential::Confidential;
use topics::device::DeviceId;
use topics::name::TopicName;
use topics::packet::{
    self, ConnAck, ConnAckProperties, Connect, DecodeError, Packet, ProtocolVersion, ReasonCode,
};
use topics::session::{SessionConfig, refusal};

use crate::auth_checker::{AUTHENTICATION_METHOD, Admission, AuthChecker, Authenticate};
use crate::bans::{Bans, Visitor};
use crate::denials::Denied;
use crate::device_session::{Attach, Connection, DeviceSession, drain, poll_read_chunk};
use crate::gatekeeper::Gatekeeper;
use crate::outside;
use crate::switchboard::{Publisher, SessionEntry, Switchboard};

/// What receiving a connection needs. One for each session arbiter.
pub struct Reception {
    /// Routes, sessions, counters.
    pub switchboard: Switchboard,
    /// Who may come in.
    pub auth: Addr<AuthChecker>,
    /// Who knows the devices, for what is asked without MQTT; None where everybody is let in.
    pub gate: Option<Arc<dyn Gatekeeper>>,
    /// What sessions are granted.
    pub sessions: Arc<SessionConfig>,
    /// What a connection is granted that wants to be paired: it is nobody's yet.
    pub strangers: Arc<SessionConfig>,
    /// How long a connection may take from its beginning to its whole CONNECT.
    pub connect_timeout: Duration,
    /// Who comes and goes too often; None lets them.
    pub bans: Option<Arc<Bans>>,
}

/// The largest CONNECT; a will's payload needs room, a stranger none beyond.
const MAX_CONNECT_BYTES: usize = 128 * 1024;

impl Reception {
    /// Receives one connection. Returns when it is handed over or closed.
    /// CONNECT must have come by the deadline, which is `connect_timeout` after the connection began.
    pub async fn receive(
        self: Arc<Self>,
        mut connection: Connection,
        peer: Option<SocketAddr>,
        deadline: Instant,
    ) {
        let connect = tokio::time::timeout_at(deadline, self.read_connect(&mut connection)).await;
        let (connect, input) = match connect {
            Ok(Ok(read)) => read,
            Ok(Err(Stranger::Gone)) => return,
            Ok(Err(Stranger::Malformed { error, speaks_v5 })) => {
                self.switchboard.stats().protocol_errors.add(1);
                tracing::info!(?peer, %error, "closing a connection before its CONNECT");
                if let Some(version) = version_to_answer_in(&error, speaks_v5) {
                    self.refuse_stranger(connection, version, error.reason()).await;
                }
                return;
            }
            Err(_) => {
                tracing::debug!(?peer, "no CONNECT in time");
                return;
            }
        };
        self.switchboard.stats().connects_received.add(1);
        self.switchboard.stats().other_packets_received.add(1);
        match self.admit(&connect, connection.certified.as_ref()).await {
            Ok((client_id, assigned, admission)) => {
                tracing::debug!(?peer, %client_id, "admitted");
                self.hand_over(connection, connect, input, client_id, assigned, admission)
                    .await;
            }
            Err((reason, why)) => {
                let denials = self.switchboard.denials();
                denials.connection_refused(peer, &connect.client_id, reason, &why);
                self.refuse(connection, &connect, reason, &why).await;
            }
        }
    }

    async fn read_connect(&self, connection: &mut Connection) -> Result<(Box<Connect>, BytesMut), Stranger> {
        let limit = self.sessions.max_packet_bytes.min(MAX_CONNECT_BYTES);
        let mut input = BytesMut::new();
        loop {
            let chunk = poll_fn(|cx| poll_read_chunk(&mut connection.stream, cx)).await;
            match chunk {
                Ok(chunk) if !chunk.is_empty() => {
                    self.switchboard.stats().received_bytes.add(chunk.len() as u64);
                    input.extend_from_slice(&chunk);
                }
                _ => return Err(Stranger::Gone),
            }
            let speaks_v5 = begins_like_v5(&input);
            match packet::decode_from_client(&mut input, None, limit) {
                Ok(Some(Packet::Connect(connect))) => return Ok((connect, input)),
                // `decode` lets nothing else through before CONNECT.
                Ok(Some(_)) => return Err(Stranger::Gone),
                Ok(None) => {}
                Err(error) => return Err(Stranger::Malformed { error, speaks_v5 }),
            }
        }
    }

    async fn admit(
        &self,
        connect: &Connect,
        certified: Option<&DeviceId>,
    ) -> Result<(ByteString, Option<ByteString>, Admission), (ReasonCode, String)> {
        let token = offered_token(connect)?;
        let assigned = if connect.client_id.is_empty() {
            if connect.protocol < ProtocolVersion::V5 && !connect.clean_start {
                return Err((
                    ReasonCode::ClientIdentifierNotValid,
                    "a client without an identifier needs a clean session [MQTT-3.1.3-8]".into(),
                ));
            }
            if connect.protocol == ProtocolVersion::V31 {
                return Err((
                    ReasonCode::ClientIdentifierNotValid,
                    "MQTT 3.1 has no clients without an identifier; give it one, or use 3.1.1".into(),
                ));
            }
            Some(assigned_client_id())
        } else {
            None
        };
        let client_id = match &assigned {
            Some(id) => id.clone(),
            None => ByteString::from(connect.client_id.to_string()),
        };
        let ask = Authenticate {
            client_id: client_id.clone(),
            username: connect.username.clone(),
            password: token,
            only_token: connect.properties.authentication_method.is_some(),
            certified: certified.cloned(),
        };
        let admission = match self.auth.send(ask).await {
            Ok(Ok(admission)) => admission,
            Ok(Err(refusal)) => return Err((refusal.reason, refusal.why)),
            Err(error) => return Err((ReasonCode::ServerUnavailable, error.to_string())),
        };
        // A stranger takes no session over, and none by which a device is known.
        let client_id = if admission.is_pairing() {
            made_up_client_id("pairing").into()
        } else {
            client_id
        };
        self.check_client_id(&client_id, &admission)?;
        self.check_ban(&client_id, &admission)?;
        if let Some(will) = &connect.will {
            let topic = TopicName::parse(will.topic.clone())
                .map_err(|e| (ReasonCode::TopicNameInvalid, format!("the will's topic: {e}")))?;
            let decision = admission.rules.may_publish(&topic, will.qos as u8, will.retain);
            let confidential = Confidential::of(topic.as_str()).is_some();
            if confidential || !decision.is_allowed() {
                let client = Publisher {
                    client_id: client_id.clone(),
                    device_id: admission.device_id.clone(),
                    rules: admission.rules.clone(),
                };
                self.switchboard
                    .denied(Denied::Will, &client, topic.as_str(), &decision);
                let why = "the access rules do not allow this client the topic of its will".to_owned();
                return Err((ReasonCode::NotAuthorized, why));
            }
        }
        Ok((client_id, assigned, admission))
    }

    /// No client takes the identifier of another device's session, or of another device.
    fn check_client_id(
        &self,
        client_id: &ByteString,
        admission: &Admission,
    ) -> Result<(), (ReasonCode, String)> {
        let Some(device) = &admission.device_id else {
            return Ok(());
        };
        let taken = self
            .switchboard
            .sessions()
            .get(client_id)
            .is_some_and(|entry| entry.device_id.as_ref().is_some_and(|owner| owner != device));
        let names_another = **client_id != *device.as_str()
            && DeviceId::parse(client_id.clone())
                .is_ok_and(|named| self.switchboard.devices().contains_key(&named));
        if taken || names_another {
            let why = format!(
                "the client identifier belongs to another device than {}",
                device.as_str()
            );
            return Err((ReasonCode::ClientIdentifierNotValid, why));
        }
        Ok(())
    }

    fn check_ban(&self, client_id: &ByteString, admission: &Admission) -> Result<(), (ReasonCode, String)> {
        let visitor = || Visitor::new(client_id, admission);
        let Some(left) = self.bans.as_ref().and_then(|bans| bans.left(&visitor())) else {
            return Ok(());
        };
        self.switchboard.stats().connections_refused_banned.add(1);
        let why = format!(
            "it disconnected too often (flapping.max_disconnects) and is banned for another {} s",
            left.as_secs() + 1
        );
        Err((ReasonCode::Banned, why))
    }

    async fn hand_over(
        &self,
        mut connection: Connection,
        connect: Box<Connect>,
        input: BytesMut,
        client_id: ByteString,
        assigned: Option<ByteString>,
        admission: Admission,
    ) {
        // An identifier that we made up never comes back.
        if let (Some(bans), None, false) = (&self.bans, &assigned, admission.is_pairing()) {
            let visitor = Visitor::new(&client_id, &admission);
            connection.permit = Some(Box::new(bans.visit(visitor, connection.permit)));
        }
        let mut attach = Attach {
            connection,
            connect,
            input,
            admission,
            assigned,
        };
        // A session that ends at this very moment gives the connection back, and the next look finds its
        // successor.
        for _ in 0..10 {
            match self
                .find_or_make(&client_id, &attach.admission)
                .send(attach)
                .await
            {
                Ok(Ok(())) => return,
                Ok(Err(back)) => attach = *back,
                Err(error) => {
                    return tracing::warn!(%client_id, %error, "a session stopped with a connection");
                }
            }
        }
        tracing::warn!(%client_id, "no session took the connection");
        let why = "the session of this client is ending; come back at once";
        self.refuse(attach.connection, &attach.connect, ReasonCode::ServerBusy, why)
            .await;
    }

    fn find_or_make(&self, client_id: &ByteString, admission: &Admission) -> Addr<DeviceSession> {
        match self.switchboard.sessions().entry(client_id.clone()) {
            Entry::Occupied(entry) if entry.get().session.connected() => entry.get().session.clone(),
            entry => {
                let config = if admission.is_pairing() {
                    &self.strangers
                } else {
                    &self.sessions
                };
                let session = DeviceSession::new(
                    client_id.clone(),
                    config,
                    self.switchboard.clone(),
                    admission.clone(),
                    self.auth.clone(),
                );
                let handle = session.handle().clone();
                let session = session.start();
                let made = SessionEntry {
                    device_id: admission.device_id.clone(),
                    session: session.clone(),
                    handle,
                };
                entry.insert(made);
                session
            }
        }
    }

    /// Refuses a client whose CONNECT was understood.
    async fn refuse(&self, connection: Connection, connect: &Connect, reason: ReasonCode, why: &str) {
        match refusal(connect, reason, why) {
            Some(packet) => self.send_refusal(connection, &packet, connect.protocol).await,
            None => drop(connection),
        }
    }

    async fn refuse_stranger(&self, connection: Connection, version: ProtocolVersion, reason: ReasonCode) {
        let refusal = Packet::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason,
            properties: ConnAckProperties::default(),
        }));
        self.send_refusal(connection, &refusal, version).await;
    }

    async fn send_refusal(&self, mut connection: Connection, refusal: &Packet, version: ProtocolVersion) {
        let mut out = BytesMut::new();
        if refusal.encode(version, &mut out).is_err() {
            return;
        }
        let stats = self.switchboard.stats();
        stats.other_packets_sent.add(1);
        // A client that does not wait for its refusal loses nothing.
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            connection.stream.write_all(&out).await?;
            stats.sent_bytes.add(out.len() as u64);
            connection.stream.shutdown().await?;
            drain(&mut connection.stream).await
        })
        .await;
    }
}

enum Stranger {
    Gone,
    Malformed { error: DecodeError, speaks_v5: bool },
}

/// How a CONNECT that is none is answered, if at all. A version not spoken here always is
/// [MQTT-3.1.2-2]. For the rest only 5.0 has words [MQTT5 3.1.4]; older versions have none
/// [MQTT-3.1.4-1 of 3.1.1], and a peer that says something else may not speak MQTT at all. Nor is anything
/// said of flags that contradict each other or of credentials that cannot be read: 5.0 leaves it to the
/// server [MQTT5 4.13.1], and Mosquitto, whose tests ask, closes without a word.
fn version_to_answer_in(error: &DecodeError, speaks_v5: bool) -> Option<ProtocolVersion> {
    match error {
        DecodeError::UnsupportedProtocolVersion { answer_in, .. } => Some(*answer_in),
        DecodeError::RemainingLength
        | DecodeError::ConnectExpected { .. }
        | DecodeError::ConnectFlags { .. }
        | DecodeError::QoS { .. }
        | DecodeError::Credentials => None,
        _ => speaks_v5.then_some(ProtocolVersion::V5),
    }
}

/// Whether these bytes are the beginning of a CONNECT of 5.0 up to its properties, however it may go on.
fn begins_like_v5(bytes: &[u8]) -> bool {
    const FLAGS_AND_KEEP_ALIVE_BYTES: usize = 3;
    let Some((0x10, rest)) = bytes.split_first() else {
        return false;
    };
    let length_bytes = rest.iter().take(4).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    rest.get(length_bytes..)
        .and_then(|body| body.strip_prefix(b"\x00\x04MQTT\x05"))
        .is_some_and(|fields| fields.len() >= FLAGS_AND_KEEP_ALIVE_BYTES)
}

/// The token, in the password or by the one method of enhanced authentication that is known here.
fn offered_token(connect: &Connect) -> Result<Option<Bytes>, (ReasonCode, String)> {
    match &connect.properties.authentication_method {
        None => Ok(connect.password.clone()),
        Some(method) if *method == AUTHENTICATION_METHOD => {
            Ok(connect.properties.authentication_data.clone())
        }
        Some(_) => Err((
            ReasonCode::BadAuthenticationMethod,
            format!(
                "the authentication method is not known; use {AUTHENTICATION_METHOD} with the token in the \
                 authentication data, or put the token into the password"
            ),
        )),
    }
}

fn assigned_client_id() -> ByteString {
    made_up_client_id("auto").into()
}

/// Of 128 bits: nobody guesses another's.
fn made_up_client_id(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:016x}", outside::random(), outside::random())
}
