//! What was learnt, as a file that `models` runs.

use std::io::{self, Write};

use burn::nn::{Linear, RmsNorm};
use burn::tensor::Tensor;

use crate::gguf::{self, FileTensor, Meta};
use crate::network::{NORM_EPSILON, Network, ROPE_BASE, Sizes};
use crate::vocabulary::{ASSISTANT, END, PRE, USER, Written};

/// The longest sentence and answer together, in tokens: what the template leaves of a sentence, four bytes a character, and an
/// answer.
pub const CONTEXT: u32 = 2048;

/// Only what was said last counts: each sentence is a command of its own. Nobody commands in more characters, and what does has its
/// answer whatever stands behind them.
const TEMPLATE: &str = "<|user|>{{ (messages[-1]['content'] | trim | lower)[:400] }}<|assistant|>";

/// Writes it.
///
/// # Errors
/// The writer's.
pub fn write(out: &mut impl Write, network: &Network, sizes: Sizes, vocabulary: &Written) -> io::Result<()> {
    let number = |value: usize| Meta::Number(u32::try_from(value).unwrap_or(u32::MAX));
    let id = |token: &str| {
        let found = vocabulary.tokens.iter().position(|known| known == token);
        number(found.unwrap_or(0))
    };
    let mut tokens = vocabulary.tokens.clone();
    let mut kinds: Vec<i32> = vocabulary.kinds.iter().map(|kind| *kind as i32).collect();
    // Rows that nothing stands for fill the table up to a whole number of blocks.
    for row in tokens.len()..sizes.vocabulary {
        tokens.push(format!("<|unused-{row}|>"));
        kinds.push(5);
    }
    let metadata = [
        ("general.architecture", Meta::Text("llama".into())),
        ("general.name", Meta::Text("clawdbot-assistant".into())),
        ("general.file_type", Meta::Number(7)),
        // By this the engine knows that answers are actions.
        (models::assistant::METADATA_KEY, Meta::Number(1)),
        ("llama.context_length", Meta::Number(CONTEXT)),
        ("llama.embedding_length", number(sizes.hidden)),
        ("llama.block_count", number(sizes.layers)),
        ("llama.feed_forward_length", number(sizes.feed_forward)),
        ("llama.attention.head_count", number(sizes.heads)),
        ("llama.attention.head_count_kv", number(sizes.heads)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Meta::Float(NORM_EPSILON as f32),
        ),
        ("llama.rope.freq_base", Meta::Float(ROPE_BASE as f32)),
        ("llama.rope.dimension_count", number(sizes.head())),
        ("llama.vocab_size", number(sizes.vocabulary)),
        ("tokenizer.ggml.model", Meta::Text("gpt2".into())),
        ("tokenizer.ggml.pre", Meta::Text(PRE.into())),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::Numbers(kinds)),
        ("tokenizer.ggml.merges", Meta::Texts(vocabulary.merges.clone())),
        ("tokenizer.ggml.eos_token_id", id(END)),
        ("tokenizer.ggml.add_bos_token", Meta::Flag(false)),
        ("tokenizer.chat_template", Meta::Text(TEMPLATE.into())),
    ];
    debug_assert!(TEMPLATE.contains(USER) && TEMPLATE.contains(ASSISTANT));
    let metadata: Vec<_> = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    gguf::write(out, &metadata, &tensors(network, sizes))
}

fn tensors(network: &Network, sizes: Sizes) -> Vec<FileTensor> {
    let Sizes {
        vocabulary,
        hidden,
        feed_forward,
        heads,
        ..
    } = sizes;
    let mut all = vec![
        FileTensor {
            name: "token_embd.weight".into(),
            shape: vec![hidden, vocabulary],
            values: floats(network.embedding.val()),
            quantised: true,
        },
        norm("output_norm.weight".into(), &network.norm),
    ];
    for (number, block) in network.blocks.iter().enumerate() {
        let name = |part: &str| format!("blk.{number}.{part}.weight");
        let head_count = Some(heads);
        all.extend([
            norm(name("attn_norm"), &block.attention_norm),
            matrix(name("attn_q"), &block.query, [hidden, hidden], head_count),
            matrix(name("attn_k"), &block.key, [hidden, hidden], head_count),
            matrix(name("attn_v"), &block.value, [hidden, hidden], None),
            matrix(name("attn_output"), &block.output, [hidden, hidden], None),
            norm(name("ffn_norm"), &block.feed_forward_norm),
            matrix(name("ffn_gate"), &block.gate, [hidden, feed_forward], None),
            matrix(name("ffn_up"), &block.up, [hidden, feed_forward], None),
            matrix(name("ffn_down"), &block.down, [feed_forward, hidden], None),
        ]);
    }
    all
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap_or_default()
}

fn norm(name: String, norm: &RmsNorm) -> FileTensor {
    let values = floats(norm.gamma.val());
    FileTensor {
        name,
        shape: vec![values.len()],
        values,
        quantised: false,
    }
}

/// Burn has inputs first; the file a row an output. Of queries and keys the file has pairs side by side that are learnt half a
/// head apart (as llama.cpp's conversion of Llama).
fn matrix(name: String, linear: &Linear, [inputs, outputs]: [usize; 2], heads: Option<usize>) -> FileTensor {
    let rows = floats(linear.weight.val().transpose());
    let mut values = Vec::with_capacity(rows.len());
    for row in 0..outputs {
        let from = match heads {
            Some(heads) => {
                let head = outputs / heads;
                let (number, place) = (row / head, row % head);
                number * head + place / 2 + (place % 2) * (head / 2)
            }
            None => row,
        };
        values.extend_from_slice(rows.get(from * inputs..(from + 1) * inputs).unwrap_or_default());
    }
    FileTensor {
        name,
        shape: vec![inputs, outputs],
        values,
        quantised: true,
    }
}
