//! What becomes of gradients: Muon (Jordan et al. 2024; at AdamW's rates as Liu et al. 2025 have it) for the matrices of the layers,
//! AdamW for embedding and norms. Muon makes every update of a matrix an orthogonal one, which costs a third of a step on one core;
//! so each layer has an optimizer of its own, and some threads share the layers.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::ParamGroup;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{
    AdamWConfig, AdjustLrFn, GradientsAccumulator, GradientsParams, ModuleOptimizer, MuonConfig,
};
use burn::store::RecordError;
use burn::tensor::Gradients;

use crate::network::{Block, Network};

/// Threads among which the layers are divided.
const THREADS: usize = 2;
/// Of Muon; AdamW's is smaller, as it works on embeddings and norms only.
const MATRIX_DECAY: f32 = 0.1;

/// See the module.
pub(crate) struct Optimizers {
    /// Of all that is no layer.
    ends: ModuleOptimizer,
    layers: Vec<ModuleOptimizer>,
}

/// Those of a part of a batch.
pub(crate) struct Slopes {
    ends: GradientsParams,
    layers: Vec<GradientsParams>,
}

impl Slopes {
    /// All of them.
    pub(crate) fn of(network: &Network, mut gradients: Gradients) -> Self {
        let layers = network
            .blocks
            .iter()
            .map(|block| GradientsParams::from_module(&mut gradients, block))
            .collect();
        Self {
            layers,
            ends: GradientsParams::from_grads(gradients, network),
        }
    }
}

impl Optimizers {
    /// For a network of so many layers.
    pub(crate) fn new(layers: usize) -> Self {
        let adam = || {
            AdamWConfig::new()
                .with_beta_2(0.99)
                .with_epsilon(1e-8)
                .with_weight_decay(0.01)
                .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
                .init()
        };
        let muon = || {
            MuonConfig::new()
                .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                .with_weight_decay(Some(WeightDecayConfig::new(MATRIX_DECAY)))
                .build()
        };
        let layer = |_| adam().with_group(ParamGroup::from_predicate("weight"), muon(), None);
        Self {
            ends: adam(),
            layers: (0..layers).map(layer).collect(),
        }
    }

    /// A step by the sum of these, which are added in their order.
    pub(crate) fn step(&mut self, rate: f64, mut network: Network, parts: Vec<Slopes>) -> Network {
        let mut ends = GradientsAccumulator::new();
        let mut layers: Vec<(Block, &mut ModuleOptimizer, Vec<GradientsParams>)> = network
            .blocks
            .drain(..)
            .zip(&mut self.layers)
            .map(|(block, optimizer)| (block, optimizer, Vec::new()))
            .collect();
        for part in parts {
            ends.accumulate(&network, part.ends);
            for ((_, _, slopes), slope) in layers.iter_mut().zip(part.layers) {
                slopes.push(slope);
            }
        }
        let each = layers.len().div_ceil(THREADS).max(1);
        let mut shares = Vec::new();
        while !layers.is_empty() {
            let rest = layers.split_off(each.min(layers.len()));
            shares.push(std::mem::replace(&mut layers, rest));
        }
        network.blocks = thread::scope(|scope| {
            let threads: Vec<_> = shares
                .into_iter()
                .map(|share| scope.spawn(move || stepped(rate, share)))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| {
                    // Nothing but a fault of ours ends a thread: it ends this one, too.
                    thread.join().unwrap_or_else(|fault| resume_unwind(fault))
                })
                .collect()
        });
        self.ends.step(rate, network, ends.grads())
    }

    /// Writes what they remember of earlier steps.
    pub(crate) fn save(&self, directory: &Path, step: usize) -> Result<(), (PathBuf, RecordError)> {
        let paths = Self::paths(directory, step, self.layers.len());
        let all = std::iter::once(&self.ends).chain(&self.layers);
        all.zip(paths)
            .try_for_each(|(optimizer, path)| optimizer.save(&path).map_err(|error| (path, error)))
    }

    /// Reads it.
    pub(crate) fn load(self, directory: &Path, step: usize) -> Result<Self, PathBuf> {
        let mut paths = Self::paths(directory, step, self.layers.len());
        let mut load = |optimizer: ModuleOptimizer| {
            let path = paths.next().unwrap_or_default();
            optimizer.load(&path).map_err(|_| path)
        };
        Ok(Self {
            ends: load(self.ends)?,
            layers: self.layers.into_iter().map(load).collect::<Result<_, _>>()?,
        })
    }

    /// Where they are kept.
    pub(crate) fn paths(directory: &Path, step: usize, layers: usize) -> impl Iterator<Item = PathBuf> {
        (0..=layers).map(move |part| directory.join(format!("optimizer-{step}-{part}.bpk")))
    }
}

fn stepped(rate: f64, layers: Vec<(Block, &mut ModuleOptimizer, Vec<GradientsParams>)>) -> Vec<Block> {
    let step = |(block, optimizer, slopes): (Block, &mut ModuleOptimizer, Vec<GradientsParams>)| {
        let mut sum = GradientsAccumulator::new();
        for slope in slopes {
            sum.accumulate(&block, slope);
        }
        optimizer.step(rate, block, sum.grads())
    };
    layers.into_iter().map(step).collect()
}
