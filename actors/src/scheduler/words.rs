//! What whoever asked is told when there is no answer: what happened, and what to try.

use std::time::Duration;

use models::Precision;

use crate::policy::schedule::{Bound, Late, Why};

pub(super) const NO_MODEL: &str = "no model is configured; set model.path to \"embedded\", the assistant that comes with \
    the program, to a GGUF file or to a directory with config.json, model.safetensors and tokenizer.json, or start with \
    `clawdbot serve --model PATH`";

pub(super) const STOPPING: &str = "the daemon is stopping; ask again when it is back";

pub(super) fn unavailable(reason: &str) -> String {
    format!("the model does not run at the moment: {reason}")
}

pub(super) fn dead_lettered(reason: &str) -> String {
    format!(
        "the inference process ended twice or more while it computed this request, at last with nothing beside it \
         ({reason}); the request is set aside. Ask for less, or in another way, and tell us if it happens again"
    )
}

/// None where there are bits enough.
pub(super) fn too_few_bits(least: Precision, now: Precision) -> Option<String> {
    // The more bits, the less.
    (now > least).then(|| {
        format!(
            "the model runs at {now}, and the request asks for at least {least} (min_precision); ask again when there is \
             more memory, or for less"
        )
    })
}

pub(super) fn expired(late: Late) -> String {
    match late {
        Late::Passed => "its time passed while it waited (Message Expiry Interval or deadline_ms); ask again with a longer one".to_owned(),
        Late::CannotBeMet { takes } => format!(
            "it waited until too little time was left: the answer takes about {} (Message Expiry Interval or \
             deadline_ms); ask again with a longer one, or for fewer tokens",
            seconds(takes)
        ),
    }
}

/// With the code.
pub(super) fn refused(why: Why) -> (&'static str, String) {
    match why {
        Why::Full { bound, most } => {
            let (whose, setting) = match bound {
                Bound::All => ("requests", "scheduler.max_queued"),
                Bound::Class => (
                    "requests of this priority",
                    "scheduler.max_queued, scheduler.max_queued_background",
                ),
                Bound::Device => ("requests of this device", "conversation.max_queued"),
            };
            let message = format!("{most} {whose} wait already ({setting}); ask again later");
            ("queue_full", message)
        }
        Why::TooLate { ends_in, left } => {
            let message = format!(
                "the answer would be complete in about {}, and its time is over in {} (Message Expiry Interval or \
                 deadline_ms); ask again later, for fewer tokens, or with more time",
                seconds(ends_in),
                seconds(left)
            );
            ("deadline_unreachable", message)
        }
        Why::Draining => (super::SHUTTING_DOWN, STOPPING.to_owned()),
        Why::NameTaken => (
            "duplicate_request",
            "a request of this name runs already; this is a fault of the daemon's, tell us".to_owned(),
        ),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
