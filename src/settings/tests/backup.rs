//! The section `[backup]`.

use std::path::Path;
use std::time::Duration;

use super::*;

#[test]
fn a_schedule_is_read_with_its_unit() {
    let settings = setup()
        .file("[backup]\ndirectory = \"/mnt/backups\"\ninterval_h = 6\nkeep = 30\n")
        .settings();
    let backup = settings.backup;
    assert_eq!(backup.directory.as_deref(), Some(Path::new("/mnt/backups")));
    assert_eq!(
        (backup.interval, backup.keep),
        (Duration::from_secs(6 * 3600), 30)
    );
}

#[test]
fn a_directory_that_depends_on_where_one_stands_and_keeping_none_are_refused() {
    let setup = setup().file("[backup]\ndirectory = \"backups\"\ninterval_h = 0\nkeep = 0\n");
    let message = setup.message();
    assert_says(
        &message,
        &[
            &setup.at_line(2),
            "backup.directory = backups: not a whole path",
            &setup.at_line(3),
            "choose from 1 to 8784",
            &setup.at_line(4),
            "choose from 1 to 10000",
        ],
    );
}

#[test]
fn the_file_that_settings_were_read_from_is_known() {
    let setup = setup();
    assert_eq!(setup.settings().file, None);
    let setup = setup.file("[log]\nlevel = \"warn\"\n");
    assert_eq!(setup.settings().file, Some(setup.path()));
}
