//! Which files there are, how large, for whom, and what happens where the disk takes nothing.

use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

const LINE: &[u8] = b"nine more\n";

fn place(path: &Path, max_bytes: u64, keep: u32) -> LogPlace {
    LogPlace {
        path: path.to_path_buf(),
        max_bytes,
        keep,
    }
}

fn files(temp: &TempDir, max_bytes: u64, keep: u32) -> Files {
    let mut files = Files::at(&place(&temp.path().join("clawdbot.log"), max_bytes, keep));
    files.prepare().unwrap();
    files
}

/// Name and text of each file, by name.
fn found(temp: &TempDir) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn file(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_that_is_full_is_put_aside_whole_and_only_so_many_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let mut files = files(&temp, 8, 2);
    for number in 1..=9 {
        files.write(format!("no {number}\n").as_bytes()).unwrap();
    }
    // Five bytes a line: a second one would be ten.
    assert_eq!(
        found(&temp),
        [
            file("clawdbot.log", "no 9\n"),
            file("clawdbot.log.1", "no 8\n"),
            file("clawdbot.log.2", "no 7\n"),
        ]
    );
}

#[test]
fn a_line_longer_than_a_file_has_one_of_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let mut files = files(&temp, 4, 1);
    files.write(LINE).unwrap();
    files.write(b"x\n").unwrap();
    assert_eq!(
        found(&temp),
        [file("clawdbot.log", "x\n"), file("clawdbot.log.1", "nine more\n")]
    );
}

#[test]
fn where_none_is_kept_the_one_begins_anew() {
    let temp = tempfile::tempdir().unwrap();
    let mut files = files(&temp, 20, 0);
    for _ in 0..3 {
        files.write(LINE).unwrap();
    }
    assert_eq!(found(&temp), [file("clawdbot.log", "nine more\n")]);
}

#[test]
fn a_file_that_cannot_be_put_aside_is_emptied_so_that_the_disk_does_not_fill() {
    let temp = tempfile::tempdir().unwrap();
    let mut files = files(&temp, 20, 1);
    // A directory with something in it has the name.
    fs::create_dir_all(temp.path().join("clawdbot.log.1/full")).unwrap();
    for _ in 0..3 {
        files.write(LINE).unwrap();
    }
    assert_eq!(
        fs::read_to_string(temp.path().join("clawdbot.log")).unwrap(),
        "nine more\n"
    );
}

#[test]
fn the_next_start_goes_on_in_the_same_file_and_removes_what_is_beyond_what_is_kept() {
    let temp = tempfile::tempdir().unwrap();
    let mut before = files(&temp, 10, 4);
    for _ in 0..5 {
        before.write(LINE).unwrap();
    }
    assert_eq!(found(&temp).len(), 5);
    let mut after = files(&temp, 20, 1);
    after.write(LINE).unwrap();
    assert_eq!(
        found(&temp),
        [
            file("clawdbot.log", "nine more\nnine more\n"),
            file("clawdbot.log.1", "nine more\n")
        ]
    );
}

#[test]
fn files_and_their_directory_are_for_the_owner_alone() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("logs/of/clawdbot.log");
    let mut files = Files::at(&place(&path, 10, 1));
    files.prepare().unwrap();
    files.write(LINE).unwrap();
    files.write(LINE).unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!((mode(&path), mode(&files.numbered(1))), (0o600, 0o600));

    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    Files::at(&place(&path, 10, 1)).prepare().unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_file_that_was_taken_away_is_there_again_with_the_next_line() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("clawdbot.log");
    let mut files = files(&temp, 1000, 1);
    files.write(LINE).unwrap();
    fs::remove_file(&path).unwrap();
    files.write(b"after\n").unwrap();
    assert_eq!(found(&temp), [file("clawdbot.log", "after\n")]);
    // As logrotate does it.
    fs::rename(&path, temp.path().join("moved")).unwrap();
    files.write(LINE).unwrap();
    assert_eq!(
        found(&temp),
        [file("clawdbot.log", "nine more\n"), file("moved", "after\n")]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_nothing_is_an_error_for_each_line_until_it_takes_something() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("clawdbot.log");
    // Every write to that device finds it full.
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut files = Files::at(&place(&path, 1000, 1));
    for _ in 0..3 {
        assert!(is_of_a_full_disk(&files.write(LINE).unwrap_err()));
    }
    fs::remove_file(&path).unwrap();
    files.write(LINE).unwrap();
    assert_eq!(found(&temp), [file("clawdbot.log", "nine more\n")]);
}

#[test]
fn a_place_that_cannot_be_is_refused_with_what_helps() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "").unwrap();
    for path in [
        temp.path().to_path_buf(),
        temp.path().join("file/clawdbot.log"),
        "/dev/null".into(),
    ] {
        look(&place(&path, 1000, 1)).unwrap_err();
        let refused = LogFile::begin(&place(&path, 1000, 1)).unwrap_err();
        assert!(!refused.may_pass(), "{refused}");
        let error = refused.to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("leave it empty for stderr"), "{error}");
    }
}

#[test]
fn a_link_to_a_disk_that_is_not_there_yet_may_lead_somewhere_later() {
    let temp = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(temp.path().join("disk"), temp.path().join("log")).unwrap();
    let refused = LogFile::begin(&place(&temp.path().join("log/clawdbot.log"), 1000, 1)).unwrap_err();
    assert!(refused.may_pass(), "{refused}");
}

#[test]
fn a_place_that_may_be_there_later_is_looked_at_without_making_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("disk/log/clawdbot.log");
    assert!(look(&place(&path, 1000, 1)).unwrap(), "it can be made");
    assert!(!temp.path().join("disk").exists());
}

#[test]
fn what_was_handed_in_is_there_when_it_is_finished() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("clawdbot.log");
    let log = LogFile::begin(&place(&path, 1 << 20, 1)).unwrap();
    for _ in 0..1000 {
        log.make_writer().write_all(LINE).unwrap();
    }
    log.finish(Duration::from_secs(60));
    assert_eq!(fs::read(&path).unwrap().len(), 1000 * LINE.len());
}

#[test]
fn nobody_waits_for_a_disk_that_hangs_and_what_found_no_room_is_counted() {
    // A thread that writes nothing is as slow as a disk can be.
    let (orders, waiting) = mpsc::sync_channel(2);
    let log = LogFile {
        orders,
        lost: Arc::new(AtomicU64::new(0)),
    };
    let before = Instant::now();
    for _ in 0..5 {
        log.make_writer().write_all(LINE).unwrap();
    }
    log.finish(Duration::from_millis(50));
    assert!(before.elapsed() < Duration::from_secs(30));
    assert_eq!(log.lost.load(Relaxed), 3);
    drop(waiting);
}
