//! Where Clawdbot answers otherwise than Mosquitto, and the clause that lets it or makes it.

/// Group and name of a sequence, and why it fails here.
pub(crate) const DIFFERENCES: &[(&str, &str)] = &[
    ("v3.1.1 CONNECT | 10 missing keepalive", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0x0000", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0x0001", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0x001F", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0x007F", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0x009F", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0xD800", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 Username with 0xFFFF", CONNACK_SAYS_WHY),
    (
        "v5.0   CONNECT | 10 Will flag 1 Will Qos 3 [MQTT-3.1.2-14]",
        CONNACK_SAYS_WHY,
    ),
    ("v5.0   CONNECT | 10 [MQTT-3.1.2-17]", CONNACK_SAYS_WHY),
    ("v5.0   CONNECT | 10 [MQTT-3.1.2-19]", CONNACK_SAYS_WHY),
    (
        "v5.0   CONNACK | 20 remaining length 5 bytes",
        DISCONNECT_SAYS_WHY,
    ),
    ("v5.0   PINGREQ | C0 long", DISCONNECT_SAYS_WHY),
    ("v5.0   PINGRESP | D0 long", DISCONNECT_SAYS_WHY),
    (
        "v5.0   PINGRESP | D0 remaining length 5 bytes",
        DISCONNECT_SAYS_WHY,
    ),
    ("v5.0   SUBACK | 90 remaining length 5 bytes", DISCONNECT_SAYS_WHY),
    (
        "v5.0   UNSUBACK | B0 remaining length 5 bytes",
        DISCONNECT_SAYS_WHY,
    ),
    ("v3.1.1 PUBLISH | 34 QoS 2 Dup flow*3", REPEATED_PUBLISH),
    ("v5.0   PUBLISH | 34 QoS 2 Dup flow*3", REPEATED_PUBLISH),
    (
        "v5.0   OTHER | subpub self publish qos1 nolocal",
        "MQTT 5 3.4.2.1: 0x10 may be said where nobody gets the message, and with No Local nobody does; \
         Mosquitto says 0",
    ),
    (
        "v5.0   PUBLISH | PUBLISH with $ topic - connection/state",
        "MQTT 5 4.7.2: $SYS is the server's own; Mosquitto lets clients write this one topic of it for its \
         bridges",
    ),
];

const CONNACK_SAYS_WHY: &str = "MQTT 5 3.1.4, 4.13: a CONNACK with the reason may be sent before a malformed \
    CONNECT's connection is closed; Mosquitto closes without a word (the one for 3.1.1 says level 5)";

const DISCONNECT_SAYS_WHY: &str = "MQTT 5 4.13.1: a DISCONNECT with the reason may be sent before closing; \
    Mosquitto closes without a word";

const REPEATED_PUBLISH: &str = "MQTT-4.3.3-10 (3.1.1: MQTT-4.3.3-2): the same identifier before PUBREL is the same \
    message, whatever its number; Mosquitto counts to two";
