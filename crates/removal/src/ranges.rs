//! Times that are left when others are taken away.

use skald_model::{TimeRange, Timestamp};
use smallvec::SmallVec;

/// A few ranges of time.
pub(crate) type Ranges = SmallVec<[TimeRange; 2]>;

/// What of the times from `min` to `max`, both inclusive, lies in none of `gone`: in order, and apart from each other.
pub(crate) fn left(min: Timestamp, max: Timestamp, mut gone: Ranges) -> Ranges {
    gone.sort_unstable_by_key(|r| (r.start, r.end));
    // Exclusive, as the ends of ranges are; the last nanosecond of all time is not in any range.
    let end = max.saturating_add(1);
    let (mut at, mut left) = (min, Ranges::new());
    for range in gone {
        if range.start > at {
            let to = range.start.min(end);
            if at < to {
                left.push(TimeRange::new(at, to));
            }
        }
        at = at.max(range.end);
    }
    if at < end {
        left.push(TimeRange::new(at, end));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_what_no_range_has(
            min in 0i64..20, length in 0i64..20, gone in prop::collection::vec((0i64..40, 0i64..20), 0..5)
        ) {
            let gone: Ranges = gone.into_iter().map(|(s, l)| TimeRange::new(s, s + l)).collect();
            let found = left(min, min + length, gone.clone());
            for t in 0..60 {
                let expected = t >= min && t <= min + length && !gone.iter().any(|r| r.contains(t));
                prop_assert_eq!(found.iter().any(|r| r.contains(t)), expected, "{}", t);
            }
            prop_assert!(found.windows(2).all(|w| w[0].end <= w[1].start));
            prop_assert!(found.iter().all(|r| !r.is_empty()));
        }
    }
}
