//! The actor that owns `clawdbot/{device_id}/command`, `…/cancel` and `…/conversation/reset` of one
//! device: it reads requests, asks the [`Scheduler`] for one answer at a time, publishes the
//! answer item by item, and remembers what was said.
//!
//! A request accepted here ends with exactly one item that has `done`: complete, failed or
//! cancelled. It is cancelled early only by an explicit cancel, or when for a grace time nobody,
//! connected or with a session that outlives its connection, could receive its reply topic.

mod commanded;
mod history;
mod item;
mod letting_go;
mod memory;
mod progress;
mod request;
mod understanding;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use models::{Precision, Prompt, ToolCall};
use topics::device::DeviceId;
use topics::message::Message as AppMessage;
use topics::name::TopicName;
use topics::packet::{PublishProperties, QoS};
use topics::pattern::{Params, TopicPattern};

use crate::commander::Commands;
use crate::external_broker::{Answering, Receipt};
use crate::mailbox::{Durability, Mailbox, Overflow};
use crate::outside;
use crate::policy::priority::Priority;
use crate::policy::schedule::End as Fate;
use crate::received::may_answer_on;
use crate::request_trace::RequestTrace;
use crate::scheduler::{AwaitsTurn, JobId, Scheduler, SchedulerGauge, Submit, Weight};
use crate::served::Audience;
use crate::store::Acceptance;
use crate::switchboard::{Inbound, Switchboard};
use crate::topic_router::{BindEach, LazyActor, Retire, Retirement, RouteFirst, RouteRequest};

use commanded::Commanded;
pub(crate) use commanded::to_do;
use history::Turn;
use item::{End, Item, ItemError};
pub use item::{PromptTokensDetails, Timings, Usage};
pub use memory::{Memory, MemoryConfig, MemoryKeeper};
pub use request::RequestLimits;
use request::{Invalid, Request};

/// See [`ConversationConfig::max_queued`]: the mailbox holds as many commands and as many cancels,
/// and some more.
const MAILBOX_BEYOND_QUEUE: usize = 128;

/// Room in the mailbox that no publisher can take up, for what the scheduler says.
const MAILBOX_FOR_PROGRESS: usize = 128;

/// As the engine says that a prompt does not fit its context, or its cache.
const TOO_LONG: [&str; 2] = ["prompt_too_long", "cache_too_small"];

/// How often a request's receivers are looked for.
const RECEIVER_CHECK: Duration = Duration::from_secs(1);

/// From the settings.
#[derive(Clone, Debug)]
pub struct ConversationConfig {
    /// What a request may ask for.
    pub limits: RequestLimits,
    /// Requests of one device that wait behind the one at hand; one more is refused with an item.
    pub max_queued: usize,
    /// How long a request goes on while nobody can receive its reply topic.
    pub undeliverable_grace: Duration,
    /// How long a conversation with nothing to do is kept.
    pub idle: Duration,
    /// What was said before.
    pub memory: Memory,
    /// Where requests are counted.
    pub requests: Arc<SchedulerGauge>,
    /// Who understands commands, where that is not the model that answers all else.
    pub commands: Option<Commands>,
    /// Whether traces have the words of requests and answers.
    pub capture_content: bool,
}

impl ConversationConfig {
    fn inbound_bound(&self) -> usize {
        2 * self.max_queued + MAILBOX_BEYOND_QUEUE
    }
}

/// See the module.
pub struct Conversation {
    config: ConversationConfig,
    switchboard: Switchboard,
    scheduler: Addr<Scheduler>,
    device: Arc<str>,
    default_reply_topic: Option<TopicName>,
    /// One of each priority at most.
    running: Vec<Running>,
    /// Asked of the commander, which answers soon or not at all (`model.commands_within_ms`): nobody looks meanwhile whether somebody
    /// can still receive it.
    understanding: Vec<(JobId, Pending)>,
    /// The most important first, then in the order they came.
    queue: VecDeque<Pending>,
    watch: Option<SpawnHandle>,
    retired: bool,
}

/// Where an answer goes.
#[derive(Clone, Debug)]
struct ReplyTo {
    topic: TopicName,
    correlation_data: Option<Bytes>,
    /// Owed to the external broker that brought the request; the last item pays it.
    receipt: Option<Receipt>,
    /// Let go of when the answer has ended.
    acceptance: Option<Arc<Acceptance>>,
}

impl ReplyTo {
    fn attempt(&self) -> u32 {
        self.acceptance
            .as_ref()
            .map_or(1, |acceptance| acceptance.attempt())
    }
}

struct Pending {
    id: String,
    /// Its prompt alone fills the context.
    without_history: bool,
    /// The commander did not understand it.
    is_no_command: bool,
    request: Request,
    weight: Weight,
    /// None for one that is only kept in case it is asked anew.
    turn: Option<AwaitsTurn>,
    reply: ReplyTo,
    /// When its answer must be complete.
    deadline: Option<Instant>,
    last_receiver_seen: Instant,
    accepted_at: Instant,
    trace: Option<RequestTrace>,
}

struct Running {
    job: JobId,
    priority: Priority,
    id: String,
    reply: ReplyTo,
    seq: u64,
    /// Of the model that computes it, when it does.
    precision: Option<Precision>,
    first_model: Option<String>,
    /// Another one that has taken over.
    other_model: Option<String>,
    /// Inference processes that were lost with it, and 1.
    attempt: u32,
    /// What the answer calls; it goes out with the last item.
    tool_calls: Vec<ToolCall>,
    last_receiver_seen: Instant,
    /// Whether the request leaves the form of the answer to the model.
    is_plain: bool,
    /// What is said, where the embedded assistant says it.
    commanded: Option<Commanded>,
    /// What is remembered when it has ended; None where nothing is.
    remembered: Option<Remembered>,
    trace: Option<RequestTrace>,
    /// The request once more, if it was asked with a history that it may not have room for.
    again: Option<Pending>,
}

impl Running {
    /// Those of earlier daemons among them.
    fn all_attempts(&self) -> u32 {
        self.reply.attempt().saturating_add(self.attempt - 1)
    }
}

/// A turn that is not over.
struct Remembered {
    user: String,
    assistant: String,
    /// Tokens of the turns before it.
    tokens_before: usize,
}

impl Conversation {
    /// The binding by which the router makes one conversation a device.
    pub fn binding(
        config: ConversationConfig,
        switchboard: Switchboard,
        scheduler: Addr<Scheduler>,
    ) -> Result<BindEach, topics::pattern::PatternError> {
        // Only one daemon works on a request, and its cancel must find it.
        let patterns = vec![
            (
                TopicPattern::parse("clawdbot/{device_id}/command")?,
                Audience::OneDaemon,
            ),
            (
                TopicPattern::parse("clawdbot/{device_id}/cancel")?,
                Audience::EveryDaemon,
            ),
            (
                TopicPattern::parse("clawdbot/{device_id}/conversation/reset")?,
                Audience::EveryDaemon,
            ),
        ];
        let idle = config.idle;
        let bound = config.inbound_bound();
        let factory = Box::new(move |params: &Params| {
            let device = params.get("device_id").unwrap_or_default();
            let conversation = Self {
                config: config.clone(),
                switchboard: switchboard.clone(),
                scheduler: scheduler.clone(),
                device: device.into(),
                default_reply_topic: reply_topic(device),
                running: Vec::new(),
                understanding: Vec::new(),
                queue: VecDeque::new(),
                watch: None,
                retired: false,
            }
            .start();
            LazyActor {
                entrance: Arc::new(conversation.clone().recipient::<Inbound>()),
                retire: Retirement::Ask(conversation.recipient()),
            }
        });
        let mailbox = Mailbox {
            bound,
            overflow: Overflow::Reject,
            // A request that was taken is answered, whatever its QoS.
            durability: Durability::Always,
        };
        Ok(BindEach {
            actor: "Conversation",
            patterns,
            mailbox,
            idle,
            factory,
        })
    }
}

impl Actor for Conversation {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.inbound_bound() + MAILBOX_FOR_PROGRESS);
    }
}

impl Handler<Inbound> for Conversation {
    type Result = ();

    fn handle(&mut self, msg: Inbound, ctx: &mut Self::Context) {
        if self.retired {
            // Unbound, but this publisher still had the old snapshot: its message goes to the successor.
            let (message, from, router) = (msg.message, msg.from, self.switchboard.router().clone());
            let asked = async move {
                // A request that is lost here drops its receipt, and comes again.
                let _ = match (msg.receipt, msg.acceptance) {
                    (None, None) => router.send(RouteFirst { message, from }).await,
                    (receipt, acceptance) => {
                        router
                            .send(RouteRequest {
                                message,
                                from,
                                receipt,
                                acceptance,
                            })
                            .await
                    }
                };
            };
            ctx.spawn(asked.into_actor(self));
            return;
        }
        if msg.message.topic.as_str().ends_with("/cancel") {
            self.cancel(&msg, ctx);
            // What it ends has receipts of its own.
            if let Some(receipt) = &msg.receipt {
                receipt.done();
            }
        } else if msg.message.topic.as_str().ends_with("/conversation/reset") {
            self.reset();
            if let Some(receipt) = &msg.receipt {
                receipt.done();
            }
        } else {
            self.command(&msg, ctx);
        }
    }
}

impl Handler<Retire> for Conversation {
    type Result = bool;

    fn handle(&mut self, _: Retire, _: &mut Self::Context) -> bool {
        self.retired = !self.has_work();
        self.retired
    }
}

impl Conversation {
    /// An external broker brings the request again, to us when we are back or to another daemon, and so does the store
    /// where somebody can still hear the answer then: none for now is better than an apology.
    fn is_left_to_the_next_daemon(&self, reply: &ReplyTo) -> bool {
        let lasting = |_: &&Arc<Acceptance>| self.switchboard.has_lasting_receiver(&reply.topic);
        match reply.acceptance.as_ref().filter(lasting) {
            Some(acceptance) => {
                acceptance.leave();
                true
            }
            None => reply.receipt.is_some(),
        }
    }

    fn command(&mut self, msg: &Inbound, ctx: &mut Context<Self>) {
        let Some(reply) = self.reply_to(msg) else { return };
        let request = match request::parse(&msg.message.payload, &self.config.limits) {
            Ok(request) => request,
            Err(invalid) => return self.reject(&reply, &invalid),
        };
        let now = outside::now();
        let id = request.id.clone().unwrap_or_else(generated_id);
        if self.queue.len() >= self.config.max_queued {
            let message = format!(
                "{} requests of this device wait already (conversation.max_queued); wait for an answer, then ask again",
                self.queue.len()
            );
            let error = ItemError {
                code: "queue_full",
                message: &message,
                retry_after_ms: Some(1000),
            };
            self.turn(request.priority).ends(Fate::Refused);
            return self.fail(&reply, &id, error);
        }
        let mut trace = RequestTrace::of(&msg.message, msg.routed_at, request.priority);
        if let (true, Some(trace)) = (self.config.capture_content, &mut trace) {
            trace.capture(&request.generate.prompt);
        }
        let by_request = request.deadline.map(|within| now + within);
        let pending = Pending {
            id,
            without_history: false,
            is_no_command: false,
            deadline: msg.message.expires_at.into_iter().chain(by_request).min(),
            weight: self.config.requests.weigh(request.generate.prompt.bytes()),
            turn: Some(self.turn(request.priority)),
            request,
            reply,
            last_receiver_seen: now,
            accepted_at: now,
            trace,
        };
        let is_before = |other: &Pending| other.request.priority <= pending.request.priority;
        let place = self.queue.partition_point(is_before);
        self.queue.insert(place, pending);
        if self.watch.is_none() {
            self.watch = Some(ctx.run_interval(RECEIVER_CHECK, Self::look_for_receivers));
        }
        self.next(ctx);
    }

    /// Takes requests up: one after the other, except that what is more important does not wait for what is less.
    fn next(&mut self, ctx: &mut Context<Self>) {
        while let Some(mut pending) = self.queue.pop_front_if(|pending| {
            let at_hand = self.running.iter().map(|running| running.priority);
            let understood = self.understanding.iter();
            let mut at_hand = at_hand.chain(understood.map(|(_, pending)| pending.request.priority));
            at_hand.all(|priority| priority > pending.request.priority)
        }) {
            if pending.deadline.is_some_and(|at| at <= outside::now()) {
                let message = "its time passed while it waited (Message Expiry Interval or deadline_ms); ask again with \
                    a longer one";
                let error = ItemError {
                    code: "expired",
                    message,
                    retry_after_ms: None,
                };
                self.fail(&pending.reply, &pending.id, error);
                if let Some(trace) = pending.trace {
                    trace.failed("expired");
                }
                if let Some(turn) = pending.turn {
                    turn.ends(Fate::Expired);
                }
                continue;
            }
            if let Some(trace) = &mut pending.trace {
                trace.submitted();
            }
            if self.may_be_a_command(&pending) {
                self.understand(pending, ctx);
                continue;
            }
            let (prompt, remembered) = self.with_history(&pending);
            let again = remembered.as_ref().filter(|turn| turn.tokens_before > 0);
            let again = again.map(|_| Pending {
                id: pending.id.clone(),
                without_history: true,
                request: pending.request.clone(),
                weight: self
                    .config
                    .requests
                    .weigh(pending.request.generate.prompt.bytes()),
                turn: None,
                reply: pending.reply.clone(),
                trace: pending.trace.clone(),
                ..pending
            });
            let mut request = pending.request.generate;
            request.prompt = prompt;
            let mut weight = pending.weight;
            weight.becomes(request.prompt.bytes());
            // The engine has no source of chance of its own; a seed asked for is kept.
            request.sampling.seed.get_or_insert_with(outside::random);
            let is_plain = request.answer.is_plain();
            let job = JobId::next();
            let submit = Submit {
                job,
                priority: pending.request.priority,
                device: self.device.clone(),
                request,
                weight,
                turn: pending.turn,
                accepted_at: pending.accepted_at,
                deadline: pending.deadline,
                min_precision: pending.request.min_precision,
                progress: ctx.address().recipient(),
            };
            if self.scheduler.try_send(submit).is_err() {
                let message = "the daemon has more requests than it can look at; ask again shortly";
                let error = ItemError {
                    code: "overloaded",
                    message,
                    retry_after_ms: Some(1000),
                };
                self.fail(&pending.reply, &pending.id, error);
                if let Some(trace) = pending.trace {
                    trace.failed("overloaded");
                }
                continue;
            }
            self.running.push(Running {
                job,
                priority: pending.request.priority,
                id: pending.id,
                reply: pending.reply,
                seq: 0,
                precision: None,
                first_model: None,
                other_model: None,
                attempt: 1,
                tool_calls: Vec::new(),
                is_plain,
                commanded: None,
                last_receiver_seen: pending.last_receiver_seen,
                remembered,
                again,
                trace: pending.trace,
            });
        }
        if !self.has_work()
            && let Some(watch) = self.watch.take()
        {
            ctx.cancel_future(watch);
        }
    }

    fn has_work(&self) -> bool {
        !(self.running.is_empty() && self.understanding.is_empty() && self.queue.is_empty())
    }

    /// What the model is given, and what of it will be remembered: a prompt is the next turn of the conversation, while
    /// messages say themselves what was before.
    fn with_history(&self, pending: &Pending) -> (Prompt, Option<Remembered>) {
        let prompt = &pending.request.generate.prompt;
        let memory = &self.config.memory;
        let (Prompt::Text(text), true) = (prompt, memory.remembers() && pending.request.history) else {
            return (prompt.clone(), None);
        };
        let (messages, tokens_before) = if pending.without_history {
            (memory::alone(text), 0)
        } else {
            memory.recall(&self.device, text)
        };
        let remembered = Remembered {
            user: text.clone(),
            assistant: String::new(),
            tokens_before,
        };
        (Prompt::Messages(messages), Some(remembered))
    }

    fn remember(&self, turn: Remembered, usage: Usage) {
        if turn.assistant.is_empty() {
            return;
        }
        let tokens = (usage.prompt_tokens + usage.completion_tokens).saturating_sub(turn.tokens_before);
        let turn = Turn {
            user: turn.user,
            assistant: turn.assistant,
            tokens,
            at_s: memory::unix_s(outside::calendar()),
        };
        self.config.memory.note(&self.device, turn);
    }

    /// Nothing of what was said is remembered, and nothing of what is being said will be.
    fn reset(&mut self) {
        for running in &mut self.running {
            running.remembered = None;
        }
        for (_, pending) in &mut self.understanding {
            pending.request.history = false;
        }
        self.config.memory.reset(&self.device);
    }

    /// The Response Topic if the client named one it may publish to, else the device's reply topic.
    fn reply_to(&self, msg: &Inbound) -> Option<ReplyTo> {
        let Some(fallback) = self.default_reply_topic.clone() else {
            if let Some(receipt) = &msg.receipt {
                receipt.done();
            }
            return None;
        };
        let correlation_data = msg
            .message
            .correlation_data()
            .map(|data| Bytes::copy_from_slice(data));
        let Some(asked) = msg.message.response_topic() else {
            return Some(ReplyTo {
                topic: fallback,
                correlation_data,
                receipt: msg.receipt.clone(),
                acceptance: msg.acceptance.clone(),
            });
        };
        let topic = TopicName::parse(asked.clone()).map(|topic| topic.detached());
        match topic {
            Ok(topic) if may_answer_on(&self.switchboard, &msg.from, &topic) => Some(ReplyTo {
                topic,
                correlation_data,
                receipt: msg.receipt.clone(),
                acceptance: msg.acceptance.clone(),
            }),
            _ => {
                let message = format!(
                    "the Response Topic {asked} is not this device's to use; choose another under its own topics"
                );
                let reply = ReplyTo {
                    topic: fallback,
                    correlation_data,
                    receipt: msg.receipt.clone(),
                    acceptance: msg.acceptance.clone(),
                };
                let error = ItemError {
                    code: "not_authorized",
                    message: &message,
                    retry_after_ms: None,
                };
                self.fail(&reply, &generated_id(), error);
                None
            }
        }
    }

    fn reject(&self, reply: &ReplyTo, invalid: &Invalid) {
        let id = invalid.id.clone().unwrap_or_else(generated_id);
        let error = ItemError {
            code: invalid.code,
            message: &invalid.message,
            retry_after_ms: None,
        };
        self.fail(reply, &id, error);
    }

    fn turn(&self, priority: Priority) -> AwaitsTurn {
        AwaitsTurn::new(&self.config.requests, priority)
    }

    /// Nothing was said of it, and nothing will be.
    fn fail(&self, reply: &ReplyTo, id: &str, error: ItemError<'_>) {
        self.only_item(reply, id, End::failed(error));
    }

    fn only_item(&self, reply: &ReplyTo, id: &str, end: End<'_>) {
        let item = Item {
            id,
            seq: 0,
            delta: "",
            logprobs: &[],
            model: None,
            precision: None,
            attempt: reply.attempt(),
            end: Some(end),
        };
        self.publish(reply, &item);
    }

    fn end(&self, running: &Running, end: End<'_>) {
        let item = Item {
            id: &running.id,
            seq: running.seq,
            delta: "",
            logprobs: &[],
            model: None,
            precision: running.precision,
            attempt: running.all_attempts(),
            end: Some(end),
        };
        self.publish(&running.reply, &item);
    }

    fn publish(&self, reply: &ReplyTo, item: &Item<'_>) {
        let payload = match serde_json::to_vec(item) {
            Ok(payload) => payload,
            Err(error) => return tracing::error!(%error, "an item that is no JSON"),
        };
        let mut message = AppMessage::new(reply.topic.clone(), payload, QoS::AtLeastOnce);
        message.properties = reply.correlation_data.as_ref().map(|data| {
            Box::new(PublishProperties {
                correlation_data: Some(data.clone()),
                ..Default::default()
            })
        });
        let answering = reply.receipt.clone().map(|receipt| match item.end {
            None => Answering::Item(receipt),
            Some(_) => Answering::Last(receipt),
        });
        self.switchboard.publish_answer(message, answering);
    }
}

/// None for a level that is no device's name (`bridge`, say): what is sent there is nobody's request.
fn reply_topic(device: &str) -> Option<TopicName> {
    let device = DeviceId::parse(device.into())
        .inspect_err(|error| tracing::info!(device, %error, "requests are not answered"))
        .ok()?;
    TopicName::parse(format!("clawdbot/{}/reply", device.as_str()).into()).ok()
}

/// For a request whose client gave it no name. Several daemons may answer one device by way of an external broker, and
/// none may take another's names.
fn generated_id() -> String {
    format!("r{:016x}", outside::random())
}
