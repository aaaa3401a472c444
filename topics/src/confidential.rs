//! Topics on which secrets travel. What is published to them is for the hub alone: it is never routed, retained or
//! logged, whatever an access list says, and answers are given to the session that asked.

/// A topic that carries a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidential<'a> {
    /// `clawdbot/{device_id}/token`: the device renews what it was let in by.
    Token {
        /// Whose topic it is.
        device: &'a str,
    },
    /// `clawdbot/bridge/request/pair`: a code for a secret.
    Pair,
    /// `clawdbot/bridge/request/token`: a token, for a connection that showed its secret.
    IssueToken,
    /// Where the two are answered, or a topic below: nobody publishes there.
    Response(Request),
}

/// A question whose answer is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// See [`Confidential::Pair`].
    Pair,
    /// See [`Confidential::IssueToken`].
    Token,
}

impl Request {
    /// Where it is answered unless the question says otherwise.
    pub fn response_topic(self) -> &'static str {
        match self {
            Self::Pair => "clawdbot/bridge/response/pair",
            Self::Token => "clawdbot/bridge/response/token",
        }
    }
}

impl<'a> Confidential<'a> {
    /// What a topic, or a filter without wildcards, is in this respect.
    pub fn of(topic: &'a str) -> Option<Self> {
        let rest = topic.strip_prefix("clawdbot/")?;
        let (first, rest) = rest.split_once('/')?;
        if first != crate::device::BRIDGE {
            return (rest == "token").then_some(Self::Token { device: first });
        }
        match rest {
            "request/pair" => Some(Self::Pair),
            "request/token" => Some(Self::IssueToken),
            _ => {
                let name = rest.strip_prefix("response/")?;
                match name.split('/').next() {
                    Some("pair") => Some(Self::Response(Request::Pair)),
                    Some("token") => Some(Self::Response(Request::Token)),
                    _ => None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_secrets_are_told_from_their_neighbours() {
        for (topic, expected) in [
            (
                "clawdbot/phone/token",
                Some(Confidential::Token { device: "phone" }),
            ),
            ("clawdbot//token", Some(Confidential::Token { device: "" })),
            ("clawdbot/bridge/request/pair", Some(Confidential::Pair)),
            ("clawdbot/bridge/request/token", Some(Confidential::IssueToken)),
            (
                "clawdbot/bridge/response/pair",
                Some(Confidential::Response(Request::Pair)),
            ),
            (
                "clawdbot/bridge/response/pair/7",
                Some(Confidential::Response(Request::Pair)),
            ),
            (
                "clawdbot/bridge/response/token",
                Some(Confidential::Response(Request::Token)),
            ),
            ("clawdbot/bridge/response/topics", None),
            ("clawdbot/bridge/request/topics", None),
            ("clawdbot/bridge/token", None),
            ("clawdbot/phone/token/x", None),
            ("clawdbot/phone/tokens", None),
            ("clawdbot/phone/a/token", None),
            ("other/phone/token", None),
            ("clawdbot/token", None),
        ] {
            assert_eq!(Confidential::of(topic), expected, "{topic}");
        }
    }
}
