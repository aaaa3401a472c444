//! Every contact with a concrete Burn backend. The modules above know only Burn's tensors, whose device decides at
//! run time what computes them; this file decides which device there is.
//!
//! `ndarray` is the owner's choice and the default; upstream deprecated it in 0.22 in favour of `flex`, which the
//! feature of that name selects. Neither starts threads here: Burn's `rayon` feature is off, since the matrices of
//! one token are too small to share and an idle engine must not spin.

use burn::tensor::{Device, Tensor};

#[cfg(not(any(feature = "ndarray", feature = "flex")))]
compile_error!("models needs a backend: build with the feature `ndarray` (default) or `flex`");

/// The device that holds all weights and caches.
#[cfg(feature = "flex")]
pub(crate) fn device() -> Device {
    Device::flex()
}

/// The device that holds all weights and caches.
#[cfg(all(feature = "ndarray", not(feature = "flex")))]
#[allow(
    deprecated,
    reason = "deprecated upstream, but the backend the owner asked for"
)]
pub(crate) fn device() -> Device {
    Device::ndarray()
}

/// The backend's name, for summaries and logs.
pub const NAME: &str = if cfg!(feature = "flex") { "flex" } else { "ndarray" };

/// A tensor's values, in row order. Both backends compute at once and in f32, so that this cannot fail; if a backend
/// ever did, the empty answer is one that no sampler takes for logits.
pub(crate) fn into_floats(tensor: Tensor<2>) -> Vec<f32> {
    tensor
        .try_into_data()
        .ok()
        .and_then(|data| data.try_into_vec().ok())
        .unwrap_or_default()
}
