//! `clawdbot model list`.

use clap::Args;
use models::{Kept, PackedFile};

use super::Desk;
use crate::cli::bar::size;
use crate::cli::{Failure, say};

#[derive(Debug, Args)]
pub(super) struct ListFlags {}

pub(super) fn run(desk: &Desk, _flags: &ListFlags) -> Result<(), Failure> {
    let (entries, unfinished) = (desk.library.entries()?, desk.library.unfinished());
    if entries.is_empty() && unfinished.is_empty() {
        say(format!(
            "no models are in {} (`clawdbot model pull OWNER/NAME` brings one, `clawdbot model import PATH` takes one from \
             here)",
            desk.library.directory().display()
        ))?;
    }
    let mut rows = vec![["NAME", "SIZE", "FORMAT", "RUNS AS", "PACKED", ""].map(str::to_owned)];
    for entry in &entries {
        let configured = desk
            .settings
            .model
            .path
            .as_deref()
            .is_some_and(|path| entry.is_at(path));
        let mark = if configured { "configured" } else { "" };
        let (name, bytes) = (entry.name.to_string(), size(entry.bytes()));
        rows.push(match models::inspect(&entry.model) {
            Ok(summary) => [
                name,
                bytes,
                summary.format,
                // The setting is for the configured model.
                desk.settings
                    .model
                    .precision
                    .filter(|_| configured)
                    .unwrap_or(summary.precision)
                    .to_string(),
                packed(
                    &Kept::of(&entry.model, &desk.packed)
                        .map(|kept| kept.packed())
                        .unwrap_or_default(),
                ),
                mark.to_owned(),
            ],
            Err(error) => [
                name,
                bytes,
                format!("cannot be run: {}", error.problem),
                String::new(),
                String::new(),
                mark.to_owned(),
            ],
        });
    }
    if !entries.is_empty() {
        aligned(&rows).into_iter().try_for_each(say)?;
    }
    for (name, bytes) in unfinished {
        say(format!(
            "{name} is not whole yet, {} of it are here: `clawdbot model pull {name}` goes on, `clawdbot model rm {name}` \
             removes it",
            size(bytes)
        ))?;
    }
    match &desk.settings.model.path {
        Some(path) if *path == desk.library.embedded() => {
            say("configured is \"embedded\", the assistant that comes with the program")
        }
        Some(path) if !entries.iter().any(|entry| entry.is_at(path)) => say(format!(
            "configured is {}, which was not imported (`clawdbot model import` copies it to the others)",
            path.display()
        )),
        _ => Ok(()),
    }
}

/// `int4, int8 (stale)`
fn packed(files: &[PackedFile]) -> String {
    if files.is_empty() {
        return "-".to_owned();
    }
    let names = files.iter().map(|file| {
        let stale = if file.is_stale { " (stale)" } else { "" };
        format!("{}{stale}", file.precision)
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Columns one below the other; a cell that is an exception widens none.
pub(in crate::cli) fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    const WIDEST: usize = 60;
    let length = |cell: &String| cell.chars().count();
    let width = |column: usize| {
        let lengths = rows.iter().map(|row| length(&row[column]));
        lengths.filter(|length| *length <= WIDEST).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter()
        .map(|row| {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}
