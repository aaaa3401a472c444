//! `clawdbot model pull` by the real program, against a hub on loopback that behaves well or badly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::support::daemon::Home;
use crate::support::hub::{Cut, Hub, sha256};
use crate::support::process::{self, Finished};
use crate::support::{data, wait_for};

const REPOSITORY: &str = "someone/Tiny-GGUF";
const FILE: &str = "tiny-F16.gguf";
const NAME: &str = "someone/Tiny-GGUF:F16";

fn command(home: &Home, hub: &Hub, arguments: &[&str]) -> Command {
    let mut command = home.command(&[&["model"], arguments].concat());
    for variable in ["HF_TOKEN", "HF_HOME", "HF_ENDPOINT"] {
        command.env_remove(variable);
    }
    command.env("CLAWDBOT__HUB__ENDPOINT", hub.url());
    command
}

fn model(home: &Home, hub: &Hub, arguments: &[&str]) -> Finished {
    process::finish(&mut command(home, hub, arguments))
}

fn models(home: &Home) -> PathBuf {
    home.data_dir().join("models")
}

fn is_there(home: &Home, name: &str) -> bool {
    models(home).join(name.replace(['/', ':'], "--")).exists()
}

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

/// A model that can be run, a megabyte of it.
fn stories() -> Option<Vec<u8>> {
    data::stories().map(|path| fs::read(path).expect("the model is readable"))
}

/// A home, and a hub with one model.
fn set_up() -> Option<(Home, Hub, Vec<u8>)> {
    let content = stories()?;
    let hub = Hub::start();
    hub.put(REPOSITORY, ".gitattributes", "*.gguf filter=lfs");
    hub.put(REPOSITORY, "README.md", "# Tiny");
    hub.put(REPOSITORY, FILE, content.clone());
    Some((Home::new(), hub, content))
}

#[test]
fn a_model_is_pulled_and_answers_and_pulled_again_it_is_here_already() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    let pulled = model(&home, &hub, &["pull", REPOSITORY]);
    pulled.assert_code(0).assert_says(&["tiny-F16.gguf", "100 %"]);
    assert!(
        pulled.stdout.contains(&format!("model.path = \"{NAME}\"")),
        "{}",
        pulled.stdout
    );
    let folder = models(&home).join("someone--Tiny-GGUF--F16");
    assert_eq!(fs::read(folder.join(FILE)).expect("the model"), content);
    assert_eq!(files_below(&models(&home)).len(), 2, "the model and its manifest");

    let listed = model(&home, &hub, &["list"]).stdout;
    assert!(listed.contains(NAME), "{listed}");
    let shown = model(&home, &hub, &["show", REPOSITORY]).stdout;
    assert!(shown.contains(&hub.url()) && shown.contains("llama"), "{shown}");
    let options = [
        "generate",
        "--model",
        NAME,
        "--temperature",
        "0",
        "--max-tokens",
        "8",
        "Once upon",
    ];
    let said = process::finish(&mut home.command(&options));
    said.assert_code(0);
    assert!(said.stdout.starts_with(" a time"), "{}", said.stdout);

    let again = model(&home, &hub, &["pull", "someone/Tiny-GGUF:f16"]);
    again.assert_code(0);
    assert!(again.stdout.contains("already"), "{}", again.stdout);
    assert_eq!(hub.requests("/cdn/someone/Tiny-GGUF/tiny-F16.gguf").len(), 1);
}

#[test]
fn a_pull_that_was_killed_goes_on_where_it_was() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    let half = content.len() / 2;
    hub.cut(REPOSITORY, FILE, &[Cut::StallAfter(half)]);
    let mut first = command(&home, &hub, &["pull", REPOSITORY])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    wait_for("half of the file", || {
        let parts = files_below(&models(&home));
        let part = parts
            .iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "part"))?;
        (fs::metadata(part).ok()?.len() == half as u64).then_some(())
    });
    process::signal(first.id(), Signal::KILL);
    first.wait().expect("a child");
    assert!(!is_there(&home, NAME));
    let listed = model(&home, &hub, &["list"]).stdout;
    assert!(listed.contains(&format!("{NAME} is not whole yet")), "{listed}");

    model(&home, &hub, &["pull", REPOSITORY]).assert_code(0);
    let asked = hub.requests("/cdn/someone/Tiny-GGUF/tiny-F16.gguf");
    let ranges: Vec<_> = asked.into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some(format!("bytes={half}-"))]);
    let pulled = models(&home).join("someone--Tiny-GGUF--F16").join(FILE);
    assert_eq!(fs::read(pulled).expect("the model"), content);
}

#[test]
fn a_connection_that_breaks_is_made_again_and_nothing_comes_twice() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    hub.cut(
        REPOSITORY,
        FILE,
        &[Cut::After(100_000), Cut::After(0), Cut::After(500_000)],
    );
    hub.be_busy(2);
    model(&home, &hub, &["pull", REPOSITORY]).assert_code(0);
    let asked = hub.requests("/cdn/someone/Tiny-GGUF/tiny-F16.gguf");
    let ranges: Vec<_> = asked.into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=100000-", "bytes=600000-"]);
    let pulled = models(&home).join("someone--Tiny-GGUF--F16").join(FILE);
    assert_eq!(fs::read(pulled).expect("the model"), content);
}

#[test]
fn a_hub_that_gives_the_whole_whatever_it_is_asked_for_is_understood() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    hub.ignore_ranges();
    hub.cut(REPOSITORY, FILE, &[Cut::After(300_000)]);
    model(&home, &hub, &["pull", REPOSITORY]).assert_code(0);
    let pulled = models(&home).join("someone--Tiny-GGUF--F16").join(FILE);
    assert_eq!(fs::read(pulled).expect("the model"), content);
}

#[test]
fn another_content_than_was_said_leaves_nothing() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    hub.claim(REPOSITORY, FILE, content.len() as u64, &sha256(b"another"));
    model(&home, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&[FILE, "another content", "thrown away"]);
    assert!(!is_there(&home, NAME));
    let left = files_below(&models(&home));
    assert!(
        !left.iter().any(|path| path.to_string_lossy().contains("gguf.")),
        "{left:?}"
    );

    for bytes in [content.len() as u64 - 1, content.len() as u64 + 1] {
        hub.claim(REPOSITORY, FILE, bytes, &sha256(&content));
        model(&home, &hub, &["pull", REPOSITORY]).assert_code(1);
        assert!(!is_there(&home, NAME));
    }
    // A part that is damaged is noticed, and fetched anew.
    hub.claim(REPOSITORY, FILE, content.len() as u64, &sha256(&content));
    let mut cuts = vec![Cut::After(1000)];
    cuts.resize(6, Cut::After(0));
    hub.cut(REPOSITORY, FILE, &cuts);
    model(&home, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&["1000 of", "goes on from there"]);
    let parts = files_below(&models(&home));
    let part = parts
        .iter()
        .find(|path| path.to_string_lossy().ends_with(".part"));
    fs::write(part.expect("a part"), vec![0xAA; 1000]).expect("the part is ours");
    hub.cut(REPOSITORY, FILE, &[]);
    model(&home, &hub, &["pull", REPOSITORY]).assert_code(0);
    assert!(is_there(&home, NAME));
    // One that nobody wants any more goes by the name that it would have had.
    let other = Home::new();
    let left = models(&other).join(".part/someone--Tiny-GGUF--F16");
    fs::create_dir_all(&left).expect("a folder");
    fs::write(left.join("tiny.part"), b"half").expect("a file");
    model(&other, &hub, &["rm", NAME]).assert_code(0);
    assert!(files_below(&models(&other)).is_empty());
    model(&other, &hub, &["rm", NAME]).assert_code(2);
}

#[test]
fn checksums_are_found_in_headers_where_the_lists_have_none() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    hub.be_terse();
    model(&home, &hub, &["pull", REPOSITORY]).assert_code(0);
    hub.claim(REPOSITORY, FILE, content.len() as u64, &sha256(b"another"));
    let other = Home::new();
    model(&other, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&["another content"]);
    hub.claim(REPOSITORY, FILE, content.len() as u64, "no-checksum");
    model(&other, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&["no checksum"]);
    assert!(!is_there(&other, NAME));
}

#[test]
fn the_quantisation_is_chosen_or_all_that_there_are_are_listed() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    hub.put(REPOSITORY, "tiny-Q8_0.gguf", content);
    model(&home, &hub, &["pull", "someone/Tiny-GGUF:Q4_K_M"])
        .assert_code(1)
        .assert_says(&["no Q4_K_M", "F16, Q8_0"]);
    model(&home, &hub, &["pull", "someone/Tiny-GGUF:f16"]).assert_code(0);
    model(&home, &hub, &["pull", REPOSITORY]).assert_code(0);
    assert!(is_there(&home, NAME) && is_there(&home, "someone/Tiny-GGUF:Q8_0"));
    model(&home, &hub, &["show", REPOSITORY])
        .assert_code(2)
        .assert_says(&["someone/Tiny-GGUF:F16, someone/Tiny-GGUF:Q8_0"]);
}

#[test]
fn a_repository_of_safetensors_is_pulled_with_all_that_belongs_to_it() {
    let Some(hf) = data::shared("models/stories260K/hf") else {
        return;
    };
    let (home, hub) = (Home::new(), Hub::start());
    let mut names = Vec::new();
    for entry in fs::read_dir(hf).expect("the folder is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        hub.put("someone/Tiny", &name, fs::read(entry.path()).expect("a file"));
        names.push(name);
    }
    for other in ["pytorch_model.bin", "onnx/model.onnx", "consolidated.safetensors"] {
        hub.put("someone/Tiny", other, "not needed");
    }
    model(&home, &hub, &["pull", "someone/Tiny"]).assert_code(0);
    let folder = models(&home).join("someone--Tiny/Tiny");
    for needed in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(folder.join(needed).exists(), "{needed} of {names:?}");
    }
    for other in ["pytorch_model.bin", "model.onnx", "consolidated.safetensors"] {
        assert!(hub.requests(other).is_empty(), "{other}");
    }
    let shown = model(&home, &hub, &["show", "someone/Tiny"]).stdout;
    assert!(shown.contains("safetensors"), "{shown}");
    // Small files have git's own checksum.
    let manifest = models(&home).join("someone--Tiny/clawdbot.json");
    let manifest = fs::read_to_string(manifest).expect("the manifest");
    assert!(
        manifest.contains("\"git:") && manifest.contains("\"sha256:"),
        "{manifest}"
    );
    model(&home, &hub, &["pull", "someone/Tiny:Q4_0"])
        .assert_code(1)
        .assert_says(&["no GGUF files"]);
}

#[test]
fn architectures_that_cannot_be_run_are_refused_before_their_weights_come() {
    let Some((home, hub, _)) = set_up() else { return };
    hub.describe(json!({"gguf": {"architecture": "mamba", "total": 260_000}}));
    model(&home, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&["mamba", "cannot be run", "qwen3"]);
    assert!(hub.requests(FILE).is_empty());

    // A hub that does not tell: the file's own beginning does.
    let mut foreign = b"GGUF\x03\0\0\0".to_vec();
    foreign.extend(0_u64.to_le_bytes());
    foreign.extend(1_u64.to_le_bytes());
    for (text, kind) in [("general.architecture", Some(8_u32)), ("rwkv7", None)] {
        foreign.extend((text.len() as u64).to_le_bytes());
        foreign.extend(text.as_bytes());
        foreign.extend(kind.into_iter().flat_map(u32::to_le_bytes));
    }
    foreign.resize(8 << 20, 0);
    hub.describe(json!({"gguf": null}));
    hub.put("someone/Other", "other-Q4_0.gguf", foreign);
    hub.cut("someone/Other", "other-Q4_0.gguf", &[Cut::StallAfter(1 << 20)]);
    model(&home, &hub, &["pull", "someone/Other"])
        .assert_code(1)
        .assert_says(&["rwkv7", "cannot be run"]);
    assert!(!is_there(&home, "someone/Other:Q4_0"));
}

#[test]
fn a_file_that_is_whole_but_no_model_is_thrown_away() {
    let (home, hub) = (Home::new(), Hub::start());
    hub.put("someone/Words", "words.gguf", "many words that make no model");
    model(&home, &hub, &["pull", "someone/Words"])
        .assert_code(1)
        .assert_says(&["cannot be run", "thrown away"]);
    let left = files_below(&models(&home));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn names_of_files_lead_nowhere() {
    let Some(content) = stories() else { return };
    let (home, hub) = (Home::new(), Hub::start());
    for path in [
        "../../../evil-Q4_0.gguf",
        "/tmp/evil-Q4_0.gguf",
        "a/../../evil-Q8_0.gguf",
        "evil\\..\\Q4_0.gguf",
    ] {
        hub.put("someone/Evil", path, content.clone());
    }
    let refused = model(&home, &hub, &["pull", "someone/Evil"]);
    refused.assert_code(1).assert_says(&["4 files", "left out"]);
    assert!(hub.requests(".gguf").is_empty());
    let anywhere = files_below(home.path());
    assert!(
        !anywhere
            .iter()
            .any(|path| path.to_string_lossy().contains("evil")),
        "{anywhere:?}"
    );

    // An index that points elsewhere.
    hub.put("someone/Index", "config.json", "{\"model_type\": \"llama\"}");
    hub.put("someone/Index", "tokenizer.json", "{}");
    let index = json!({"weight_map": {"a": "../../evil.safetensors"}}).to_string();
    hub.put("someone/Index", "model.safetensors.index.json", index);
    model(&home, &hub, &["pull", "someone/Index"])
        .assert_code(1)
        .assert_says(&["evil.safetensors"]);

    for name in ["../evil", "a/../b", "/etc/passwd", "a/b/c", "a/b:../c", "nobody"] {
        model(&home, &hub, &["pull", name]).assert_code(2);
    }
    let anywhere = files_below(home.path());
    assert!(
        !anywhere
            .iter()
            .any(|path| path.to_string_lossy().contains("evil")),
        "{anywhere:?}"
    );
}

#[test]
fn refusals_say_what_to_do() {
    let Some((home, hub, _)) = set_up() else { return };
    model(&home, &hub, &["pull", "someone/Nothing"])
        .assert_code(1)
        .assert_says(&["no someone/Nothing", "spelling"]);
    hub.refuse("someone/Gated", 403, "GatedRepo");
    model(&home, &hub, &["pull", "someone/Gated"])
        .assert_code(1)
        .assert_says(&["terms", &format!("{}/someone/Gated", hub.url()), "HF_TOKEN"]);
    hub.refuse("someone/Private", 401, "RepoNotFound");
    model(&home, &hub, &["pull", "someone/Private"])
        .assert_code(1)
        .assert_says(&["private", "hub.token_file"]);
    let mut elsewhere = command(&home, &hub, &["pull", REPOSITORY]);
    elsewhere.env("CLAWDBOT__HUB__ENDPOINT", "ftp://somewhere");
    process::finish(&mut elsewhere)
        .assert_code(2)
        .assert_says(&["hub.endpoint"]);
    let mut nobody = command(&home, &hub, &["pull", REPOSITORY]);
    nobody.env("CLAWDBOT__HUB__ENDPOINT", "http://127.0.0.1:9");
    process::finish(&mut nobody)
        .assert_code(1)
        .assert_says(&["could not be asked", "hub.endpoint"]);
}

#[test]
fn a_token_is_shown_to_the_hub_alone() {
    let Some((home, hub, _)) = set_up() else { return };
    hub.want_token("hf_very_secret");
    model(&home, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&["private"]);
    let token_file = home.path().join("token");
    fs::write(&token_file, "hf_very_secret\n").expect("a file");
    let mut by_file = command(&home, &hub, &["pull", REPOSITORY]);
    by_file
        .env("CLAWDBOT__HUB__TOKEN_FILE", &token_file)
        .env("CLAWDBOT__LOG__LEVEL", "trace");
    let finished = process::finish(&mut by_file);
    finished.assert_code(0);
    assert!(!format!("{finished:?}").contains("very_secret"));
    let shown: Vec<_> = hub
        .requests("")
        .into_iter()
        .filter(|request| request.authorization.is_some())
        .collect();
    assert!(
        !shown.is_empty() && shown.iter().all(|request| !request.path.starts_with("/cdn/")),
        "{shown:?}"
    );
    let kept = files_below(&models(&home))
        .into_iter()
        .filter(|path| path.ends_with("clawdbot.json"));
    for manifest in kept {
        assert!(
            !fs::read_to_string(manifest)
                .expect("a manifest")
                .contains("secret")
        );
    }

    let other = Home::new();
    let mut by_variable = command(&other, &hub, &["pull", REPOSITORY]);
    by_variable.env_remove("CLAWDBOT__HUB__ENDPOINT");
    by_variable
        .env("HF_ENDPOINT", hub.url())
        .env("HF_TOKEN", "hf_very_secret");
    process::finish(&mut by_variable).assert_code(0);
    let third = Home::new();
    fs::create_dir_all(third.path().join("hf")).expect("a folder");
    fs::write(third.path().join("hf/token"), "hf_very_secret").expect("a file");
    let mut by_login = command(&third, &hub, &["pull", REPOSITORY]);
    process::finish(by_login.env("HF_HOME", third.path().join("hf"))).assert_code(0);
}

#[test]
fn what_another_program_of_the_hubs_has_fetched_is_not_fetched_again() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    let cache = home.path().join("hf/hub/models--someone--Tiny-GGUF");
    for folder in ["refs", "blobs", "snapshots/c0ffee"] {
        fs::create_dir_all(cache.join(folder)).expect("a folder");
    }
    fs::write(cache.join("refs/main"), "c0ffee").expect("a file");
    let blob = cache.join("blobs/content");
    fs::write(&blob, &content).expect("a file");
    std::os::unix::fs::symlink("../../blobs/content", cache.join("snapshots/c0ffee").join(FILE))
        .expect("a link");
    let pull = |home: &Home| {
        let mut command = command(home, &hub, &["pull", REPOSITORY]);
        let hf_home = cache.parent().and_then(Path::parent).expect("a folder");
        process::finish(command.env("HF_HOME", hf_home))
    };
    pull(&home).assert_code(0).assert_says(&["is taken from"]);
    assert!(hub.requests(FILE).is_empty());
    // Another content there is none of ours.
    fs::remove_file(&blob).expect("the file is ours");
    fs::write(&blob, vec![0; content.len()]).expect("a file");
    let other = Home::new();
    pull(&other).assert_code(0);
    assert_eq!(hub.requests(FILE).len(), 2);
}

#[test]
fn a_disk_without_room_is_noticed_before_anything_is_fetched() {
    let Some((home, hub, content)) = set_up() else {
        return;
    };
    hub.claim(REPOSITORY, FILE, 1 << 60, &sha256(&content));
    model(&home, &hub, &["pull", REPOSITORY])
        .assert_code(1)
        .assert_says(&["are still to come", "free", "data_dir"]);
    assert!(hub.requests("/cdn/someone/Tiny-GGUF/tiny-F16.gguf").is_empty());
}
