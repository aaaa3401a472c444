//! The integration tests: real sockets, real clients that we did not write, real models, killed
//! processes. One binary, so that the daemon is linked once; each file names what it is about.

#![allow(
    clippy::expect_used,
    reason = "clippy.toml allows it in tests; what the tests share is called from nowhere else"
)]

mod against_mosquitto;
// Only there can one process limit what another writes.
#[cfg(target_os = "linux")]
mod alarms;
mod application;
mod assistant;
mod attacks;
mod audit;
mod back_pressure;
mod backup;
mod bad_packets;
mod bridge;
mod broker_statistics;
mod certificates;
mod chaos;
mod commands_first;
mod conformance;
mod conservation;
mod conversation;
mod daemon_life;
mod deploy;
mod differential;
mod doctor;
mod external_broker;
mod failover;
mod generate;
mod governing;
mod guides;
mod hostile_input;
mod identity;
mod idle;
mod limits;
mod log_file;
mod many_clients;
mod model_folder;
mod model_pull;
mod mosquitto;
mod mosquitto_bridge;
mod mosquitto_scripts;
mod observability;
mod paho;
mod protocol;
mod release;
mod rumqttc;
mod service;
mod shared_subscriptions;
mod store;
mod structured;
mod support;
mod take_over;
mod thermostat;
mod traces;
mod transports;
mod watching;
