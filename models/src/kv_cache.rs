//! Keys and values of the tokens a sequence has already seen, as the reference keeps them.

use burn::tensor::{Device, Tensor};

/// The cache of one sequence. It grows by doubling, up to its limit, and a model's forward pass fills it.
///
/// Memory: 2 × layers × key-value heads × head size × capacity × 4 bytes ([`TensorCache::bytes`]).
#[derive(Debug)]
pub(crate) struct TensorCache {
    layers: Vec<Option<Layer>>,
    heads: usize,
    head_size: usize,
    length: usize,
    capacity: usize,
    limit: usize,
    device: Device,
}

/// Keys lie transposed, so that neither matrix product of attention has to copy its operand.
#[derive(Debug)]
struct Layer {
    /// heads × head size × capacity
    keys: Tensor<3>,
    /// heads × capacity × head size
    values: Tensor<3>,
}

impl TensorCache {
    pub(crate) fn new(layers: usize, heads: usize, head_size: usize, limit: usize, device: Device) -> Self {
        let layers = (0..layers).map(|_| None).collect();
        Self {
            layers,
            heads,
            head_size,
            length: 0,
            capacity: 0,
            limit,
            device,
        }
    }

    /// Tokens in the cache.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The most tokens it will hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that its tensors take now.
    pub(crate) fn bytes(&self) -> usize {
        2 * self.layers.len() * self.heads * self.head_size * self.capacity * size_of::<f32>()
    }

    /// Bytes that its tensors take when it has so many tokens.
    pub(crate) fn bytes_for(&self, tokens: usize) -> usize {
        2 * self.layers.len() * self.heads * self.head_size * self.capacity_for(tokens) * size_of::<f32>()
    }

    fn capacity_for(&self, tokens: usize) -> usize {
        match tokens {
            0 => 0,
            _ => tokens.next_power_of_two().max(SMALLEST_CAPACITY).min(self.limit),
        }
    }

    /// Forgets all tokens.
    pub(crate) fn clear(&mut self) {
        self.layers.iter_mut().for_each(|layer| *layer = None);
        (self.length, self.capacity) = (0, 0);
    }

    /// Columns of every layer's tensors; those from [`len`](Self::len) on are zeros.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for so many more tokens, which must fit the limit.
    pub(crate) fn reserve(&mut self, tokens: usize) {
        let needed = self.length + tokens;
        debug_assert!(needed <= self.limit);
        if needed <= self.capacity {
            return;
        }
        self.capacity = self.capacity_for(needed);
        let (length, heads, head_size) = (self.length, self.heads, self.head_size);
        for layer in &mut self.layers {
            let grown = Layer {
                keys: Tensor::zeros([heads, head_size, self.capacity], &self.device),
                values: Tensor::zeros([heads, self.capacity, head_size], &self.device),
            };
            *layer = Some(match layer.take() {
                Some(old) if length > 0 => Layer {
                    keys: grown.keys.slice_assign(
                        [0..heads, 0..head_size, 0..length],
                        old.keys.slice([0..heads, 0..head_size, 0..length]),
                    ),
                    values: grown.values.slice_assign(
                        [0..heads, 0..length, 0..head_size],
                        old.values.slice([0..heads, 0..length, 0..head_size]),
                    ),
                },
                _ => grown,
            });
        }
    }

    /// Writes one layer's keys and values (both tokens × heads × head size) behind the tokens already there, and gives
    /// that layer's whole tensors: keys heads × head size × capacity, values heads × capacity × head size.
    ///
    /// [`reserve`](Self::reserve) comes before the first layer, [`advance`](Self::advance) after the last.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let [tokens, heads, head_size] = keys.dims();
        let (start, end) = (self.length, self.length + tokens);
        // The tensors are taken out so that nobody else holds them: only then are they written in place.
        let old = self.layers[layer].take().unwrap_or_else(|| Layer {
            keys: Tensor::zeros([heads, head_size, self.capacity], &self.device),
            values: Tensor::zeros([heads, self.capacity, head_size], &self.device),
        });
        let keys = old
            .keys
            .slice_assign([0..heads, 0..head_size, start..end], keys.permute([1, 2, 0]));
        let values = old
            .values
            .slice_assign([0..heads, start..end, 0..head_size], values.permute([1, 0, 2]));
        self.layers[layer] = Some(Layer {
            keys: keys.clone(),
            values: values.clone(),
        });
        (keys, values)
    }

    /// Counts tokens that every layer has now.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

const SMALLEST_CAPACITY: usize = 32;
