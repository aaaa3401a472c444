//! Random names, from the system's generator.

use ring::rand::{SecureRandom, SystemRandom};

/// So many random bytes as hexadecimal text; nothing where the system has no random numbers.
pub fn hex<const BYTES: usize>() -> Option<String> {
    let mut bytes = [0u8; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// So many random bytes; nothing where the system has no random numbers.
pub fn bytes<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0u8; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A text of so many symbols of an alphabet, each as likely as the others.
pub fn symbols(alphabet: &[u8], length: usize) -> Option<String> {
    // Bytes above the last whole multiple would make the first symbols likelier.
    let fair = 256 / alphabet.len().max(1) * alphabet.len();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let [byte] = bytes::<1>()?;
        let symbol = usize::from(byte) % alphabet.len().max(1);
        if usize::from(byte) < fair {
            text.push(char::from(*alphabet.get(symbol)?));
        }
    }
    Some(text)
}
