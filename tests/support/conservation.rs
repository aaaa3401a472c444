//! The sum that must hold of every daemon, whatever happened to it: each copy of a message that was made for
//! a session is completed, dropped with a reason, or waits; each accepted publish was routed, had no receiver
//! or was rejected; each accepted request has ended in one of the named ways, runs, or waits.

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
    if let Some(wrong) = requests(metrics) {
        return Some(wrong);
    }
    (accepted != fates.iter().sum::<f64>())
        .then(|| format!("{accepted} publishes were accepted; routed, without receiver, rejected: {fates:?}"))
}

/// What does not add up of requests: of each priority, those accepted are the sum of all other states.
fn requests(metrics: &str) -> Option<String> {
    let of = |priority: &str, is_meant: fn(&str) -> bool| -> f64 {
        let lines = metrics.lines();
        let lines = lines.filter(|line| {
            line.starts_with("clawdbot_requests_account{")
                && line.contains(&format!("priority=\"{priority}\""))
                && is_meant(line)
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    ["urgent", "interactive", "background"]
        .into_iter()
        .find_map(|priority| {
            let accepted = of(priority, |line| line.contains(ACCEPTED));
            let others = of(priority, |line| !line.contains(ACCEPTED));
            (accepted != others)
                .then(|| format!("{accepted} {priority} requests were accepted, {others} are accounted for"))
        })
}

const ACCEPTED: &str = "state=\"accepted\"";

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
