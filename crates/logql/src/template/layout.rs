//! Go's time layouts: `2006-01-02T15:04:05.000Z07:00` and so on.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike, Utc};

use super::value::Time;

/// An element of a layout.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part<'l> {
    Literal(&'l str),
    LongMonth,
    Month,
    NumMonth,
    ZeroMonth,
    LongWeekday,
    Weekday,
    Day,
    UnderDay,
    ZeroDay,
    UnderYearDay,
    ZeroYearDay,
    Hour24,
    Hour12,
    ZeroHour12,
    Minute,
    ZeroMinute,
    Second,
    ZeroSecond,
    LongYear,
    Year,
    /// `PM` or `pm`.
    HalfDay(bool),
    ZoneName,
    /// With `Z` for UTC, with a colon, with seconds, hours only.
    Zone {
        z: bool,
        colon: bool,
        seconds: bool,
        short: bool,
    },
    /// `.000` or `,999`: the separator, digits, and whether trailing zeros are cut.
    Fraction(char, usize, bool),
}

/// The elements of a layout with their texts, longest first where one begins another.
const ELEMENTS: &[(&str, Part<'static>)] = &[
    ("January", Part::LongMonth),
    ("Jan", Part::Month),
    ("Monday", Part::LongWeekday),
    ("Mon", Part::Weekday),
    ("MST", Part::ZoneName),
    ("2006", Part::LongYear),
    ("__2", Part::UnderYearDay),
    ("_2", Part::UnderDay),
    ("002", Part::ZeroYearDay),
    ("01", Part::ZeroMonth),
    ("02", Part::ZeroDay),
    ("03", Part::ZeroHour12),
    ("04", Part::ZeroMinute),
    ("05", Part::ZeroSecond),
    ("06", Part::Year),
    ("15", Part::Hour24),
    ("1", Part::NumMonth),
    ("2", Part::Day),
    ("3", Part::Hour12),
    ("4", Part::Minute),
    ("5", Part::Second),
    ("PM", Part::HalfDay(true)),
    ("pm", Part::HalfDay(false)),
    ("-07:00:00", Part::Zone { z: false, colon: true, seconds: true, short: false }),
    ("-07:00", Part::Zone { z: false, colon: true, seconds: false, short: false }),
    ("-070000", Part::Zone { z: false, colon: false, seconds: true, short: false }),
    ("-0700", Part::Zone { z: false, colon: false, seconds: false, short: false }),
    ("-07", Part::Zone { z: false, colon: false, seconds: false, short: true }),
    ("Z07:00:00", Part::Zone { z: true, colon: true, seconds: true, short: false }),
    ("Z07:00", Part::Zone { z: true, colon: true, seconds: false, short: false }),
    ("Z070000", Part::Zone { z: true, colon: false, seconds: true, short: false }),
    ("Z0700", Part::Zone { z: true, colon: false, seconds: false, short: false }),
    ("Z07", Part::Zone { z: true, colon: false, seconds: false, short: true }),
];

fn parts(layout: &str) -> Vec<Part<'_>> {
    let mut out = vec![];
    let mut literal = 0;
    let mut at = 0;
    while at < layout.len() {
        let rest = &layout[at..];
        let found = fraction(rest).or_else(|| {
            let (text, part) = ELEMENTS.iter().find(|(text, _)| rest.starts_with(text))?;
            // "Jan" inside of a word such as "Janet" is no month.
            let word = matches!(part, Part::Month) && rest[3..].starts_with(|c: char| c.is_lowercase());
            // "_2006" is an underscore and a year.
            let year = matches!(part, Part::UnderDay) && rest.starts_with("_2006");
            (!word && !year).then_some((*part, text.len()))
        });
        match found {
            Some((part, len)) => {
                if literal < at {
                    out.push(Part::Literal(&layout[literal..at]));
                }
                out.push(part);
                at += len;
                literal = at;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    if literal < layout.len() {
        out.push(Part::Literal(&layout[literal..]));
    }
    out
}

/// `.000`, `,000`, `.999`, not followed by another digit.
fn fraction(rest: &str) -> Option<(Part<'static>, usize)> {
    let separator = rest.chars().next().filter(|c| matches!(c, '.' | ','))?;
    let digit = rest.as_bytes().get(1).copied().filter(|b| matches!(b, b'0' | b'9'))?;
    let digits = rest.bytes().skip(1).take_while(|b| *b == digit).count();
    let ends = !rest[1 + digits..].starts_with(|c: char| c.is_ascii_digit());
    ends.then_some((Part::Fraction(separator, digits, digit == b'9'), 1 + digits))
}

fn local(time: &Time) -> Option<(NaiveDateTime, FixedOffset, String)> {
    let utc: DateTime<Utc> = DateTime::from_timestamp(time.seconds, time.nanos)?;
    let local = utc.with_timezone(&time.zone);
    let name = local.format("%Z").to_string();
    Some((local.naive_local(), local.offset().fix(), name))
}

/// Formats a time by a layout.
pub(super) fn format(time: &Time, layout: &str) -> String {
    let Some((t, offset, zone)) = local(time) else { return String::new() };
    let mut out = String::with_capacity(layout.len() + 8);
    for part in parts(layout) {
        let hour12 = match t.hour() % 12 {
            0 => 12,
            h => h,
        };
        let text = match part {
            Part::Literal(text) => text.to_owned(),
            Part::LongMonth => t.format("%B").to_string(),
            Part::Month => t.format("%b").to_string(),
            Part::NumMonth => t.month().to_string(),
            Part::ZeroMonth => format!("{:02}", t.month()),
            Part::LongWeekday => t.format("%A").to_string(),
            Part::Weekday => t.format("%a").to_string(),
            Part::Day => t.day().to_string(),
            Part::UnderDay => format!("{:2}", t.day()),
            Part::ZeroDay => format!("{:02}", t.day()),
            Part::UnderYearDay => format!("{:3}", t.ordinal()),
            Part::ZeroYearDay => format!("{:03}", t.ordinal()),
            Part::Hour24 => format!("{:02}", t.hour()),
            Part::Hour12 => hour12.to_string(),
            Part::ZeroHour12 => format!("{hour12:02}"),
            Part::Minute => t.minute().to_string(),
            Part::ZeroMinute => format!("{:02}", t.minute()),
            Part::Second => t.second().to_string(),
            Part::ZeroSecond => format!("{:02}", t.second()),
            Part::LongYear => format!("{:04}", t.year()),
            Part::Year => format!("{:02}", t.year().rem_euclid(100)),
            Part::HalfDay(upper) => {
                let text = if t.hour() >= 12 { "PM" } else { "AM" };
                if upper { text.to_owned() } else { text.to_lowercase() }
            }
            Part::ZoneName => zone.clone(),
            Part::Zone { z: true, .. } if offset.local_minus_utc() == 0 => "Z".to_owned(),
            Part::Zone { colon, seconds, short, .. } => {
                let total = offset.local_minus_utc();
                let (sign, total) = if total < 0 { ('-', -total) } else { ('+', total) };
                let (h, m, s) = (total / 3600, total / 60 % 60, total % 60);
                let colon = if colon { ":" } else { "" };
                match (short, seconds) {
                    (true, _) => format!("{sign}{h:02}"),
                    (_, false) => format!("{sign}{h:02}{colon}{m:02}"),
                    (_, true) => format!("{sign}{h:02}{colon}{m:02}{colon}{s:02}"),
                }
            }
            Part::Fraction(separator, digits, cut) => {
                let all = format!("{:09}", t.nanosecond() % 1_000_000_000);
                let digits = &all[..digits.min(9)];
                let digits = if cut { digits.trim_end_matches('0') } else { digits };
                if digits.is_empty() { String::new() } else { format!("{separator}{digits}") }
            }
        };
        out.push_str(&text);
    }
    out
}

/// A time as Go's `Time.String` shows it.
pub(super) fn show(time: &Time) -> String {
    format(time, "2006-01-02 15:04:05.999999999 -0700 MST")
}

/// Reads a time by a layout; what it does not say is taken from `zone`.
pub(super) fn parse(layout: &str, text: &str, zone: chrono_tz::Tz) -> Option<Time> {
    let (mut year, mut month, mut day, mut year_day) = (0i32, 1u32, 1u32, None);
    let (mut hour, mut minute, mut second, mut nanos) = (0u32, 0u32, 0u32, 0u32);
    let mut afternoon = None;
    let mut offset = None;
    let mut rest = text;
    let layout_parts = parts(layout);
    for (i, part) in layout_parts.iter().enumerate() {
        match part {
            Part::Literal(literal) => {
                rest = rest.trim_start_matches(' ').strip_prefix(literal.trim_start_matches(' '))?
            }
            Part::LongMonth | Part::Month => {
                let long = matches!(part, Part::LongMonth);
                let index = (1..=12).find(|m| {
                    let name = NaiveDate::from_ymd_opt(2000, *m, 1)
                        .map(|d| d.format(if long { "%B" } else { "%b" }).to_string());
                    name.is_some_and(|n| rest.get(..n.len()).is_some_and(|r| r.eq_ignore_ascii_case(&n)))
                })?;
                let name = NaiveDate::from_ymd_opt(2000, index, 1)?
                    .format(if long { "%B" } else { "%b" })
                    .to_string();
                rest = &rest[name.len()..];
                month = index;
            }
            Part::LongWeekday | Part::Weekday => {
                let names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
                let len = names
                    .iter()
                    .map(|n| if matches!(part, Part::Weekday) { &n[..3] } else { n })
                    .find(|n| rest.get(..n.len()).is_some_and(|r| r.eq_ignore_ascii_case(n)))?
                    .len();
                rest = &rest[len..];
            }
            Part::NumMonth => month = number(&mut rest, 1, 2)?,
            Part::ZeroMonth => month = number(&mut rest, 2, 2)?,
            Part::Day => day = number(&mut rest, 1, 2)?,
            Part::UnderDay => {
                rest = rest.strip_prefix(' ').unwrap_or(rest);
                day = number(&mut rest, 1, 2)?;
            }
            Part::ZeroDay => day = number(&mut rest, 2, 2)?,
            Part::UnderYearDay | Part::ZeroYearDay => {
                rest = rest.trim_start_matches(' ');
                year_day = Some(number(&mut rest, 1, 3)?);
            }
            Part::Hour24 => hour = number(&mut rest, 2, 2)?,
            Part::Hour12 => hour = number(&mut rest, 1, 2)?,
            Part::ZeroHour12 => hour = number(&mut rest, 2, 2)?,
            Part::Minute => minute = number(&mut rest, 1, 2)?,
            Part::ZeroMinute => minute = number(&mut rest, 2, 2)?,
            Part::Second | Part::ZeroSecond => {
                second = number(&mut rest, if matches!(part, Part::Second) { 1 } else { 2 }, 2)?;
                // A fraction may follow though the layout has none.
                let follows = matches!(layout_parts.get(i + 1), Some(Part::Fraction(..)));
                if !follows
                    && rest.starts_with(['.', ','])
                    && rest[1..].starts_with(|c: char| c.is_ascii_digit())
                {
                    nanos = fraction_of(&mut rest)?;
                }
            }
            Part::LongYear => year = i32::try_from(number(&mut rest, 4, 4)?).ok()?,
            Part::Year => {
                let short = i32::try_from(number(&mut rest, 2, 2)?).ok()?;
                year = if short >= 69 { 1900 + short } else { 2000 + short };
            }
            Part::HalfDay(_) => {
                let half = rest.get(..2)?;
                afternoon = Some(match half {
                    "PM" | "pm" => true,
                    "AM" | "am" => false,
                    _ => return None,
                });
                rest = &rest[2..];
            }
            Part::ZoneName => {
                let len = rest.bytes().take_while(|b| b.is_ascii_uppercase()).count();
                if !(3..=5).contains(&len) {
                    return None;
                }
                if &rest[..len] == "UTC" {
                    offset = Some(0);
                }
                rest = &rest[len..];
            }
            Part::Zone { z: true, .. } if rest.starts_with('Z') => {
                rest = &rest[1..];
                offset = Some(0);
            }
            Part::Zone { colon, seconds, short, .. } => {
                let sign = match rest.chars().next()? {
                    '+' => 1,
                    '-' => -1,
                    _ => return None,
                };
                rest = &rest[1..];
                let mut total = number(&mut rest, 2, 2)? as i32 * 3600;
                if !short {
                    for unit in if *seconds { &[60, 1][..] } else { &[60][..] } {
                        if *colon {
                            rest = rest.strip_prefix(':')?;
                        }
                        total += number(&mut rest, 2, 2)? as i32 * unit;
                    }
                }
                offset = Some(sign * total);
            }
            Part::Fraction(_, digits, cut) => {
                if !rest.starts_with(['.', ',']) {
                    if *cut {
                        continue;
                    }
                    return None;
                }
                let before = rest.len();
                nanos = fraction_of(&mut rest)?;
                if !cut && before - rest.len() != digits + 1 {
                    return None;
                }
            }
        }
    }
    if !rest.is_empty() {
        return None;
    }
    match afternoon {
        Some(true) if hour < 12 => hour += 12,
        Some(false) if hour == 12 => hour = 0,
        _ => {}
    }
    let date = match year_day {
        Some(n) => NaiveDate::from_yo_opt(year, n)?,
        None => NaiveDate::from_ymd_opt(year, month, day)?,
    };
    let local = date.and_hms_nano_opt(hour, minute, second, nanos)?;
    let seconds = match offset {
        Some(offset) => local.and_utc().timestamp() - i64::from(offset),
        None => zone
            .from_local_datetime(&local)
            .earliest()
            .map_or_else(|| local.and_utc().timestamp(), |t| t.timestamp()),
    };
    let zone = if offset.is_some() { chrono_tz::UTC } else { zone };
    Some(Time { seconds, nanos, zone })
}

fn number(rest: &mut &str, min: usize, max: usize) -> Option<u32> {
    let len = rest.bytes().take(max).take_while(u8::is_ascii_digit).count();
    if len < min {
        return None;
    }
    let value = rest[..len].parse().ok()?;
    *rest = &rest[len..];
    Some(value)
}

fn fraction_of(rest: &mut &str) -> Option<u32> {
    let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let text = &rest[1..1 + digits.min(9)];
    *rest = &rest[1 + digits..];
    text.parse::<u32>().ok().map(|v| v * 10u32.pow(9 - text.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        let time = Time { seconds: 1_784_111_400, nanos: 5_000_000, zone: chrono_tz::UTC };
        for (layout, text) in [
            ("2006-01-02T15:04:05.000Z07:00", "2026-07-15T10:30:00.005Z"),
            ("Mon, 02 Jan 2006 15:04:05 -0700", "Wed, 15 Jul 2026 10:30:00 +0000"),
            ("January 2, 2006 3:04PM", "July 15, 2026 10:30AM"),
            ("06/1/_2 .999 MST", "26/7/15 .005 UTC"),
        ] {
            assert_eq!(format(&time, layout), text);
        }
        assert_eq!(show(&time), "2026-07-15 10:30:00.005 +0000 UTC");
        let rome = parse("2006-01-02 15:04", "2026-07-15 12:30", chrono_tz::Europe::Rome).unwrap();
        assert_eq!(rome.seconds, 1_784_111_400);
        assert_eq!(format(&rome, "15:04 MST -07:00"), "12:30 CEST +02:00");
        let with_fraction =
            parse("2006-01-02T15:04:05Z07:00", "2026-07-15T12:30:00.25+02:00", chrono_tz::UTC).unwrap();
        assert_eq!((with_fraction.seconds, with_fraction.nanos), (1_784_111_400, 250_000_000));
        assert_eq!(parse("2006-01-02", "2026-13-01", chrono_tz::UTC), None);
    }
}
