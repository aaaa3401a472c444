//! The tokenizer, learnt from drawn sentences: byte-level BPE (Sennrich et al. 2016) in which words, blanks, single digits and
//! single Chinese characters stay apart, so that what is copied from a sentence into a slot has the same tokens in both. The
//! fixed pieces of the answer's JSON are tokens of their own.

use std::collections::HashMap;

use models::assistant::actions::Answer;
use models::assistant::intents::{INTENTS, Kind, kind};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer, TokenizerImpl};

use crate::data::Example;

/// Ends an answer; also what batches are filled up with.
pub const END: &str = "<|end|>";
/// Before a sentence.
pub const USER: &str = "<|user|>";
/// Before an answer.
pub const ASSISTANT: &str = "<|assistant|>";
/// How text is cut, by the name that the engine knows it by.
pub const PRE: &str = "clawdbot";
const CUT: &str = r"\p{Han}|\p{N}|(?:(?!\p{Han})\p{L})+|\s|[^\s\p{L}\p{N}]";

/// A token's kind in GGUF (llama.cpp's `llama_token_type`).
pub const NORMAL: u32 = 1;
/// See [`NORMAL`].
pub const CONTROL: u32 = 3;
/// See [`NORMAL`].
pub const USER_DEFINED: u32 = 4;

/// What cannot be learnt or read.
#[derive(Debug, thiserror::Error)]
#[error("the vocabulary: {0}")]
pub struct VocabularyError(String);

impl VocabularyError {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// See the module.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    end: u32,
}

/// The fixed pieces of an answer.
fn fragments() -> Vec<String> {
    let mut all = vec![
        r#"{"actions":[{"intent":""#.to_owned(),
        // Behind a text, and behind a number or an action without slots.
        r#""}},{"intent":""#.to_owned(),
        r#"}},{"intent":""#.to_owned(),
        r#""}}],"say":""#.to_owned(),
        r#"}}],"say":""#.to_owned(),
        r#""}"#.to_owned(),
    ];
    let mut slots: Vec<&str> = INTENTS
        .iter()
        .flat_map(|intent| intent.slots.iter().copied())
        .collect();
    slots.sort_unstable();
    slots.dedup();
    for intent in INTENTS {
        all.push(format!(r#"{}","slots":{{"#, intent.name));
    }
    for slot in slots {
        let takes_text = !matches!(kind(slot), Some(Kind::Integer(..) | Kind::Number));
        let takes_numbers = !matches!(kind(slot), Some(Kind::Span | Kind::Word(_)));
        // At the beginning, behind a text, and behind a number.
        for before in ["\"", "\",\"", ",\""] {
            if takes_text {
                all.push(format!(r#"{before}{slot}":""#));
            }
            if takes_numbers {
                all.push(format!(r#"{before}{slot}":"#));
            }
        }
    }
    all
}

impl Vocabulary {
    /// Learns it from sentences, of so many tokens in all.
    ///
    /// # Errors
    /// The library's.
    pub fn learn(examples: &[Example], size: usize) -> Result<Self, VocabularyError> {
        let fragments = fragments();
        let control = [END, USER, ASSISTANT].map(|token| AddedToken::from(token, true));
        let fixed: Vec<AddedToken> = fragments
            .iter()
            .map(|text| AddedToken::from(text.as_str(), false).normalized(false))
            .collect();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(control.iter().chain(&fixed).cloned().collect())
            .build();
        let mut learner = TokenizerImpl::<
            BPE,
            tokenizers::NormalizerWrapper,
            PreTokenizerWrapper,
            tokenizers::PostProcessorWrapper,
            tokenizers::DecoderWrapper,
        >::new(BPE::default());
        learner.with_pre_tokenizer(Some(cut()?));
        let texts = examples.iter().flat_map(|example| {
            let spans = example
                .actions
                .iter()
                .flat_map(|action| action.slots.iter().map(|(_, value)| value.to_string()));
            [lowered(&example.text), example.say.clone()]
                .into_iter()
                .chain(spans.collect::<Vec<_>>())
        });
        let texts: Vec<String> = texts.collect();
        learner
            .train(&mut trainer, texts.iter().map(String::as_str))
            .map_err(VocabularyError::of)?;
        let mut tokenizer = Tokenizer::new(learner.get_model().clone());
        tokenizer.with_pre_tokenizer(Some(cut()?));
        tokenizer
            .add_special_tokens(control)
            .map_err(VocabularyError::of)?;
        tokenizer.add_tokens(fixed).map_err(VocabularyError::of)?;
        Self::of(tokenizer)
    }

    /// From what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// The library's.
    pub fn from_json(json: &str) -> Result<Self, VocabularyError> {
        Self::of(json.parse().map_err(VocabularyError::of)?)
    }

    /// All of it.
    ///
    /// # Errors
    /// The library's.
    pub fn to_json(&self) -> Result<String, VocabularyError> {
        self.tokenizer.to_string(false).map_err(VocabularyError::of)
    }

    fn of(tokenizer: Tokenizer) -> Result<Self, VocabularyError> {
        let end = tokenizer
            .token_to_id(END)
            .ok_or_else(|| VocabularyError(format!("it has no {END}")))?;
        Ok(Self { tokenizer, end })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token that ends an answer.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// A sentence with its answer, and how many tokens come before the answer.
    ///
    /// # Errors
    /// The library's.
    pub fn tokens(&self, example: &Example) -> Result<(Vec<u32>, usize), VocabularyError> {
        let encode = |text: &str| {
            let encoding = self.tokenizer.encode(text, false).map_err(VocabularyError::of)?;
            Ok::<_, VocabularyError>(encoding.get_ids().to_vec())
        };
        let answer = Answer {
            actions: example.actions.clone(),
            say: example.say.clone(),
        };
        let json = serde_json::to_string(&answer).map_err(VocabularyError::of)?;
        let mut tokens = encode(&format!("{USER}{}{ASSISTANT}", lowered(&example.text)))?;
        let before = tokens.len();
        tokens.extend(encode(&json)?);
        tokens.push(self.end);
        Ok((tokens, before))
    }

    /// Tokens by their number, with their kinds, and the merges, as GGUF has them.
    ///
    /// # Errors
    /// The library's.
    pub fn written(&self) -> Result<Written, VocabularyError> {
        let json: serde_json::Value = serde_json::from_str(&self.to_json()?).map_err(VocabularyError::of)?;
        let ids: HashMap<String, u32> = self.tokenizer.get_vocab(true);
        let mut tokens = vec![String::new(); ids.len()];
        let mut kinds = vec![NORMAL; ids.len()];
        let fixed = fragments();
        for (token, id) in ids {
            let place = id as usize;
            if let (Some(slot), Some(kind)) = (tokens.get_mut(place), kinds.get_mut(place)) {
                if [END, USER, ASSISTANT].contains(&token.as_str()) {
                    *kind = CONTROL;
                } else if fixed.contains(&token) {
                    *kind = USER_DEFINED;
                }
                *slot = token;
            }
        }
        let merges = json["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
        let merge = |merge: &serde_json::Value| match merge {
            serde_json::Value::Array(pair) => {
                let parts: Vec<&str> = pair.iter().filter_map(serde_json::Value::as_str).collect();
                parts.join(" ")
            }
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        Ok(Written {
            tokens,
            kinds,
            merges: merges.iter().map(merge).collect(),
        })
    }
}

/// A vocabulary as it stands in a file.
pub struct Written {
    /// By number.
    pub tokens: Vec<String>,
    /// Of each.
    pub kinds: Vec<u32>,
    /// In the order in which they are tried.
    pub merges: Vec<String>,
}

/// As the template gives a sentence to the model.
pub fn lowered(text: &str) -> String {
    text.trim().to_lowercase()
}

fn cut() -> Result<PreTokenizerWrapper, VocabularyError> {
    let split = Split::new(
        SplitPattern::Regex(CUT.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    );
    let bytes = ByteLevel::new(false, true, false);
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(vec![
        split.map_err(VocabularyError::of)?.into(),
        bytes.into(),
    ])))
}
