//! SUBSCRIBE: a client asks for topics [MQTT5 3.8].

use bytestring::ByteString;

use super::{QoS, UserProperties};

/// A client asks for topics [MQTT5 3.8].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Never 0 [MQTT5 3.8.2].
    pub packet_id: u16,
    /// Comes back with every message that these subscriptions match; never 0 [MQTT5 3.8.2.1.2].
    pub subscription_identifier: Option<u32>,
    /// [MQTT5 3.8.2.1.3]
    pub user_properties: UserProperties,
    /// At least one [MQTT5 3.8.3].
    pub filters: Vec<SubscribeFilter>,
}

/// One filter with its options [MQTT5 3.8.3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// A UTF-8 string that is not empty; whether its wildcards stand where they may is for the filter
    /// parser to say.
    pub filter: ByteString,
    /// Only the QoS before MQTT 5.
    pub options: SubscriptionOptions,
}

/// How a subscription is to be served [MQTT5 3.8.3.1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The highest QoS at which the client wants messages.
    pub qos: QoS,
    /// Leave out what this client published itself; never with a shared subscription.
    pub no_local: bool,
    /// Pass the retain flag on as it was published.
    pub retain_as_published: bool,
    /// Which retained messages come with the subscription.
    pub retain_handling: RetainHandling,
}

/// Which retained messages come with a subscription [MQTT5 3.8.3.1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match, at every SUBSCRIBE; the only way before MQTT 5.
    #[default]
    SendAtSubscribe = 0,
    /// All that match, unless the subscription was there already.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

impl SubscriptionOptions {
    /// The options that a subscription before MQTT 5 has: a QoS and nothing else.
    pub fn new(qos: QoS) -> Self {
        SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        }
    }
}
