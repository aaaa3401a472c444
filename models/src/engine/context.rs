//! The tokens of one sequence, and what is kept of those that the model has seen.

use super::prefixes::{NodeId, PageTokens, PrefixIndex};
use crate::model::{Feed, KvCache};
use crate::packed::{PAGE_TOKENS, SharedPage};

/// See the module. Whatever happens to the cache, the tokens stay, and it can be computed again from them.
#[derive(Debug)]
pub(super) struct Context {
    /// The prompt, and behind it what was chosen; the last one has never been fed.
    tokens: Vec<u32>,
    cache: KvCache,
    /// Where its pages begin in the tree of prefixes.
    root: NodeId,
    /// What it holds of the tree of prefixes: a node for each full page.
    held: Vec<NodeId>,
    /// The most tokens that the cache ever had.
    reached: usize,
    /// Those of them that it had from other sequences when it came there for the first time.
    taken_over: usize,
}

type Prefixes = PrefixIndex<SharedPage>;

/// More than there are sets of frequencies by which caches of one model are turned.
const VARIANTS: u64 = 1 << 8;

impl Context {
    /// It shares pages with those of the same generation of weights.
    pub(super) fn new(prompt: &[u32], cache: KvCache, generation: u64) -> Self {
        let variant = cache.pages().map_or(0, |pages| pages.rope_variant() as u64);
        Self {
            tokens: prompt.to_vec(),
            root: Prefixes::root(generation * VARIANTS + variant % VARIANTS),
            cache,
            held: Vec::new(),
            reached: 0,
            taken_over: 0,
        }
    }

    /// A token was chosen.
    pub(super) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// How many of them the cache has.
    pub(super) fn fed(&self) -> usize {
        self.cache.len()
    }

    /// How many it has to be fed, at least one.
    pub(super) fn rest(&self) -> usize {
        self.len() - self.fed()
    }

    /// Tokens that other sequences had computed.
    pub(super) fn taken_over(&self) -> usize {
        self.taken_over
    }

    /// The next so many tokens for a step.
    pub(super) fn feed(&mut self, count: usize) -> Feed<'_> {
        let fed = self.fed();
        self.taken_over += fed.saturating_sub(self.reached);
        self.reached = self.reached.max(fed + count);
        Feed {
            cache: &mut self.cache,
            tokens: &self.tokens[fed..fed + count],
            wants_logits: fed + count == self.tokens.len(),
        }
    }

    /// Bytes of the cache when it has all tokens.
    pub(super) fn bytes_in_the_end(&self) -> usize {
        self.cache.bytes_for(self.len())
    }

    /// Bytes of the cache when it has so many tokens more.
    pub(super) fn bytes_after(&self, tokens: usize) -> usize {
        self.cache.bytes_for(self.fed() + tokens)
    }

    /// Bytes of the cache, what it shares among them.
    pub(super) fn bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Bytes of the cache that are in no tree.
    pub(super) fn own_bytes(&self) -> usize {
        let page = self.cache.pages().map_or(0, |pages| pages.page_bytes());
        self.bytes() - self.held.len() * page
    }

    /// Takes what others have computed of the tokens that come next, but for the last: that one must be fed, to know what
    /// follows it.
    pub(super) fn take_over(&mut self, prefixes: &mut Prefixes) {
        while let Some(tokens) = self.next_page().copied() {
            let Some((id, page)) = prefixes.hold(self.parent(), &tokens) else {
                break;
            };
            self.held.push(id);
            if let Some(pages) = self.cache.pages_mut() {
                pages.take_over(page);
            }
        }
    }

    /// Puts the pages that a step has filled where others find them.
    pub(super) fn share(&mut self, prefixes: &mut Prefixes) {
        while (self.held.len() + 1) * PAGE_TOKENS <= self.fed() {
            let (number, parent) = (self.held.len(), self.parent());
            let (Some(tokens), Some(pages)) = (self.page_tokens(number).copied(), self.cache.pages_mut())
            else {
                return;
            };
            let Some(page) = pages.page(number).cloned() else {
                return;
            };
            let (id, theirs) = prefixes.insert(parent, &tokens, page);
            if let Some(theirs) = theirs {
                pages.replace(number, theirs);
            }
            self.held.push(id);
        }
    }

    /// Empties the cache; full pages stay in the tree until their memory is wanted.
    pub(super) fn release(&mut self, prefixes: &mut Prefixes) {
        prefixes.release(&mut self.held);
        self.cache.clear();
    }

    /// Whether it is about to compute a page that `other` can take over then.
    pub(super) fn is_ahead_of(&self, other: &Context) -> bool {
        let end = other.fed() + PAGE_TOKENS;
        other.next_page().is_some()
            && self.root == other.root
            && self.fed() <= other.fed()
            && self.tokens.get(..end) == other.tokens.get(..end)
    }

    /// The tokens of the next page, if it would be a whole one and not have the last token.
    fn next_page(&self) -> Option<&PageTokens> {
        let number = self.held.len();
        let is_next = self.cache.pages().is_some()
            && self.fed() == number * PAGE_TOKENS
            && (number + 1) * PAGE_TOKENS < self.len();
        self.page_tokens(number).filter(|_| is_next)
    }

    fn page_tokens(&self, number: usize) -> Option<&PageTokens> {
        self.tokens.get(number * PAGE_TOKENS..)?.first_chunk()
    }

    fn parent(&self) -> NodeId {
        self.held.last().copied().unwrap_or(self.root)
    }

    #[cfg(test)]
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    #[cfg(test)]
    pub(super) fn cache(&self) -> &KvCache {
        &self.cache
    }
}
