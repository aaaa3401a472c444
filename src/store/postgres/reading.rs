//! One moment of the database: a transaction that only reads.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ::postgres::types::ToSql;
use ::postgres::{Client, Row};

use super::super::backend::{Page, PageSize, Place, Reading};
use super::super::database::DatabaseError;
use super::super::vault::Opening;
use super::{Postgres, PostgresError};

/// Values in the order of their names, with how many bytes there were before each; a value's length is known without
/// a look at it.
const PAGE: &str = "
    SELECT name, value FROM (
        SELECT name, value,
            sum(octet_length(value)) OVER (ORDER BY name ROWS UNBOUNDED PRECEDING) - octet_length(value) AS before
        FROM clawdbot_values WHERE place = $1 AND name > $2 ORDER BY name LIMIT $3
    ) AS page WHERE before < $4 ORDER BY name";

/// See the module.
pub(super) struct Moment<'a> {
    /// None when it is over.
    client: RefCell<Option<Client>>,
    /// Where the connection is from, and goes back to.
    from: &'a Postgres,
    /// An older program, or none, made the tables: then all are empty.
    has_tables: bool,
}

impl<'a> Moment<'a> {
    pub(super) fn begin(mut client: Client, from: &'a Postgres) -> Result<Self, PostgresError> {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let found = client.query_one("SELECT to_regclass('clawdbot_values') IS NOT NULL", &[])?;
        Ok(Moment {
            has_tables: found.try_get(0)?,
            client: RefCell::new(Some(client)),
            from,
        })
    }

    fn rows(&self, query: &str, of: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DatabaseError> {
        if !self.has_tables {
            return Ok(Vec::new());
        }
        match &mut *self.client.borrow_mut() {
            Some(client) => Ok(client.query(query, of)?),
            None => Err(DatabaseError::Closed),
        }
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        if let Some(mut client) = self.client.get_mut().take()
            && client.batch_execute("ROLLBACK").is_ok()
        {
            self.from.rest(client);
        }
    }
}

impl Reading for Moment<'_> {
    fn schema(&self) -> Result<Option<u64>, DatabaseError> {
        let rows = self.rows("SELECT value FROM clawdbot_numbers WHERE name = 'schema'", &[])?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let schema = u64::try_from(row.try_get::<_, i64>(0)?);
        Ok(Some(
            schema.map_err(|_| PostgresError::Foreign("a negative version"))?,
        ))
    }

    fn data_key(&self) -> Result<Option<Vec<u8>>, DatabaseError> {
        let rows = self.rows("SELECT value FROM clawdbot_keys WHERE name = 'data key'", &[])?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    fn openings(&self) -> Result<Vec<(u32, Opening)>, DatabaseError> {
        let rows = self.rows("SELECT number, drawn FROM clawdbot_openings ORDER BY number", &[])?;
        let opening = |row: &Row| {
            let number = u32::try_from(row.try_get::<_, i64>(0)?);
            let drawn = Opening::try_from(row.try_get::<_, &[u8]>(1)?);
            match (number, drawn) {
                (Ok(number), Ok(drawn)) => Ok((number, drawn)),
                _ => Err(PostgresError::Foreign("an opening").into()),
            }
        };
        rows.iter().map(opening).collect()
    }

    fn get(&self, table: &'static str, place: &Place) -> Result<Option<Vec<u8>>, DatabaseError> {
        let rows = self.rows(
            "SELECT value FROM clawdbot_values WHERE place = $1 AND name = $2",
            &[&table, &&place[..]],
        )?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    fn page(&self, table: &'static str, after: Option<Place>, size: PageSize) -> Result<Page, DatabaseError> {
        let after = after.as_ref().map_or(&[][..], |place| &place[..]);
        let (values, bytes) = (size.values as i64, size.bytes as i64);
        let rows = self.rows(PAGE, &[&table, &after, &values, &bytes])?;
        let mut page = Page::default();
        let mut read = 0;
        for row in rows {
            let (name, value): (&[u8], Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let place = Place::try_from(name).map_err(|_| PostgresError::Foreign("a name"))?;
            read += value.len();
            page.values.push((place, value));
        }
        page.is_end = !size.is_reached(page.values.len(), read);
        Ok(page)
    }

    fn len(&self, table: &'static str) -> Result<u64, DatabaseError> {
        let rows = self.rows("SELECT count(*) FROM clawdbot_values WHERE place = $1", &[&table])?;
        let count = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    fn set_aside(&self) -> Result<BTreeMap<String, u64>, DatabaseError> {
        let rows = self.rows("SELECT place, count(*) FROM clawdbot_damaged GROUP BY place", &[])?;
        let count = |row: &Row| {
            let count = row.try_get::<_, i64>(1)?;
            Ok((row.try_get(0)?, u64::try_from(count).unwrap_or(0)))
        };
        rows.iter().map(count).collect()
    }
}
