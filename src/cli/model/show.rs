//! `clawdbot model show NAME`: what a model is, what was packed of it, and how good it is at each precision.

use clap::Args;
use models::{Kept, LoadOptions, Measured, Model, ModelSummary, PackedFile, Precision, QualityTable};

use super::Desk;
use super::list::aligned;
use crate::cli::bar::{Bar, Unit, size};
use crate::cli::{Failure, say};

#[derive(Debug, Args)]
pub(super) struct ShowFlags {
    /// A name of `clawdbot model list`, or a path
    #[arg(value_name = "NAME")]
    model: String,
    /// Measure how good it is at each precision, on a fixed text; takes minutes for large models
    #[arg(long)]
    measure: bool,
    /// Measure this precision; may be repeated [default: all that fit the memory]
    #[arg(long = "precision", requires = "measure")]
    precisions: Vec<Precision>,
}

pub(super) fn run(desk: &Desk, flags: &ShowFlags) -> Result<(), Failure> {
    let path = desk.path_of(&flags.model)?;
    let summary = models::inspect(&path).map_err(Failure::at_run_time)?;
    let kept = Kept::of(&path, &desk.packed).map_err(Failure::at_run_time)?;
    let entry = desk
        .library
        .entries()?
        .into_iter()
        .find(|entry| entry.is_at(&path));

    let row = |name: &str, value: String| say(format!("{name:<13} {value}"));
    if let Some(entry) = &entry {
        row("name", entry.name.to_string())?;
    }
    row("model", summary.name.clone())?;
    row("file", path.display().to_string())?;
    if let Some(source) = entry.as_ref().and_then(|entry| entry.manifest.source.as_ref()) {
        row(
            "from",
            format!("{}/{} at {}", source.endpoint, source.repository, source.commit),
        )?;
    }
    row("architecture", summary.architecture.clone())?;
    row(
        "format",
        format!("{}, {} of weights", summary.format, size(summary.weights_bytes)),
    )?;
    row("parameters", parameters(summary.parameters))?;
    row("context", format!("{} tokens", summary.context_length))?;
    row("vocabulary", format!("{} tokens", summary.vocabulary_size))?;
    let template = if summary.has_chat_template {
        "yes"
    } else {
        "none: it continues texts"
    };
    row("chat template", template.to_owned())?;
    row(
        "runs as",
        format!("{} unless model.precision says otherwise", summary.precision),
    )?;

    if flags.measure {
        let table = measure(desk, &path, &summary, &kept.packed(), &flags.precisions)?;
        kept.keep_quality(&table).map_err(Failure::at_run_time)?;
    }
    table(&kept, &flags.model)
}

fn parameters(count: u64) -> String {
    match count {
        0..1_000_000 => count.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} million", count as f64 / 1e6),
        _ => format!("{:.2} billion", count as f64 / 1e9),
    }
}

/// A line for each precision of which something is known.
fn table(kept: &Kept, name: &str) -> Result<(), Failure> {
    let (packed, quality) = (kept.packed(), kept.quality());
    let mut rows = vec![["PRECISION", "PACKED", "PERPLEXITY", "SAME FIRST CHOICE"].map(str::to_owned)];
    for precision in Precision::ALL {
        let file = packed.iter().find(|file| file.precision == precision);
        let measured = quality
            .as_ref()
            .and_then(|(table, _)| table.rows.iter().find(|row| row.precision == precision));
        if file.is_none() && measured.is_none() {
            continue;
        }
        let stale = |file: &PackedFile| {
            if file.is_stale {
                " (stale, made anew when it is next used)"
            } else {
                ""
            }
        };
        rows.push([
            precision.to_string(),
            file.map_or("-".to_owned(), |file| {
                format!("{}{}", size(file.bytes), stale(file))
            }),
            measured.map_or("-".to_owned(), |row| format!("{:.3}", row.perplexity)),
            measured.map_or("-".to_owned(), |row| format!("{:.1} %", row.agreement * 100.0)),
        ]);
    }
    say("")?;
    if rows.len() > 1 {
        for line in aligned(&rows) {
            say(line)?;
        }
    }
    match quality {
        Some((table, is_current)) => {
            say(format!(
                "measured on {} tokens of a fixed text; the choices are compared with those at {}",
                table.tokens, table.reference
            ))?;
            match is_current {
                true => Ok(()),
                false => say(format!(
                    "that was another content of the model's files, or another version of this program: `clawdbot model show {name} --measure` does it again"
                )),
            }
        }
        None => say(format!(
            "how good it is at each precision was not measured yet: `clawdbot model show {name} --measure`"
        )),
    }
}

/// One precision after the other, the best first. What was packed is used; nothing is packed to stay.
fn measure(
    desk: &Desk,
    path: &std::path::Path,
    summary: &ModelSummary,
    packed: &[PackedFile],
    asked: &[Precision],
) -> Result<QualityTable, Failure> {
    let chosen = if asked.is_empty() {
        &Precision::ALL[..]
    } else {
        asked
    };
    let mut measured: Vec<(Precision, Measured)> = Vec::new();
    for precision in Precision::ALL
        .into_iter()
        .filter(|precision| chosen.contains(precision))
    {
        let is_packed = packed
            .iter()
            .any(|file| file.precision == precision && !file.is_stale);
        let needed = memory_of(precision, summary.parameters);
        let memory = platform::memory::machine().map_err(Failure::at_run_time)?;
        if !is_packed && needed > memory.available_bytes / 10 * 9 {
            eprintln!(
                "{precision} is left out: it needs {}, and {} of memory are there",
                size(needed),
                size(memory.available_bytes)
            );
            continue;
        }
        let mut packing = Bar::new(format!("packing {precision}"), Unit::Parts);
        let options = LoadOptions {
            precision: Some(precision),
            threads: Some(desk.threads()),
            packed_directory: is_packed.then_some(desk.packed.as_path()),
        };
        let model = Model::load_with(path, options, &mut |done, of| {
            packing.show(done as u64, of as u64)
        });
        let model = model.map_err(Failure::at_run_time)?;
        drop(packing);
        let mut bar = Bar::new(format!("measuring {precision}"), Unit::Parts);
        let result = models::measure(&model, &mut |done, of| bar.show(done as u64, of as u64));
        measured.push((precision, result.map_err(Failure::at_run_time)?));
    }
    QualityTable::of(&measured)
        .ok_or_else(|| Failure::AtRunTime("the memory does not suffice for any of the precisions".to_owned()))
}

/// Bytes of the weights, roughly.
fn memory_of(precision: Precision, parameters: u64) -> u64 {
    // A scale for 32 weights has 16 bits.
    let bits_of_32 = match precision {
        Precision::F32 => 32 * 32,
        Precision::F16 => 32 * 16,
        Precision::Int8 => 32 * 8 + 16,
        Precision::Int4 => 32 * 4 + 16,
    };
    (u128::from(parameters) * bits_of_32 / (32 * 8))
        .try_into()
        .unwrap_or(u64::MAX)
}
