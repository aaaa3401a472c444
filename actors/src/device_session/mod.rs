//! The actor of one MQTT session: a client id, not a connection. The connection is a part that is
//! handed to it and taken from it, so that take-over, offline queues and wills have a home.
//!
//! It knows the protocol only through [`topics::session::Session`]: bytes become packets, packets
//! become effects, effects are carried out here.

mod attaching;
mod authentication;
mod confiding;
mod delivering;
mod io;
mod keeping;
mod publishing;
mod sharing;
mod subscribing;
mod waits;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use actix::prelude::*;
use bytes::BytesMut;
use bytestring::ByteString;
use topics::access::Judgements;
use topics::packet::{ClientDecoder, DecodeError, Packet, ReasonCode};
use topics::session::{DropReason, Effect, Outcomes, Session, SessionConfig};

use crate::auth_checker::{Admission, AuthChecker};
use crate::outside;
use crate::route::LastRoute;
use crate::switchboard::{Publisher, SessionHandle, Switchboard};
use crate::topic_router::TopicRouter;

pub use attaching::{Attach, Recheck, ShutDown};
use delivering::Payloads;
pub use io::{ByteStream, Connection};
use io::{Io, IoEvent, IoStream};
pub(crate) use io::{drain, poll_read_chunk};

/// Only connections and the end of the daemon come through the mailbox; a sender waits for room.
const MAILBOX: usize = 16;

/// What is read of a client that is held back, for the sake of the acknowledgements in it.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// Messages that wait in a session for its inflight window; more stay in the outbox.
const DELIVERIES_AHEAD: usize = 256;

/// See the module.
pub struct DeviceSession {
    session: Session,
    decoder: ClientDecoder,
    handle: Arc<SessionHandle>,
    switchboard: Switchboard,
    admission: Admission,
    auth: Addr<AuthChecker>,
    /// As in CONNECT, for the rules of a token that is renewed.
    username: Option<ByteString>,
    publisher: Arc<Publisher>,
    io: Rc<RefCell<Io>>,
    input: BytesMut,
    /// Where the client's last publish went.
    last_route: LastRoute,
    /// What the rules allowed it to publish before.
    judgements: Judgements,
    /// Read while the client is held back; acknowledgements among them were handled at once.
    deferred: VecDeque<Packet>,
    deferred_bytes: usize,
    payloads: Payloads,
    /// Kept between steps, so that a packet costs no allocation for what it brings about.
    scratch: Vec<Vec<Effect>>,
    /// The connection broke, but not everything read from it has been handled.
    peer_is_gone: bool,
    /// While the router or the checker is being asked, the client's next packets wait.
    waiting_for_router: bool,
    timer: Option<(Instant, SpawnHandle)>,
    /// A question is being answered whose answer is a secret; there is never a second.
    confiding: bool,
    connected: bool,
    /// The daemon stops, and every session with it.
    stopping: bool,
    /// Whether the store has a record of the session.
    is_recorded: bool,
    /// Identifiers of the client's QoS 2 messages that the store has.
    received: HashSet<u16>,
}

impl DeviceSession {
    /// A session that waits for its first connection.
    pub fn new(
        client_id: ByteString,
        config: &Arc<SessionConfig>,
        switchboard: Switchboard,
        admission: Admission,
        auth: Addr<AuthChecker>,
    ) -> Self {
        let handle = SessionHandle::of(client_id.clone(), config);
        let session = Session::new(config.clone(), client_id);
        Self::with(session, handle, config, switchboard, admission, auth)
    }

    /// A session that was kept, and waits for its next connection.
    pub(crate) fn restored(
        session: Session,
        handle: Arc<SessionHandle>,
        config: &Arc<SessionConfig>,
        switchboard: Switchboard,
        admission: Admission,
        auth: Addr<AuthChecker>,
    ) -> Self {
        Self {
            is_recorded: true,
            received: session.received().collect(),
            ..Self::with(session, handle, config, switchboard, admission, auth)
        }
    }

    fn with(
        session: Session,
        handle: Arc<SessionHandle>,
        config: &Arc<SessionConfig>,
        switchboard: Switchboard,
        admission: Admission,
        auth: Addr<AuthChecker>,
    ) -> Self {
        let publisher = publisher(session.client_id(), &admission);
        let store = switchboard.store().cloned();
        Self {
            session,
            decoder: ClientDecoder::new(config.max_packet_bytes),
            io: Io::new(handle.clone(), switchboard.stats().clone(), store),
            handle,
            switchboard,
            admission,
            auth,
            username: None,
            publisher,
            input: BytesMut::new(),
            last_route: LastRoute::default(),
            judgements: Judgements::default(),
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            payloads: Payloads::default(),
            scratch: Vec::new(),
            peer_is_gone: false,
            waiting_for_router: false,
            timer: None,
            confiding: false,
            connected: false,
            stopping: false,
            is_recorded: false,
            received: HashSet::new(),
        }
    }

    /// The address-independent part that publishers see.
    pub fn handle(&self) -> &Arc<SessionHandle> {
        &self.handle
    }
}

impl Actor for DeviceSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.add_stream(IoStream(self.io.clone()));
        self.switchboard.stats().sessions.add(1);
        if self.is_recorded {
            // Restored: what waits is told, and the time until its end begins.
            self.switchboard
                .stats()
                .deliveries
                .add(self.session.undelivered() as u64);
            self.keep_session();
            self.apply(&mut Vec::new(), ctx);
            self.arm_timer(ctx);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if !self.handle.ended.load(Relaxed) {
            self.leave();
        }
        if self.connected {
            self.disconnected();
        }
    }
}

impl StreamHandler<IoEvent> for DeviceSession {
    fn handle(&mut self, event: IoEvent, ctx: &mut Self::Context) {
        match event {
            IoEvent::Received(bytes) => {
                if self.input.is_empty() {
                    self.input = bytes;
                } else {
                    self.input.extend_from_slice(&bytes);
                }
                self.read_packets(ctx);
            }
            IoEvent::Deliveries(mut batch) => {
                self.deliver(&mut batch, ctx);
                self.io.borrow_mut().spare = batch;
            }
            IoEvent::Relieved => self.read_packets(ctx),
            IoEvent::Closed(error) => {
                if let Some(error) = error {
                    tracing::debug!(client_id = %self.session.client_id(), %error, "connection broke");
                }
                self.peer_is_gone = true;
                self.finish_what_was_said(ctx);
            }
        }
        self.arm_timer(ctx);
    }
}

impl DeviceSession {
    /// Handles every whole packet that came, unless the router must be waited for. While the client is
    /// held back, what it publishes is put off; what it acknowledges never is, or two clients that
    /// publish to each other would wait for each other.
    fn read_packets(&mut self, ctx: &mut Context<Self>) {
        // What came together is handled at one time: the clock is not asked for each packet.
        let now = outside::now();
        while self.may_handle_packets() && !self.io.borrow().is_held_back() {
            let Some(packet) = self.deferred.pop_front() else {
                break;
            };
            self.deferred_bytes -= deferred_bytes(&packet);
            self.receive(now, packet, ctx);
        }
        while self.may_handle_packets() {
            match self.decoder.decode(&mut self.input, self.session.version()) {
                Ok(Some(packet)) if self.io.borrow().is_held_back() && may_be_deferred(&packet) => {
                    self.deferred_bytes += deferred_bytes(&packet);
                    self.deferred.push_back(packet);
                    self.io.borrow_mut().may_read_ahead = self.deferred_bytes < READ_AHEAD_BYTES;
                }
                Ok(Some(packet)) => self.receive(now, packet, ctx),
                Ok(None) => break,
                Err(error) => self.refuse(&error, ctx),
            }
        }
        self.hand_over();
        // What is left of a packet must not hold the whole read buffer while the rest is awaited.
        if self.input.is_empty() {
            self.input = BytesMut::new();
        } else if !self.waiting_for_router {
            self.input = BytesMut::from(&self.input[..]);
        }
        self.payloads.count(self.switchboard.stats());
    }

    /// What was read before the end was said before it, a DISCONNECT above all. Nobody is waited for,
    /// since nobody is there to be held back.
    fn finish_what_was_said(&mut self, ctx: &mut Context<Self>) {
        self.io.borrow_mut().see_off();
        self.read_packets(ctx);
        if !self.waiting_for_router {
            self.peer_is_gone = false;
            self.detach(ctx);
        }
    }

    fn may_handle_packets(&self) -> bool {
        !self.waiting_for_router && self.session.is_connected()
    }

    fn receive(&mut self, now: Instant, packet: Packet, ctx: &mut Context<Self>) {
        let stats = self.switchboard.stats();
        match &packet {
            Packet::Publish(publish) => {
                stats.messages_received.add(1);
                self.payloads.received_bytes += publish.payload.len() as u64;
            }
            _ => stats.other_packets_received.add(1),
        }
        self.step(ctx, |session, effects| session.receive(now, packet, effects));
    }

    fn refuse(&mut self, error: &DecodeError, ctx: &mut Context<Self>) {
        self.switchboard.stats().protocol_errors.add(1);
        tracing::info!(client_id = %self.session.client_id(), %error, "closing a connection");
        self.step(ctx, |session, effects| {
            if deserves_no_answer(error) {
                session.hang_up(effects);
            } else {
                session.fail_because(error.reason(), error, effects);
            }
        });
    }

    /// Steps the session and carries out what it wants done.
    fn step(&mut self, ctx: &mut Context<Self>, step: impl FnOnce(&mut Session, &mut Vec<Effect>)) {
        let mut effects = self.scratch.pop().unwrap_or_default();
        step(&mut self.session, &mut effects);
        self.apply(&mut effects, ctx);
        self.scratch.push(effects);
    }

    /// Carries out effects in their order.
    fn apply(&mut self, effects: &mut Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(packet) => self.send(&packet),
                Effect::Forward(message) => self.forward(&message),
                Effect::Route { message, packet_id } => self.route(message, packet_id, ctx),
                Effect::Subscribe { packet_id, wanted } => self.subscribe(packet_id, wanted, ctx),
                Effect::Unsubscribe { packet_id, filters } => self.unsubscribe(packet_id, filters, ctx),
                Effect::Authenticate { data } => self.authenticate(data, ctx),
                Effect::Forget(filters) => self.forget(filters, ctx),
                Effect::PublishWill(message) => self.publish_will(message),
                Effect::HandOn(deliveries) => self.bequeath(deliveries),
                Effect::Dropped(reason) => self.count_drop(reason),
                Effect::Pause(until) => self.pause(until),
                Effect::Close => {
                    self.io.borrow_mut().close();
                    self.detach(ctx);
                }
                Effect::End => {
                    // One that was revoked is counted as that.
                    if !self.connected && self.admission.stands() {
                        self.switchboard.stats().sessions_expired.add(1);
                    }
                    self.end(ctx);
                }
            }
        }
        self.io.borrow_mut().deliveries_wait = self.session.waiting() >= DELIVERIES_AHEAD;
        self.account();
    }

    /// The client is not read from for a while: TCP tells it to slow down. What it acknowledges is still
    /// heard.
    fn pause(&mut self, until: Instant) {
        self.switchboard.stats().publishers_paused.add(1);
        self.io.borrow_mut().pause(until);
    }

    /// Keeps the sum true: copies made are completed, dropped or waiting.
    fn account(&mut self) {
        let Outcomes { delivered, refused } = self.session.take_outcomes();
        let stats = self.switchboard.stats();
        if delivered > 0 {
            stats.deliveries_completed.add(delivered);
        }
        if refused > 0 {
            stats.dropped_refused.add(refused);
        }
        self.handle.undelivered.store(self.session.undelivered(), Relaxed);
        self.handle
            .queued_bytes
            .store(self.session.queued_bytes(), Relaxed);
    }

    fn routed(&mut self, packet_id: u16, reason: ReasonCode, ctx: &mut Context<Self>) {
        if packet_id > 0 {
            self.step(ctx, |session, effects| session.routed(packet_id, reason, effects));
        }
    }

    fn ask_router<M, F>(&mut self, message: M, ctx: &mut Context<Self>, then: F)
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        TopicRouter: Handler<M>,
        F: FnOnce(&mut Self, Option<M::Result>, &mut Context<Self>) + 'static,
    {
        let router = self.switchboard.router().clone();
        self.ask(&router, message, ctx, then);
    }

    /// Asks the router or the checker and holds the client's next packets until it has answered, so that
    /// they keep their order.
    fn ask<A, M, F>(&mut self, whom: &Addr<A>, message: M, ctx: &mut Context<Self>, then: F)
    where
        A: Actor<Context = Context<A>> + Handler<M>,
        M: actix::Message + Send + 'static,
        M::Result: Send,
        F: FnOnce(&mut Self, Option<M::Result>, &mut Context<Self>) + 'static,
    {
        self.waiting_for_router = true;
        let asked = whom.send(message).into_actor(self);
        ctx.wait(asked.map(move |answer, act, ctx| {
            act.waiting_for_router = false;
            then(act, answer.ok(), ctx);
            if act.peer_is_gone {
                act.finish_what_was_said(ctx);
            } else {
                act.read_packets(ctx);
            }
            act.arm_timer(ctx);
            act.io.borrow_mut().wake();
        }));
    }

    fn count_drop(&self, reason: DropReason) {
        let stats = self.switchboard.stats();
        match reason {
            DropReason::Expired => &stats.dropped_expired,
            DropReason::QueueFull => &stats.dropped_queue_full,
            DropReason::Offline => &stats.dropped_offline,
            DropReason::TooLarge => &stats.dropped_too_large,
            DropReason::SessionEnded => &stats.dropped_session_ended,
        }
        .add(1);
    }

    /// Timers are armed late: one that fires too early because something was heard meanwhile is
    /// armed again, so that a busy client costs no timer a packet.
    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(at) = self.session.next_timeout() else {
            return;
        };
        if let Some((armed, handle)) = self.timer {
            if armed <= at {
                return;
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(at.saturating_duration_since(outside::now()), |act, ctx| {
            act.timer = None;
            // Who has said something that is not handled yet is not silent.
            let deaf = act.io.borrow().is_deaf() || !act.deferred.is_empty();
            let now = outside::now();
            if act.connected && act.admission.until.is_some_and(|until| until <= now) {
                act.switchboard.stats().tokens_ended.add(1);
                tracing::info!(client_id = %act.session.client_id(), "connection ended: its token did");
            }
            act.step(ctx, |session, effects| {
                if deaf {
                    session.not_listened_to(now);
                }
                session.tick(now, effects);
            });
            act.arm_timer(ctx);
            act.io.borrow_mut().wake();
        });
        self.timer = Some((at, handle));
    }
}

/// Acknowledgements and pings stand in no order to what is published.
fn may_be_deferred(packet: &Packet) -> bool {
    !matches!(
        packet,
        Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) | Packet::PingReq
    )
}

/// What a put-off packet weighs.
fn deferred_bytes(packet: &Packet) -> usize {
    let payload = match packet {
        Packet::Publish(publish) => publish.topic.len() + publish.payload.len(),
        _ => 0,
    };
    size_of::<Packet>() + payload
}

/// What is no packet at all, or the last word of a client that has stopped reading: a DISCONNECT in
/// answer may be sent [MQTT5 4.13.1], but nobody would make sense of it.
fn deserves_no_answer(error: &DecodeError) -> bool {
    matches!(
        error,
        DecodeError::RemainingLength
            | DecodeError::ReasonCode {
                packet: "DISCONNECT",
                ..
            }
    )
}

fn publisher(client_id: &ByteString, admission: &Admission) -> Arc<Publisher> {
    Arc::new(Publisher {
        client_id: client_id.clone(),
        device_id: admission.device_id.clone(),
        rules: admission.rules.clone(),
    })
}
