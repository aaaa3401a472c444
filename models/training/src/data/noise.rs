//! How sentences come out of people, keyboards and speech recognition: polite, hesitant, with slips.

use super::Language;
use super::chance::Chance;
use super::slips::slip;
use models::assistant::actions::Action;
use models::assistant::intents::UNSUPPORTED;

/// A part of a sentence.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) text: String,
    /// Whether a slip would change what is meant: a span is given as it is written.
    pub(super) is_span: bool,
}

impl Segment {
    pub(super) fn words(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            is_span: false,
        }
    }

    /// A value. In a word that is known a slip is only a slip.
    pub(super) fn span(text: &str, is_known_word: bool) -> Self {
        Self {
            text: text.to_owned(),
            is_span: !is_known_word,
        }
    }
}

/// Single blanks, none at the ends, none before a comma.
pub(super) fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !tidied.is_empty() && !word.starts_with([',', '.', '!', '?']) {
            tidied.push(' ');
        }
        tidied.push_str(word);
    }
    tidied
}

/// One sentence of several.
pub(super) fn joined(parts: Vec<Vec<Segment>>, language: Language, chance: &mut Chance) -> Vec<Segment> {
    let joints: &[&str] = match language {
        Language::English => &[
            " and ",
            " and ",
            " and ",
            " then ",
            " and then ",
            ", ",
            ", and ",
            " and also ",
            ", also ",
            ". ",
            " plus ",
            ", then ",
            " after that ",
            " as well as ",
        ],
        Language::Chinese => &[
            "，",
            "，",
            "，",
            "然后",
            "，然后",
            "再",
            "，再",
            "，并且",
            "并",
            "，顺便",
            "，还有",
            "，同时",
            "接着",
            " ",
            "。",
            "、",
        ],
    };
    let mut all = Vec::new();
    for part in parts {
        if !all.is_empty() {
            all.push(Segment::words(chance.pick(joints).copied().unwrap_or(" ")));
        }
        all.extend(part);
    }
    all
}

/// The sentence as somebody says or types it.
pub(super) fn disturbed(
    mut segments: Vec<Segment>,
    actions: &[Action],
    has_lead: bool,
    language: Language,
    chance: &mut Chance,
) -> Vec<Segment> {
    if chance.percent(11) {
        slip(&mut segments, language, chance);
    }
    let is_out_of_reach = actions.iter().any(|action| action.intent == UNSUPPORTED);
    let is_talk = actions
        .iter()
        .any(|action| action.intent.starts_with("Clawdbot") || action.intent == "HassNevermind");
    let is_question = actions
        .iter()
        .any(|action| action.intent.starts_with("HassGet") || action.intent.ends_with("Status"));
    match language {
        Language::English => {
            let first: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            let is_imperative = first
                .split_whitespace()
                .next()
                .is_some_and(|word| VERBS.contains(&word));
            english_manners(&mut segments, is_imperative, is_talk, chance);
            english_writing(&mut segments, is_question, chance);
        }
        Language::Chinese => {
            // What is not to be done is not asked for more politely here than there.
            // Nor are reasons.
            let asks = !is_talk && !is_question && !is_out_of_reach && !has_lead;
            chinese_manners(&mut segments, asks, is_talk, chance);
            chinese_writing(&mut segments, is_question, chance);
        }
    }
    segments
}

/// With which a command begins that can be asked for politely.
const VERBS: &[&str] = &[
    "turn",
    "switch",
    "put",
    "set",
    "dim",
    "brighten",
    "open",
    "close",
    "shut",
    "lock",
    "unlock",
    "start",
    "stop",
    "pause",
    "resume",
    "play",
    "skip",
    "mute",
    "unmute",
    "make",
    "change",
    "raise",
    "lower",
    "increase",
    "decrease",
    "add",
    "cancel",
    "activate",
    "deactivate",
    "enable",
    "disable",
    "toggle",
    "flip",
    "flick",
    "kill",
    "cut",
    "bring",
    "take",
    "give",
    "tell",
    "announce",
    "broadcast",
    "send",
    "let",
    "run",
    "vacuum",
    "clean",
    "hoover",
    "check",
    "remind",
    "call",
    "order",
    "book",
    "show",
    "find",
    "read",
    "write",
    "get",
    "drop",
    "crank",
    "pull",
    "draw",
    "roll",
    "power",
    "fire",
    "adjust",
    "move",
    "go",
    "leave",
    "keep",
    "remove",
    "extend",
    "shorten",
    "end",
    "clear",
    "begin",
    "continue",
    "light",
    "warm",
    "cool",
    "heat",
    "translate",
    "buy",
    "schedule",
    "text",
    "email",
    "explain",
    "sing",
    "count",
];

fn english_manners(segments: &mut Vec<Segment>, is_imperative: bool, is_talk: bool, chance: &mut Chance) {
    const ASKING: &[&str] = &[
        "please ",
        "please ",
        "please ",
        "can you ",
        "can you ",
        "could you ",
        "could you please ",
        "can you please ",
        "would you ",
        "will you ",
        "would you please ",
        "would you kindly ",
        "kindly ",
        "i want you to ",
        "i need you to ",
        "i'd like you to ",
        "go ahead and ",
        "just ",
        "quickly ",
        "you can ",
        "can we ",
        "let's ",
        "be a dear and ",
        "do me a favor and ",
        "do me a favour and ",
        "if you could ",
        "now ",
        "ok now ",
        "right, ",
        "i would like you to ",
    ];
    const OPENING: &[&str] = &[
        "hey ",
        "hey, ",
        "ok ",
        "okay ",
        "okay, ",
        "um ",
        "uh ",
        "erm ",
        "so ",
        "well ",
        "hi ",
        "hello, ",
        "hey clawdbot ",
        "clawdbot, ",
        "clawdbot ",
        "ok clawdbot, ",
        "computer, ",
        "assistant, ",
        "oh ",
        "ah ",
        "right ",
        "alright ",
        "hey there, ",
        "hmm ",
        "yo ",
        "yeah ",
        "thanks, now ",
    ];
    const CLOSING: &[&str] = &[
        " please",
        " please",
        " please",
        ", please",
        " thanks",
        ", thanks",
        " thank you",
        " for me",
        " for me please",
        " now",
        " right now",
        " will you",
        " would you",
        " ok",
        " okay",
        " if you can",
        " when you get a chance",
        " real quick",
        " asap",
        " cheers",
        " mate",
        ", thank you",
    ];
    if is_talk {
        return;
    }
    if is_imperative && chance.percent(28) {
        put_first(segments, chance.pick(ASKING));
    }
    if chance.percent(14) {
        put_first(segments, chance.pick(OPENING));
    }
    if is_imperative && chance.percent(14) {
        segments.extend(chance.pick(CLOSING).map(|text| Segment::words(text)));
    }
    // A hesitation in the middle.
    if chance.percent(4) && segments.len() > 2 {
        let at = 1 + chance.below(segments.len() - 1);
        let word = chance
            .pick(&[" uh ", " um ", " er ", " like ", " you know "])
            .copied()
            .unwrap_or(" ");
        let is_between_words = segments
            .get(at)
            .is_some_and(|segment| segment.text.starts_with(' '));
        if is_between_words {
            segments.insert(at, Segment::words(word));
        }
    }
}

fn put_first(segments: &mut Vec<Segment>, text: Option<&&str>) {
    segments.splice(0..0, text.map(|text| Segment::words(text)));
}

fn english_writing(segments: &mut Vec<Segment>, is_question: bool, chance: &mut Chance) {
    // Speech recognition and lazy thumbs leave out articles and apostrophes.
    if chance.percent(8) {
        for segment in segments.iter_mut().filter(|segment| !segment.is_span) {
            segment.text = segment.text.replace(" the ", " ");
        }
    }
    if chance.percent(12) {
        for segment in segments.iter_mut().filter(|segment| !segment.is_span) {
            segment.text = segment.text.replace('\'', "");
        }
    }
    if chance.percent(30) {
        for segment in segments.iter_mut() {
            segment.text = segment.text.replace('\u{2019}', "'");
        }
        capitalise(segments);
    } else if chance.percent(2) {
        segments
            .iter_mut()
            .for_each(|segment| segment.text = segment.text.to_uppercase());
    }
    if chance.percent(35) {
        let end = match (is_question, chance.below(6)) {
            (true, 0..5) => "?",
            (false, 0) => "!",
            _ => ".",
        };
        segments.push(Segment::words(end));
    }
}

fn capitalise(segments: &mut [Segment]) {
    let Some(first) = segments
        .iter_mut()
        .find(|segment| !segment.text.trim().is_empty())
    else {
        return;
    };
    let text = first.text.trim_start();
    let mut letters = text.chars();
    if let Some(letter) = letters.next() {
        first.text = letter.to_uppercase().chain(letters).collect();
    }
}

fn chinese_manners(segments: &mut Vec<Segment>, asks: bool, is_talk: bool, chance: &mut Chance) {
    const ASKING: &[&str] = &[
        "请",
        "请",
        "帮我",
        "帮我",
        "帮我",
        "给我",
        "麻烦",
        "麻烦你",
        "请帮我",
        "麻烦帮我",
        "你帮我",
        "帮忙",
        "替我",
        "快",
        "赶紧",
        "现在",
        "我想",
        "我要",
        "我想让你",
        "你把",
        "可以帮我",
        "能帮我",
        "能不能帮我",
        "能不能",
        "可不可以帮我",
        "劳驾",
    ];
    const OPENING: &[&str] = &[
        "嗯",
        "那个",
        "呃",
        "嘿",
        "喂",
        "你好，",
        "小助手，",
        "好，",
        "那",
        "哎",
        "嗯，",
        "那个，",
        "请问",
        "对了，",
        "好的，",
        "哦",
    ];
    const CLOSING: &[&str] = &[
        "吧",
        "吧",
        "一下",
        "一下吧",
        "谢谢",
        "，谢谢",
        "好吗",
        "行吗",
        "可以吗",
        "了",
        "啊",
        "呗",
        "，好不好",
        "哈",
        "好不好",
        "，麻烦了",
        "哦",
    ];
    if is_talk {
        return;
    }
    if asks && chance.percent(28) {
        let text = chance.pick(ASKING).copied().unwrap_or_default();
        let begins_with = segments
            .first()
            .is_some_and(|segment| segment.text.starts_with('把'));
        // 你把把 nobody says.
        if text != "你把" || !begins_with {
            put_first(segments, Some(&text.trim_end_matches('把')));
        }
    }
    if chance.percent(10) {
        put_first(segments, chance.pick(OPENING));
    }
    if asks && chance.percent(14) {
        segments.extend(chance.pick(CLOSING).map(|text| Segment::words(text)));
    }
}

fn chinese_writing(segments: &mut Vec<Segment>, is_question: bool, chance: &mut Chance) {
    if chance.percent(30) {
        let end = match (is_question, chance.below(6)) {
            (true, 0..5) => "？",
            (true, _) => "?",
            (false, 0) => "！",
            (false, 1) => ".",
            _ => "。",
        };
        segments.push(Segment::words(end));
    }
    // Speech recognition gives no commas, and some people set a blank in their place.
    if chance.percent(30) {
        let blank = if chance.percent(50) { "" } else { " " };
        for segment in segments.iter_mut().filter(|segment| !segment.is_span) {
            segment.text = segment.text.replace('，', blank);
        }
    }
}
