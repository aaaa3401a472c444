//! Any network of a [`NetworkSpec`] on packed weights: the same numbers as the reference but for the precision of the
//! weights, of the activations that meet them, and of the kept keys and values.
//!
//! All tokens of a step, of whichever sequences, go through each matrix together. What comes of a token depends on
//! nothing but its sequence: neither on what runs beside it nor on how its prompt was cut (see [`crate::kernels`]).

mod cache;
mod change;
mod draft;
pub(crate) mod file;
mod matrices;
mod packing;
mod sources;
mod weights;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::architecture::spec::{Activation, LayerSpec, NetworkSpec};
use crate::kernels::attention::{Group, attend};
use crate::kernels::math::{gelu_gate, rms_norm, rms_norm_in_place, silu_gate, soft_cap};
use crate::kernels::{Activations, Instructions, PackedMatrix, Packing, Pool, Shared, multiply};
use crate::precision::KvPrecision;
#[cfg(test)]
pub(crate) use cache::Page;
use cache::Shape;
pub(crate) use cache::{PAGE_TOKENS, PagedCache, SharedPage};
pub use change::ChangeProgress;
pub(crate) use packing::keep_packed;
pub(crate) use sources::packed_bytes;

/// The whole network.
#[derive(Debug)]
pub(crate) struct PackedNetwork {
    spec: NetworkSpec,
    embedding: PackedMatrix,
    /// Absent where the embedding serves for both.
    output: Option<PackedMatrix>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// Whether its weights were packed just now, and not found in a file.
    was_packed: bool,
    /// Why they are not in a file now, though they should be.
    not_kept: Option<String>,
    /// Where its packed files are.
    home: Option<file::Home>,
    /// Its way to another packing.
    change: Option<change::Change>,
    instructions: Instructions,
    /// One step at a time.
    bench: Mutex<Bench>,
}

/// A matrix and what is added to its products.
#[derive(Debug)]
struct Projection {
    matrix: PackedMatrix,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values, one below the other.
    query_key_value: Projection,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    attention_output: Projection,
    post_attention_norm: Option<Vec<f32>>,
    feed_forward_norm: Vec<f32>,
    /// Gate and up, one below the other.
    gate_up: Projection,
    down: Projection,
    post_feed_forward_norm: Option<Vec<f32>>,
}

/// Threads, and room to work in.
#[derive(Debug)]
struct Bench {
    pool: Pool,
    activations: Activations,
    hidden: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
}

/// What a sequence wants of a step.
pub(crate) struct Run<'r> {
    pub(crate) cache: &'r mut PagedCache,
    /// At least one, all in the vocabulary, with room in the cache's limit.
    pub(crate) tokens: &'r [u32],
    /// Whether the logits after the last of them are wanted.
    pub(crate) wants_logits: bool,
}

/// A token of a step.
#[derive(Clone, Copy)]
struct Row {
    run: usize,
    position: usize,
}

impl PackedNetwork {
    /// An empty cache for at most so many tokens.
    pub(crate) fn new_cache(&self, limit: usize, precision: KvPrecision) -> PagedCache {
        let limit = limit.min(self.spec.context_length);
        let shape = Shape::of(&self.spec, precision);
        let ropes = self.spec.ropes.iter().map(|rope| rope.table(limit)).collect();
        // Each turns long at a limit of its own, the same for all caches: how many have tells which.
        let long = self.spec.ropes.iter().filter(|rope| rope.is_long(limit));
        PagedCache::new(shape, limit, Arc::new(ropes), long.count())
    }

    /// Whether its weights were packed just now, and not found in a file.
    pub(crate) fn was_packed(&self) -> bool {
        self.was_packed
    }

    /// Why they are not in a file now, though they should be.
    pub(crate) fn not_kept(&self) -> Option<&str> {
        self.not_kept.as_deref()
    }

    /// The name of the instructions that compute it.
    pub(crate) fn instructions(&self) -> &'static str {
        self.instructions.name()
    }

    /// Feeds every run's tokens, and gives the logits that were asked for, in the order of the runs.
    pub(crate) fn forward(&self, runs: &mut [Run<'_>]) -> Vec<Option<Vec<f32>>> {
        let mut bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = &mut *bench;
        let mut rows = Vec::new();
        for (run, wanted) in runs.iter_mut().enumerate() {
            wanted.cache.reserve(wanted.tokens.len());
            let start = wanted.cache.len();
            rows.extend((0..wanted.tokens.len()).map(|index| Row {
                run,
                position: start + index,
            }));
        }
        let turns = self.turns(&rows, runs);
        self.embed(runs, bench);
        for (index, layer) in self.layers.iter().enumerate() {
            let spec = &self.spec.layers[index];
            self.attention(index, layer, spec, &rows, &turns, runs, bench);
            self.feed_forward(layer, rows.len(), bench);
        }
        for run in runs.iter_mut() {
            let tokens = run.tokens.len();
            run.cache.advance(tokens);
        }
        self.logits(runs, bench)
    }

    fn embed(&self, runs: &[Run<'_>], bench: &mut Bench) {
        let width = self.spec.hidden_size;
        let tokens = runs.iter().map(|run| run.tokens.len()).sum::<usize>();
        bench.hidden.clear();
        bench.hidden.resize(tokens * width, 0.0);
        let scale = self.spec.embedding_scale as f32;
        let tokens: Vec<u32> = runs.iter().flat_map(|run| run.tokens).copied().collect();
        by_rows(&mut bench.pool, &mut bench.hidden, width, |number, row| {
            self.embedding.row(tokens[number] as usize, row);
            row.iter_mut().for_each(|value| *value *= scale);
        });
    }

    /// Cosines and sines of each row's position, for each of the rotations.
    fn turns(&self, rows: &[Row], runs: &[Run<'_>]) -> Vec<Vec<(f32, f32)>> {
        let of_rope = |rope: usize| {
            let mut turns = Vec::new();
            for row in rows {
                let table = &runs[row.run].cache.ropes[rope];
                turns.extend(table.inverse_frequencies.iter().map(|frequency| {
                    let angle = row.position as f64 * frequency;
                    let turned = |value: f64| (value * table.magnitude) as f32;
                    (turned(angle.cos()), turned(angle.sin()))
                }));
            }
            turns
        };
        (0..self.spec.ropes.len()).map(of_rope).collect()
    }

    /// Makes so many activations of the rows that `row` names, normed, for weights that are packed so.
    fn normed(
        &self,
        packing: Packing,
        count: usize,
        row: impl Fn(usize) -> usize + Sync,
        weight: &[f32],
        bench: &mut Bench,
    ) {
        let width = self.spec.hidden_size;
        let epsilon = self.spec.norm.epsilon as f32;
        let Bench {
            pool,
            activations,
            hidden,
            ..
        } = bench;
        activations.fill(pool, packing, [count, width], |index, into| {
            let row = row(index);
            rms_norm(&hidden[row * width..(row + 1) * width], weight, epsilon, into);
        });
    }

    fn product(&self, projection: &Projection, bench: &mut Bench, wide: bool) {
        let products = if wide { &mut bench.wide } else { &mut bench.narrow };
        let rows = projection.matrix.rows;
        products.resize(bench.activations.tokens * rows, 0.0);
        multiply(
            &mut bench.pool,
            self.instructions,
            &projection.matrix,
            &bench.activations,
            products,
        );
        if let Some(bias) = &projection.bias {
            for products in products.chunks_exact_mut(rows) {
                products
                    .iter_mut()
                    .zip(bias)
                    .for_each(|(product, bias)| *product += bias);
            }
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "what a layer is, what a step is, and room to work in"
    )]
    fn attention(
        &self,
        index: usize,
        layer: &Layer,
        spec: &LayerSpec,
        rows: &[Row],
        turns: &[Vec<(f32, f32)>],
        runs: &mut [Run<'_>],
        bench: &mut Bench,
    ) {
        let epsilon = self.spec.norm.epsilon as f32;
        let packing = layer.query_key_value.matrix.packing;
        self.normed(packing, rows.len(), |row| row, &layer.attention_norm, bench);
        self.product(&layer.query_key_value, bench, true);

        let &LayerSpec {
            heads,
            kv_heads,
            head_size,
            ..
        } = spec;
        let (queries, keys) = (heads * head_size, kv_heads * head_size);
        let width = queries + 2 * keys;
        let turns = spec.rope.and_then(|rope| turns.get(rope));
        let scale = spec.attention_scale as f32;
        let Bench {
            pool,
            activations,
            wide,
            ..
        } = bench;
        let places = Shared::new(wide);
        pool.run(rows.len(), &|row| {
            #[allow(unsafe_code, reason = "threads write to places of their own")]
            // SAFETY: each row is one part of the pool's work, and has its own of these.
            let values = unsafe { places.part(row * width, width) };
            let (query, rest) = values.split_at_mut(queries);
            let (key, _) = rest.split_at_mut(keys);
            for (heads, norm) in [(&mut *query, &layer.query_norm), (&mut *key, &layer.key_norm)] {
                for head in heads.chunks_exact_mut(head_size) {
                    if let Some(norm) = norm {
                        rms_norm_in_place(head, norm, epsilon);
                    }
                    if let Some(turns) = turns {
                        let pairs = turns.len() / rows.len();
                        turn(head, &turns[row * pairs..(row + 1) * pairs]);
                    }
                }
            }
            query.iter_mut().for_each(|value| *value *= scale);
        });
        for (row, values) in rows.iter().zip(wide.chunks_exact(width)) {
            let (key, value) = values[queries..].split_at(keys);
            runs[row.run].cache.write(index, row.position, key, value);
        }

        let shared = heads / kv_heads;
        let attended = &mut bench.narrow;
        attended.resize(rows.len() * queries, 0.0);
        let places = Shared::new(attended);
        let (runs, wide) = (&*runs, &*wide);
        let instructions = self.instructions;
        let cap = spec.attention_softcap.map(|cap| cap as f32);
        let groups = groups(rows, shared);
        pool.run(groups.len() * kv_heads, &|part| {
            let (numbers, kv_head) = (groups[part / kv_heads].clone(), part % kv_heads);
            let run = rows[numbers.start].run;
            let of_heads = kv_head * shared * head_size..(kv_head + 1) * shared * head_size;
            let mut asked = Vec::with_capacity(numbers.len() * of_heads.len());
            let mut seen = Vec::with_capacity(numbers.len() * shared);
            for number in numbers.clone() {
                asked.extend_from_slice(&wide[number * width..][of_heads.clone()]);
                let end = rows[number].position + 1;
                let start = spec.window.map_or(0, |window| end.saturating_sub(window));
                seen.extend(std::iter::repeat_n(start..end, shared));
            }
            let group = Group {
                head_size,
                queries: &asked,
                seen: &seen,
            };
            let spans = |positions| runs[run].cache.spans(index, kv_head, positions);
            let (mut scores, mut found) = (Vec::new(), vec![0.0; asked.len()]);
            attend(instructions, group, spans, cap, &mut scores, &mut found);
            for (number, found) in numbers.zip(found.chunks_exact(of_heads.len())) {
                let at = number * queries + of_heads.start;
                #[allow(unsafe_code, reason = "threads write to places of their own")]
                // SAFETY: each row and key-value head is in one part of the pool's work, and has query heads of its own.
                let into = unsafe { places.part(at, of_heads.len()) };
                into.copy_from_slice(found);
            }
        });
        let attended = &bench.narrow;
        let packing = layer.attention_output.matrix.packing;
        activations.fill(pool, packing, [rows.len(), queries], |row, into| {
            into.copy_from_slice(&attended[row * queries..(row + 1) * queries]);
        });
        self.product(&layer.attention_output, bench, false);
        self.add(bench, layer.post_attention_norm.as_deref());
    }

    fn feed_forward(&self, layer: &Layer, rows: usize, bench: &mut Bench) {
        let packing = layer.gate_up.matrix.packing;
        self.normed(packing, rows, |row| row, &layer.feed_forward_norm, bench);
        self.product(&layer.gate_up, bench, true);
        let size = self.spec.feed_forward_size;
        let Bench {
            pool,
            activations,
            wide,
            ..
        } = bench;
        activations.fill(pool, layer.down.matrix.packing, [rows, size], |row, into| {
            let (gate, up) = wide[row * 2 * size..(row + 1) * 2 * size].split_at(size);
            match self.spec.activation {
                Activation::Silu => silu_gate(gate, up, into),
                Activation::GeluTanh => gelu_gate(gate, up, into),
            }
        });
        self.product(&layer.down, bench, false);
        self.add(bench, layer.post_feed_forward_norm.as_deref());
    }

    /// Adds the last products to what goes through the layers.
    fn add(&self, bench: &mut Bench, post_norm: Option<&[f32]>) {
        let width = self.spec.hidden_size;
        let Bench {
            pool, hidden, narrow, ..
        } = bench;
        if let Some(norm) = post_norm {
            let epsilon = self.spec.norm.epsilon as f32;
            by_rows(pool, narrow, width, |_, row| {
                rms_norm_in_place(row, norm, epsilon)
            });
        }
        by_rows(pool, hidden, width, |number, row| {
            let products = &narrow[number * width..(number + 1) * width];
            row.iter_mut()
                .zip(products)
                .for_each(|(hidden, product)| *hidden += product);
        });
    }

    fn logits(&self, runs: &[Run<'_>], bench: &mut Bench) -> Vec<Option<Vec<f32>>> {
        let mut last = 0;
        let mut wanted = Vec::new();
        for run in runs {
            last += run.tokens.len();
            wanted.extend(run.wants_logits.then(|| last - 1));
        }
        let matrix = self.output.as_ref().unwrap_or(&self.embedding);
        self.normed(
            matrix.packing,
            wanted.len(),
            |index| wanted[index],
            &self.norm,
            bench,
        );
        let Bench {
            pool, activations, ..
        } = bench;
        let mut logits = vec![0.0; wanted.len() * matrix.rows];
        multiply(pool, self.instructions, matrix, activations, &mut logits);
        if let Some(cap) = self.spec.final_softcap {
            logits
                .iter_mut()
                .for_each(|logit| *logit = soft_cap(*logit, cap as f32));
        }
        let mut rows = logits.chunks_exact(matrix.rows);
        let of_run = |run: &Run<'_>| run.wants_logits.then(|| rows.next().map(<[f32]>::to_vec))?;
        runs.iter().map(of_run).collect()
    }
}

/// Bytes of a cache with so many tokens.
pub(crate) fn cache_bytes(spec: &NetworkSpec, tokens: usize, precision: KvPrecision) -> u64 {
    let page_bytes = Shape::of(spec, precision).page_bytes() as u64;
    page_bytes.saturating_mul(tokens.div_ceil(PAGE_TOKENS) as u64)
}

/// Has the threads do something with each row, some rows at a time: one alone is not worth waking anybody.
fn by_rows(pool: &mut Pool, values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = values.len() / width;
    let places = Shared::new(values);
    pool.run(rows.div_ceil(ROWS_AT_A_TIME), &|part| {
        for row in part * ROWS_AT_A_TIME..rows.min((part + 1) * ROWS_AT_A_TIME) {
            #[allow(unsafe_code, reason = "threads write to places of their own")]
            // SAFETY: each row is in one part of the pool's work.
            work(row, unsafe { places.part(row * width, width) });
        }
    });
}

const ROWS_AT_A_TIME: usize = 16;

/// Rows that are attended to together: neighbouring tokens of one run, so few that their scores stay near.
fn groups(rows: &[Row], heads: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let most = (MOST_SCORES / (heads * (row.position + 1))).clamp(1, ROWS_TOGETHER);
        match groups.last_mut() {
            Some(group) if rows[group.start].run == row.run && group.len() < most => group.end += 1,
            _ => groups.push(number..number + 1),
        }
    }
    groups
}

/// Enough that keys need not be read and converted for each of them.
const ROWS_TOGETHER: usize = 4;
/// 256 KiB.
const MOST_SCORES: usize = 1 << 16;

/// Turns each value of the leading part of a head against the one half that part further on.
fn turn(head: &mut [f32], turns: &[(f32, f32)]) {
    let (first, second) = head.split_at_mut(turns.len());
    for ((first, second), (cosine, sine)) in first.iter_mut().zip(second).zip(turns) {
        (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
    }
}
