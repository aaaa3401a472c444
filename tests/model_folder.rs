//! The models folder by the real program: import, list, show, quantize, rm, and a daemon that runs a model by its name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::daemon::{Daemon, Home};
use crate::support::data;
use crate::support::process::{self, Finished};

fn clawdbot(home: &Home, arguments: &[&str]) -> Finished {
    process::finish(&mut home.command(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests")
}

/// Files of a folder, the folders in it included, without what is hidden.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn an_imported_model_is_listed_and_shown_and_answers_by_its_name() {
    let Some(stories) = data::stories() else { return };
    let home = Home::new();
    clawdbot(&home, &["model", "list"]).assert_code(0);
    let imported = clawdbot(&home, &["model", "import", text(&stories), "--name", "stories"]);
    imported.assert_code(0);
    assert!(imported.stdout.contains("stories"), "{}", imported.stdout);
    clawdbot(&home, &["model", "import", text(&stories), "--name", "stories"])
        .assert_code(2)
        .assert_says(&["--name", "clawdbot model rm stories"]);

    let listed = clawdbot(&home, &["model", "list"]).stdout;
    for said in ["stories", "1.1 MB", "gguf f32"] {
        assert!(listed.contains(said), "{said}: {listed}");
    }
    let shown = clawdbot(&home, &["model", "show", "stories"]).stdout;
    for said in ["llama", "512 tokens", "--measure"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let options = [
        "--temperature",
        "0",
        "--max-tokens",
        "20",
        "--model",
        "stories",
        "Once upon",
    ];
    let said = clawdbot(&home, &[&["generate"], &options[..]].concat());
    said.assert_code(0);
    assert!(said.stdout.starts_with(" a time"), "{}", said.stdout);

    let launch = Daemon::launch_in(home)
        .set("model.path", "stories")
        .set("model.precision", "int8");
    let daemon = launch.start();
    let answer = daemon.cli(&["ask", "--temperature", "0", "--max-tokens", "20", "Once upon"]);
    answer.assert_code(0);
    assert!(answer.stdout.contains("time"), "{}", answer.stdout);
}

#[test]
fn a_directory_of_safetensors_is_imported_without_what_does_not_belong_to_it() {
    let Some(hf) = data::shared("models/stories260K/hf") else {
        return;
    };
    let home = Home::new();
    let source = home.path().join("My stories (hf)");
    fs::create_dir(&source).expect("a folder");
    for entry in fs::read_dir(&hf).expect("the folder is there").flatten() {
        fs::copy(entry.path(), source.join(entry.file_name())).expect("a copy");
    }
    fs::write(source.join("pytorch_model.bin"), b"not needed").expect("a file");
    clawdbot(&home, &["model", "import", text(&source)]).assert_code(0);
    let listed = clawdbot(&home, &["model", "list"]).stdout;
    assert!(
        listed.contains("My-stories-hf") && listed.contains("safetensors"),
        "{listed}"
    );
    let files = files_below(&home.data_dir().join("models"));
    assert!(
        files
            .iter()
            .any(|path| path.ends_with("My-stories-hf/My-stories-hf/model.safetensors")),
        "{files:?}"
    );
    assert!(
        !files.iter().any(|path| path.ends_with("pytorch_model.bin")),
        "{files:?}"
    );
}

#[test]
fn what_cannot_be_run_is_not_imported() {
    let home = Home::new();
    let path = home.path().join("words.gguf");
    fs::write(&path, b"GGUF and then nothing that it should be").expect("a file");
    clawdbot(&home, &["model", "import", text(&path)])
        .assert_code(2)
        .assert_says(&["words.gguf"]);
    assert!(files_below(&home.data_dir().join("models")).is_empty());
}

#[test]
fn quantize_packs_for_the_daemon_and_rm_takes_everything_away_but_the_configured_model() {
    let Some(stories) = data::stories() else { return };
    let home = Home::new();
    clawdbot(&home, &["model", "import", text(&stories), "--name", "stories"]).assert_code(0);
    // Its own file runs at f32: that there is nothing to do is no failure, unless it was asked for.
    let nothing = clawdbot(&home, &["model", "quantize", "stories"]);
    nothing.assert_code(0);
    assert!(
        nothing.stdout.contains("--precision f16, int8 or int4"),
        "{nothing:?}"
    );
    clawdbot(&home, &["model", "quantize", "stories", "--precision", "f32"])
        .assert_code(2)
        .assert_says(&["choose --precision f16, int8 or int4"]);
    let packed = clawdbot(&home, &["model", "quantize", "stories", "--precision", "int4"]);
    packed.assert_code(0).assert_says(&["packing int4", "100 %"]);
    assert!(packed.stdout.contains("is packed"), "{}", packed.stdout);
    let again = clawdbot(&home, &["model", "quantize", "stories", "--precision", "int4"]);
    assert!(again.stdout.contains("was packed already"), "{}", again.stdout);
    assert!(!again.stderr.contains("packing"), "{}", again.stderr);
    let listed = clawdbot(&home, &["model", "list"]).stdout;
    assert!(listed.contains("int4"), "{listed}");

    let packed = || files_below(&home.data_dir().join("packed")).len();
    assert_eq!(packed(), 1);
    let mut command = home.command(&["model", "rm", "stories"]);
    process::finish(command.env("CLAWDBOT__MODEL__PATH", "stories"))
        .assert_code(2)
        .assert_says(&["model.path", "--force"]);
    assert_eq!(packed(), 1);
    clawdbot(&home, &["model", "rm", "stories"]).assert_code(0);
    assert_eq!(packed(), 0);
    assert!(files_below(&home.data_dir().join("models")).is_empty());
    assert!(stories.exists(), "what was imported has another name and stays");
    clawdbot(&home, &["model", "rm", "stories"])
        .assert_code(2)
        .assert_says(&["clawdbot model list", "clawdbot model pull"]);
}

#[test]
fn quality_is_measured_kept_and_known_to_be_stale_when_the_model_changes() {
    let Some(stories) = data::stories() else { return };
    let home = Home::new();
    clawdbot(
        &home,
        &["model", "import", text(&stories), "--name", "stories", "--copy"],
    )
    .assert_code(0);
    let measured = clawdbot(&home, &["model", "show", "stories", "--measure"]);
    measured
        .assert_code(0)
        .assert_says(&["measuring f32", "measuring int4"]);
    let number = |text: &str, precision: &str, column: usize| -> f64 {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("{precision} ")));
        let row = row.unwrap_or_else(|| panic!("no row {precision} in {text}"));
        let cell = row
            .split_whitespace()
            .nth(column)
            .and_then(|cell| cell.parse().ok());
        cell.unwrap_or_else(|| panic!("no number in column {column} of {row:?}"))
    };
    let perplexity = |precision| number(&measured.stdout, precision, 2);
    let agreement = |precision| number(&measured.stdout, precision, 3);
    assert!(
        (perplexity("int8") / perplexity("f32") - 1.0).abs() < 0.03,
        "{}",
        measured.stdout
    );
    assert_eq!(agreement("f32"), 100.0);
    assert!(agreement("f16") >= agreement("int4"), "{}", measured.stdout);
    assert!(agreement("int4") > 50.0, "{}", measured.stdout);
    // Measuring leaves nothing packed.
    let kept = files_below(&home.data_dir().join("packed"));
    assert!(
        kept.iter().all(|path| text(path).ends_with("-quality.json")) && kept.len() == 1,
        "{kept:?}"
    );

    let shown = clawdbot(&home, &["model", "show", "stories"]);
    shown.assert_code(0);
    assert_eq!(number(&shown.stdout, "int4", 2), perplexity("int4"));
    assert!(!shown.stdout.contains("another content"), "{}", shown.stdout);

    let model = files_below(&home.data_dir().join("models"));
    let model = model
        .iter()
        .find(|path| text(path).ends_with(".gguf"))
        .expect("the model");
    let mut bytes = fs::read(model).expect("the model");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::remove_file(model).expect("the copy is ours");
    fs::write(model, bytes).expect("the model");
    let stale = clawdbot(&home, &["model", "show", "stories"]).stdout;
    assert!(stale.contains("another content"), "{stale}");
}

#[test]
fn a_name_that_means_nothing_says_how_models_come_here() {
    let home = Home::new();
    for command in [
        &["model", "show", "x/y"][..],
        &["model", "quantize", "x/y"],
        &["check", "--model", "x/y"],
    ] {
        clawdbot(&home, command).assert_code(2).assert_says(&[
            "x/y",
            "clawdbot model pull",
            "clawdbot model list",
        ]);
    }
}

#[test]
fn a_daemon_that_packs_weights_says_so_and_the_next_one_only_maps_them() {
    let Some(stories) = data::stories() else { return };
    let said = "the model's weights are packed";
    let launch = Daemon::launch().model(&stories).set("model.precision", "int8");
    let daemon = launch.clone().start();
    let log = daemon.log();
    assert!(log.contains(said) && log.contains(r#""percent":100"#), "{log}");
    let status = daemon.cli(&["status", "--json"]).stdout;
    assert!(
        status.contains(r#""worker":"ready""#) && !status.contains("packed_percent"),
        "{status}"
    );
    drop(daemon);
    let daemon = launch.start();
    assert!(!daemon.log().contains(said), "{}", daemon.log());
}
