//! Steps of a query and the windows of a range aggregation.
//!
//! The window of the step at `t` is `(t - offset - range, t - offset]`. Windows of neighbouring steps overlap when the
//! range is longer than the step, so entries are not added to windows but to *buckets*: the time between neighbouring
//! edges of windows. Between two steps there is at most one edge where a window begins, hence two buckets per step,
//! `2k` before that edge and `2k + 1` after it; a window is a run of buckets.

use skald_model::{TimeRange, Timestamp};

/// The points of time at which a query is evaluated: `start`, `start + step` … up to `end`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    start: Timestamp,
    end: Timestamp,
    step: i64,
}

impl Steps {
    /// One point: an instant query.
    pub fn instant(at: Timestamp) -> Self {
        Self { start: at, end: at, step: 0 }
    }

    /// The points of a range query; a step that is not positive counts as an instant query at `start`.
    pub fn range(start: Timestamp, end: Timestamp, step: i64) -> Self {
        if step <= 0 { Self::instant(start) } else { Self { start, end: end.max(start), step } }
    }

    /// The points of a range query whose ends are moved outwards to multiples of the step, as Loki does where it splits
    /// queries by time.
    pub fn aligned(start: Timestamp, end: Timestamp, step: i64) -> Self {
        if step <= 0 {
            return Self::instant(start);
        }
        let down = start.div_euclid(step) * step;
        let up = end.div_euclid(step) * step + if end.rem_euclid(step) == 0 { 0 } else { step };
        Self::range(down, up, step)
    }

    /// Whether this is one point of an instant query.
    pub fn is_instant(&self) -> bool {
        self.step == 0
    }

    /// Number of points.
    pub fn count(&self) -> usize {
        if self.step == 0 { 1 } else { ((self.end - self.start) / self.step) as usize + 1 }
    }

    /// The `i`th point.
    pub fn at(&self, i: usize) -> Timestamp {
        self.start.saturating_add(self.step.saturating_mul(i as i64))
    }

    /// The first point.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// The last instant that was asked for; the last point is not after it.
    pub fn end(&self) -> Timestamp {
        self.end
    }

    /// Nanoseconds between points, 0 for an instant query.
    pub fn step(&self) -> i64 {
        self.step
    }
}

/// The windows of a range aggregation over steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    steps: Steps,
    /// The first step less the offset: times of entries are compared with this.
    origin: Timestamp,
    interval: i64,
    step: i64,
    /// Whole steps in a range, and what is left.
    whole: i64,
    rest: i64,
}

/// A bucket, or a time outside of all windows: the times after `after` up to `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub after: Timestamp,
    pub to: Timestamp,
    pub bucket: Option<i64>,
}

impl Span {
    pub(crate) fn contains(&self, t: Timestamp) -> bool {
        self.after < t && t <= self.to
    }
}

impl Windows {
    pub(crate) fn new(steps: Steps, interval: i64, offset: i64) -> Self {
        let interval = interval.max(1);
        let step = if steps.is_instant() { interval } else { steps.step() };
        Self {
            steps,
            origin: steps.start().saturating_sub(offset),
            interval,
            step,
            whole: interval / step,
            rest: interval % step,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.steps.count()
    }

    /// The times that are inside any window.
    pub(crate) fn times(&self) -> TimeRange {
        let last = self.origin.saturating_add(self.step.saturating_mul(self.count() as i64 - 1));
        TimeRange::new(self.origin.saturating_sub(self.interval).saturating_add(1), last.saturating_add(1))
    }

    /// The bucket of an entry at `t`; `None` if it is in no window.
    #[cfg(test)]
    pub(crate) fn bucket(&self, t: Timestamp) -> Option<i64> {
        self.span(t).bucket
    }

    /// The bucket of an entry at `t` with all the times that share it.
    pub(crate) fn span(&self, t: Timestamp) -> Span {
        let after = t.saturating_sub(self.origin);
        // The first step at or after the entry.
        let k = after.div_euclid(self.step) + i64::from(after.rem_euclid(self.step) != 0);
        let at_step = k.saturating_mul(self.step);
        let late = self.rest == 0 || at_step.saturating_sub(after) < self.rest;
        let bucket = 2 * k + i64::from(late);
        let (from, to) = match (self.rest, late) {
            (0, _) => (at_step.saturating_sub(self.step), at_step),
            (rest, true) => (at_step.saturating_sub(rest), at_step),
            (rest, false) => (at_step.saturating_sub(self.step), at_step.saturating_sub(rest)),
        };
        let last = 2 * (self.count() as i64 - 1) + 1;
        let in_gap = self.whole == 0 && self.rest != 0 && !late;
        let inside = bucket >= self.window(0).0 && bucket <= last && !in_gap;
        Span {
            after: self.origin.saturating_add(from),
            to: self.origin.saturating_add(to),
            bucket: inside.then_some(bucket),
        }
    }

    /// The first and last bucket of the window of step `m`.
    pub(crate) fn window(&self, m: usize) -> (i64, i64) {
        let m = m as i64;
        let first = if self.rest == 0 { 2 * (m - self.whole + 1) } else { 2 * (m - self.whole) + 1 };
        (first, 2 * m + 1)
    }

    /// The bounds of the window of step `m`: after the first, up to the second.
    pub(crate) fn bounds(&self, m: usize) -> (Timestamp, Timestamp) {
        let end = self.origin.saturating_add(self.step.saturating_mul(m as i64));
        (end.saturating_sub(self.interval), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aligned_steps_reach_outwards() {
        let s = Steps::aligned(101, 199, 10);
        assert_eq!((s.at(0), s.count(), s.at(s.count() - 1)), (100, 11, 200));
        assert_eq!(Steps::aligned(100, 200, 10).count(), 11);
        assert_eq!(Steps::instant(7).count(), 1);
    }

    proptest! {
        #[test]
        fn buckets_make_up_the_windows(
            start in -50i64..50, count in 1usize..8, step in 1i64..12, interval in 1i64..40, offset in -20i64..20,
            t in -150i64..250,
        ) {
            let steps = Steps::range(start, start + step * (count as i64 - 1), step);
            let w = Windows::new(steps, interval, offset);
            for m in 0..count {
                let at = steps.at(m) - offset;
                let inside = at - interval < t && t <= at;
                let (first, last) = w.window(m);
                let found = w.bucket(t).is_some_and(|b| first <= b && b <= last);
                prop_assert_eq!(found, inside, "step {}", m);
                prop_assert!(!inside || w.times().contains(t));
                prop_assert_eq!(w.bounds(m), (at - interval, at));
            }
            let span = w.span(t);
            prop_assert!(span.contains(t));
            for near in [span.after + 1, span.to] {
                prop_assert_eq!(w.bucket(near), span.bucket);
            }
            if span.bucket.is_some() {
                prop_assert!(w.bucket(span.after) != span.bucket && w.bucket(span.to + 1) != span.bucket);
            }
        }
    }
}
