//! Where sealed values lie: what a database must be able to do, and what is asked of it.

use std::collections::BTreeMap;

use super::database::DatabaseError;
use super::vault::Opening;

/// How a value is found in its table.
pub(super) type Place = [u8; 16];

/// A database of one daemon. One thread writes; others may read beside it.
pub(super) trait Backend: Send + Sync {
    /// What is written by `work` is there as a whole when this returns, and would survive a power cut; or none of it
    /// is. After an error it takes nothing before the next call, which opens it anew.
    fn transact(&self, work: Work<'_>) -> Result<(), DatabaseError>;

    /// What was committed last, as long as this lives. Neither holds up the other, but room that is freed meanwhile is
    /// not used anew.
    fn read(&self) -> Result<Box<dyn Reading + '_>, DatabaseError>;

    /// After a commit that replaced `secret`: sees to it that nobody finds it among what is not used any more.
    fn wipe(&self, secret: &[u8]) -> Result<(), DatabaseError>;

    /// Bytes that it has of its file in memory; 0 where others keep it.
    fn cache_bytes(&self) -> u64 {
        0
    }

    /// Gives it back. Whoever reads in it is told that it is closed.
    fn close(&self);
}

/// What is to be written; it may be more than fits into memory at once.
pub(super) type Work<'w> = &'w mut dyn FnMut(&mut dyn Writing) -> Result<(), DatabaseError>;

/// A transaction that writes.
pub(super) trait Writing {
    /// Writes this, too.
    fn apply(&mut self, batch: &Batch) -> Result<(), DatabaseError>;
}

/// One moment of it. Tables that are not there count as empty: an older program may have made it.
pub(super) trait Reading {
    /// Its version, None where nothing is there yet.
    fn schema(&self) -> Result<Option<u64>, DatabaseError>;

    /// The data key as the master key has sealed it.
    fn data_key(&self) -> Result<Option<Vec<u8>>, DatabaseError>;

    /// How often it was opened, and what each opening drew, in their order.
    fn openings(&self) -> Result<Vec<(u32, Opening)>, DatabaseError>;

    /// One value, as it is sealed.
    fn get(&self, table: &'static str, place: &Place) -> Result<Option<Vec<u8>>, DatabaseError>;

    /// The next values in the order of their places.
    fn page(&self, table: &'static str, after: Option<Place>, size: PageSize) -> Result<Page, DatabaseError>;

    /// How many values a table has.
    fn len(&self, table: &'static str) -> Result<u64, DatabaseError>;

    /// How many values of each table were set aside.
    fn set_aside(&self) -> Result<BTreeMap<String, u64>, DatabaseError>;
}

/// How much of a table is read at a time. One value is always read.
#[derive(Clone, Copy)]
pub(super) struct PageSize {
    pub(super) values: usize,
    pub(super) bytes: usize,
}

impl PageSize {
    /// What one step of a walk over everything reads.
    pub(super) const STEP: Self = Self {
        values: 1024,
        bytes: 256 * 1024,
    };

    /// Whether a page of so much is full.
    pub(super) fn is_reached(self, values: usize, bytes: usize) -> bool {
        values >= self.values || bytes >= self.bytes
    }
}

/// Some values of a table.
#[derive(Default)]
pub(super) struct Page {
    pub(super) values: Vec<(Place, Vec<u8>)>,
    /// There are no more.
    pub(super) is_end: bool,
}

/// What is written at once.
#[derive(Default)]
pub(super) struct Batch {
    /// By table and place; None takes a value away.
    pub(super) values: BTreeMap<(&'static str, Place), Option<Vec<u8>>>,
    /// Values that are kept beside, because they cannot be read.
    pub(super) set_aside: Vec<Damaged>,
    /// Lets go of what was set aside before.
    pub(super) forgets_set_aside: bool,
    /// The version, where it changes.
    pub(super) schema: Option<u64>,
    /// The data key, sealed.
    pub(super) data_key: Option<Vec<u8>>,
    /// The number of this opening, and what it drew. Every table is there afterwards.
    pub(super) opening: Option<(u32, Opening)>,
}

/// A value that cannot be read, as it was found.
pub(super) struct Damaged {
    pub(super) table: &'static str,
    pub(super) name: Place,
    pub(super) sealed: Vec<u8>,
}

/// Reads a table from its beginning to its end.
pub(super) fn for_each(
    reading: &dyn Reading,
    table: &'static str,
    mut take: impl FnMut(Place, Vec<u8>) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let mut after = None;
    loop {
        let page = reading.page(table, after, PageSize::STEP)?;
        for (place, sealed) in page.values {
            after = Some(place);
            take(place, sealed)?;
        }
        if page.is_end {
            return Ok(());
        }
    }
}
