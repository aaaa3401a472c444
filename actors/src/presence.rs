//! Presence: retained `online` while a device has at least one connection, `offline` after the
//! last one went, on `clawdbot/{device_id}/status`.

use bytes::Bytes;
use dashmap::mapref::entry::Entry;
use topics::device::DeviceId;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;

use crate::switchboard::Switchboard;

/// Counts one connection of a device in. Announced while the entry is held, so that two
/// connections that come and go at once are announced in the order they were counted.
pub(crate) fn came(switchboard: &Switchboard, device: &DeviceId) {
    let mut count = switchboard.devices().entry(device.clone()).or_insert(0);
    *count += 1;
    if *count == 1 {
        announce(switchboard, device, "online");
    }
}

/// Counts one connection of a device out.
pub(crate) fn went(switchboard: &Switchboard, device: &DeviceId) {
    if let Entry::Occupied(mut entry) = switchboard.devices().entry(device.clone()) {
        *entry.get_mut() = entry.get().saturating_sub(1);
        if *entry.get() == 0 {
            announce(switchboard, device, "offline");
            entry.remove();
        }
    }
}

/// A presence that was kept says who was there when the daemon ended; now nobody is.
pub(crate) fn correct_after_restart(message: &mut Message) {
    let mut levels = message.topic.as_str().split('/');
    let is_presence = levels.next() == Some("clawdbot")
        && levels
            .next()
            .is_some_and(|device| DeviceId::parse(device.into()).is_ok())
        && levels.next() == Some("status")
        && levels.next().is_none();
    if is_presence && *message.payload == *b"online" {
        message.payload = Bytes::from_static(b"offline");
    }
}

fn announce(switchboard: &Switchboard, device: &DeviceId, state: &'static str) {
    let Ok(topic) = TopicName::parse(format!("clawdbot/{}/status", device.as_str()).into()) else {
        return;
    };
    switchboard.publish(Message::new(topic, state, QoS::AtLeastOnce).retained());
}
