//! Who runs this process.

/// Whether it may do everything: only then can files of the system be written, and users be made.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
