//! The words in which Mosquitto's tests write bytes.

/// The bytes that a payload's words stand for. `'text'` may contain blanks, all else is split at them.
pub(crate) fn bytes(words: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = words.trim_start();
    while !rest.is_empty() {
        let after = if let Some(quoted) = rest.strip_prefix('\'') {
            let (text, after) = quoted.split_once('\'').expect("a closing quote");
            bytes.extend_from_slice(text.as_bytes());
            after
        } else {
            let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            push_word(word, &mut bytes);
            after
        };
        rest = after.trim_start();
    }
    bytes
}

fn push_word(word: &str, bytes: &mut Vec<u8>) {
    let (kind, number) = word.split_at(1);
    match kind {
        "i" => bytes.push(number.parse().expect("a byte")),
        "H" | "k" | "m" | "s" => bytes.extend(number.parse::<u16>().expect("16 bits").to_be_bytes()),
        "L" => bytes.extend(number.parse::<u32>().expect("32 bits").to_be_bytes()),
        "v" | "r" => push_variable(number.parse().expect("a variable byte integer"), bytes),
        _ => {
            for digits in word.as_bytes().chunks(2) {
                let digits = str::from_utf8(digits).expect("ASCII");
                bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
            }
        }
    }
}

/// Unlike MQTT, this takes as many bytes as the value needs: that is how the sequences get illegal ones.
fn push_variable(mut value: u64, bytes: &mut Vec<u8>) {
    while value > 0x7F {
        bytes.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
