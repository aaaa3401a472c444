//! The network as it is trained: a small Llama (Touvron et al. 2023) for whole batches, without a cache. What it has learnt is
//! run by `models`, from the file that is written of it.

use burn::module::{Module, Param};
use burn::nn::{Linear, RmsNorm, RmsNormConfig};
use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::data::Chance;

/// Its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// Numbers of a token's state.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of attention; `hidden` is a multiple of them.
    pub heads: usize,
    /// Numbers between the two halves of a layer's second part.
    pub feed_forward: usize,
}

impl Sizes {
    /// Of a head.
    pub fn head(&self) -> usize {
        self.hidden / self.heads
    }

    /// Weights, all together.
    pub fn parameters(&self) -> usize {
        let layer = 4 * self.hidden * self.hidden + 3 * self.hidden * self.feed_forward + 2 * self.hidden;
        self.vocabulary * self.hidden + self.layers * layer + self.hidden
    }
}

/// The base of the angles by which positions turn.
pub const ROPE_BASE: f64 = 10_000.0;
/// What is added under the root of a norm.
pub const NORM_EPSILON: f64 = 1e-5;

/// How far weights lie apart at first.
const SPREAD: f32 = 0.02;

/// See the module.
#[derive(Module, Debug)]
pub struct Network {
    /// vocabulary × hidden; the output matrix as well.
    pub embedding: Param<Tensor<2>>,
    /// One after the other.
    pub blocks: Vec<Block>,
    /// Behind the last.
    pub norm: RmsNorm,
}

/// A layer.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// hidden × hidden, inputs first, as all of these.
    pub query: Linear,
    /// See `query`.
    pub key: Linear,
    /// See `query`.
    pub value: Linear,
    /// Behind attention.
    pub output: Linear,
    /// Before what follows.
    pub feed_forward_norm: RmsNorm,
    /// hidden × feed_forward
    pub gate: Linear,
    /// hidden × feed_forward
    pub up: Linear,
    /// feed_forward × hidden
    pub down: Linear,
}

/// Sentences of about one length, with what is to be learnt of them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// sentences × length, filled up with 0 behind the end.
    pub tokens: Vec<Vec<u32>>,
    /// Places, counted over all sentences as they lie one behind the other, whose next token is learnt.
    pub places: Vec<usize>,
    /// These next tokens.
    pub targets: Vec<u32>,
}

impl Batch {
    /// The same sentences in so many batches, or in fewer where there are fewer sentences.
    pub fn parts(&self, count: usize) -> Vec<Self> {
        let length = self.tokens.first().map_or(0, Vec::len);
        let rows = self.tokens.len().div_ceil(count.max(1)).max(1);
        let mut learnt = self.places.iter().zip(&self.targets).peekable();
        let parts = self.tokens.chunks(rows).enumerate().map(|(number, tokens)| {
            let (from, to) = (number * rows * length, (number + 1) * rows * length);
            let (mut places, mut targets) = (Vec::new(), Vec::new());
            while let Some((place, target)) = learnt.next_if(|(place, _)| **place < to) {
                places.push(place - from);
                targets.push(*target);
            }
            Self {
                tokens: tokens.to_vec(),
                places,
                targets,
            }
        });
        parts.collect()
    }
}

impl Network {
    /// With small random weights from this seed. (Burn's own chance is the process', which others draw from as well.)
    pub fn new(sizes: Sizes, seed: u64, device: &Device) -> Self {
        let mut chance = Chance::new(seed);
        let mut drawn = |shape: [usize; 2], spread: f32| {
            let values: Vec<f32> = (0..shape[0] * shape[1])
                .map(|_| spread * chance.normal())
                .collect();
            Param::from_data(TensorData::new(values, shape), device)
        };
        let norm = || {
            RmsNormConfig::new(sizes.hidden)
                .with_epsilon(NORM_EPSILON)
                .init(device)
        };
        let (hidden, inner) = (sizes.hidden, sizes.feed_forward);
        // What is added to the running state is smaller the more layers there are (Radford et al. 2019).
        let small = SPREAD / (2.0 * sizes.layers as f32).sqrt();
        let embedding = drawn([sizes.vocabulary, hidden], SPREAD);
        let mut linear = |inputs, outputs, spread| Linear {
            weight: drawn([inputs, outputs], spread),
            bias: None,
        };
        let blocks = (0..sizes.layers).map(|_| Block {
            attention_norm: norm(),
            query: linear(hidden, hidden, SPREAD),
            key: linear(hidden, hidden, SPREAD),
            value: linear(hidden, hidden, SPREAD),
            output: linear(hidden, hidden, small),
            feed_forward_norm: norm(),
            gate: linear(hidden, inner, SPREAD),
            up: linear(hidden, inner, SPREAD),
            down: linear(inner, hidden, small),
        });
        Self {
            embedding,
            blocks: blocks.collect(),
            norm: norm(),
        }
    }

    /// The mean negative logarithm of the chance that was given to the targets.
    pub fn loss(&self, sizes: Sizes, batch: &Batch, device: &Device) -> Tensor<1> {
        let (rows, length) = (batch.tokens.len(), batch.tokens.first().map_or(0, Vec::len));
        let ids: Vec<i64> = batch
            .tokens
            .iter()
            .flatten()
            .map(|&token| i64::from(token))
            .collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [rows * length]), device);
        let mut hidden = self.embedding.val().select(0, ids);
        let positions = Positions::new(sizes, length, device);
        for block in &self.blocks {
            let attended = block.attend(
                block.attention_norm.forward(hidden.clone()),
                sizes,
                rows,
                length,
                &positions,
            );
            hidden = hidden + attended;
            let inner = block.feed_forward_norm.forward(hidden.clone());
            let gate = silu(block.gate.forward(inner.clone()));
            hidden = hidden + block.down.forward(gate * block.up.forward(inner));
        }
        let count = batch.places.len();
        let places: Vec<i64> = batch.places.iter().map(|&place| place as i64).collect();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), device);
        let last = self.norm.forward(hidden.select(0, places));
        let logits = last.matmul(self.embedding.val().transpose());
        let targets: Vec<i64> = batch.targets.iter().map(|&token| i64::from(token)).collect();
        let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), device);
        log_softmax(logits, 1).gather(1, targets).mean().neg()
    }
}

impl Block {
    fn attend(
        &self,
        hidden: Tensor<2>,
        sizes: Sizes,
        rows: usize,
        length: usize,
        positions: &Positions,
    ) -> Tensor<2> {
        let heads = |projected: Tensor<2>| {
            projected
                .reshape([rows, length, sizes.heads, sizes.head()])
                .swap_dims(1, 2)
        };
        let query = positions.turn(heads(self.query.forward(hidden.clone())));
        let key = positions.turn(heads(self.key.forward(hidden.clone())));
        let value = heads(self.value.forward(hidden));
        let scale = 1.0 / (sizes.head() as f64).sqrt();
        let scores = query.matmul(key.swap_dims(2, 3)) * scale + positions.mask.clone();
        let attended = softmax(scores, 3).matmul(value);
        let attended = attended.swap_dims(1, 2).reshape([rows * length, sizes.hidden]);
        self.output.forward(attended)
    }
}

/// What depends on where tokens stand.
struct Positions {
    /// 1 × 1 × length × head
    cosines: Tensor<4>,
    /// The same.
    sines: Tensor<4>,
    /// 1 × 1 × length × length: 0 where a token may look, far below where it may not.
    mask: Tensor<4>,
}

impl Positions {
    fn new(sizes: Sizes, length: usize, device: &Device) -> Self {
        let half = sizes.head() / 2;
        let angle =
            |position: usize, pair: usize| position as f64 * ROPE_BASE.powf(-(pair as f64) / half as f64);
        let table = |of: fn(f64) -> f64| {
            let values = (0..length).flat_map(|position| {
                (0..2 * half).map(move |column| of(angle(position, column % half)) as f32)
            });
            Tensor::<4>::from_data(
                TensorData::new(values.collect::<Vec<_>>(), [1, 1, length, 2 * half]),
                device,
            )
        };
        let mask = (0..length)
            .flat_map(|row| (0..length).map(move |column| if column <= row { 0.0 } else { -1e9_f32 }));
        Self {
            cosines: table(f64::cos),
            sines: table(f64::sin),
            mask: Tensor::from_data(
                TensorData::new(mask.collect::<Vec<_>>(), [1, 1, length, length]),
                device,
            ),
        }
    }

    /// Turns the pairs of a head, whose halves lie apart (Su et al. 2021, as Llama's weights have it in `transformers`).
    fn turn(&self, heads: Tensor<4>) -> Tensor<4> {
        let [rows, count, length, size] = heads.dims();
        let half = size / 2;
        let first = heads.clone().slice([0..rows, 0..count, 0..length, 0..half]);
        let second = heads.clone().slice([0..rows, 0..count, 0..length, half..size]);
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        heads * self.cosines.clone() + turned * self.sines.clone()
    }
}
