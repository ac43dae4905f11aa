//! The slices of a day that no compacted block reaches over.

use skald_model::time::DAY;
use skald_model::{TimeRange, Timestamp};

/// The slices of day `date`, each `slice` nanoseconds long but perhaps the last; the whole day if that is 0.
pub fn slices(date: i32, slice: i64) -> impl Iterator<Item = TimeRange> {
    let slice = length(slice);
    let day = i64::from(date).saturating_mul(DAY);
    let ends = day.saturating_add(DAY);
    (0..DAY.div_euclid(slice) + i64::from(DAY % slice != 0)).map(move |n| {
        let start = day.saturating_add(n * slice);
        TimeRange::new(start, start.saturating_add(slice).min(ends))
    })
}

/// The number of the slice of its day that `ts` lies in.
pub fn slice_of(ts: Timestamp, slice: i64) -> i64 {
    ts.rem_euclid(DAY) / length(slice)
}

fn length(slice: i64) -> i64 {
    if slice <= 0 { DAY } else { slice.min(DAY) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::time::SECOND;

    #[test]
    fn slices_cover_the_day_without_overlap() {
        for hours in [0, 1, 2, 5, 6, 24, 100] {
            let slice = hours * 3600 * SECOND;
            let all: Vec<_> = slices(20_000, slice).collect();
            assert_eq!(all[0].start, 20_000 * DAY);
            assert_eq!(all[all.len() - 1].end, 20_001 * DAY);
            assert!(all.windows(2).all(|w| w[0].end == w[1].start));
            for (n, range) in all.iter().enumerate() {
                assert_eq!(slice_of(range.start, slice), n as i64);
                assert_eq!(slice_of(range.end - 1, slice), n as i64);
            }
        }
    }
}
