//! `config/deploy/deploy.sh`, from nothing to an answered question and back.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::skip;

/// The exit code of a script that could not be run here, which it has said itself.
const SKIPPED: i32 = 77;

#[test]
fn deploy_sh_installs_upgrades_rolls_back_and_uninstalls() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Not collected: it takes minutes, and says what it is at.
    let status = Command::new("bash")
        .arg(here.join("tests/deploy/test_deploy.sh"))
        .arg(here.join("config/deploy/deploy.sh"))
        .arg(env!("CARGO_BIN_EXE_clawdbot"))
        .stdin(Stdio::null())
        .status()
        .expect("bash runs");
    if status.code() == Some(SKIPPED) {
        skip("deploy.sh: this user may make no network of its own");
        return;
    }
    assert!(status.success(), "{status}");
}
