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

async fn leave(scheduler: &Addr<Scheduler>, what: &'static str) -> oneshot::Receiver<Leave> {
    let (tell, told) = oneshot::channel();
    scheduler.send(AskLeave { what, tell }).await.unwrap();
    told
}

#[actix::test]
async fn the_daemon_s_own_work_is_done_one_piece_after_the_other_and_none_begins_at_the_end() {
    let scheduler = scheduler();
    let first = leave(&scheduler, "packing").await.await.unwrap();
    let mut second = leave(&scheduler, "checking").await;
    let given_up = leave(&scheduler, "checking").await;
    let third = leave(&scheduler, "packing").await;
    assert!(second.try_recv().is_err());
    let own_work = scheduler.send(GetStatus).await.unwrap().own_work;
    assert_eq!((own_work.running, own_work.waiting), (true, 3));
    drop(first);
    let second = second.await.unwrap();
    // Who does not hear it any more holds nobody up.
    drop(given_up);
    drop(second);
    let third = third.await.unwrap();
    let too_late = leave(&scheduler, "checking").await;
    scheduler
        .send(Drain {
            grace: Duration::from_secs(1),
        })
        .await
        .unwrap();
    assert!(too_late.await.is_err());
    drop(third);
}
