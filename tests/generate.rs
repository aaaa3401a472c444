//! The model by hand, without a daemon, and at other precisions.

use crate::support::daemon::{Daemon, Home};
use crate::support::data;
use crate::support::process::{self, Finished};

fn clawdbot(arguments: &[&str]) -> Finished {
    process::finish(&mut Home::new().command(arguments))
}

#[test]
fn generate_tells_a_story_without_a_daemon_at_every_precision() {
    let Some(model) = data::stories() else { return };
    let model = model.to_str().expect("a path of the tests");
    for precision in ["f32", "f16", "int8", "int4"] {
        let options = [
            "--temperature",
            "0",
            "--max-tokens",
            "20",
            "--precision",
            precision,
        ];
        let finished = clawdbot(&[&["generate", "--model", model], &options[..], &["Once upon"]].concat());
        finished.assert_code(0).assert_says(&["tokens/s", precision]);
        assert!(
            finished.stdout.starts_with(" a time"),
            "{precision}: {}",
            finished.stdout
        );
    }
    let model = ["generate", "--model", model, "--precision", "int8"];
    let options = [
        "--temperature",
        "0",
        "--max-tokens",
        "20",
        "--kv-precision",
        "int8",
    ];
    let finished = clawdbot(&[&model[..], &options[..], &["Once upon"]].concat());
    finished.assert_code(0);
    assert!(finished.stdout.starts_with(" a time"), "{}", finished.stdout);
}

#[test]
fn generate_without_a_model_or_with_a_precision_that_there_is_not_says_what_to_do() {
    clawdbot(&["generate", "hello"])
        .assert_code(2)
        .assert_says(&["--model PATH", "model.path"]);
    clawdbot(&["generate", "--model", "/nowhere.gguf", "hello"])
        .assert_code(2)
        .assert_says(&["/nowhere.gguf"]);
    clawdbot(&["generate", "--precision", "int5", "hello"])
        .assert_code(2)
        .assert_says(&["f32, f16, int8 and int4"]);
    clawdbot(&["generate", "--kv-precision", "f32", "hello"])
        .assert_code(2)
        .assert_says(&["f16 or int8"]);
}

#[test]
fn bench_says_what_the_machine_makes_of_a_model_and_whether_that_is_enough() {
    let Some(model) = data::stories() else { return };
    let model = model.to_str().expect("a path of the tests");
    let finished = clawdbot(&[
        "bench",
        "--model",
        model,
        "--prompt-tokens",
        "70",
        "--tokens",
        "8",
    ]);
    finished.assert_code(0);
    for said in [
        "memory is read at",
        "f16 ",
        "int8 ",
        "int4 ",
        "reaches 20 tokens/s",
    ] {
        assert!(finished.stdout.contains(said), "{said}: {}", finished.stdout);
    }
}

#[test]
fn a_daemon_runs_its_model_at_the_precision_that_was_set() {
    let Some(model) = data::stories() else { return };
    let launch = Daemon::launch().model(&model).set("model.precision", "int8");
    let launch = launch
        .set("model.kv_precision", "int8")
        .set("model.cache_mib", 16);
    let daemon = launch.set("model.threads", 2).start();
    let options = ["--temperature", "0", "--max-tokens", "20"];
    let finished = daemon.cli(&[&["ask"], &options[..], &["Once upon"]].concat());
    finished.assert_code(0);
    assert!(finished.stdout.contains("time"), "{}", finished.stdout);
    assert!(daemon.log().contains(r#""precision":"int8""#), "{}", daemon.log());
}
