//! Numbers and durations as people say them.

use super::Language;
use super::chance::Chance;

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = [
    "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];
const DIGITS: [&str; 10] = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九"];

/// A number from 0 to 999 in words.
pub(super) fn words(number: i64, language: Language) -> String {
    match language {
        Language::English => english(number),
        Language::Chinese => chinese(number),
    }
}

fn digit(of: &[&'static str], at: i64) -> &'static str {
    usize::try_from(at)
        .ok()
        .and_then(|at| of.get(at))
        .copied()
        .unwrap_or("")
}

fn english(number: i64) -> String {
    match number {
        ..20 => digit(&ONES, number).to_owned(),
        20..100 if number % 10 == 0 => digit(&TENS, number / 10).to_owned(),
        20..100 => format!("{} {}", digit(&TENS, number / 10), digit(&ONES, number % 10)),
        _ if number % 100 == 0 => format!("{} hundred", digit(&ONES, number / 100)),
        _ => format!(
            "{} hundred and {}",
            digit(&ONES, number / 100),
            english(number % 100)
        ),
    }
}

fn chinese(number: i64) -> String {
    match number {
        ..10 => digit(&DIGITS, number).to_owned(),
        10 => "十".to_owned(),
        11..20 => format!("十{}", digit(&DIGITS, number % 10)),
        20..100 if number % 10 == 0 => format!("{}十", digit(&DIGITS, number / 10)),
        20..100 => format!("{}十{}", digit(&DIGITS, number / 10), digit(&DIGITS, number % 10)),
        _ if number % 100 == 0 => format!("{}百", digit(&DIGITS, number / 100)),
        _ if number % 100 < 10 => format!(
            "{}百零{}",
            digit(&DIGITS, number / 100),
            digit(&DIGITS, number % 10)
        ),
        _ if number % 100 < 20 => format!("{}百一{}", digit(&DIGITS, number / 100), chinese(number % 100)),
        _ => format!("{}百{}", digit(&DIGITS, number / 100), chinese(number % 100)),
    }
}

/// In digits or in words.
pub(super) fn spoken(number: i64, language: Language, chance: &mut Chance) -> String {
    if chance.percent(60) {
        number.to_string()
    } else {
        words(number, language)
    }
}

/// A share of a hundred, its unit among the words, and its value.
pub(super) fn percent(language: Language, chance: &mut Chance) -> (String, i64) {
    // People ask for round numbers more often than for others.
    let value = match chance.below(10) {
        0..6 => chance.between(1, 10) * 10,
        6..8 => chance.between(1, 19) * 5,
        _ => chance.between(1, 100),
    };
    let said = match language {
        Language::English => match chance.below(8) {
            0 | 1 => format!("{value}%"),
            2 => format!("{value} %"),
            3 | 4 => format!("{value} percent"),
            5 => format!("{} percent", words(value, language)),
            6 => value.to_string(),
            _ => words(value, language),
        },
        Language::Chinese => match chance.below(8) {
            0 | 1 => format!("{value}%"),
            2 | 3 => format!("百分之{}", words(value, language)),
            4 => format!("百分之{value}"),
            5 if value < 100 && value % 10 == 0 => format!("{}成", words(value / 10, language)),
            6 => words(value, language),
            _ => value.to_string(),
        },
    };
    (said, value)
}

/// A room's temperature: what is said, whole degrees, and whether there is a half on top.
pub(super) fn celsius(language: Language, chance: &mut Chance) -> (String, i64, bool) {
    let (value, half) = (chance.between(15, 30), chance.percent(15));
    let in_digits = chance.percent(60);
    let said = match (language, half, in_digits) {
        (Language::English, false, _) if in_digits => value.to_string(),
        (Language::English, false, _) => words(value, language),
        (Language::English, true, true) => format!("{value}.5"),
        (Language::English, true, false) if chance.percent(50) => {
            format!("{} point five", words(value, language))
        }
        (Language::English, true, false) => format!("{} and a half", words(value, language)),
        (Language::Chinese, false, true) => format!("{value}度"),
        (Language::Chinese, false, false) => format!("{}度", words(value, language)),
        (Language::Chinese, true, true) if chance.percent(50) => format!("{value}度半"),
        (Language::Chinese, true, true) => format!("{value}.5度"),
        (Language::Chinese, true, false) if chance.percent(70) => format!("{}度半", words(value, language)),
        (Language::Chinese, true, false) => format!("{}点五度", words(value, language)),
    };
    (said, value, half)
}

/// A length of time: what is said, and what of hours, minutes and seconds it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Duration {
    pub(super) said: String,
    pub(super) hours: Option<i64>,
    pub(super) minutes: Option<i64>,
    pub(super) seconds: Option<i64>,
}

impl Duration {
    fn new(said: impl Into<String>, [hours, minutes, seconds]: [i64; 3]) -> Self {
        let given = |value: i64| (value > 0).then_some(value);
        Self {
            said: said.into(),
            hours: given(hours),
            minutes: given(minutes),
            seconds: given(seconds),
        }
    }
}

/// A length of time; before a noun ("five minute timer") if it is said so.
pub(super) fn duration(language: Language, before_noun: bool, chance: &mut Chance) -> Duration {
    match language {
        Language::English => english_duration(before_noun, chance),
        Language::Chinese => chinese_duration(chance),
    }
}

fn usual_minutes(chance: &mut Chance) -> i64 {
    match chance.below(4) {
        0 | 1 => chance.between(1, 12) * 5,
        2 => chance.between(1, 20),
        _ => chance.between(1, 120),
    }
}

fn english_duration(before_noun: bool, chance: &mut Chance) -> Duration {
    let language = Language::English;
    let unit = |count: i64, unit: &str| {
        let plural = if count == 1 || before_noun { "" } else { "s" };
        format!("{unit}{plural}")
    };
    let one = |count: i64, name: &str, chance: &mut Chance| {
        let said = spoken(count, language, chance);
        let unit = match (name, chance.below(12)) {
            ("minute", 0) => "min".to_owned(),
            ("second", 0) => "sec".to_owned(),
            _ => unit(count, name),
        };
        let joint = if before_noun && chance.percent(25) {
            "-"
        } else {
            " "
        };
        format!("{said}{joint}{unit}")
    };
    match chance.below(24) {
        0 => Duration::new(if before_noun { "half hour" } else { "half an hour" }, [0, 30, 0]),
        1 if !before_noun => Duration::new("an hour and a half", [1, 30, 0]),
        2 if !before_noun => Duration::new("a quarter of an hour", [0, 15, 0]),
        3 if !before_noun => Duration::new("an hour", [1, 0, 0]),
        4 if !before_noun => Duration::new("a minute", [0, 1, 0]),
        5 if !before_noun => Duration::new("half a minute", [0, 0, 30]),
        6 => {
            let hours = chance.between(1, 12);
            Duration::new(one(hours, "hour", chance), [hours, 0, 0])
        }
        7 if !before_noun => {
            let hours = chance.between(2, 5);
            Duration::new(
                format!("{} and a half hours", words(hours, language)),
                [hours, 30, 0],
            )
        }
        8 if !before_noun => {
            let minutes = chance.between(1, 9);
            let said = format!("{} and a half {}", words(minutes, language), unit(2, "minute"));
            Duration::new(said, [0, minutes, 30])
        }
        9 | 10 => {
            let seconds = chance.between(1, 18) * 5;
            Duration::new(one(seconds, "second", chance), [0, 0, seconds])
        }
        11 => {
            let (hours, minutes) = (chance.between(1, 4), chance.between(1, 11) * 5);
            let (first, second) = (one(hours, "hour", chance), one(minutes, "minute", chance));
            let joint = if chance.percent(60) { " and " } else { " " };
            Duration::new(format!("{first}{joint}{second}"), [hours, minutes, 0])
        }
        12 => {
            let (minutes, seconds) = (chance.between(1, 15), chance.between(1, 11) * 5);
            let (first, second) = (one(minutes, "minute", chance), one(seconds, "second", chance));
            let joint = if chance.percent(60) { " and " } else { " " };
            Duration::new(format!("{first}{joint}{second}"), [0, minutes, seconds])
        }
        13 if !before_noun => Duration::new("three quarters of an hour", [0, 45, 0]),
        14 => {
            let (hours, minutes, seconds) =
                (chance.between(1, 3), chance.between(1, 59), chance.between(1, 59));
            let first = one(hours, "hour", chance);
            let (second, third) = (one(minutes, "minute", chance), one(seconds, "second", chance));
            let joint = if chance.percent(60) { ", " } else { " " };
            let last = chance
                .pick(&[" and ", ", ", " ", ", and "])
                .copied()
                .unwrap_or(" ");
            Duration::new(
                format!("{first}{joint}{second}{last}{third}"),
                [hours, minutes, seconds],
            )
        }
        15 => {
            // Figures that are no multiples of five.
            let (minutes, seconds) = (chance.between(1, 59), chance.between(1, 59));
            let (first, second) = (one(minutes, "minute", chance), one(seconds, "second", chance));
            let joint = if chance.percent(60) { " and " } else { " " };
            Duration::new(format!("{first}{joint}{second}"), [0, minutes, seconds])
        }
        _ => {
            let minutes = usual_minutes(chance);
            Duration::new(one(minutes, "minute", chance), [0, minutes, 0])
        }
    }
}

fn chinese_duration(chance: &mut Chance) -> Duration {
    let language = Language::Chinese;
    // 两 stands before a measure word, 二 does not.
    let counted = |count: i64, chance: &mut Chance| match (spoken(count, language, chance), count) {
        (said, 2) if said == "二" => "两".to_owned(),
        (said, _) => said,
    };
    let hour = if chance.percent(80) { "小时" } else { "钟头" };
    let of_hours = |said: String| format!("{said}个{hour}");
    match chance.below(24) {
        0 => Duration::new(format!("半{hour}"), [0, 30, 0]),
        1 => Duration::new(format!("半个{hour}"), [0, 30, 0]),
        2 => Duration::new(format!("一个半{hour}"), [1, 30, 0]),
        3 => Duration::new("一刻钟", [0, 15, 0]),
        4 => Duration::new("三刻钟", [0, 45, 0]),
        5 => Duration::new("半分钟", [0, 0, 30]),
        6 | 7 => {
            let hours = chance.between(1, 12);
            let said = counted(hours, chance);
            let said = if hour == "小时" && chance.percent(40) {
                format!("{said}{hour}")
            } else {
                of_hours(said)
            };
            Duration::new(said, [hours, 0, 0])
        }
        8 => {
            let hours = chance.between(2, 5);
            Duration::new(format!("{}个半{hour}", counted(hours, chance)), [hours, 30, 0])
        }
        9 => {
            let minutes = chance.between(1, 9);
            Duration::new(format!("{}分半钟", counted(minutes, chance)), [0, minutes, 30])
        }
        10 | 11 => {
            let seconds = chance.between(1, 18) * 5;
            let unit = if chance.percent(60) { "秒" } else { "秒钟" };
            Duration::new(format!("{}{unit}", counted(seconds, chance)), [0, 0, seconds])
        }
        12 => {
            let (hours, minutes) = (chance.between(1, 4), chance.between(1, 11) * 5);
            let (first, second) = (counted(hours, chance), spoken(minutes, language, chance));
            Duration::new(format!("{first}小时{second}分钟"), [hours, minutes, 0])
        }
        13 => {
            let (minutes, seconds) = (chance.between(1, 15), chance.between(1, 11) * 5);
            let (first, second) = (counted(minutes, chance), spoken(seconds, language, chance));
            Duration::new(format!("{first}分{second}秒"), [0, minutes, seconds])
        }
        14 => {
            let (hours, minutes, seconds) =
                (chance.between(1, 3), chance.between(1, 59), chance.between(1, 59));
            let (first, second) = (counted(hours, chance), spoken(minutes, language, chance));
            let third = spoken(seconds, language, chance);
            let hour = if chance.percent(50) { "小时" } else { "个小时" };
            let minute = if chance.percent(50) { "分" } else { "分钟" };
            let zero = if seconds < 10 && chance.percent(50) {
                "零"
            } else {
                ""
            };
            Duration::new(
                format!("{first}{hour}{second}{minute}{zero}{third}秒"),
                [hours, minutes, seconds],
            )
        }
        15 => {
            let (minutes, seconds) = (chance.between(1, 59), chance.between(1, 59));
            let (first, second) = (counted(minutes, chance), spoken(seconds, language, chance));
            let minute = if chance.percent(50) { "分" } else { "分钟" };
            Duration::new(format!("{first}{minute}{second}秒"), [0, minutes, seconds])
        }
        16 => match chance.below(3) {
            0 => Duration::new(format!("俩{hour}"), [2, 0, 0]),
            1 => Duration::new(format!("仨{hour}"), [3, 0, 0]),
            _ => {
                let (hours, minutes) = (chance.between(1, 9), chance.between(1, 59));
                let (first, second) = (counted(hours, chance), spoken(minutes, language, chance));
                Duration::new(format!("{first}个{hour}{second}分"), [hours, minutes, 0])
            }
        },
        _ => {
            let minutes = usual_minutes(chance);
            let unit = if chance.percent(85) { "分钟" } else { "分" };
            Duration::new(format!("{}{unit}", counted(minutes, chance)), [0, minutes, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        let english = |number| words(number, Language::English);
        assert_eq!(english(0), "zero");
        assert_eq!(english(42), "forty two");
        assert_eq!(english(100), "one hundred");
        assert_eq!(english(115), "one hundred and fifteen");
        let chinese = |number| words(number, Language::Chinese);
        assert_eq!(chinese(10), "十");
        assert_eq!(chinese(12), "十二");
        assert_eq!(chinese(20), "二十");
        assert_eq!(chinese(99), "九十九");
        assert_eq!(chinese(100), "一百");
        assert_eq!(chinese(105), "一百零五");
        assert_eq!(chinese(110), "一百一十");
        assert_eq!(chinese(250), "二百五十");
    }

    #[test]
    fn every_duration_says_how_long_it_is() {
        let mut chance = Chance::new(1);
        for language in [Language::English, Language::Chinese] {
            for _ in 0..2000 {
                let found = duration(language, chance.percent(30), &mut chance);
                let parts = [found.hours, found.minutes, found.seconds];
                assert!(parts.iter().any(Option::is_some), "{found:?}");
                assert!(!found.said.contains("  "), "{found:?}");
            }
        }
    }
}
