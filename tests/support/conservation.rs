//! The sum that must hold of every daemon, whatever happened to it: each copy of a message that was made for
//! a session is completed, dropped with a reason, or waits; each accepted publish was routed, had no receiver
//! or was rejected.

/// What does not add up in a page of metrics, if anything.
pub(crate) fn imbalance(metrics: &str) -> Option<String> {
    let value = |name: &str| {
        metrics
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok())
            .sum::<f64>()
    };
    let of = |name: &str| value(&format!("clawdbot_mqtt_{name}_total"));
    let dropped: f64 = DROPPED
        .iter()
        .map(|reason| of(&format!("messages_dropped_{reason}")))
        .sum();
    let (made, completed) = (of("deliveries"), of("deliveries_completed"));
    let waiting = value("clawdbot_mqtt_deliveries_waiting");
    if made != completed + dropped + waiting {
        return Some(format!(
            "{made} copies were made, {completed} completed, {dropped} dropped, {waiting} wait"
        ));
    }
    let accepted = of("messages_accepted");
    let fates = ["routed", "without_receiver", "rejected"].map(|fate| of(&format!("messages_{fate}")));
    (accepted != fates.iter().sum::<f64>())
        .then(|| format!("{accepted} publishes were accepted; routed, without receiver, rejected: {fates:?}"))
}

/// Why copies for sessions are dropped. A full mailbox is an actor's, and counted by publish.
const DROPPED: [&str; 7] = [
    "outbox_full",
    "queue_full",
    "expired",
    "offline",
    "too_large",
    "session_ended",
    "refused",
];
