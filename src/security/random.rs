//! Random names, from the system's generator.

use ring::rand::{SecureRandom, SystemRandom};

/// So many random bytes as hexadecimal text; nothing where the system has no random numbers.
pub fn hex<const BYTES: usize>() -> Option<String> {
    let mut bytes = [0u8; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
