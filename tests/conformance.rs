//! Eclipse Mosquitto's own broker tests, run against the real daemon: 1,826 sequences of packets, what a
//! client sends, what must come back and when the connection must end. They are not part of this project;
//! how they are read is told in `../shared/data/README.md`.
//!
//! Most sequences use the same few topics, so each lane of them has a daemon of its own.

mod broker;
mod differences;
pub(crate) mod sequence;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::thread;

use broker::Broker;
use differences::DIFFERENCES;
use sequence::Sequence;

/// The sequences fall short of nothing but [`DIFFERENCES`]; these floors keep that table honest.
const PINNED_V311: usize = 313;
const PINNED_V5: usize = 1511;

const LANES: usize = 3;

#[test]
fn mosquittos_sequences_pass_but_for_the_listed_differences() {
    let Some(files) = sequence::load() else {
        return skip();
    };
    let verdicts = run(files);

    let mut scores = BTreeMap::new();
    let mut failures = Vec::new();
    for (sequence, fault) in &verdicts {
        let score: &mut (usize, usize) = scores.entry(sequence.score_name()).or_default();
        score.1 += 1;
        match fault {
            None => score.0 += 1,
            Some(fault) => failures.push((sequence.place(), fault)),
        }
    }
    failures.sort();
    let mut report = String::new();
    for (version, (passed, all)) in &scores {
        report += &format!("MQTT {version}: {passed} of {all} sequences pass\n");
    }
    for (place, fault) in &failures {
        report += &format!("    {place}: {fault}\n");
    }
    println!("{report}");

    let differing: Vec<&str> = failures.iter().map(|(place, _)| place.as_str()).collect();
    let mut listed: Vec<&str> = DIFFERENCES.iter().map(|(place, _)| *place).collect();
    listed.sort_unstable();
    assert_eq!(
        differing, listed,
        "the failing sequences are not the listed ones\n{report}"
    );
    assert!(scores["3.1 and 3.1.1"].0 >= PINNED_V311, "{report}");
    assert!(scores["5.0"].0 >= PINNED_V5, "{report}");
}

/// Every sequence with what went wrong in it. A file's sequences keep their order: some tidy up after
/// others.
fn run(mut files: Vec<Vec<Sequence>>) -> Vec<(Sequence, Option<String>)> {
    // The longest last, where `pop` takes it first: no lane is left alone with it at the end.
    files.sort_by_key(Vec::len);
    let files = Mutex::new(files);
    let verdicts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let broker = Broker::start();
                loop {
                    let file = files.lock().expect("no lane panicked").pop();
                    let Some(file) = file else { break };
                    for sequence in file {
                        let fault = sequence.run(broker.address).err();
                        verdicts.lock().expect("no lane panicked").push((sequence, fault));
                    }
                }
            });
        }
    });
    verdicts.into_inner().expect("no lane panicked")
}

fn skip() {
    assert!(
        std::env::var_os("CI").is_none(),
        "Mosquitto's packet sequences are missing at {}, and CI must not pass without them",
        sequence::folder().display()
    );
    // Past the test harness, which keeps to itself what a passing test prints.
    let notice = format!(
        "SKIPPED: Mosquitto's packet sequences are not at {}\n",
        sequence::folder().display()
    );
    std::io::stderr()
        .write_all(notice.as_bytes())
        .expect("an open standard error");
}
