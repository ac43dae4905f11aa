//! When a request is repeated, and how long to wait before.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::StatusCode;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// No server may keep us waiting for longer.
const LONGEST_ASKED_FOR: Duration = Duration::from_secs(300);

/// Whether a later try may get another answer.
pub(crate) fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The wait before try number `attempt` (the first repetition is 1): what the server asked for, or else twice as long
/// each time, of which `random` (0 to 1) takes up to a half away, so that clients do not come back all at once.
pub(crate) fn delay(attempt: u32, asked: Option<Duration>, random: f64) -> Duration {
    if let Some(asked) = asked {
        return asked.min(LONGEST_ASKED_FOR);
    }
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST);
    doubled.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

/// Reads a `Retry-After` header: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some((date.with_timezone(&Utc) - now).to_std().unwrap_or_default())
}

/// A number from 0 to 1, for [`delay`].
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library seeds each of these differently, which is all that is needed here.
    let bits = std::hash::RandomState::new().build_hasher().finish();
    bits as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_are_shortened_at_random() {
        let waits: Vec<_> = [1, 2, 3, 7, 60].map(|n| delay(n, None, 0.0).as_millis()).into();
        assert_eq!(waits, [500, 1000, 2000, 30_000, 30_000]);
        assert_eq!(delay(1, None, 1.0).as_millis(), 250);
        assert!((0.0..=1.0).contains(&random()));
    }

    #[test]
    fn the_server_decides_if_it_says_something() {
        assert_eq!(delay(5, Some(Duration::from_secs(3)), 1.0), Duration::from_secs(3));
        assert_eq!(delay(1, Some(Duration::from_secs(86_400)), 0.0), LONGEST_ASKED_FOR);
        let now = DateTime::from_timestamp(784_111_700, 0).unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(77)));
        assert_eq!(retry_after("Sat, 06 Nov 1993 08:49:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn only_temporary_answers_are_worth_another_try() {
        for (code, expected) in
            [(429, true), (500, true), (503, true), (400, false), (401, false), (501, false)]
        {
            assert_eq!(is_temporary(StatusCode::from_u16(code).unwrap()), expected, "{code}");
        }
    }
}
