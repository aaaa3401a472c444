//! Keys and values of the tokens that a sequence has seen, as halves, in pages.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::architecture::rope::RopeTable;
use crate::kernels::attention::Span;

/// Tokens of a page.
const PAGE_TOKENS: usize = 16;

/// The cache of one sequence. It grows page by page, up to its limit.
///
/// Pages may be shared with other sequences that begin alike: who writes into a page that is not its own alone writes
/// into a copy of it.
#[derive(Clone, Debug)]
pub(crate) struct PagedCache {
    shape: Shape,
    pages: Vec<Arc<Page>>,
    length: usize,
    limit: usize,
    /// As the description's rotations, for a sequence of this limit.
    pub(super) ropes: Arc<Vec<RopeTable>>,
}

/// What is kept of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
}

/// Layers × key-value heads × tokens × head size, twice.
#[derive(Clone, Debug)]
struct Page {
    keys: Box<[f16]>,
    values: Box<[f16]>,
}

impl PagedCache {
    pub(super) fn new(shape: Shape, limit: usize, ropes: Arc<Vec<RopeTable>>) -> Self {
        Self {
            shape,
            pages: Vec::new(),
            length: 0,
            limit,
            ropes,
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
        self.pages.len() * 2 * self.shape.page_values() * size_of::<f16>()
    }

    /// Makes room for so many more tokens, which must fit the limit.
    pub(super) fn reserve(&mut self, tokens: usize) {
        let pages = (self.length + tokens).div_ceil(PAGE_TOKENS);
        while self.pages.len() < pages {
            let empty = || vec![f16::ZERO; self.shape.page_values()].into_boxed_slice();
            self.pages.push(Arc::new(Page {
                keys: empty(),
                values: empty(),
            }));
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
        let page = Arc::make_mut(page);
        for head in 0..kv_heads {
            let from = head * head_size..(head + 1) * head_size;
            let at = ((layer * kv_heads + head) * PAGE_TOKENS + position % PAGE_TOKENS) * head_size;
            page.keys[at..at + head_size].convert_from_f32_slice(&keys[from.clone()]);
            page.values[at..at + head_size].convert_from_f32_slice(&values[from]);
        }
    }

    /// What one head of a layer has of the tokens from `first` to `last`, both included.
    pub(super) fn spans(
        &self,
        layer: usize,
        head: usize,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = Span<'_>> + Clone {
        let Shape {
            head_size, kv_heads, ..
        } = self.shape;
        let start = (layer * kv_heads + head) * PAGE_TOKENS * head_size;
        let pages = first / PAGE_TOKENS..=last / PAGE_TOKENS;
        pages.filter_map(move |number| {
            let page = self.pages.get(number)?;
            let from = first.saturating_sub(number * PAGE_TOKENS);
            let to = PAGE_TOKENS.min(last + 1 - number * PAGE_TOKENS);
            let range = start + from * head_size..start + to * head_size;
            Some(Span {
                keys: &page.keys[range.clone()],
                values: &page.values[range],
            })
        })
    }
}

impl Shape {
    fn page_values(self) -> usize {
        self.layers * self.kv_heads * PAGE_TOKENS * self.head_size
    }
}
