//! The day that templates mention.

use minijinja::{Error, ErrorKind};

/// A day, for templates that mention it; this crate has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Gregorian.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl Date {
    /// As Python's `strftime` does in the C locale. A day has no hours: it is midnight.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let (year, month, day) = (self.year, self.month.clamp(1, 12), self.day);
        let month_name = MONTHS[usize::from(month) - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let mut directive = characters.next();
            // glibc's: without the zeros before.
            let bare = directive == Some('-');
            if bare {
                directive = characters.next();
            }
            let number = |value: u16, width: usize| match bare {
                true => value.to_string(),
                false => format!("{value:0width$}"),
            };
            match directive {
                Some('Y') => text.push_str(&number(year, 4)),
                Some('y') => text.push_str(&number(year % 100, 2)),
                Some('m') => text.push_str(&number(month.into(), 2)),
                Some('d') => text.push_str(&number(day.into(), 2)),
                Some('e') => text.push_str(&format!("{day:2}")),
                Some('j') => text.push_str(&number(self.day_of_year(), 3)),
                Some('B') => text.push_str(month_name),
                Some('b' | 'h') => text.push_str(&month_name[..3]),
                Some('A') => text.push_str(weekday),
                Some('a') => text.push_str(&weekday[..3]),
                Some('H' | 'M' | 'S') => text.push_str(&number(0, 2)),
                Some('I') => text.push_str(&number(12, 2)),
                Some('p') => text.push_str("AM"),
                Some('F') => text.push_str(&format!("{year:04}-{month:02}-{day:02}")),
                Some('T') => text.push_str("00:00:00"),
                Some('%') => text.push('%'),
                other => {
                    let what = format!("strftime_now does not know {other:?} in {format:?}");
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
            }
        }
        Ok(text)
    }

    /// Days of the months before this one.
    fn days_before(self) -> u16 {
        const BEFORE: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        BEFORE[usize::from(self.month.clamp(1, 12)) - 1]
    }

    fn day_of_year(self) -> u16 {
        let year = self.year;
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        self.days_before() + u16::from(self.day) + u16::from(leap && self.month > 2)
    }

    /// From 0 for Sunday. The first of January of the year 1 was a Monday.
    fn weekday(self) -> usize {
        let years = u32::from(self.year).saturating_sub(1);
        let days = 365 * years + years / 4 - years / 100 + years / 400 + u32::from(self.day_of_year());
        days as usize % 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u16, month: u8, day: u8) -> Date {
        Date { year, month, day }
    }

    /// Expected texts are Python's.
    #[test]
    fn days_are_written_as_python_writes_them() {
        for (date, format, expected) in [
            (date(2026, 7, 4), "%d %b %Y", "04 Jul 2026"),
            (
                date(2024, 2, 29),
                "%A, %B %-d, %Y (%j)",
                "Thursday, February 29, 2024 (060)",
            ),
            (date(2024, 12, 31), "%a %e.%m.%y %j", "Tue 31.12.24 366"),
            (
                date(2000, 3, 1),
                "%F %H:%M:%S %I %p %%",
                "2000-03-01 00:00:00 12 AM %",
            ),
            (date(1999, 1, 3), "%a %e", "Sun  3"),
        ] {
            assert_eq!(date.format(format).unwrap(), expected);
        }
        assert!(date(2026, 7, 4).format("%Q").is_err());
        assert!(date(2026, 7, 4).format("%").is_err());
    }
}
