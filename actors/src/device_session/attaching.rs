//! Connections come to the session and leave it: attached, taken over, lost, closed at the end of the daemon.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::BytesMut;
use bytestring::ByteString;
use topics::access::Judgements;
use topics::device::DeviceId;
use topics::packet::{Connect, ReasonCode};
use topics::session::{Attached, Detach, Effect};

use super::{Connection, DeviceSession, authentication, publisher};
use crate::auth_checker::Admission;
use crate::outside;
use crate::presence;
use crate::route::LastRoute;

/// How long an ended session may still be given a connection by somebody who just looked it up.
const AFTERLIFE: Duration = Duration::from_secs(1);

/// A client that is still sending when it is taken over is not heard to its end.
const MAX_READS_AT_TAKE_OVER: usize = 16;

/// A connection whose CONNECT was read and admitted. Given back by a session that has ended: its
/// successor is to have it.
#[derive(Message)]
#[rtype(result = "Result<(), Box<Attach>>")]
pub struct Attach {
    /// The connection.
    pub connection: Connection,
    /// What the client asked for.
    pub connect: Box<Connect>,
    /// What came after CONNECT already.
    pub input: BytesMut,
    /// Who it is.
    pub admission: Admission,
    /// The client identifier, where the broker chose it.
    pub assigned: Option<ByteString>,
}

impl Handler<Attach> for DeviceSession {
    type Result = ResponseActFuture<Self, Result<(), Box<Attach>>>;

    fn handle(&mut self, msg: Attach, ctx: &mut Self::Context) -> Self::Result {
        if !self.session.is_connected() {
            return Box::pin(std::future::ready(self.attach(msg, ctx)).into_actor(self));
        }
        // A client may say DISCONNECT and come back at once, and this connection be handed over before the
        // goodbye on the other one was read.
        Box::pin(self.heard_out().map(|(), act, ctx| act.attach(msg, ctx)))
    }
}

/// The daemon stops: say so to the client and close.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ShutDown;

impl Handler<ShutDown> for DeviceSession {
    type Result = ();

    fn handle(&mut self, _: ShutDown, ctx: &mut Self::Context) {
        if !self.session.is_connected() {
            return self.shut_down(ctx);
        }
        // What has reached this machine was said before the end: an acknowledgement above all, or the next daemon sends
        // the message again.
        ctx.spawn(self.heard_out().map(|(), act, ctx| act.shut_down(ctx)));
    }
}

/// A device was revoked: a session that was let in for it ends, whether connected or not.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Recheck;

impl Handler<Recheck> for DeviceSession {
    type Result = ();

    fn handle(&mut self, _: Recheck, ctx: &mut Self::Context) {
        self.leave_if_revoked(ctx);
        self.io.borrow_mut().wake();
    }
}

impl DeviceSession {
    /// Ready when everything was handled that lies in the connection's socket by now. When its reactor has turned, it
    /// is known what lies there; if that had to be asked of the router, the answer comes before what follows is
    /// polled.
    pub(super) fn heard_out(&self) -> impl ActorFuture<Self, Output = ()> + use<> {
        let turn = self.io.borrow().reactor_turn().into_actor(self);
        turn.map(|(), act, ctx| act.hear_out(ctx))
            .then(|(), act, _| tokio::task::yield_now().into_actor(act))
    }

    pub(super) fn shut_down(&mut self, ctx: &mut Context<Self>) {
        // What was routed here before the end is said before the goodbye: the last item of an answer
        // that ended because the daemon stops came a moment ago.
        let mut batch = self.handle.outbox.drain(usize::MAX);
        self.deliver(&mut batch, ctx);
        self.stopping = true;
        self.step(ctx, |session, effects| {
            session.fail(ReasonCode::ServerShuttingDown, effects);
        });
    }

    pub(super) fn attach(&mut self, msg: Attach, ctx: &mut Context<Self>) -> Result<(), Box<Attach>> {
        if self.handle.ended.load(Relaxed) {
            return Err(Box::new(msg));
        }
        let now = outside::now();
        let previous = self.connected.then(|| self.admission.device_id.clone());
        if self.session.is_connected() {
            self.give_way(now, ctx);
        }
        self.publisher = publisher(self.session.client_id(), &msg.admission);
        self.admission = msg.admission;
        self.judgements = Judgements::default();
        let mut effects = Vec::new();
        let welcome = authentication::welcome(&msg.connect, &self.admission, msg.assigned);
        self.username = msg.connect.username.as_ref().map(|name| name.to_string().into());
        let attached = self.session.attach(now, &msg.connect, welcome, &mut effects);
        match &attached {
            Ok(Attached { session_present }) => {
                if !session_present {
                    self.forget_received();
                    // What was routed to the session before, and not taken in yet, is as much a part of the past.
                    self.bequeath(self.handle.outbox.extract(|_| true));
                }
                self.keep_session();
                self.connected = true;
                self.session.admit_until(self.admission.until);
                self.handle.online.store(true, Relaxed);
                self.switchboard.stats().connections.add(1);
                self.io.borrow_mut().connect(msg.connection);
                self.input = msg.input;
                if let Some(device) = &self.admission.device_id {
                    presence::came(&self.switchboard, device);
                }
                // Counted out after the new one is counted in: a take-over announces nothing.
                if let Some(device) = previous {
                    self.count_out(device.as_ref());
                }
                self.apply(&mut effects, ctx);
                self.withdraw_subscriptions(ctx);
                // The device may have been revoked while the connection was on its way.
                self.leave_if_revoked(ctx);
                self.read_packets(ctx);
                self.io.borrow_mut().wake();
            }
            Err(reason) => {
                // Reception looked at the will before; this is for a session made in vain.
                tracing::debug!(client_id = %self.session.client_id(), %reason, "connection not attached");
                self.end(ctx);
            }
        }
        self.arm_timer(ctx);
        Ok(())
    }

    pub(super) fn leave_if_revoked(&mut self, ctx: &mut Context<Self>) {
        if self.handle.ended.load(Relaxed) || self.admission.stands() {
            return;
        }
        self.switchboard.stats().sessions_revoked.add(1);
        tracing::info!(client_id = %self.session.client_id(), "session ended: its device was revoked");
        self.step(ctx, |session, effects| {
            session.abandon(outside::now(), ReasonCode::AdministrativeAction, effects);
        });
    }

    /// Handles what the client said before it made another connection, what was put off of it first.
    pub(super) fn hear_out(&mut self, ctx: &mut Context<Self>) {
        self.io.borrow_mut().see_off();
        self.read_packets(ctx);
        for _ in 0..MAX_READS_AT_TAKE_OVER {
            let event = self.io.borrow_mut().read_now();
            match event {
                Some(event) => StreamHandler::handle(self, event, ctx),
                None => break,
            }
        }
    }

    pub(super) fn detach(&mut self, ctx: &mut Context<Self>) {
        if !self.session.is_connected() {
            return;
        }
        self.hand_over();
        self.input = BytesMut::new();
        self.last_route = LastRoute::default();
        self.judgements = Judgements::default();
        self.deferred = VecDeque::new();
        self.deferred_bytes = 0;
        self.handle.online.store(false, Relaxed);
        // The will is told before `offline` is: a will on the status topic must not be the last word.
        self.step(ctx, |session, effects| {
            session.detach(outside::now(), Detach::Lost, effects)
        });
        self.hand_on_what_waits();
        if !self.handle.ended.load(Relaxed) {
            self.keep_session();
        }
        if self.connected {
            self.disconnected();
        }
    }

    /// Another connection of this client comes: the one at hand hears why it goes.
    pub(super) fn give_way(&mut self, now: Instant, ctx: &mut Context<Self>) {
        self.step(ctx, |session, effects| {
            session.fail(ReasonCode::SessionTakenOver, effects);
            effects.retain(|effect| matches!(effect, Effect::Send(_) | Effect::Forward(_)));
        });
        self.io.borrow_mut().close();
        self.deferred = VecDeque::new();
        self.deferred_bytes = 0;
        self.step(ctx, |session, effects| {
            session.detach(now, Detach::TakenOver, effects)
        });
    }

    pub(super) fn disconnected(&mut self) {
        self.connected = false;
        self.count_out(self.admission.device_id.as_ref());
    }

    pub(super) fn count_out(&self, device: Option<&DeviceId>) {
        self.switchboard.stats().connections.sub(1);
        if let Some(device) = device {
            presence::went(&self.switchboard, device);
        }
    }

    /// The session is over. The actor stays a moment, to give back a connection that was on its way here
    /// when it ended.
    pub(super) fn end(&mut self, ctx: &mut Context<Self>) {
        if self.handle.ended.swap(true, Relaxed) {
            return;
        }
        self.forget_session();
        self.leave();
        let me = ctx.address();
        self.switchboard
            .sessions()
            .remove_if(self.session.client_id(), |_, entry| entry.session == me);
        ctx.run_later(AFTERLIFE, |_, ctx| ctx.stop());
    }

    pub(super) fn leave(&self) {
        self.bequeath(self.handle.outbox.close());
        self.switchboard.stats().sessions.sub(1);
    }
}
