//! Keys and values of the tokens that a sequence has seen, in pages.

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::architecture::rope::RopeTable;
use crate::architecture::spec::{LayerSpec, NetworkSpec};
use crate::kernels::attention::{Numbers, Span};
use crate::kernels::attention_int8::{Int8, blocks, quantise};
use crate::precision::KvPrecision;

/// Tokens of a page.
pub(crate) const PAGE_TOKENS: usize = 16;

/// The cache of one sequence. It grows page by page, up to its limit.
///
/// Full pages may be shared with other sequences that begin alike: nobody writes into them any more.
#[derive(Debug)]
pub(crate) struct PagedCache {
    shape: Shape,
    pages: Vec<SharedPage>,
    length: usize,
    limit: usize,
    /// As the description's rotations, for a sequence of this limit.
    pub(super) ropes: Arc<Vec<RopeTable>>,
    rope_variant: usize,
}

/// What is kept of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
    pub(super) precision: KvPrecision,
}

/// A page that several may hold.
pub(crate) type SharedPage = Arc<Page>;

/// Layers × key-value heads × tokens × head size, twice.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    Halves { keys: Box<[f16]>, values: Box<[f16]> },
    Int8 { keys: Bytes, values: Bytes },
}

#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    values: Box<[i8]>,
    /// A scale for each block of each head.
    scales: Box<[f32]>,
}

impl PagedCache {
    /// `rope_variant` tells `ropes` apart from those of other caches of the same model.
    pub(super) fn new(shape: Shape, limit: usize, ropes: Arc<Vec<RopeTable>>, rope_variant: usize) -> Self {
        Self {
            shape,
            pages: Vec::new(),
            length: 0,
            limit,
            ropes,
            rope_variant,
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

    /// Bytes of its pages, those that it shares among them.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * self.page_bytes()
    }

    /// Bytes of one page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.shape.page_bytes()
    }

    /// Which of the model's sets of frequencies it is turned by: pages fit only caches of the same.
    pub(crate) fn rope_variant(&self) -> usize {
        self.rope_variant
    }

    /// A page of its own or a shared one.
    pub(crate) fn page(&self, number: usize) -> Option<&SharedPage> {
        self.pages.get(number)
    }

    /// Puts a page with what comes next behind the full pages that it has.
    pub(crate) fn take_over(&mut self, page: SharedPage) {
        debug_assert_eq!(self.pages.len() * PAGE_TOKENS, self.length);
        self.pages.push(page);
        self.length += PAGE_TOKENS;
    }

    /// Holds this page instead of its own with the same content.
    pub(crate) fn replace(&mut self, number: usize, page: SharedPage) {
        if let Some(own) = self.pages.get_mut(number) {
            *own = page;
        }
    }

    /// Forgets all tokens.
    pub(crate) fn clear(&mut self) {
        self.pages = Vec::new();
        self.length = 0;
    }

    /// Makes room for so many more tokens, which must fit the limit.
    pub(super) fn reserve(&mut self, tokens: usize) {
        let pages = (self.length + tokens).div_ceil(PAGE_TOKENS);
        while self.pages.len() < pages {
            self.pages.push(Arc::new(Page::new(self.shape)));
        }
    }

    /// Counts tokens that every layer has now.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Writes one token's keys and values of one layer, each key-value heads × head size.
    pub(super) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let Shape {
            head_size, kv_heads, ..
        } = self.shape;
        let Some(page) = self.pages.get_mut(position / PAGE_TOKENS) else {
            return;
        };
        // Only pages that are full are shared, so that this copies nothing.
        let page = Arc::make_mut(page);
        for head in 0..kv_heads {
            let from = head * head_size..(head + 1) * head_size;
            let row = (layer * kv_heads + head) * PAGE_TOKENS + position % PAGE_TOKENS;
            page.write(row, &keys[from.clone()], &values[from]);
        }
    }

    /// What one head of a layer has of the tokens at some positions, at least one.
    pub(super) fn spans(
        &self,
        layer: usize,
        head: usize,
        positions: Range<usize>,
    ) -> impl Iterator<Item = Span<'_>> {
        let Shape {
            head_size, kv_heads, ..
        } = self.shape;
        let row = (layer * kv_heads + head) * PAGE_TOKENS;
        let pages = positions.start / PAGE_TOKENS..positions.end.div_ceil(PAGE_TOKENS);
        pages.filter_map(move |number| {
            let from = positions.start.saturating_sub(number * PAGE_TOKENS);
            let to = PAGE_TOKENS.min(positions.end - number * PAGE_TOKENS);
            let page = self.pages.get(number)?;
            Some(page.span(row + from..row + to, head_size))
        })
    }
}

impl Page {
    fn new(shape: Shape) -> Page {
        let values = shape.rows() * shape.head_size;
        match shape.precision {
            KvPrecision::F16 => Self::Halves {
                keys: vec![f16::ZERO; values].into(),
                values: vec![f16::ZERO; values].into(),
            },
            KvPrecision::Int8 => {
                let empty = || Bytes {
                    values: vec![0; values].into(),
                    scales: vec![0.0; shape.rows() * blocks(shape.head_size)].into(),
                };
                Self::Int8 {
                    keys: empty(),
                    values: empty(),
                }
            }
        }
    }

    /// A row is what one head of one layer has of one token.
    fn write(&mut self, row: usize, key: &[f32], value: &[f32]) {
        let at = row * key.len()..(row + 1) * key.len();
        match self {
            Self::Halves { keys, values } => {
                keys[at.clone()].convert_from_f32_slice(key);
                values[at].convert_from_f32_slice(value);
            }
            Self::Int8 { keys, values } => {
                keys.write(row, key);
                values.write(row, value);
            }
        }
    }

    fn span(&self, rows: Range<usize>, head_size: usize) -> Span<'_> {
        let at = rows.start * head_size..rows.end * head_size;
        match self {
            Self::Halves { keys, values } => Span {
                keys: Numbers::Halves(&keys[at.clone()]),
                values: Numbers::Halves(&values[at]),
            },
            Self::Int8 { keys, values } => Span {
                keys: Numbers::Int8(keys.rows(rows.clone(), head_size)),
                values: Numbers::Int8(values.rows(rows, head_size)),
            },
        }
    }
}

impl Bytes {
    fn write(&mut self, row: usize, floats: &[f32]) {
        let scales = blocks(floats.len());
        quantise(
            floats,
            &mut self.values[row * floats.len()..(row + 1) * floats.len()],
            &mut self.scales[row * scales..(row + 1) * scales],
        );
    }

    fn rows(&self, rows: Range<usize>, head_size: usize) -> Int8<'_> {
        let scales = blocks(head_size);
        Int8 {
            values: &self.values[rows.start * head_size..rows.end * head_size],
            scales: &self.scales[rows.start * scales..rows.end * scales],
        }
    }
}

impl Shape {
    /// What a network keeps. All layers have the same, which the description was checked for.
    pub(super) fn of(spec: &NetworkSpec, precision: KvPrecision) -> Self {
        let width = |layer: &LayerSpec| (layer.kv_heads, layer.head_size);
        let (kv_heads, head_size) = spec.layers.first().map_or((0, 0), width);
        Self {
            layers: spec.layers.len(),
            kv_heads,
            head_size,
            precision,
        }
    }

    /// Bytes of one page.
    pub(super) fn page_bytes(self) -> usize {
        let head_size = self.head_size;
        let head = match self.precision {
            KvPrecision::F16 => head_size * size_of::<f16>(),
            KvPrecision::Int8 => head_size + blocks(head_size) * size_of::<f32>(),
        };
        2 * self.rows() * head
    }

    /// Rows of a page's keys, and of its values.
    fn rows(self) -> usize {
        self.layers * self.kv_heads * PAGE_TOKENS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_take_little_more_than_half_of_what_sixteen_take() {
        let [halves, bytes] = KvPrecision::ALL.map(|precision| {
            let shape = Shape {
                layers: 3,
                kv_heads: 2,
                head_size: 128,
                precision,
            };
            let mut cache = PagedCache::new(shape, 100, Arc::new(Vec::new()), 0);
            assert_eq!(cache.bytes(), 0);
            cache.reserve(17);
            assert_eq!(cache.bytes(), 2 * cache.page_bytes());
            let of_page = |page: &SharedPage| match &**page {
                Page::Halves { keys, values } => 2 * (keys.len() + values.len()),
                Page::Int8 { keys, values } => {
                    let bytes = |part: &Bytes| part.values.len() + 4 * part.scales.len();
                    bytes(keys) + bytes(values)
                }
            };
            assert_eq!(cache.pages.iter().map(of_page).sum::<usize>(), cache.bytes());
            cache.bytes()
        });
        assert_eq!(bytes * 16, halves * 9);
    }
}
