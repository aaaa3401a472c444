//! A QR code for a terminal: half a character a module, two of them in one, as high as they are wide.

use std::fmt::Write;

use qrcodegen::{QrCode, QrCodeEcc};

/// Modules of light around the code, which scanners need.
const QUIET: i32 = 4;

/// The text as a QR code, or nothing where it is too long for one. With colours it is dark on light whatever the
/// terminal's own are; without, light modules are drawn, which is right where text is light on dark.
pub(super) fn draw(text: &str, colours: bool) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let (from, to) = (-QUIET, code.size() + QUIET);
    let mut drawing = String::new();
    for y in (from..to).step_by(2) {
        if colours {
            drawing.push_str("\x1b[38;5;16m\x1b[48;5;231m");
        }
        for x in from..to {
            // Below the last line is light, too.
            let (upper, lower) = (code.get_module(x, y), code.get_module(x, y + 1));
            let drawn = if colours {
                (upper, lower)
            } else {
                (!upper, !lower && y + 1 < to)
            };
            drawing.push(match drawn {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        let end = if colours { "\x1b[0m\n" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = drawing.write_str(end);
    }
    Some(drawing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The modules again, true where dark.
    fn modules(drawing: &str, inverted: bool) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in drawing.lines() {
            let line = line
                .trim_start_matches("\x1b[38;5;16m\x1b[48;5;231m")
                .trim_end_matches("\x1b[0m");
            for half in [['█', '▀'], ['█', '▄']] {
                rows.push(
                    line.chars()
                        .map(|drawn| half.contains(&drawn) != inverted)
                        .collect(),
                );
            }
        }
        rows
    }

    #[test]
    fn what_is_drawn_is_the_code_with_light_around_it() {
        let text = "clawdbot://pair?host=hub.local&port=8883&code=ABCD-2345&name=phone";
        let code = QrCode::encode_text(text, QrCodeEcc::Low).unwrap();
        for colours in [false, true] {
            let drawn = modules(&draw(text, colours).unwrap(), !colours);
            for (y, row) in (-QUIET..code.size() + QUIET).zip(&drawn) {
                let expected: Vec<bool> = (-QUIET..code.size() + QUIET)
                    .map(|x| code.get_module(x, y))
                    .collect();
                assert_eq!(*row, expected, "line {y}, colours {colours}");
            }
        }
    }

    #[test]
    fn a_text_too_long_for_a_code_is_none() {
        assert!(draw(&"x".repeat(4000), false).is_none());
    }
}
