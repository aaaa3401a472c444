use std::time::Duration;

use super::*;
use crate::policy::schedule::{Ageing, PerPriority};

fn scheduler() -> Addr<Scheduler> {
    let meter = opentelemetry::global::meter("tests");
    let config = ScheduleConfig {
        max_queued: 1,
        max_queued_of_class: PerPriority {
            urgent: 1,
            interactive: 1,
            background: 1,
        },
        max_queued_of_device: 1,
        ageing: Ageing {
            background_after: Duration::from_secs(60),
            oldest_first_after: Duration::from_secs(60),
        },
        retry_before_learnt: Duration::from_secs(1),
    };
    Scheduler::new(
        true,
        config,
        RequestMetrics::new(&meter),
        Arc::default(),
        Events::default(),
    )
    .start()
}

#[actix::test]
async fn the_status_says_how_far_weights_are_packed_until_another_process_begins() {
    let scheduler = scheduler();
    let percent = async || scheduler.send(GetStatus).await.unwrap().packed_percent;
    assert_eq!(percent().await, None);
    scheduler.send(WorkerPacks { percent: 40 }).await.unwrap();
    assert_eq!(percent().await, Some(40));
    for hopeless in [false, true] {
        let reason = "killed".to_owned();
        let planned = false;
        scheduler
            .send(WorkerGone {
                reason,
                hopeless,
                planned,
            })
            .await
            .unwrap();
        assert_eq!(percent().await, None);
    }
    scheduler.send(WorkerPacks { percent: 50 }).await.unwrap();
    assert_eq!(percent().await, None);
}
