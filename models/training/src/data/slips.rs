//! Slips of typing and of speech recognition, where they change nothing that is meant.

use super::Language;
use super::chance::Chance;
use super::noise::Segment;

/// One slip.
pub(super) fn slip(segments: &mut [Segment], language: Language, chance: &mut Chance) {
    match language {
        Language::English if chance.percent(35) => misspelling(segments, chance),
        Language::English => mistyping(segments, chance),
        Language::Chinese => homophone(segments, chance),
    }
}

/// Words as they sound, or as many write them.
const SPELT: &[(&str, &str)] = &[
    ("minutes", "minits"),
    ("minutes", "mintues"),
    ("minute", "minit"),
    ("seconds", "secconds"),
    ("timer", "tmier"),
    ("timer", "timmer"),
    ("mute", "mewt"),
    ("lights", "lites"),
    ("light", "lite"),
    ("light", "ligth"),
    ("please", "pleas"),
    ("please", "plz"),
    ("please", "pls"),
    ("curtain", "curtin"),
    ("off", "of"),
    ("off", "0ff"),
    ("on", "no"),
    ("temperature", "temprature"),
    ("temperature", "temperture"),
    ("degrees", "degreese"),
    ("volume", "volumn"),
    ("bedroom", "bed room"),
    ("bedroom", "bedrom"),
    ("bathroom", "bath room"),
    ("bathroom", "bathrom"),
    ("living room", "livingroom"),
    ("living room", "livin room"),
    ("dining room", "dinning room"),
    ("kitchen", "kichen"),
    ("kitchen", "kitchin"),
    ("office", "offise"),
    ("garage", "garrage"),
    ("garage", "garrige"),
    ("balcony", "balcany"),
    ("hallway", "hall way"),
    ("hall", "haul"),
    ("study", "studdy"),
    ("nursery", "nursary"),
    ("basement", "basment"),
    ("add", "ad"),
    ("tell", "tel"),
    ("back", "bak"),
    ("turn", "tern"),
    ("turn", "trun"),
    ("switch", "swich"),
    ("the", "teh"),
    ("the", "da"),
    ("two", "too"),
    ("to", "too"),
    ("to", "two"),
    ("four", "for"),
    ("for", "four"),
    ("eight", "ate"),
    ("door", "dor"),
    ("blinds", "blidns"),
    ("blinds", "blines"),
    ("close", "cloze"),
    ("close", "clothes"),
    ("open", "opne"),
    ("unlock", "un lock"),
    ("front", "frunt"),
    ("brightness", "birghtness"),
    ("bright", "brite"),
    ("pause", "paws"),
    ("pause", "pawse"),
    ("play", "pley"),
    ("weather", "wether"),
    ("weather", "whether"),
    ("tomorrow", "tommorow"),
    ("tomorrow", "tomorow"),
    ("tonight", "tonite"),
    ("announce", "anounce"),
    ("broadcast", "brodcast"),
    ("shopping", "shoping"),
    ("list", "lsit"),
    ("vacuum", "vacum"),
    ("vacuum", "vaccum"),
    ("heating", "heeting"),
    ("heater", "heeter"),
    ("lamp", "lmap"),
    ("quarter", "qarter"),
    ("half", "haf"),
    ("percent", "persent"),
    ("cancel", "cancle"),
    ("stop", "stopp"),
    ("what", "wot"),
    ("music", "musik"),
    ("set", "sett"),
    ("dim", "dimm"),
    ("down", "dwon"),
    ("red", "read"),
    ("blue", "blew"),
    ("shut", "shutt"),
    ("hour", "our"),
    ("is", "si"),
    ("you", "u"),
    ("are", "r"),
    ("time", "tiem"),
    ("much", "mutch"),
    ("room", "rom"),
];

fn misspelling(segments: &mut [Segment], chance: &mut Chance) {
    let whole = |text: &str, word: &str| {
        text.match_indices(word).map(|(at, _)| at).find(|at| {
            let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let before = text.get(..*at).and_then(|before| before.chars().next_back());
            let behind = text
                .get(at + word.len()..)
                .and_then(|behind| behind.chars().next());
            !is_letter(before) && !is_letter(behind)
        })
    };
    let mut places = Vec::new();
    for (number, segment) in segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| !segment.is_span)
    {
        for (word, spelt) in SPELT {
            if let Some(at) = whole(&segment.text, word) {
                places.push((number, at, word.len(), *spelt));
            }
        }
    }
    let Some(&(number, at, length, spelt)) = chance.pick(&places) else {
        return;
    };
    if let Some(segment) = segments.get_mut(number) {
        segment.text.replace_range(at..at + length, spelt);
    }
}

const NEIGHBOURS: &[(char, char)] = &[
    ('a', 's'),
    ('e', 'r'),
    ('i', 'o'),
    ('o', 'p'),
    ('t', 'y'),
    ('n', 'm'),
    ('h', 'j'),
    ('l', 'k'),
    ('u', 'i'),
    ('g', 'h'),
    ('r', 't'),
    ('s', 'd'),
    ('c', 'v'),
    ('m', 'n'),
];

fn mistyping(segments: &mut [Segment], chance: &mut Chance) {
    let places: Vec<usize> = (0..segments.len())
        .filter(|at| {
            segments
                .get(*at)
                .is_some_and(|segment| !segment.is_span && segment.text.trim().len() > 3)
        })
        .collect();
    let Some(segment) = chance.pick(&places).and_then(|at| segments.get_mut(*at)) else {
        return;
    };
    let mut letters: Vec<char> = segment.text.chars().collect();
    // Inside a word: what begins right is still read right.
    let inside: Vec<usize> = (1..letters.len().saturating_sub(1))
        .filter(|at| {
            [at - 1, *at, at + 1]
                .iter()
                .all(|at| letters.get(*at).is_some_and(char::is_ascii_alphabetic))
        })
        .collect();
    let Some(&at) = chance.pick(&inside) else {
        return;
    };
    match chance.below(4) {
        0 => letters.swap(at, at + 1),
        1 => drop(letters.remove(at)),
        2 => {
            let twice = letters.get(at).copied().unwrap_or(' ');
            letters.insert(at, twice);
        }
        _ => {
            let beside = |letter: char| {
                NEIGHBOURS
                    .iter()
                    .find(|(one, _)| *one == letter)
                    .map(|(_, other)| *other)
            };
            if let Some(letter) = letters.get_mut(at) {
                *letter = beside(*letter).unwrap_or(*letter);
            }
        }
    }
    segment.text = letters.into_iter().collect();
}

/// Characters that sound alike, of the words that commands are made of.
const ALIKE: &[&str] = &[
    "把吧巴",
    "在再",
    "的得地",
    "灯登等",
    "到道",
    "厅听",
    "室式是市",
    "厨除",
    "房防",
    "关官观",
    "开凯",
    "调条挑跳",
    "空孔",
    "吗嘛",
    "下夏",
    "书舒",
    "亮量两",
    "计记际",
    "时实十",
    "度肚渡",
    "帮邦",
    "阳洋杨",
    "台抬太",
    "播拨波",
    "帘连联",
    "窗疮创",
    "定订钉",
    "声生升",
    "音因阴",
    "闭必毕",
    "静禁净",
    "门们",
    "购构够",
    "单丹担",
    "待带代",
    "办半",
    "车扯",
    "库裤",
    "器七气",
    "气汽",
    "算蒜",
    "号好",
    "暖卵",
    "风疯丰",
    "扇善",
    "电店",
    "视试",
    "锁所",
    "提题",
    "醒星",
    "客克",
    "卧我",
    "卫位",
    "浴玉",
    "走奏",
    "廊郎",
    "加家",
    "减剪",
    "分份",
    "钟中种",
    "秒妙",
    "取娶",
    "消销",
    "暂站",
    "停亭",
    "继既",
    "续序",
    "首手",
    "曲取",
    "放方",
    "暗按岸",
    "色涩",
    "红洪",
    "蓝兰篮",
    "温文",
    "高糕",
    "低滴",
    "大打",
    "小晓",
    "楼搂",
    "上尚",
    "扫嫂",
    "机鸡",
    "音英",
    "乐月",
    "清青",
    "单蛋",
    "添天",
    "今金",
    "明名",
    "几机",
    "点店",
    "窗床",
    "拉啦",
    "降将",
    "厕测",
    "全权",
    "都兜",
    "通同",
    "知只",
    "饭范",
    "奶乃",
    "牛纽",
    "蛋但",
];

fn homophone(segments: &mut [Segment], chance: &mut Chance) {
    let mut places = Vec::new();
    for (number, segment) in segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| !segment.is_span)
    {
        for (at, said) in segment.text.char_indices() {
            for group in ALIKE.iter().filter(|group| group.contains(said)) {
                places.extend(
                    group
                        .chars()
                        .filter(|other| *other != said)
                        .map(|other| (number, at, said, other)),
                );
            }
        }
    }
    let Some(&(number, at, said, heard)) = chance.pick(&places) else {
        return;
    };
    if let Some(segment) = segments.get_mut(number) {
        segment
            .text
            .replace_range(at..at + said.len_utf8(), heard.encode_utf8(&mut [0; 4]));
    }
}
