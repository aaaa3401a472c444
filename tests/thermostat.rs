use std::time::Duration;

use actix::{Actor, Context, Handler};
use clawdbot::application::{ApplicationError, Hub, Mailbox, Overflow, Received};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Telemetry {
    device_id: String, // a level of the topic
    celsius: f64,      // a field of the payload
}

#[derive(Serialize)]
struct Heating {
    device_id: String,
    on: bool,
}

struct Thermostat;

impl Actor for Thermostat {
    type Context = Context<Self>;
}

impl Handler<Received<Telemetry>> for Thermostat {
    type Result = ();
    fn handle(&mut self, telemetry: Received<Telemetry>, _: &mut Self::Context) {
        let (device_id, on) = (telemetry.device_id.clone(), telemetry.celsius < 20.0);
        let told = telemetry
            .hub()
            .publish("clawdbot/{device_id}/heating", &Heating { device_id, on });
        told.unwrap_or_else(|error| eprintln!("the heating was not told: {error}"));
    }
}

pub(crate) async fn install(hub: Hub) -> Result<(), ApplicationError> {
    let (mailbox, idle) = (Mailbox::new(16, Overflow::Reject), Duration::from_secs(300));
    let bound = hub.bind_each("clawdbot/{device_id}/telemetry", mailbox, idle, |_| Thermostat);
    Ok(bound.await?)
}
