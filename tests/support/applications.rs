//! Daemons with actors of their own as processes of their own, which can be killed: this file of tests starts
//! itself once more. The daemon's program is linked once that way, and so are the tests.

use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};
use clawdbot::application::{ApplicationError, Hub, Mailbox, Overflow, Received};
use clawdbot::daemon::run_with;
use clawdbot::settings::{self, Sources};
use clawdbot::telemetry::logging;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::thermostat;

/// Which application it is.
pub(super) const VARIABLE: &str = "TEST_APPLICATION";

/// Runs the one test that is none.
pub(super) const ARGUMENTS: [&str; 4] = [
    "support::applications::a_daemon_with_an_application",
    "--exact",
    "--ignored",
    "--nocapture",
];

#[test]
#[ignore = "no test, but a daemon that tests start"]
fn a_daemon_with_an_application() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    let settings = settings::load(&Sources::of_process(None, Vec::new())).expect("settings");
    let _logs = logging::install(&settings.log, &settings.telemetry).expect("a collector or none");
    let ran = actix::System::new().block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("signals");
        let stop = async move {
            terminate.recv().await;
        };
        run_with(settings, stop, |hub| install(name, hub)).await
    });
    ran.expect("the daemon runs");
}

async fn install(name: String, hub: Hub) -> Result<(), ApplicationError> {
    match name.as_str() {
        "thermostat" => thermostat::install(hub).await,
        "late thermostat" => {
            actix::spawn(async move {
                actix::clock::sleep(Duration::from_secs(2)).await;
                thermostat::install(hub).await.expect("bound");
            });
            Ok(())
        }
        "keeper" => keeper(hub).await,
        "switch" => switch(hub).await,
        "chain" => chain(hub).await,
        "nervous" => nervous(hub).await,
        other => Err(format!("there is no application {other}").into()),
    }
}

/// Keeps what it gets, and so its place in the mailbox, until it is told to let go.
#[derive(Default)]
pub(crate) struct Keeper(Vec<Received<Value>>);

impl Actor for Keeper {
    type Context = Context<Self>;
}

impl Handler<Received<Value>> for Keeper {
    type Result = ();

    fn handle(&mut self, message: Received<Value>, _: &mut Self::Context) {
        if message.topic().as_str().ends_with("/release") {
            for kept in self.0.drain(..) {
                echo(&kept);
            }
        } else {
            self.0.push(message);
        }
    }
}

async fn keeper(hub: Hub) -> Result<(), ApplicationError> {
    let keeper = Keeper::default().start();
    let (strict, lossy) = (
        Mailbox::new(2, Overflow::Reject),
        Mailbox::new(2, Overflow::DropNewest),
    );
    hub.bind("clawdbot/{device_id}/telemetry", strict, &keeper)
        .await?;
    hub.bind("clawdbot/{device_id}/lossy", lossy, &keeper).await?;
    hub.bind("clawdbot/{device_id}/release", strict, &keeper).await?;
    Ok(())
}

/// Says what it heard: the payload, on `echo` of the same device.
struct Echo;

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Handler<Received<Value>> for Echo {
    type Result = ();

    fn handle(&mut self, message: Received<Value>, _: &mut Self::Context) {
        echo(&message);
    }
}

fn echo(message: &Received<Value>) {
    let device = message.level("device_id").expect("a level");
    let told = message
        .hub()
        .publish(format!("clawdbot/{device}/echo"), &**message);
    told.expect("there is room");
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for Echo {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Binds another actor when it hears `on`, and stops it when it hears `off`.
struct Switch(Option<Addr<Echo>>);

impl Actor for Switch {
    type Context = Context<Self>;
}

impl Handler<Received<Value>> for Switch {
    type Result = ();

    fn handle(&mut self, message: Received<Value>, ctx: &mut Self::Context) {
        if let Some(echo) = self.0.take() {
            echo.do_send(Stop);
        }
        if *message != json!("on") {
            return;
        }
        let (hub, echo) = (message.hub().clone(), Echo.start());
        self.0 = Some(echo.clone());
        let bound = async move {
            let mailbox = Mailbox::new(16, Overflow::Reject);
            let bound = hub.bind::<Value, _>("clawdbot/{device_id}/telemetry", mailbox, &echo);
            bound.await.expect("bound");
        };
        ctx.spawn(actix::fut::wrap_future(bound));
    }
}

async fn switch(hub: Hub) -> Result<(), ApplicationError> {
    let switch = Switch(None).start();
    let mailbox = Mailbox::new(16, Overflow::Reject);
    hub.bind::<Value, _>("clawdbot/{device_id}/switch", mailbox, &switch)
        .await?;
    Ok(())
}

/// The thermostat, and one that hears what it tells the heating.
async fn chain(hub: Hub) -> Result<(), ApplicationError> {
    let mailbox = Mailbox::new(16, Overflow::Reject);
    hub.bind::<Value, _>("clawdbot/{device_id}/heating", mailbox, &Echo.start())
        .await?;
    thermostat::install(hub).await
}

/// Panics at some words, and repeats others.
struct Nervous;

impl Actor for Nervous {
    type Context = Context<Self>;
}

impl Handler<Received<Value>> for Nervous {
    type Result = ();

    fn handle(&mut self, message: Received<Value>, _: &mut Self::Context) {
        assert_ne!(*message, "boo");
        echo(&message);
    }
}

async fn nervous(hub: Hub) -> Result<(), ApplicationError> {
    let (mailbox, idle) = (Mailbox::new(16, Overflow::Reject), Duration::from_secs(300));
    let bound = hub.bind_each::<Value, _>("clawdbot/{device_id}/telemetry", mailbox, idle, |_| Nervous);
    Ok(bound.await?)
}
