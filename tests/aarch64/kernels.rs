//! The kernels of `models`, with their own tests.

#![allow(
    dead_code,
    unused_imports,
    reason = "what else the crate has is not here to use them"
)]

#[path = "../../models/src/kernels/mod.rs"]
mod kernels;

#[cfg(test)]
mod tests {
    use super::kernels::Instructions;

    /// So that the other tests do not hold the scalar twin to itself.
    #[test]
    fn the_instructions_that_the_processor_has_are_found() {
        let expected = std::env::var("KERNELS_EXPECTED").expect("tests/aarch64/run says what to expect");
        let found = Instructions::detect().name();
        assert!(found.starts_with(&expected), "{found} is not {expected}");
    }
}
