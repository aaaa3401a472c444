//! The way to an OpenTelemetry collector: OTLP over HTTP, by the client that models are fetched with, or over gRPC.

use std::future::pending;
use std::pin::Pin;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use tokio::runtime::{Builder, Handle};

use crate::settings::Collector;

/// A collector that takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer of a collector is short.
const MOST_ANSWER_BYTES: u64 = 64 * 1024;

/// Who says what is sent.
pub(super) fn resource() -> Resource {
    Resource::builder()
        .with_service_name("clawdbot")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Makes the exporter of one kind of signal, which is the last part of its path over HTTP.
macro_rules! exporter {
    ($exporter:ty, $signal:literal, $collector:expr) => {{
        let collector: &$crate::settings::Collector = $collector;
        let built = match collector.protocol {
            $crate::settings::OtlpProtocol::HttpProtobuf => {
                let builder = <$exporter>::builder().with_http();
                $crate::telemetry::otlp::over_http(builder, collector, $signal).build()
            }
            $crate::settings::OtlpProtocol::Grpc => {
                // A connection belongs to the runtime in which it is made.
                let runtime = $crate::telemetry::otlp::runtime()?;
                let _entered = runtime.enter();
                $crate::telemetry::otlp::over_grpc(<$exporter>::builder().with_tonic(), collector).build()
            }
        };
        built.map_err(|error| error.to_string())
    }};
}
pub(super) use exporter;

pub(super) fn over_http<B>(builder: B, collector: &Collector, signal: &str) -> B
where
    B: WithExportConfig + WithHttpConfig,
{
    let endpoint = format!("{}/v1/{signal}", collector.endpoint);
    builder
        .with_endpoint(endpoint)
        .with_http_client(Client::default())
}

pub(super) fn over_grpc<B: WithExportConfig>(builder: B, collector: &Collector) -> B {
    builder
        .with_endpoint(collector.endpoint.clone())
        .with_timeout(PATIENCE)
}

/// The thread on which gRPC's connections live, so that they take nothing from those that carry messages.
pub(super) fn runtime() -> Result<Handle, String> {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.clone());
    }
    let no_thread = |error| format!("no thread can be started for gRPC: {error}");
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_thread)?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("otlp".to_owned())
        .spawn(move || runtime.block_on(pending::<()>()))
        .map_err(no_thread)?;
    Ok(RUNTIME.get_or_init(|| handle).clone())
}

/// Waits where it is called, which is a thread of the exporter's.
#[derive(Clone, Debug)]
pub(super) struct Client(ureq::Agent);

impl Default for Client {
    fn default() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false);
        Self(config.build().into())
    }
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let (parts, mut body) = self.0.run(request)?.into_parts();
        let body = body.with_config().limit(MOST_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}

impl HttpClient for Client {
    fn send_bytes<'client, 'sent>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'client: 'sent,
        Self: 'sent,
    {
        Box::pin(async move { self.send(request) })
    }
}
