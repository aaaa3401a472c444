//! What is sent to an OpenTelemetry collector.

use std::net::IpAddr;

use ureq::http::Uri;

use super::check::Checker;
use super::raw::{Given, RawTelemetry};
use super::{Collector, OtlpProtocol, Telemetry};

const ENDPOINT: &str = "telemetry.otlp_endpoint";

impl Checker<'_> {
    pub(super) fn telemetry(&mut self, raw: RawTelemetry) -> Telemetry {
        let protocol = self.choice(
            "telemetry.otlp_protocol",
            raw.otlp_protocol,
            &[
                ("http/protobuf", OtlpProtocol::HttpProtobuf),
                ("grpc", OtlpProtocol::Grpc),
            ],
            OtlpProtocol::HttpProtobuf,
        );
        let place = self.endpoint(raw.otlp_endpoint, protocol);
        let capture_content = self.plain("telemetry.capture_content", raw.capture_content);
        if let (true, Some(endpoint)) = (capture_content, place.as_ref().filter(|place| !is_here(place))) {
            let reason = format!(
                "people's words would go unencrypted to {endpoint}; run a collector on this machine that passes \
                 them on by TLS, or set telemetry.capture_content = false"
            );
            self.refuse(ENDPOINT, format!("\"{endpoint}\""), &reason);
        }
        Telemetry {
            collector: place.map(|endpoint| Collector {
                endpoint: endpoint.to_string().trim_end_matches('/').to_owned(),
                protocol,
            }),
            trace_percent: self.number("telemetry.trace_percent", raw.trace_percent, 0..=100),
            capture_content,
        }
    }

    /// What goes there has no words of anybody's, as a rule, and then needs no secrecy beyond that of a network.
    fn endpoint(&mut self, given: Given<String>, protocol: OtlpProtocol) -> Option<Uri> {
        let text = self.optional(ENDPOINT, given)?;
        let is_place = |place: &Uri| {
            let has_port = place.authority().is_some_and(|all| !all.as_str().ends_with(':'));
            let is_plain =
                place.query().is_none() && (protocol == OtlpProtocol::HttpProtobuf || place.path() == "/");
            place.scheme_str() == Some("http")
                && place.host().is_some_and(|host| !host.is_empty())
                && has_port
                && is_plain
        };
        let place = text.parse().ok().filter(is_place);
        if place.is_none() {
            let (way, example) = match protocol {
                OtlpProtocol::HttpProtobuf => ("HTTP", "http://127.0.0.1:4318"),
                OtlpProtocol::Grpc => ("gRPC", "http://127.0.0.1:4317"),
            };
            let reason =
                format!("not a place where a collector takes OTLP by {way}; write for example \"{example}\"");
            self.refuse(ENDPOINT, format!("{text:?}"), &reason);
        }
        place
    }
}

impl Collector {
    /// Whether it runs on this machine, so that what it is sent passes no network.
    pub fn is_here(&self) -> bool {
        self.endpoint.parse().is_ok_and(|place| is_here(&place))
    }
}

fn is_here(place: &Uri) -> bool {
    let host = place.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
