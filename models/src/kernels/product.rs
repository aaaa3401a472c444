//! Which instructions compute a product, and by which threads.

use half::f16;

use super::activations::{Activations, Tile};
use super::pack::{PackedMatrix, Panel};
use super::pool::Pool;
use super::shared::Shared;
use super::{BLOCK, PANEL_ROWS, attention, scalar};

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// What the compiler makes of [`scalar`].
    Scalar,
    /// AVX2, FMA and F16C. Only [`Instructions::detect`] says so.
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    /// AVX-512 with VNNI. Only [`Instructions::detect`] says so.
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
    /// NEON, and what the processor has beside it.
    #[cfg(target_arch = "aarch64")]
    Neon(super::neon::Neon),
}

/// Proof that the processor was asked.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Detected(());

impl Instructions {
    /// The best that this processor has; asked once, at the start.
    pub(crate) fn detect() -> Instructions {
        Self::all().last().copied().unwrap_or(Self::Scalar)
    }

    /// Those that this processor has, the best last.
    pub(crate) fn all() -> Vec<Instructions> {
        #[allow(unused_mut, reason = "not every processor has others")]
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        if super::avx2::is_there() {
            all.push(Self::Avx2(Detected(())));
        }
        #[cfg(target_arch = "x86_64")]
        if super::avx512::is_there() {
            all.push(Self::Avx512(Detected(())));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(super::neon::Neon::all().map(Self::Neon));
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(neon) => neon.name(),
        }
    }

    /// The most tokens that are multiplied at once; [`by_width`] must have a kernel for each number up to it.
    pub(super) fn tile(self) -> usize {
        match self {
            Self::Scalar => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => super::avx2::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => super::avx512::TILE,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => super::neon::TILE,
        }
    }

    /// The products of a panel with a tile's `T` tokens.
    fn panel<const T: usize>(self, panel: Panel<'_>, tile: Tile<'_>) -> [[f32; PANEL_ROWS]; T] {
        match self {
            Self::Scalar => std::array::from_fn(|token| scalar::multiply(panel, tile, token)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => {
                assert_eq!((tile.tokens, tile.columns), (T, panel.blocks * BLOCK));
                #[allow(unsafe_code, reason = "instructions that not every processor has")]
                // SAFETY: `detect` has found them, and the sizes were looked at just now.
                unsafe {
                    super::avx2::multiply::<T>(panel, tile)
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => {
                assert_eq!((tile.tokens, tile.columns), (T, panel.blocks * BLOCK));
                #[allow(unsafe_code, reason = "instructions that not every processor has")]
                // SAFETY: `detect` has found them, and the sizes were looked at just now.
                unsafe {
                    super::avx512::multiply::<T>(panel, tile)
                }
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon(neon) => {
                assert_eq!((tile.tokens, tile.columns), (T, panel.blocks * BLOCK));
                #[allow(unsafe_code, reason = "instructions that not every processor has")]
                // SAFETY: the sizes were looked at just now.
                unsafe {
                    super::neon::multiply::<T>(neon, panel, tile)
                }
            }
        }
    }
}

impl Instructions {
    /// See [`attention::dots`].
    pub(super) fn dots(self, query: &[f32], keys: &[f16], into: &mut Vec<f32>) {
        match self {
            #[cfg(target_arch = "aarch64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: there is no `Neon` where the processor lacks them.
            Self::Neon(_) => unsafe { super::neon::dots(query, keys, into) },
            _ => attention::dots(query, keys, into),
        }
    }

    /// See [`attention::mix`].
    pub(super) fn mix(self, weights: &[f32], values: &[f16], into: &mut [f32]) {
        match self {
            #[cfg(target_arch = "aarch64")]
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: there is no `Neon` where the processor lacks them.
            Self::Neon(_) => unsafe { super::neon::mix(weights, values, into) },
            _ => attention::mix(weights, values, into),
        }
    }
}

/// Weights × activations: `products` has a row of `matrix.rows` values for each token.
pub(crate) fn multiply(
    pool: &mut Pool,
    instructions: Instructions,
    matrix: &PackedMatrix,
    activations: &Activations,
    products: &mut [f32],
) {
    let (rows, tokens) = (matrix.rows, activations.tokens);
    assert_eq!(
        products.len(),
        rows * tokens,
        "a product has a value for each row and token"
    );
    assert!(
        activations.suit(matrix.packing),
        "activations are filled for the weights that they meet"
    );
    let panels = matrix.panels();
    // Some parts more than threads, so that one that is held up leaves its share to the others.
    let parts = panels.min(pool.threads() * 8);
    let products = Shared::new(products);
    pool.run(parts, &|part| {
        let range = panels * part / parts..panels * (part + 1) / parts;
        for panel in range {
            let weights = matrix.panel(panel);
            let row = panel * PANEL_ROWS;
            let count = PANEL_ROWS.min(rows - row);
            let store = |token: usize, values: &[f32; PANEL_ROWS]| {
                #[allow(unsafe_code, reason = "threads write to places of their own")]
                // SAFETY: each panel is in one part of the pool's work, and has rows of its own for every token.
                let place = unsafe { products.part(token * rows + row, count) };
                place.copy_from_slice(&values[..count]);
            };
            let mut token = 0;
            while token < tokens {
                let tile = activations.tile(token);
                token += by_width(instructions, weights, tile, |within, values| {
                    store(token + within, values);
                });
            }
        }
    });
}

/// Multiplies a panel with a tile, by the kernel for so many tokens. How many those were.
fn by_width(
    instructions: Instructions,
    panel: Panel<'_>,
    tile: Tile<'_>,
    store: impl Fn(usize, &[f32; PANEL_ROWS]),
) -> usize {
    macro_rules! by_width {
        ($($tokens:literal)*) => {
            match tile.tokens {
                $($tokens => {
                    let products = instructions.panel::<$tokens>(panel, tile);
                    products.iter().enumerate().for_each(|(token, values)| store(token, values));
                })*
                more => unreachable!("a tile of {more} tokens"),
            }
        };
    }
    by_width!(1 2 3 4 5 6 7 8 9 10 11 12);
    tile.tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Packing;
    use super::*;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn packed(packing: Packing, rows: usize, columns: usize, values: &[f32]) -> PackedMatrix {
        let mut pool = Pool::new(2).unwrap();
        PackedMatrix::pack(&mut pool, packing, rows, columns, |row, into| {
            into.copy_from_slice(&values[row * columns..(row + 1) * columns]);
        })
    }

    fn product(instructions: Instructions, threads: usize, matrix: &PackedMatrix, rows: &[f32]) -> Vec<f32> {
        let mut activations = Activations::new(instructions);
        let mut pool = Pool::new(threads).unwrap();
        let columns = matrix.columns;
        let shape = [rows.len() / columns, columns];
        activations.fill(&mut pool, matrix.packing, shape, |token, row| {
            row.copy_from_slice(&rows[token * columns..(token + 1) * columns]);
        });
        let mut products = vec![f32::NAN; matrix.rows * activations.tokens];
        multiply(&mut pool, instructions, matrix, &activations, &mut products);
        products
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_instruction_set_thread_count_and_batch_agrees_with_the_scalar_twin_to_the_bit(
            rows in 1..70_usize,
            columns in 1..150_usize,
            tokens in 1..30_usize,
            seed in any::<u64>(),
            exponent in -30..30_i32,
        ) {
            let weights: Vec<f32> = noise(seed, rows * columns).iter().map(|w| w * 2_f32.powi(exponent / 3)).collect();
            let values: Vec<f32> =
                noise(seed ^ 77, tokens * columns).iter().map(|v| v * 2_f32.powi(exponent)).collect();
            for packing in Packing::ALL {
                let matrix = packed(packing, rows, columns, &weights);
                let twin = product(Instructions::Scalar, 1, &matrix, &values);
                for instructions in Instructions::all() {
                    let fast = product(instructions, 3, &matrix, &values);
                    prop_assert_eq!(bits(&twin), bits(&fast), "{:?} {:?}", instructions, packing);
                    let alone: Vec<f32> = values
                        .chunks(columns)
                        .flat_map(|row| product(instructions, 1, &matrix, row))
                        .collect();
                    prop_assert_eq!(bits(&twin), bits(&alone), "{:?} {:?}, one by one", instructions, packing);
                }
            }
        }
    }

    #[test]
    fn extreme_values_neither_saturate_nor_overflow() {
        let columns = 64;
        for (weight, value) in [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (0.0, 0.0)] {
            for packing in Packing::ALL {
                let matrix = packed(packing, 16, columns, &vec![weight; 16 * columns]);
                let found = product(Instructions::detect(), 1, &matrix, &vec![value; columns]);
                let expected = weight * value * columns as f32;
                for found in found {
                    assert!(
                        (found - expected).abs() <= expected.abs() * 0.01,
                        "{packing:?} {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_are_near_what_floats_give() {
        let (rows, columns) = (48, 256);
        let (weights, values) = (noise(1, rows * columns), noise(2, columns));
        let exact: Vec<f32> = weights
            .chunks(columns)
            .map(|row| row.iter().zip(&values).map(|(w, v)| w * v).sum())
            .collect();
        let size = exact.iter().map(|value| value * value).sum::<f32>();
        for (packing, most) in [(Packing::F16, 1e-3), (Packing::Int8, 1e-2), (Packing::Int4, 0.12)] {
            let found = product(
                Instructions::detect(),
                2,
                &packed(packing, rows, columns, &weights),
                &values,
            );
            let error: f32 = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
            assert!(
                (error / size).sqrt() < most,
                "{packing:?}: {}",
                (error / size).sqrt()
            );
        }
    }

    #[test]
    fn a_row_comes_back_as_it_was_packed() {
        let (rows, columns) = (21, 72);
        let weights = noise(5, rows * columns);
        for (packing, most) in [(Packing::F16, 1e-3), (Packing::Int8, 5e-3), (Packing::Int4, 0.1)] {
            let matrix = packed(packing, rows, columns, &weights);
            let mut row = vec![0.0; columns];
            for number in 0..rows {
                matrix.row(number, &mut row);
                for (found, weight) in row.iter().zip(&weights[number * columns..]) {
                    assert!((found - weight).abs() <= most, "{packing:?} {found} {weight}");
                }
            }
        }
    }
}
