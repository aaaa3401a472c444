//! From patterns to a file that the engine runs.

#![allow(clippy::expect_used, reason = "a test stops where its fixture fails")]

use std::path::Path;

use models::assistant::asking::{How, examine};
use models::assistant::score::Labelled;
use models::{Engine, EngineOptions};
use training::data::{Language, Patterns, Sampler};
use training::learn::{Plan, learn};

const ENGLISH: &str = "\
@area = kitchen | bedroom
HassTurnOn:
  {area} lights on ; domain=light
HassTurnOff:
  {area} lights off ; domain=light
HassClimateSetTemperature:
  {area} to {temperature:celsius} degrees
unsupported:
  sing a song
";
const CHINESE: &str = "\
@area = 厨房 | 卧室
HassTurnOn:
  打开{area}的灯 ; domain=light
HassTurnOff:
  关上{area}的灯 ; domain=light
unsupported:
  唱首歌
";
const SAY: &str = "\
HassTurnOn = Yes.
HassTurnOff = Yes.
HassClimateSetTemperature = Yes.
unsupported = No.
";

fn patterns(directory: &Path) {
    for (language, text) in [("en", ENGLISH), ("zh", CHINESE)] {
        let directory = directory.join(language);
        std::fs::create_dir_all(&directory).expect("a directory for patterns");
        std::fs::write(directory.join("home.txt"), text).expect("patterns are written");
        std::fs::write(directory.join("say.txt"), SAY).expect("sentences are written");
    }
}

fn plan(steps: usize) -> Plan {
    Plan {
        seed: 5,
        steps,
        batch: 16,
        rate: 4e-3,
        vocabulary: 700,
        hidden: 64,
        layers: 2,
        heads: 2,
        feed_forward: 128,
        keep_every: 4,
    }
}

#[test]
fn what_is_learnt_is_answered_by_the_engine_in_the_form_of_the_schema() {
    let work = tempfile::tempdir().unwrap();
    patterns(&work.path().join("patterns"));
    let out = work.path().join("assistant.gguf");
    let plan = Plan {
        keep_every: 1000,
        ..plan(420)
    };
    let mut lines = Vec::new();
    learn(
        &plan,
        &work.path().join("patterns"),
        &work.path().join("run"),
        &out,
        &mut |line: &str| {
            lines.push(line.to_owned());
            true
        },
    )
    .unwrap();
    let mut engine = Engine::load(&out, EngineOptions::default()).unwrap();
    let mut set = Vec::new();
    for language in Language::ALL {
        let read = Patterns::read(&work.path().join("patterns").join(language.code())).unwrap();
        let mut sampler = Sampler::new(&read, language, 99);
        for intent in ["HassTurnOn", "HassTurnOff", "unsupported"] {
            let example = sampler.plain(intent).unwrap();
            set.push(Labelled {
                text: example.text,
                actions: example.actions,
            });
        }
    }
    let scores = examine(&mut engine, &set, 4, How::Frankly, &mut |_, _| {}).unwrap();
    assert_eq!(scores.unreadable, 0, "{scores:?}");
    // By heart it is nearly sure; that it is by chance is out of the question.
    assert!(
        scores.all_right >= 3 && scores.accepted == 0,
        "{scores:?}\n{}",
        lines.join("\n")
    );
}

#[test]
fn a_run_that_was_broken_off_goes_on_to_the_same_bits() {
    let work = tempfile::tempdir().unwrap();
    let sources = work.path().join("patterns");
    patterns(&sources);
    let out = work.path().join("assistant.gguf");
    let run = |directory: &str, steps: usize, stop_at: &str| {
        let mut lines = Vec::new();
        let directory = work.path().join(directory);
        learn(&plan(steps), &sources, &directory, &out, &mut |line: &str| {
            lines.push(line.to_owned());
            !line.starts_with(stop_at)
        })
        .map(|()| (lines, std::fs::read(&out).unwrap()))
    };
    let (_, whole) = run("whole", 40, "never").unwrap();
    run("resumed", 40, "step 20:").unwrap();
    let kept = std::fs::read_to_string(work.path().join("resumed/step.txt")).unwrap();
    assert_eq!(kept, "20");
    let (lines, resumed) = run("resumed", 40, "never").unwrap();
    assert!(
        !lines.iter().any(|line| line.starts_with("step 20:")),
        "{lines:?}"
    );
    assert!(
        whole == resumed,
        "{} and {} bytes differ",
        whole.len(),
        resumed.len()
    );
    // And another plan does not go on from there: the rate has fallen.
    let refused = run("resumed", 41, "never");
    assert!(refused.unwrap_err().to_string().contains("another plan"));
    // Before it falls, how many steps there will be is open.
    run("longer", 48, "step 20:").unwrap();
    let (_, longer) = run("longer", 40, "never").unwrap();
    assert!(whole == longer, "the same steps were not the same");
}

#[test]
fn a_plan_that_cannot_be_is_refused_with_the_reason_before_anything_is_done() {
    let work = tempfile::tempdir().unwrap();
    let nowhere = work.path().join("nowhere");
    let refused = |plan: Plan| {
        let learnt = learn(&plan, &nowhere, &nowhere, &nowhere, &mut |_: &str| true);
        learnt.unwrap_err().to_string()
    };
    for (wrong, word) in [
        (Plan { batch: 0, ..plan(1) }, "batch"),
        (Plan { heads: 0, ..plan(1) }, "heads"),
        (
            Plan {
                hidden: 72,
                ..plan(1)
            },
            "32",
        ),
        (Plan { heads: 3, ..plan(1) }, "twice the heads"),
        (
            Plan {
                rate: f64::NAN,
                ..plan(1)
            },
            "rate",
        ),
    ] {
        let error = refused(wrong);
        assert!(error.contains(word), "{error}");
    }
    assert!(!nowhere.exists());
}
