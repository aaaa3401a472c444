//! Where Clawdbot does otherwise than Mosquitto's scripts expect, and the clause that makes it.

/// Scripts that are not run, by a part of their name.
pub(crate) const NOT_ABOUT_US: &[(&str, &str)] = &[
    ("06-bridge", "bridges as Mosquitto configures them"),
    ("08-", "TLS as Mosquitto configures it"),
    ("09-plugin", "Mosquitto's plugins"),
    ("14-dynsec", "Mosquitto's plugin for dynamic security"),
    ("-helper", "called by other scripts"),
    (
        "01-bad-initial-packets",
        "measures Mosquitto's address space; `hostile_input` does that for us",
    ),
    ("03-publish-qos1-queued-bytes", "written for Python 2"),
];

/// Name of a script, and why it fails here.
pub(crate) const DIFFERENCES: &[(&str, &str)] = &[
    (
        "01-connect-max-keepalive",
        "MQTT 3.1.1 3.1.2.10 knows no refusal for a keep-alive: the client's own is shortened for nobody, and \
         Mosquitto's code 2 means the identifier",
    ),
    ("02-subpub-qos0-long-topic", LEVELS),
    ("02-subscribe-long-topic", LEVELS),
    ("03-publish-long-topic", LEVELS),
    (
        "03-publish-qos2-dup",
        "MQTT-4.3.3-10 (3.1.1: MQTT-4.3.3-2): the same identifier before PUBREL is the same message, whatever \
         its number, and must be answered with PUBREC; Mosquitto counts to two",
    ),
    (
        "07-will-control",
        "MQTT 5 4.7.2 reserves no topic $CONTROL; it belongs to Mosquitto's plugins",
    ),
    ("07-will-delay", SESSION_ENDS_FIRST),
    ("07-will-delay-reconnect", SESSION_ENDS_FIRST),
    ("07-will-delay-recover", SESSION_ENDS_FIRST),
    ("07-will-delay-invalid-573191", CONNACK_SAYS_WHY),
    ("07-will-invalid-utf8", CONNACK_SAYS_WHY),
    ("07-will-no-flag", CONNACK_SAYS_WHY),
    ("07-will-null-topic", CONNACK_SAYS_WHY),
    (
        "07-will-takeover",
        "MQTT-3.1.2-8 (3.1.1), MQTT 5 3.1.4: whoever is taken over without a DISCONNECT has its will published, \
         unless a delay lets the session go on first; Mosquitto keeps it to itself if both sessions last",
    ),
    (
        "11-persistent-subscription-no-local",
        "MQTT 5 2.2.1: packet identifiers are the sender's own to choose; Mosquitto goes on counting over a restart, and \
         ours begin anew",
    ),
    (
        "12-prop-assigned-client-identifier",
        "MQTT-3.1.3-6, MQTT 5 3.2.2.3: the identifier and the limits are the server's to choose; the script \
         compares the length of both with Mosquitto's",
    ),
    ("12-prop-maximum-packet-size-publish-qos1", TOO_LARGE_FOR_IT),
    ("12-prop-maximum-packet-size-publish-qos2", TOO_LARGE_FOR_IT),
    (
        "13-malformed-subscribe-v5",
        "MQTT 5 3.8.2.1.2: a Subscription Identifier of 0 is a protocol error, 0x82; Mosquitto says malformed",
    ),
];

const LEVELS: &str = "MQTT-3.8.4-1, MQTT 5 2.4: a SUBSCRIBE must be answered by a SUBACK, and what is too deep for us \
    is well-formed, so that it is Topic Filter or Topic Name Invalid; Mosquitto closes, and says malformed";

const SESSION_ENDS_FIRST: &str = "MQTT 5 3.1.2.5: the will goes out when its delay has passed or the session ends, \
    whichever is first, and a session without an expiry interval ends with its connection; Mosquitto waits";

const CONNACK_SAYS_WHY: &str = "MQTT 5 3.1.4, 4.13: a CONNACK with the reason may be sent before a malformed \
    CONNECT's connection is closed; Mosquitto 2.0 closes without a word, 2.1 and its sequences send it";

const TOO_LARGE_FOR_IT: &str = "MQTT-3.1.2-24: the client takes 20 bytes at most, and Mosquitto sends it a PUBLISH \
    of 21";
