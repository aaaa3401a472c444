//! What a collector is told, and where it may be.

use super::*;

fn telemetry(settings: &str) -> Result<Telemetry, String> {
    let setup = setup().file(&format!("[telemetry]\n{settings}\n"));
    load(&setup.sources)
        .map(|settings| settings.telemetry)
        .map_err(|error| error.to_string())
}

#[test]
fn a_collector_is_a_place_and_a_way_to_speak() {
    assert_eq!(telemetry("").unwrap().collector, None);
    for (given, endpoint, protocol) in [
        (
            "otlp_endpoint = \"http://127.0.0.1:4318\"",
            "http://127.0.0.1:4318",
            OtlpProtocol::HttpProtobuf,
        ),
        (
            "otlp_endpoint = \"http://hub.local:4318/\"",
            "http://hub.local:4318",
            OtlpProtocol::HttpProtobuf,
        ),
        (
            "otlp_endpoint = \"http://[::1]/otlp\"",
            "http://[::1]/otlp",
            OtlpProtocol::HttpProtobuf,
        ),
        (
            "otlp_endpoint = \"http://10.0.0.2:4317\"\notlp_protocol = \"grpc\"",
            "http://10.0.0.2:4317",
            OtlpProtocol::Grpc,
        ),
    ] {
        let collector = telemetry(given).unwrap().collector.unwrap();
        assert_eq!(
            (collector.endpoint.as_str(), collector.protocol),
            (endpoint, protocol)
        );
    }
}

#[test]
fn what_is_no_place_is_refused_with_its_line_and_one_that_is() {
    for (given, remedy) in [
        ("otlp_endpoint = \"localhost:4318\"", "http://127.0.0.1:4318"),
        (
            "otlp_endpoint = \"https://collector:4318\"",
            "http://127.0.0.1:4318",
        ),
        ("otlp_endpoint = \"http://\"", "http://127.0.0.1:4318"),
        ("otlp_endpoint = \"http://a b\"", "http://127.0.0.1:4318"),
        ("otlp_endpoint = \"http://a:\"", "http://127.0.0.1:4318"),
        ("otlp_endpoint = \"http://a:4318/?x=1\"", "http://127.0.0.1:4318"),
        (
            "otlp_endpoint = \"http://a:4317/v1\"\notlp_protocol = \"grpc\"",
            "http://127.0.0.1:4317",
        ),
        ("otlp_protocol = \"http/json\"", "\"http/protobuf\" or \"grpc\""),
    ] {
        let message = telemetry(given).unwrap_err();
        assert_says(&message, &["my.toml:2: ", remedy]);
    }
}

#[test]
fn words_go_only_to_a_collector_on_this_machine() {
    let captured =
        |endpoint: &str| telemetry(&format!("otlp_endpoint = \"{endpoint}\"\ncapture_content = true"));
    for here in [
        "http://127.0.0.1:4318",
        "http://[::1]:4318",
        "http://localhost:4318",
    ] {
        assert!(captured(here).unwrap().capture_content, "{here}");
    }
    assert_says(
        &captured("http://192.168.1.2:4318").unwrap_err(),
        &["my.toml:2: telemetry.otlp_endpoint", "capture_content = false"],
    );
}
