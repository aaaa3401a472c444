//! What can be wrong with a model's files and with a request, in words that say what to try.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::precision::Precision;

/// A model cannot be used, because of this file.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct ModelError {
    /// The file (or directory) that is at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

impl ModelError {
    pub(crate) fn new(path: &Path, problem: Problem) -> Self {
        Self {
            path: path.to_owned(),
            problem,
        }
    }
}

/// What is wrong with a model's file.
#[derive(Debug, Error)]
pub enum Problem {
    /// The operating system would not give it.
    #[error("cannot be read ({0}); check that the path is right and that this user may read it")]
    Unreadable(#[from] std::io::Error),
    /// It is something else.
    #[error(
        "not a model: {0}; give a .gguf file, or a directory with config.json, model.safetensors and tokenizer.json"
    )]
    NotAModel(String),
    /// It contradicts its own format.
    #[error("damaged or cut short: {0}; download or convert it again")]
    Malformed(String),
    /// A valid file of a version or kind this program cannot read.
    #[error("{what}; {remedy}")]
    Unsupported {
        /// What was found.
        what: String,
        /// What to try.
        remedy: &'static str,
    },
    /// A model family without an implementation here.
    #[error(
        "the architecture {architecture:?} cannot be run so far; choose a model of architecture llama (Llama 2 and 3, \
         SmolLM2), mistral, qwen2, qwen3, smollm3, phi3, gemma2 or gemma3"
    )]
    UnknownArchitecture {
        /// As the file names it.
        architecture: String,
    },
    /// Weights in a precision that cannot be run.
    #[error(
        "tensor {tensor} has type {tensor_type}; only F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and \
         IQ4_NL tensors can be run so far: convert the model with `convert_hf_to_gguf.py --outtype q8_0`, or download a \
         Q8_0 or Q4_K_M file"
    )]
    UnsupportedTensorType {
        /// The first such tensor.
        tensor: String,
        /// The type's name in its format.
        tensor_type: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error(
        "tensor {0} is missing; the file is incomplete or not of the architecture it names: download it again"
    )]
    MissingTensor(String),
    /// A tensor does not fit the model's own configuration.
    #[error(
        "tensor {tensor} has shape {found:?} where the configuration asks for {expected:?}; the files do not belong together: download the model again"
    )]
    WrongShape {
        /// The tensor.
        tensor: String,
        /// Rows first.
        found: Vec<usize>,
        /// Rows first.
        expected: Vec<usize>,
    },
    /// A setting of the model is missing or impossible.
    #[error("the model's configuration is not usable: {0}; download the model again")]
    Configuration(String),
    /// The tokenizer is missing, broken or of an unknown kind.
    #[error("the tokenizer is not usable: {0}")]
    Tokenizer(String),
    /// Its weights are not there in this precision.
    #[error(
        "the weights are not packed at {precision}: {why}; pack them first (`clawdbot model quantize NAME --precision \
         {precision}`)"
    )]
    NotPacked {
        /// The precision that was asked for.
        precision: Precision,
        /// What was found.
        why: String,
    },
    /// Its weights were packed, and the result could not be kept.
    #[error(
        "the packed weights could not be kept: {0}; make room on the disk, or check that this user may write there"
    )]
    NotKept(String),
    /// The chat template does not compile.
    #[error("the chat template is not usable: {0}; correct it, or remove it to use the model without one")]
    Template(String),
}

/// A request cannot be answered as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Nothing to answer.
    #[error("the prompt is empty; send some text")]
    EmptyPrompt,
    /// The prompt leaves no room to answer in.
    #[error("the prompt has {tokens} tokens, the limit is {limit}; shorten it")]
    PromptTooLong {
        /// Tokens of the prompt; where counting itself would cost too much, a lower bound.
        tokens: usize,
        /// The most tokens a prompt may have.
        limit: usize,
    },
    /// A sampling option outside its range.
    #[error("{field} is {value}; it must be {legal}")]
    InvalidSampling {
        /// The option's name.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is legal, in words.
        legal: &'static str,
    },
    /// `max_tokens` is 0.
    #[error("max_tokens is 0; it must be at least 1")]
    InvalidMaxTokens,
    /// A stop text that cannot be watched for.
    #[error("{problem}; give at most 16 stop texts of 1 to 256 bytes each")]
    InvalidStop {
        /// What was given.
        problem: String,
    },
    /// A form of the answer that cannot be forced.
    #[error("the response_format cannot be used: {problem}")]
    InvalidResponseFormat {
        /// What is wrong with it and what to try.
        problem: String,
    },
    /// Tools, or the choice among them, that make no sense.
    #[error("the tools cannot be used: {problem}")]
    InvalidTools {
        /// What is wrong with them and what to try.
        problem: String,
    },
    /// The model cannot call tools.
    #[error("this model calls no tools: {problem}")]
    ToolsUnsupported {
        /// Why, and what to try.
        problem: String,
    },
    /// An answer cannot be gone on with.
    #[error("what was said belongs to no answer to this request: {problem}; ask without it for a new answer")]
    InvalidSaid {
        /// Where the two do not go together.
        problem: String,
    },
    /// The engine is full.
    #[error("{limit} sequences already run, which is the limit; try again when one has finished")]
    TooManySequences {
        /// The most sequences that run at once.
        limit: usize,
    },
    /// The keys and values of the prompt, and of what was said behind it, are more than the cache may take, even if nothing
    /// else ran.
    #[error(
        "the prompt has {tokens} tokens, whose keys and values take {} KiB, and the cache may take {} KiB; shorten the \
         prompt, or allow the cache more memory (model.cache_mib)",
        .needed_bytes.div_ceil(1024),
        .budget_bytes / 1024
    )]
    CacheTooSmall {
        /// Tokens of the prompt, and of what was said.
        tokens: usize,
        /// What they take.
        needed_bytes: usize,
        /// What there may be.
        budget_bytes: usize,
    },
    /// The id is taken.
    #[error("sequence {id} already runs; choose another id, or cancel it first")]
    DuplicateSequence {
        /// The id.
        id: u64,
    },
    /// The model's chat template refused the messages.
    #[error("the model's chat template refused the messages: {message}; change their roles or order")]
    Template {
        /// The template's own words.
        message: String,
    },
    /// The tokenizer failed on the text.
    #[error("the prompt could not be split into tokens: {message}; change the text")]
    Tokenizer {
        /// The tokenizer's own words.
        message: String,
    },
    /// A token id that the model does not have.
    #[error("token {token} is not in the model's vocabulary of {vocabulary_size}; use ids below that")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Ids run from 0 to below this.
        vocabulary_size: usize,
    },
}

impl RequestError {
    /// A machine-readable name that stays the same while the wording may change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyPrompt => "empty_prompt",
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::InvalidSampling { .. } => "invalid_sampling",
            Self::InvalidMaxTokens => "invalid_max_tokens",
            Self::InvalidStop { .. } => "invalid_stop",
            Self::InvalidResponseFormat { .. } => "invalid_response_format",
            Self::InvalidTools { .. } => "invalid_tools",
            Self::ToolsUnsupported { .. } => "tools_unsupported",
            Self::InvalidSaid { .. } => "invalid_said",
            Self::TooManySequences { .. } => "too_many_sequences",
            Self::CacheTooSmall { .. } => "cache_too_small",
            Self::DuplicateSequence { .. } => "duplicate_sequence",
            Self::Template { .. } => "template_refused",
            Self::Tokenizer { .. } => "tokenizer_failed",
            Self::UnknownToken { .. } => "unknown_token",
        }
    }
}
