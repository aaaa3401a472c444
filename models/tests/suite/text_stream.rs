//! Streaming changes nothing: whatever the cuts, the joined pieces are the whole text.

use models::{StopFilter, Tokenizer};
use proptest::prelude::*;

use crate::support::{file, tiny_model};

fn tiny_tokenizer() -> Tokenizer {
    let (_directory, path) = file("tiny.gguf", &tiny_model().bytes());
    Tokenizer::load(&path).unwrap()
}

/// The definition, without streaming: the answer ends where the first stop text is complete.
fn cut(text: &str, stops: &[String]) -> (String, bool) {
    for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let longest = stops
            .iter()
            .filter(|stop| text[..end].ends_with(stop.as_str()))
            .max_by_key(|stop| stop.len());
        if let Some(stop) = longest {
            return (text[..end - stop.len()].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}

fn filtered<'a>(pieces: impl Iterator<Item = &'a str>, stops: &[String]) -> (String, bool) {
    let mut filter = StopFilter::new(stops);
    let mut text = String::new();
    for piece in pieces {
        let passed = filter.push(piece);
        text.push_str(&passed.text);
        if passed.stopped {
            return (text, true);
        }
    }
    text.push_str(&filter.finish());
    (text, false)
}

proptest! {
    #[test]
    fn stop_texts_are_cut_alike_however_the_text_comes(
        text in "[abé🦙]{0,24}",
        stops in prop::collection::vec("[abé🦙]{1,4}", 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let expected = cut(&text, &stops);
        let by_character: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(&filtered(by_character.iter().map(String::as_str), &stops), &expected);
        prop_assert_eq!(&filtered(std::iter::once(text.as_str()), &stops), &expected);
        let boundaries: Vec<usize> =
            (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| *cut.get(&boundaries)).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        prop_assert_eq!(&filtered(at.windows(2).map(|pair| &text[pair[0]..pair[1]]), &stops), &expected);
    }

    #[test]
    fn what_is_held_back_could_still_become_a_stop(text in "[ab]{0,12}", stop in "[ab]{1,4}") {
        let mut filter = StopFilter::new(std::slice::from_ref(&stop));
        let mut passed = String::new();
        for (index, character) in text.char_indices() {
            let piece = filter.push(&text[index..index + character.len_utf8()]);
            passed.push_str(&piece.text);
            prop_assert!(!passed.contains(&stop));
            if piece.stopped {
                return Ok(());
            }
            let held = &text[passed.len()..=index];
            prop_assert!(stop.starts_with(held), "{held} was held back for {stop}");
        }
    }

    #[test]
    fn tokens_stream_to_the_same_text_as_at_once(tokens in prop::collection::vec(0u32..290, 0..40)) {
        let tokenizer = tiny_tokenizer();
        let mut stream = tokenizer.stream(&[]);
        let mut text = String::new();
        for token in &tokens {
            text.push_str(&stream.push(&tokenizer, *token));
        }
        text.push_str(&stream.finish());
        prop_assert_eq!(&text, &tokenizer.decode(&tokens));
        // And that is the lossy decoding of the tokens' bytes.
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| tiny_bytes(*token)).collect();
        let bytes = bytes.strip_prefix(b" ").unwrap_or(&bytes);
        prop_assert_eq!(text, String::from_utf8_lossy(bytes));
    }

    #[test]
    fn any_text_survives_the_round_trip(text in "\\PC{0,40}|[a-z ]{0,20}") {
        let tokenizer = tiny_tokenizer();
        let tokens = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens), text);
    }
}

fn tiny_bytes(token: u32) -> Vec<u8> {
    match token {
        0..3 => vec![],
        3..259 => vec![(token - 3) as u8],
        259 => b" ".to_vec(),
        260..286 => vec![b'a' + (token - 260) as u8],
        286 => b" a".to_vec(),
        287 => b"ab".to_vec(),
        _ => vec![],
    }
}

#[test]
fn a_space_stays_inside_a_text_and_goes_at_its_beginning() {
    let tokenizer = tiny_tokenizer();
    let [space_a, bos] = [286, 1];
    let first = |before: &[u32]| tokenizer.stream(before).push(&tokenizer, space_a);
    assert_eq!(first(&[]), "a");
    assert_eq!(first(&[bos]), "a");
    assert_eq!(first(&[bos, 261]), " a");
    let mut stream = tokenizer.stream(&[bos]);
    assert_eq!(stream.push(&tokenizer, space_a), "a");
    assert_eq!(stream.push(&tokenizer, space_a), " a");
}
