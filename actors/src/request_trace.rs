//! What becomes of a request, as a trace: spans in OpenTelemetry's terms, in the trace that the client began where it sent a
//! `traceparent` (W3C Trace Context, as MQTT 5 user property). Nothing is recorded while nobody exports, and spans are made when the
//! request is over, of times that are taken anyway. No topic is part of one, and what was asked and answered only where the owner
//! wants that captured.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use models::{Precision, Prompt, ToolCall};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, ContextGuard, KeyValue, global};
use serde_json::{Value, json};
use topics::message::Message;

use crate::conversation::{Timings, Usage};
use crate::outside;
use crate::policy::priority::Priority;
use crate::worker_protocol::Spent;

/// The user property that carries the client's trace.
const TRACEPARENT: &str = "traceparent";

/// Of what was asked, and of what was answered, no more is captured.
const MOST_CAPTURED_BYTES: usize = 16 * 1024;

/// The trace of a request that is recorded. Cheap to clone; the last one that is let go of ends it.
#[derive(Clone, Debug)]
pub(crate) struct RequestTrace {
    /// With the span of the whole request.
    context: Context,
    /// When its session handed it over.
    routed_at: SystemTime,
    /// When its conversation took it on.
    accepted_at: SystemTime,
    /// When its turn had come.
    submitted_at: SystemTime,
    /// What was asked and what is answered, where that is captured.
    captured: Option<(Arc<str>, String)>,
}

/// What there is to tell in the end.
pub(crate) struct Ended<'a> {
    pub(crate) model: &'a str,
    pub(crate) precision: Option<Precision>,
    pub(crate) attempt: u32,
    /// As in the last item.
    pub(crate) finish_reason: &'a str,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
    pub(crate) spent: Option<Spent>,
    pub(crate) tool_calls: &'a [ToolCall],
}

impl RequestTrace {
    /// Of a request that is accepted now; none where none is recorded.
    pub(crate) fn of(message: &Message, routed_at: Instant, priority: Priority) -> Option<Self> {
        let tracer = global::tracer("clawdbot");
        let accepted_at = outside::calendar();
        let routed_at = accepted_at - outside::since(routed_at);
        let parent = message
            .properties
            .as_ref()
            .and_then(|properties| {
                let mut all = properties.user_properties.iter();
                let (_, value) = all.find(|(name, _)| &**name == TRACEPARENT)?;
                parse(value)
            })
            .map_or_else(Context::new, |parent| {
                Context::new().with_remote_span_context(parent)
            });
        let span = SpanBuilder::from_name("process command")
            .with_kind(SpanKind::Consumer)
            .with_start_time(routed_at)
            .with_attributes([
                KeyValue::new("messaging.system", "mqtt"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("priority", priority.as_str()),
            ])
            .start_with_context(&tracer, &parent);
        span.is_recording().then(|| Self {
            context: parent.with_span(span),
            routed_at,
            accepted_at,
            submitted_at: accepted_at,
            captured: None,
        })
    }

    /// What was asked and what will be answered is to be part of it.
    pub(crate) fn capture(&mut self, prompt: &Prompt) {
        let mut room = MOST_CAPTURED_BYTES;
        let mut message = |role: &str, content: &str| {
            let content = cut(content, room);
            room -= content.len();
            json!({"role": role, "parts": [{"type": "text", "content": content}]})
        };
        let messages: Vec<Value> = match prompt {
            Prompt::Text(text) => vec![message("user", text)],
            Prompt::Messages(all) => {
                let said = all.iter().map(|one| message(&one.role, &one.content));
                said.collect()
            }
        };
        self.captured = Some((Value::from(messages).to_string().into(), String::new()));
    }

    /// So much more of the answer.
    pub(crate) fn said(&mut self, text: &str) {
        if let Some((_, answer)) = &mut self.captured {
            answer.push_str(cut(text, MOST_CAPTURED_BYTES - answer.len()));
        }
    }

    /// Its turn has come: it waits for a place in the engine from now on.
    pub(crate) fn submitted(&mut self) {
        self.submitted_at = outside::calendar().max(self.accepted_at);
    }

    /// The trace's id, for log lines.
    pub(crate) fn id(&self) -> String {
        self.context.span().span_context().trace_id().to_string()
    }

    /// While this is held, what the thread says in the log goes to a collector as a part of the request's span.
    pub(crate) fn speaks(&self) -> ContextGuard {
        self.context.clone().attach()
    }

    /// It was answered.
    pub(crate) fn answered(self, ended: &Ended<'_>) {
        let at = |seconds: f64| {
            let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            self.accepted_at + since
        };
        let timings = &ended.timings;
        let (began, done) = (at(timings.queue_s), at(timings.duration_s));
        let submitted_at = self.submitted_at.min(began);
        self.child(&self.context, "route", self.routed_at, self.accepted_at);
        self.child(&self.context, "conversation", self.accepted_at, submitted_at);
        self.child(&self.context, "queue", submitted_at, began);
        let tracer = global::tracer("clawdbot");
        let precision = ended.precision.map_or_else(String::new, |bits| bits.to_string());
        let inference = SpanBuilder::from_name(format!("chat {}", ended.model))
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes([
                KeyValue::new("gen_ai.operation.name", "chat"),
                KeyValue::new("gen_ai.response.model", ended.model.to_owned()),
                KeyValue::new("gen_ai.response.finish_reasons", ended.finish_reason.to_owned()),
                KeyValue::new("gen_ai.usage.input_tokens", count(ended.usage.prompt_tokens)),
                KeyValue::new(
                    "gen_ai.usage.cached_tokens",
                    count(ended.usage.prompt_tokens_details.cached_tokens),
                ),
                KeyValue::new("gen_ai.usage.output_tokens", count(ended.usage.completion_tokens)),
                KeyValue::new("precision", precision),
                KeyValue::new("attempt", i64::from(ended.attempt)),
            ])
            .start_with_context(&tracer, &self.context);
        let inference = self.context.with_span(inference);
        for (name, content) in self.content(ended) {
            inference.span().set_attribute(KeyValue::new(name, content));
        }
        if let Some(spent) = ended.spent {
            self.in_process(&inference, spent, began, done);
        }
        inference.span().end_with_timestamp(done);
        let now = outside::calendar();
        self.child(&self.context, "reply", done, now.max(done));
        let root = self.context.span();
        root.set_status(Status::Ok);
        root.end_with_timestamp(now.max(done));
    }

    /// What the inference process says of itself. It has no clock in common with the daemon but for the end.
    fn in_process(&self, inference: &Context, spent: Spent, began: SystemTime, done: SystemTime) {
        let first = done - spent.decode.unwrap_or_default();
        let started = (first - spent.prefill).max(began);
        let first = first.max(started);
        let tracer = global::tracer("clawdbot");
        let process = SpanBuilder::from_name("inference process")
            .with_kind(SpanKind::Server)
            .with_start_time(started)
            .with_attributes([KeyValue::new("process.pid", i64::from(spent.pid))])
            .start_with_context(&tracer, inference);
        let process = inference.with_span(process);
        self.child(&process, "prefill", started, first);
        if spent.decode.is_some() {
            self.child(&process, "decode", first, done);
        }
        process.span().end_with_timestamp(done);
    }

    /// In the form of OpenTelemetry's GenAI conventions.
    fn content(&self, ended: &Ended<'_>) -> Vec<(&'static str, String)> {
        let Some((asked, answer)) = &self.captured else {
            return Vec::new();
        };
        let text = (!answer.is_empty()).then(|| json!({"type": "text", "content": answer}));
        let calls = ended.tool_calls.iter().map(|call| {
            let arguments = cut(&call.function.arguments, MOST_CAPTURED_BYTES);
            json!({"type": "tool_call", "id": call.id, "name": call.function.name, "arguments": arguments})
        });
        let parts: Vec<Value> = text.into_iter().chain(calls).collect();
        let answered = json!([{"role": "assistant", "parts": parts, "finish_reason": ended.finish_reason}]);
        vec![
            ("gen_ai.input.messages", asked.to_string()),
            ("gen_ai.output.messages", answered.to_string()),
        ]
    }

    /// It was not, for this reason.
    pub(crate) fn failed(self, code: &str) {
        let root = self.context.span();
        root.set_attribute(KeyValue::new("error.type", code.to_owned()));
        root.set_status(Status::error(code.to_owned()));
        root.end_with_timestamp(outside::calendar());
    }

    fn child(&self, parent: &Context, name: &'static str, from: SystemTime, to: SystemTime) {
        let tracer = global::tracer("clawdbot");
        let span = SpanBuilder::from_name(name)
            .with_start_time(from)
            .start_with_context(&tracer, parent);
        Context::new().with_span(span).span().end_with_timestamp(to);
    }
}

/// As many of its first bytes as there is room for, in whole characters.
fn cut(text: &str, room: usize) -> &str {
    text.get(..text.floor_char_boundary(room)).unwrap_or(text)
}

fn count(tokens: usize) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

/// `00-<32 hexadecimal digits>-<16>-<2>`; of later versions what stands in these places. None where it says nothing.
fn parse(value: &str) -> Option<SpanContext> {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_whole = [(version, 2), (trace, 32), (span, 16), (flags, 2)]
        .iter()
        .all(|(part, length)| part.len() == *length && is_hex(part));
    // Version 255 is none, and version 0 has no further part.
    if !is_whole || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(flags & 1),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_w3c_has_it() {
        let parent = parse(GOOD).unwrap();
        assert_eq!(parent.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id().to_string(), "00f067aa0ba902b7");
        assert!(parent.is_sampled() && parent.is_remote());
        // A later version may have more behind it, which says nothing here.
        assert!(parse(&GOOD.replace("00-4b", "01-4b").replace("-01", "-00-more")).is_some());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_is_more_than_read_or_not(text in "[0-9a-f-]{0,60}|.{0,60}") {
            if let Some(parent) = parse(&text) {
                prop_assert!(parent.is_valid());
                prop_assert!(text.contains(&parent.trace_id().to_string()));
            }
        }
    }
}
