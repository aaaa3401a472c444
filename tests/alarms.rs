//! Misfortunes, and the alert that each raises in a real Prometheus. Its rules are those that are shipped, but for the time that
//! they wait before they raise one; those times are `promtool`'s to try (`watching`).

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;

use crate::support::client::{Client, Login, Version};
use crate::support::daemon::Daemon;
use crate::support::data::stories;
use crate::support::eventually;
use crate::support::foreign::certificate_of_a_day;
#[cfg(target_os = "linux")]
use crate::support::group::MemoryGroup;
use crate::support::process;
use crate::support::prometheus::Prometheus;

/// What the other tests beside this one may bring about, or whatever else is on this machine.
const OF_A_BUSY_MACHINE: [&str; 6] = [
    "ClawdbotDiskFillsUp",
    "ClawdbotDiskNearlyFull",
    "ClawdbotDiskSlow",
    "ClawdbotMemoryShort",
    "ClawdbotCommandsSlow",
    "ClawdbotFirstTokenSlow",
];

/// Waits until just these are raised, besides those.
async fn raised(prometheus: &Prometheus, alerts: &[&str]) {
    let expected: BTreeSet<_> = alerts.iter().map(|alert| (*alert).to_owned()).collect();
    let mut last = BTreeSet::new();
    for _ in 0..600 {
        last = prometheus.firing();
        last.retain(|alert| !OF_A_BUSY_MACHINE.contains(&alert.as_str()));
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last:?} are raised, and not {expected:?}");
}

/// How large files may become that this process writes.
fn may_write(daemon: &Daemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(daemon.pid().try_into().expect("a pid"));
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).expect("a limit");
}

#[tokio::test]
async fn what_goes_wrong_raises_the_alert_that_says_so_and_no_other() {
    let Some(model) = stories() else { return };
    // So that a disk that takes nothing is an error, as others are, and no signal.
    let launch = Daemon::launch().model(&model).after("trap '' XFSZ");
    let Some((certificate, key)) = certificate_of_a_day(launch.home().path()) else {
        return;
    };
    let mut daemon = launch
        .set("mqtt.tls", "127.0.0.1:0")
        .set("mqtt.tls_certificate", certificate.display())
        .set("mqtt.tls_key", key.display())
        .set("metrics.disk_probe_interval_s", 1)
        .set("supervisor.min_backoff_ms", 1)
        .set("supervisor.intensity", 100)
        .start();
    let Some(prometheus) = Prometheus::hasty(&daemon) else {
        return;
    };
    // 24 hours less the time since it was made.
    let mut alerts = vec!["ClawdbotCertificateExpires"];
    raised(&prometheus, &alerts).await;

    for _ in 0..30 {
        let login = Login::with_token(Version::V5, "stranger", "no token".to_owned());
        let refused = Client::connect(daemon.listener("mqtt"), login).await;
        assert!(refused.is_err());
    }
    alerts.push("ClawdbotAuthenticationFailures");
    raised(&prometheus, &alerts).await;

    for lost in 1..=3 {
        process::signal(daemon.worker_pid(), Signal::KILL);
        eventually("another process", || {
            (daemon.metric("clawdbot_worker_lost_total") == Some(f64::from(lost))
                && daemon.metric("clawdbot_worker_ready") == Some(1.0))
            .then_some(())
        })
        .await;
    }
    // The system kills so when memory is short: the next one has fewer bits.
    alerts.extend(["ClawdbotInferenceProcessLost", "ClawdbotPrecisionReduced"]);
    raised(&prometheus, &alerts).await;

    may_write(&daemon, Some(0));
    let mut client = Client::of(&daemon, "phone", "phone").await;
    let publish = client.publish("clawdbot/phone/state/kept", 0, true, json!("on").to_string());
    publish.await;
    alerts.extend(["ClawdbotDiskProbeFailing", "ClawdbotStoreWriteFailures"]);
    raised(&prometheus, &alerts).await;
    // With room again, nobody need do anything.
    may_write(&daemon, None);
    client
        .publish("clawdbot/phone/state/kept", 1, true, json!("off").to_string())
        .await;

    daemon.signal(Signal::KILL);
    daemon.exit(Duration::from_secs(60)).expect("it ends");
    eventually("the alert of a daemon that is gone", || {
        prometheus.firing().contains("ClawdbotDown").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fault_of_the_program_raises_an_alert() {
    let daemon = Daemon::launch().application("nervous").start();
    let Some(prometheus) = Prometheus::hasty(&daemon) else {
        return;
    };
    eventually("a first scrape", || {
        let first = prometheus.query("clawdbot_panics_total")?;
        (!first.is_empty()).then_some(())
    })
    .await;
    raised(&prometheus, &[]).await;
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client
        .publish("clawdbot/phone/telemetry", 1, false, json!("boo").to_string())
        .await;
    raised(&prometheus, &["ClawdbotPanicked"]).await;
}

// Memory that is short for the daemon alone can be had by a control group.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hog_of_memory_raises_an_alert_that_is_over_when_it_is_gone() {
    let Some(group) = MemoryGroup::of(1024) else {
        return;
    };
    let daemon = Daemon::launch()
        .after(group.join())
        .set("memory.interval_s", 1)
        .start();
    let Some(prometheus) = Prometheus::hasty(&daemon) else {
        return;
    };
    let is_raised = || prometheus.firing().contains("ClawdbotMemoryShort");
    // By the rule before it, of the group and not of the machine.
    eventually("the rules to be evaluated", || {
        let used = "instance:clawdbot_machine_memory_used:ratio < 0.8 and clawdbot_machine_memory_total_bytes == 1073741824";
        (!prometheus.query(used)?.is_empty()).then_some(())
    })
    .await;
    assert!(!is_raised());

    let hog = group.hog(880);
    eventually("the alert", || is_raised().then_some(())).await;
    drop(hog);
    eventually("its end", || (!is_raised()).then_some(())).await;
}
