//! From patterns to a file that the engine runs.

#![allow(clippy::expect_used, reason = "a test stops where its fixture fails")]

use std::path::Path;

use models::assistant::asking::examine;
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
        ..plan(260)
    };
    let mut lines = Vec::new();
    learn(
        &plan,
        &work.path().join("patterns"),
        &work.path().join("run"),
        &out,
        &mut |line| {
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
    let scores = examine(&mut engine, &set, 4, &mut |_, _| {}).unwrap();
    assert_eq!(scores.unreadable, 0, "{scores:?}");
    // By heart it is nearly sure; that it is by chance is out of the question.
    assert!(
        scores.all_right >= 3 && scores.accepted == 0,
        "{scores:?}\n{}",
        lines.join("\n")
    );
}

#[test]
fn a_run_that_was_broken_off_goes_on_to_the_same_end() {
    let work = tempfile::tempdir().unwrap();
    let sources = work.path().join("patterns");
    patterns(&sources);
    let (whole, resumed) = (work.path().join("whole.gguf"), work.path().join("resumed.gguf"));
    learn(
        &plan(12),
        &sources,
        &work.path().join("whole"),
        &whole,
        &mut |_| true,
    )
    .unwrap();
    let directory = work.path().join("resumed");
    let mut until_the_first_checkpoint = |line: &str| !line.starts_with("step 4:");
    learn(
        &plan(12),
        &sources,
        &directory,
        &resumed,
        &mut until_the_first_checkpoint,
    )
    .unwrap();
    assert_eq!(std::fs::read_to_string(directory.join("step.txt")).unwrap(), "4");
    learn(&plan(12), &sources, &directory, &resumed, &mut |_| true).unwrap();
    assert!(std::fs::read(whole).unwrap() == std::fs::read(resumed).unwrap());
    // And another plan does not go on from there.
    let refused = learn(
        &plan(13),
        &sources,
        &directory,
        &work.path().join("x.gguf"),
        &mut |_| true,
    );
    assert!(refused.unwrap_err().to_string().contains("another plan"));
}
