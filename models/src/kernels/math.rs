//! What happens to activations between two products. Plain arithmetic without branches, so that the compiler makes
//! vectors of it, and with sums in one fixed order.

/// Calls a function of [`plain`] as it was translated for AVX2, where the processor has that.
macro_rules! quickly {
    (plain::$function:ident($($argument:expr),*)) => {{
        #[cfg(target_arch = "x86_64")]
        if super::avx2::is_there() {
            #[allow(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: it was looked just now whether they are there.
            unsafe {
                super::avx2::$function($($argument),*);
            }
            return;
        }
        plain::$function($($argument),*);
    }};
}

/// Rounds to the nearest whole number, halves to even, where the magnitude is below 2²²: the sum has no room for a
/// fraction.
#[inline(always)]
pub(crate) fn round(value: f32) -> f32 {
    (value + NO_FRACTION) - NO_FRACTION
}

/// The nearest whole number, halves to even, of a value between −128 and 127; 0 of what is no number.
///
/// The sum has the whole number in the lowest bits of its fraction, in two's complement: no conversion is needed, and
/// the compiler makes vectors of it.
#[inline(always)]
pub(crate) fn whole(value: f32) -> i8 {
    (value + NO_FRACTION).to_bits() as i8
}

/// Of numbers up to 2²² more than this, sums have no room for a fraction.
const NO_FRACTION: f32 = 12_582_912.0;

/// `eˣ` within two units in the last place, from −87 to 88; beyond that as at the ends.
///
/// 2ⁿ times a polynomial for the rest, after Cephes' `expf`.
#[allow(clippy::excessive_precision, reason = "Cephes' own constants")]
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + NO_FRACTION;
    let n = shifted - NO_FRACTION;
    // In two steps, so that nothing of x gets lost.
    let rest = x - n * 0.693_359_375 + n * 2.121_944_4e-4;
    let mut polynomial = 1.987_569_15e-4;
    for coefficient in [
        1.398_199_950_7e-3,
        8.333_451_907_3e-3,
        4.166_579_589_4e-2,
        1.666_666_545_9e-1,
        0.5,
    ] {
        polynomial = polynomial * rest + coefficient;
    }
    // The lowest bits of the sum are n in two's complement, as in `whole`; those above fall out.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (polynomial * rest * rest + rest + 1.0) * power
}

/// `x × sigmoid(x)`.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU by its tanh approximation (Hendrycks and Gimpel 2016).
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    // tanh(y) = 1 − 2 / (e²ʸ + 1), and so (1 + tanh) / 2 = 1 − 1 / (e²ʸ + 1).
    x - x / (exp(2.0 * inner) + 1.0)
}

/// `cap × tanh(x / cap)`.
pub(crate) fn soft_cap(x: f32, cap: f32) -> f32 {
    cap * (x / cap).tanh()
}

const LANES: usize = 8;

/// The sum of squares.
#[inline(always)]
fn squares(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value * value;
    }
    lanes.iter().sum()
}

/// RMS norm (Zhang and Sennrich 2019): `x / sqrt(mean(x²) + epsilon) × weight`.
pub(crate) fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32]) {
    quickly!(plain::rms_norm(values, weight, epsilon, into));
}

/// The same, where the values stand.
pub(crate) fn rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32) {
    quickly!(plain::rms_norm_in_place(values, weight, epsilon));
}

/// `silu(gate) × up`.
pub(crate) fn silu_gate(gate: &[f32], up: &[f32], into: &mut [f32]) {
    quickly!(plain::silu_gate(gate, up, into));
}

/// `gelu(gate) × up`, by the tanh approximation.
pub(crate) fn gelu_gate(gate: &[f32], up: &[f32], into: &mut [f32]) {
    quickly!(plain::gelu_gate(gate, up, into));
}

/// The same for every processor; the compiler translates it once more for wider instructions, fuses and reorders nothing,
/// and so the numbers are the same.
pub(super) mod plain {
    use super::{gelu_tanh, silu, squares};

    #[inline(always)]
    pub(in super::super) fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32]) {
        let scale = 1.0 / (squares(values) / values.len() as f32 + epsilon).sqrt();
        for ((into, value), weight) in into.iter_mut().zip(values).zip(weight) {
            *into = value * scale * weight;
        }
    }

    #[inline(always)]
    pub(in super::super) fn rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32) {
        let scale = 1.0 / (squares(values) / values.len() as f32 + epsilon).sqrt();
        for (value, weight) in values.iter_mut().zip(weight) {
            *value *= scale * weight;
        }
    }

    #[inline(always)]
    pub(in super::super) fn silu_gate(gate: &[f32], up: &[f32], into: &mut [f32]) {
        for (into, (gate, up)) in into.iter_mut().zip(gate.iter().zip(up)) {
            *into = silu(*gate) * up;
        }
    }

    #[inline(always)]
    pub(in super::super) fn gelu_gate(gate: &[f32], up: &[f32], into: &mut [f32]) {
        for (into, (gate, up)) in into.iter_mut().zip(gate.iter().zip(up)) {
            *into = gelu_tanh(*gate) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f32, expected: f64, relative: f64, at: f32) {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= expected.abs() * relative + 1e-30,
            "at {at}: {found} for {expected}"
        );
    }

    #[test]
    fn functions_are_near_their_double_precision_twins() {
        for step in -8600..8700 {
            let x = step as f32 / 100.0 + 0.003;
            let wide = f64::from(x);
            assert_near(exp(x), wide.exp(), 3e-7, x);
            assert_near(silu(x), wide / (1.0 + (-wide).exp()), 4e-7, x);
        }
        for step in -600..600 {
            let x = step as f32 / 100.0 + 0.001;
            let wide = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
            let expected = 0.5 * wide * (1.0 + inner.tanh());
            assert!((f64::from(gelu_tanh(x)) - expected).abs() < 1e-6, "at {x}");
        }
        for value in -1270..1270 {
            let value = value as f32 / 10.0;
            assert_eq!(f32::from(whole(value)), value.round_ties_even());
        }
        assert_eq!(whole(f32::NAN), 0);
        assert_eq!(
            [round(0.5), round(1.5), round(-2.5), round(126.6)],
            [0.0, 2.0, -2.0, 127.0]
        );
    }

    #[test]
    fn wider_instructions_give_the_same_to_the_bit() {
        let gate: Vec<f32> = (0..77).map(|n| (n as f32 * 0.7).sin() * 20.0).collect();
        let up: Vec<f32> = (0..77).map(|n| (n as f32 * 1.3).cos() * 3.0).collect();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let [mut quick, mut slow] = [vec![0.0; 77], vec![0.0; 77]];
        silu_gate(&gate, &up, &mut quick);
        plain::silu_gate(&gate, &up, &mut slow);
        assert_eq!(bits(&quick), bits(&slow));
        gelu_gate(&gate, &up, &mut quick);
        plain::gelu_gate(&gate, &up, &mut slow);
        assert_eq!(bits(&quick), bits(&slow));
        rms_norm(&gate, &up, 1e-5, &mut quick);
        plain::rms_norm(&gate, &up, 1e-5, &mut slow);
        assert_eq!(bits(&quick), bits(&slow));
        rms_norm_in_place(&mut quick, &up, 1e-5);
        plain::rms_norm_in_place(&mut slow, &up, 1e-5);
        assert_eq!(bits(&quick), bits(&slow));
    }

    #[test]
    fn nothing_becomes_no_number_at_the_ends() {
        for x in [-1e30, -1000.0, 1000.0, 1e30] {
            assert!(exp(x).is_finite() && silu(x).is_finite(), "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(gelu_tanh(100.0) == 100.0 && gelu_tanh(-100.0) == 0.0);
    }

    #[test]
    fn a_normed_row_has_a_root_mean_square_of_its_weight() {
        let values: Vec<f32> = (0..37).map(|n| n as f32 - 11.0).collect();
        let mut normed = vec![0.0; 37];
        rms_norm(&values, &[2.0; 37], 0.0, &mut normed);
        let mean = normed.iter().map(|value| value * value).sum::<f32>() / 37.0;
        assert!((mean.sqrt() - 2.0).abs() < 1e-5);
        let mut in_place = values;
        rms_norm_in_place(&mut in_place, &[2.0; 37], 0.0);
        for (a, b) in in_place.iter().zip(&normed) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}
