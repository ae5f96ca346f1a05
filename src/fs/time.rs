//! Times as people write them: RFC 3339, such as `2026-01-31T12:00:00Z` or `2026-01-31 13:00:00.5+01:00`. Without a
//! zone it is UTC.

use std::time::UNIX_EPOCH;

const SECOND: i128 = 1_000_000_000;
/// `2026-01-31T12:00:00`.
const SHORTEST: usize = 19;
/// `+01:00`.
const ZONE: usize = 6;
/// Before it nothing has happened: all earlier times are this one.
const FIRST_YEAR: u32 = 1970;
/// Years with as many days as any other one.
const LEAP_YEAR: &str = "2000";
const OTHER_YEAR: &str = "2001";

/// Nanoseconds since 1970: 0 for whatever is before that, the latest there is for whatever is behind it.
pub fn parse(text: &str) -> Result<u64, humantime::TimestampError> {
    let text = text.to_ascii_uppercase();
    let (local, ahead) = split(&text);
    if !has_form(local) {
        return Err(humantime::TimestampError::InvalidFormat);
    }
    let (local, is_early) = within_range(local);
    let time = humantime::parse_rfc3339_weak(&local)?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ns = since.as_nanos() as i128 - i128::from(ahead) * SECOND;
    Ok(if is_early { 0 } else { u64::try_from(ns.max(0)).unwrap_or(u64::MAX) })
}

/// Nothing follows the seconds but a fraction and a `Z`: not everything else is refused below.
fn has_form(local: &str) -> bool {
    let Some((_, rest)) = local.split_at_checked(SHORTEST) else { return false };
    let fraction = rest.strip_suffix('Z').unwrap_or(rest);
    match fraction.strip_prefix('.') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => fraction.is_empty(),
    }
}

/// The time where it was written, and how many seconds that place is ahead of UTC. What is no zone stays part of the time,
/// which it then is not.
fn split(text: &str) -> (&str, i64) {
    let at = text.len().checked_sub(ZONE).filter(|at| *at >= SHORTEST);
    let Some((local, zone)) = at.and_then(|at| text.split_at_checked(at)) else { return (text, 0) };
    match ahead(zone).filter(|_| !local.ends_with('Z')) {
        Some(ahead) => (local, ahead),
        None => (text, 0),
    }
}

/// `+01:30`: 5400.
fn ahead(zone: &str) -> Option<i64> {
    let (sign, zone) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = zone.split_once(':')?;
    let number = |text: &str, most: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number <= most)
    };
    Some(sign * (number(hours, 23)? * 3600 + number(minutes, 59)? * 60))
}

/// A time with a year that can be counted, and whether it was before all of these.
fn within_range(local: &str) -> (String, bool) {
    let is_number = |year: &str| year.bytes().all(|byte| byte.is_ascii_digit());
    let early = |year: &str| year.parse::<u32>().ok().filter(|number| is_number(year) && *number < FIRST_YEAR);
    match local.split_at_checked(FIRST_YEAR.to_string().len()).and_then(|(year, rest)| Some((early(year)?, rest))) {
        Some((year, rest)) => {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            (format!("{}{rest}", if is_leap { LEAP_YEAR } else { OTHER_YEAR }), true)
        }
        None => (local.to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_769_860_800 * SECOND as u64;

    #[test]
    fn one_moment_has_many_names() {
        for name in [
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2026-01-31 12:00:00",
            "2026-01-31T12:00:00.000Z",
            "2026-01-31T12:00:00+00:00",
            "2026-01-31T13:30:00+01:30",
            "2026-01-31T02:00:00-10:00",
        ] {
            assert_eq!(parse(name), Ok(NOON), "{name}");
        }
        assert_eq!(parse("2026-01-31T12:00:00.123456789Z"), Ok(NOON + 123_456_789));
        assert_eq!(parse("2026-01-31T12:00:00.5-00:00"), Ok(NOON + 500_000_000));
    }

    #[test]
    fn what_is_too_early_is_the_beginning_and_what_is_too_late_the_end() {
        for early in
            ["1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1970-01-01T00:30:00+01:00"]
        {
            assert_eq!(parse(early), Ok(0), "{early}");
        }
        assert_eq!(parse("9999-12-31T23:59:59Z"), Ok(u64::MAX));
        assert_eq!(parse("1904-02-29T00:00:00Z"), Ok(0));
    }

    #[test]
    fn everything_else_is_no_time() {
        for wrong in [
            "",
            ".",
            "now",
            "2026",
            "2026-01-31",
            "12:00:00",
            "1769860800",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:00Z+01:00",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+1:000",
            "2026-01-31T12:00:00+01:60",
            "2026-01-31T12:00:00.5+99:99",
            "2026-01-31T12:00:00.5+000000",
            "2026-01-31T12:00:00 +0100",
            "2026-01-31T12:00:00Z ",
            "2026-01-31T12:00:00Z\n",
            "+026-01-31T12:00:00Z",
            "-001-01-31T12:00:00Z",
            "２０２６-01-31T12:00:00Z",
            "2026-01-31T12:00:00\u{1f600}",
            "éééééééééééé",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&"2026-01-31T12:00:00.".repeat(12)).is_err());
    }
}
