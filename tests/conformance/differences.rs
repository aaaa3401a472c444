//! Where Clawdbot answers otherwise than Mosquitto, and the clause that makes it.

/// Group and name of a sequence, and why it fails here.
pub(crate) const DIFFERENCES: &[(&str, &str)] = &[
    ("v3.1.1 PUBLISH | 34 QoS 2 Dup flow*3", REPEATED_PUBLISH),
    ("v5.0   PUBLISH | 34 QoS 2 Dup flow*3", REPEATED_PUBLISH),
];

const REPEATED_PUBLISH: &str = "MQTT-4.3.3-10 (3.1.1: MQTT-4.3.3-2): the same identifier before PUBREL is the same \
    message, whatever its number, and must be answered with PUBREC; Mosquitto counts to two";
