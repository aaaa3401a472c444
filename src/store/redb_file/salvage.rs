//! A file that something else than redb has changed, a failing disk for example: what can still be read of it goes on
//! in a new file, and the old one is kept beside. Values prove by their seals that they are what was written, so that
//! nothing wrong comes of it; what lies in a page that makes no sense is lost.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, Key, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, TableDefinition, Value, WriteTransaction,
};

use super::super::database::DatabaseError;
use super::super::record::tables;
use super::{DAMAGED, KEYS, NUMBERS, OPENINGS, Sealed, builder};

/// Damaged files that are kept; whoever has so many has another disk by then.
const MAX_KEPT: usize = 100;

/// Puts what can be read into the place of the file, and returns how many values were lost. None where that cannot be
/// done, and then nothing is changed.
pub(in crate::store) fn salvage(path: &Path) -> Option<usize> {
    let draft = path.with_extension("redb.salvaged");
    let copied = read_in_part(path).and_then(|old| copy(&old, &draft));
    let outcome = copied.and_then(|lost| Ok((lost, exchange(path, &draft)?)));
    match outcome {
        Ok((lost, kept)) => {
            tracing::error!(
                lost,
                kept = %kept.display(),
                "the store is damaged: what can be read of it goes on, and the damaged file is kept; check the disk"
            );
            Some(lost)
        }
        Err(error) => {
            tracing::error!(%error, "the store is damaged, and nothing can be read of it");
            // It is a copy of what is there.
            let _ = fs::remove_file(&draft);
            None
        }
    }
}

/// Opens a file without a look at its pages. That is only possible where it was closed in order.
pub(in crate::store) fn read_in_part(path: &Path) -> Result<ReadOnlyDatabase, DatabaseError> {
    sound_or(|| Ok(builder().open_read_only(path)?))
}

/// Copies all that can be read, and counts what cannot.
fn copy(old: &ReadOnlyDatabase, draft: &Path) -> Result<usize, DatabaseError> {
    let from = sound_or(|| Ok(old.begin_read()?))?;
    let new = create(draft)?;
    let to = new.begin_write()?;
    let mut lost = 0;
    // Without these nothing else could be opened.
    for essential in [
        copy_table(&from, &to, NUMBERS)?,
        copy_table(&from, &to, KEYS)?,
        copy_table(&from, &to, OPENINGS)?,
    ] {
        if essential > 0 {
            return Err(DatabaseError::NoDataKey);
        }
    }
    lost += copy_table(&from, &to, DAMAGED)?;
    for table in tables() {
        lost += copy_table(&from, &to, Sealed::new(table))?;
    }
    to.commit()?;
    Ok(lost)
}

fn create(draft: &Path) -> Result<Database, DatabaseError> {
    if let Err(error) = fs::remove_file(draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    Ok(builder().create(draft)?)
}

/// From the front as far as it goes, and then from the back: only what is between is lost.
fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<usize, DatabaseError> {
    let mut values = to.open_table(definition)?;
    let opened = sound_or(|| match from.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    });
    let table = match opened {
        Ok(Some(table)) => table,
        Ok(None) => return Ok(0),
        // How many there were is not known.
        Err(error) if error.is_corruption() => return Ok(1),
        Err(error) => return Err(error),
    };
    let there = sound_or(|| Ok(table.len()?)).unwrap_or(u64::MAX);
    for backwards in [false, true] {
        match sound_or(|| copy_values(&table, &mut values, backwards, there)) {
            Ok(()) => break,
            Err(error) if error.is_corruption() => {}
            Err(error) => return Err(error),
        }
    }
    let lost = there.saturating_sub(values.len()?);
    Ok(usize::try_from(lost).unwrap_or(usize::MAX))
}

fn copy_values<K: Key + 'static, V: Value + 'static>(
    table: &ReadOnlyTable<K, V>,
    values: &mut redb::Table<'_, K, V>,
    backwards: bool,
    at_most: u64,
) -> Result<(), DatabaseError> {
    let mut entries = table.iter()?;
    // Pages that refer to each other in a circle would never end.
    for _ in 0..at_most {
        let entry = if backwards {
            entries.next_back()
        } else {
            entries.next()
        };
        let Some(entry) = entry else { break };
        let (name, value) = entry?;
        values.insert(name.value(), value.value())?;
    }
    Ok(())
}

/// redb trusts its file where it does not check it, and may panic.
pub(in crate::store) fn sound_or<T>(
    work: impl FnOnce() -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DatabaseError::corrupted("a page of it makes no sense")))
}

/// The damaged file gets another name beside its own, and then the new one its place: at no moment is there none.
fn exchange(path: &Path, draft: &Path) -> Result<PathBuf, DatabaseError> {
    let kept = keep(path)?;
    fs::rename(draft, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory).and_then(|directory| directory.sync_all())?;
    }
    Ok(kept)
}

fn keep(path: &Path) -> io::Result<PathBuf> {
    for number in 1..=MAX_KEPT {
        let kept = path.with_extension(format!("redb.damaged-{number}"));
        match fs::hard_link(path, &kept) {
            Ok(()) => return Ok(kept),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "{MAX_KEPT} damaged files are kept already; see whether the disk is failing, and remove them"
    )))
}
