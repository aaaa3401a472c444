//! What the daemon answers beside MQTT: health, metrics, and the status socket.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use actix::Addr;
use actors::bridge::Bridge;
use actors::external_broker::LinkGauge;
use actors::hub::Hub;
use actors::memory_governor::MemoryGauge;
use actors::scheduler::{GetStatus, Scheduler, SchedulerGauge};
use actors::switchboard::Switchboard;
use models::ModelSummary;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::{AdminListener, AdminRequest};
use crate::http::{self, Health, HttpState};
use crate::identity::Desk;
use crate::kept_certificate::KeptCertificate;
use crate::net::{Doors, Entrance};
use crate::store_desk::StoreDesk;
use crate::telemetry::Metrics;

pub(super) struct Listeners {
    pub(super) doors: Option<Doors>,
    pub(super) http: TcpListener,
    pub(super) admin: AdminListener,
}

/// When the daemon began, by both clocks: how they differ tells whether one was set meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    at: Instant,
    unix_s: u64,
}

impl Beginning {
    /// Now.
    pub(super) fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            at: Instant::now(),
            unix_s: since_1970.map_or(0, |since| since.as_secs()),
        }
    }
}

/// What health and status are told from.
pub(super) struct Watched {
    pub(super) metrics: Metrics,
    pub(super) gauge: Arc<SchedulerGauge>,
    /// Of the assistant beside the model.
    pub(super) commands: Option<Arc<SchedulerGauge>>,
    pub(super) memory: Arc<MemoryGauge>,
    pub(super) model: Option<ModelSummary>,
    pub(super) link: Option<Arc<LinkGauge>>,
    pub(super) certificate: Option<KeptCertificate>,
    pub(super) store: Option<StoreDesk>,
    pub(super) scheduler: Addr<Scheduler>,
    pub(super) began: Beginning,
}

pub(super) fn serve(
    listeners: Listeners,
    entrance: &Arc<Entrance>,
    switchboard: &Switchboard,
    desk: Desk,
    watched: Watched,
    stopped: &watch::Receiver<bool>,
) -> Vec<actix_rt::task::JoinHandle<()>> {
    let until_stop = || {
        let mut stopped = stopped.clone();
        async move {
            // A sender that is gone means stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    if let Ok(address) = listeners.http.local_addr() {
        tracing::info!(%address, "http listens");
    }
    let mut served = listeners
        .doors
        .map(|doors| doors.serve(entrance, until_stop))
        .unwrap_or_default();

    let (gauge, has_model, board) = (watched.gauge, watched.model.is_some(), switchboard.clone());
    let link = watched.link.clone();
    let health = move || health(&board, &gauge, has_model, link.as_deref());
    let http = http::serve(
        listeners.http,
        Arc::new(HttpState::new(watched.metrics, health)),
        until_stop(),
    );

    let (scheduler, memory, began) = (watched.scheduler, watched.memory, watched.began);
    let (link, certificate, store) = (watched.link, watched.certificate, watched.store);
    let commands = watched.commands;
    let admin = listeners.admin.serve(
        move |request: AdminRequest| {
            let store = store.clone();
            let (desk, scheduler, memory) = (desk.clone(), scheduler.clone(), memory.clone());
            let (link, certificate, commands) = (link.clone(), certificate.clone(), commands.clone());
            async move {
                if let Some(store) = store
                    && let Some(answer) = store.answer(&request.command, &request.arguments).await
                {
                    return answer;
                }
                let is_status = request.command == "status";
                let mut answer = answer(request, desk, scheduler, memory, link, certificate, began).await?;
                if let Some(commands) = commands.filter(|_| is_status) {
                    let state = if commands.is_ready() { "ready" } else { "not_ready" };
                    answer["commands"] = json!(state);
                }
                Ok(answer)
            }
        },
        until_stop(),
    );
    served.extend([actix_rt::spawn(http), actix_rt::spawn(admin)]);
    served
}

/// Routing works as long as this answers; a configured model that does not answer is worth a 503, and
/// so is an external broker that cannot be reached.
pub(super) fn health(
    switchboard: &Switchboard,
    gauge: &SchedulerGauge,
    has_model: bool,
    link: Option<&LinkGauge>,
) -> Health {
    let model = match (has_model, gauge.is_ready()) {
        (false, _) => "none",
        (true, true) => "ready",
        (true, false) => "starting",
    };
    let mut details = Map::new();
    details.insert("model".into(), json!(model));
    details.insert("connections".into(), json!(switchboard.stats().connections.get()));
    if let Some(link) = link {
        details.insert("broker".into(), link_status(link));
    }
    Health {
        ready: (!has_model || gauge.is_ready()) && link.is_none_or(LinkGauge::is_well),
        details,
    }
}

pub(super) fn link_status(link: &LinkGauge) -> Value {
    match link.trouble() {
        None => json!({"connected": link.is_connected()}),
        Some(trouble) => json!({"connected": link.is_connected(), "reason": trouble}),
    }
}

fn memory_status(memory: &MemoryGauge) -> Value {
    let mut status = json!(memory.status());
    status["total_bytes"] = json!(memory.total_bytes());
    status["available_bytes"] = json!(memory.available_bytes());
    status
}

/// What the status socket is asked beside the store: the daemon's status, what the owner says about devices, and all
/// that the bridge knows.
pub(super) async fn answer(
    request: AdminRequest,
    desk: Desk,
    scheduler: Addr<Scheduler>,
    memory: Arc<MemoryGauge>,
    link: Option<Arc<LinkGauge>>,
    certificate: Option<KeptCertificate>,
    began: Beginning,
) -> Result<Value, String> {
    if let Some(answer) = desk.answer(&request.command, &request.arguments).await {
        return answer;
    }
    let switchboard = desk.switchboard;
    if request.command != "status" {
        return Bridge::ask(Hub::new(switchboard), &request.command, request.arguments).await;
    }
    let requests = scheduler
        .send(GetStatus)
        .await
        .map_err(|e| format!("the scheduler does not answer: {e}"))?;
    let stats: Map<_, _> = switchboard
        .stats()
        .all()
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), json!(counter.get())))
        .collect();
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started_at_s": began.unix_s,
        "uptime_s": began.at.elapsed().as_secs(),
        "inference": requests,
        "retained": switchboard.retained_len(),
        "subscriptions": switchboard.subscriptions_len(),
        "deliveries_waiting": switchboard.deliveries_waiting(),
        "memory": memory_status(&memory),
        "counters": stats,
    });
    if let Some(certificate) = certificate {
        status["tls"] = certificate.status();
    }
    if let (Some(link), Value::Object(members)) = (link, &mut status) {
        let mut broker = link_status(&link);
        for (name, number) in link.levels().into_iter().chain(link.counters()) {
            broker[name] = json!(number);
        }
        members.insert("broker".into(), broker);
    }
    Ok(status)
}
