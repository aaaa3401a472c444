//! Grammars that force an answer's form, by the crate llguidance: compiled once, kept for the next request, and stepped
//! token by token beside the model.
//!
//! The model is free in how it cuts the form into tokens; a mask says at each step which tokens may follow. Special tokens
//! stand for no text, so that none can be written where a form wants text.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::{GrammarInit, GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Logger, Matcher, ParserFactory, TokenParser};
use serde_json::{Value, json};

use super::call_style::CallStyle;
use super::tools::Tool;
use crate::deep_stack::on_deep_stack;
use crate::tokenizer::Tokenizer;

/// What the text of an answer is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form<'r> {
    /// JSON under this schema.
    Json(&'r Value),
    /// What this expression matches wholly.
    Regex(&'r str),
    /// One of these.
    Choice(&'r [String]),
    /// Calls of these tools.
    Calls {
        style: CallStyle,
        tools: Vec<&'r Tool>,
        several: bool,
    },
}

/// The grammars of one model.
#[derive(Default)]
pub(crate) struct Grammars {
    /// Made with the first form that is asked for: it costs a table of the whole vocabulary.
    factory: Option<Result<ParserFactory, String>>,
    /// What was compiled, by its text, the most recent last.
    kept: VecDeque<(String, TokenParser)>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grammars({} kept)", self.kept.len())
    }
}

/// How many compiled grammars are kept.
const KEPT: usize = 16;
/// Space between the parts of JSON: enough for a line break and its indentation, and never without end.
const SPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";
/// Longer tokens are never part of a form; the library's table holds no longer ones.
const LONGEST_TOKEN_BYTES: usize = 512;
/// And no more bytes than this.
const VOCABULARY_BYTES: usize = 4_000_000;
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        // A kilobyte or two each, for each running sequence.
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        // They repeat the grammar and what was said.
        verbose_errors: false,
    }
}

impl Grammars {
    /// A grammar for an answer of this form. Where the text begins with a space that is taken off again, the grammar
    /// wants that space, too.
    ///
    /// # Errors
    /// What is wrong with the form, in words.
    pub(super) fn constraint(
        &mut self,
        tokenizer: &Tokenizer,
        form: &Form<'_>,
        begins_with_space: bool,
    ) -> Result<Constraint, String> {
        let factory = self.factory.get_or_insert_with(|| factory(tokenizer));
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let grammar = grammar(tokenizer, form, begins_with_space);
        let key = serde_json::to_string(&grammar).map_err(|error| error.to_string())?;
        let known = self.kept.iter().position(|(known, _)| *known == key);
        let parser = match known.and_then(|at| self.kept.remove(at)) {
            Some((_, parser)) => parser,
            None => compile(factory, grammar)?,
        };
        // A copy with tables of its own: what one sequence looked up costs another nothing, and spares it nothing, so
        // that the limits of a step strike the same whatever runs beside it.
        let own = parser.deep_clone();
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((key, parser));
        Ok(Constraint {
            matcher: Matcher::new(Ok(own)),
            mask: None,
            ends_before_space: matches!(form, Form::Json(_)),
            is_complete: false,
        })
    }
}

fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, String> {
    let unusable = |why: String| format!("no form can be forced with this model's tokenizer: {why}");
    let special: HashSet<u32> = tokenizer.special_ids().collect();
    let words: Vec<Vec<u8>> = (0u32..)
        .take(tokenizer.vocabulary_size())
        .map(|token| word(tokenizer, &special, token))
        .collect();
    let bytes: usize = words.iter().map(Vec::len).sum();
    let size = u32::try_from(words.len())
        .ok()
        .filter(|&size| size > 0 && size < 0xff_ffff && bytes <= VOCABULARY_BYTES)
        .ok_or_else(|| unusable(format!("it has {} tokens of {bytes} bytes", words.len())))?;
    let ends = tokenizer.ends();
    let info = TokRxInfo::new(size, ends.first().copied().unwrap_or(INVALID_TOKEN));
    // The library asserts what it needs of a vocabulary; ours comes from a file.
    let made = catch_unwind(AssertUnwindSafe(|| {
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(ends);
        }
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok::<_, String>(factory)
    }));
    match made {
        Ok(Ok(factory)) => Ok(factory),
        Ok(Err(error)) => Err(unusable(brief(&error))),
        Err(_) => Err(unusable("it contradicts itself".to_owned())),
    }
}

/// The bytes of a token where it may be part of a form; none where it may not.
fn word(tokenizer: &Tokenizer, special: &HashSet<u32>, token: u32) -> Vec<u8> {
    let piece = tokenizer.piece(token);
    // 0xff begins the library's own names of special tokens, and is in no text.
    let usable = piece.len() <= LONGEST_TOKEN_BYTES
        && piece.first() != Some(&0xff)
        && !tokenizer.is_end(token)
        && !special.contains(&token);
    if usable { piece.to_vec() } else { Vec::new() }
}

fn compile(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
    // The compiler calls itself for every level of a schema and every step of a chain of `$ref`s, which a schema of the
    // largest size can make some thousand deep.
    let compiled = on_deep_stack(|| {
        factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            limits(),
        )
    })?;
    let mut parser = compiled.map_err(|error| brief(&error.to_string()))?;
    if parser.is_fresh() {
        parser.start_without_prompt();
    }
    Ok(parser)
}

/// The library's words without what follows them for its own makers, and of a drawing of where a regular expression is
/// wrong only the words beneath.
fn brief(message: &str) -> String {
    let lines = || message.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines()
        .find_map(|line| line.strip_prefix("error: "))
        .or_else(|| lines().next());
    let line = line.unwrap_or_default().replace("<non-verbose/>", "");
    let mut line = line.trim().trim_end_matches('.').to_owned();
    if let Some((at, _)) = line.char_indices().nth(300) {
        line.truncate(at);
    }
    line
}

fn grammar(tokenizer: &Tokenizer, form: &Form<'_>, begins_with_space: bool) -> TopLevelGrammar {
    let mut others = Vec::new();
    let body = match form {
        Form::Json(schema) => {
            others.push(json_grammar("json", schema));
            "answer: @json\n".to_owned()
        }
        Form::Regex(pattern) => {
            // As in JSON schemas: \d and \w are what most people think they are, and no Thai digits.
            let pattern = llguidance::regex_to_lark(without_anchors(pattern), "dw");
            format!("answer: TEXT\nTEXT: /{pattern}/\n")
        }
        Form::Choice(choices) => {
            let choices = choices
                .iter()
                .map(|choice| Value::from(choice.as_str()).to_string());
            format!(
                "answer: TEXT\nTEXT: {}\n",
                choices.collect::<Vec<_>>().join(" | ")
            )
        }
        Form::Calls {
            style,
            tools,
            several,
        } => {
            others.extend(
                tools
                    .iter()
                    .enumerate()
                    .map(|(number, tool)| json_grammar(&format!("arguments_{number}"), &tool.parameters())),
            );
            style.grammar(tools, *several, |marker| match tokenizer.special_id(marker) {
                Some(token) => format!("<[{token}]>"),
                None => Value::from(marker).to_string(),
            })
        }
    };
    let start = if begins_with_space {
        "start: \" \" answer\n"
    } else {
        "start: answer\n"
    };
    let mut grammars = vec![GrammarWithLexer::from_lark(format!("{start}{body}"))];
    grammars.append(&mut others);
    TopLevelGrammar {
        grammars,
        max_tokens: None,
    }
}

fn json_grammar(name: &str, schema: &Value) -> GrammarWithLexer {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        // The library's own options would be read from here; they are ours to choose.
        fields.insert("x-guidance".to_owned(), json!({"whitespace_pattern": SPACE}));
    }
    let mut grammar = GrammarWithLexer::from_json_schema(schema);
    grammar.name = Some(name.to_owned());
    grammar
}

/// An answer is matched wholly in any case.
fn without_anchors(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let escaped = |pattern: &str| pattern.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
    match pattern.strip_suffix('$') {
        Some(before) if !escaped(before) => before,
        _ => pattern,
    }
}

/// A form that a sequence is on its way through.
pub(super) struct Constraint {
    matcher: Matcher,
    /// Of the next token, if it was asked for already.
    mask: Option<SimpleVob>,
    /// Whether the answer is over as soon as only space could follow.
    ends_before_space: bool,
    is_complete: bool,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("is_complete", &self.is_complete)
            .finish_non_exhaustive()
    }
}

impl Constraint {
    /// Which tokens may follow.
    pub(super) fn allowed(&mut self) -> Result<&SimpleVob, String> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => self
                .matcher
                .compute_mask()
                .map_err(|error| stuck(&error.to_string()))?,
        };
        Ok(self.mask.insert(mask))
    }

    /// Takes the token that was chosen among these.
    pub(super) fn accept(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<(), String> {
        self.mask = None;
        let taken = self.matcher.consume_token(token);
        taken.map_err(|error| stuck(&error.to_string()))?;
        self.is_complete = self.matcher.is_stopped() || self.only_space_follows(tokenizer)?;
        Ok(())
    }

    /// Takes a token that was chosen elsewhere. It is looked up as if it was to be chosen here, so that the library's limits
    /// strike where they would have struck.
    pub(super) fn repeat(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<(), String> {
        if !is_among(self.allowed()?, token) {
            return Err("the form of the answer does not allow it there".to_owned());
        }
        self.accept(tokenizer, token)
    }

    /// Whether nothing can follow.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    fn only_space_follows(&mut self, tokenizer: &Tokenizer) -> Result<bool, String> {
        let accepting = self.matcher.is_accepting();
        if !self.ends_before_space || !accepting.map_err(|error| stuck(&error.to_string()))? {
            return Ok(false);
        }
        let blank = |token: u32| tokenizer.piece(token).iter().all(u8::is_ascii_whitespace);
        Ok(self.allowed()?.iter().all(blank))
    }
}

/// Whether a mask allows this token; it ends where the vocabulary does.
pub(super) fn is_among(allowed: &SimpleVob, token: u32) -> bool {
    (token as usize) < allowed.len() && allowed.is_allowed(token)
}

fn stuck(error: &str) -> String {
    format!(
        "the form of the answer could not be forced any further ({}); simplify it",
        brief(error)
    )
}
