//! How often something was seen over time: exact to ten seconds for half an hour, coarser as it grows old.

/// Seconds of the finest bucket; all times here are counted in it.
pub(super) const UNIT_SECONDS: i64 = 10;

/// Width of the buckets of each layer, and the age at which their counts go to the next one.
const LAYERS: [Layer; 3] =
    [Layer { width: 1, age: 180 }, Layer { width: 6, age: 720 }, Layer { width: 30, age: u32::MAX }];

struct Layer {
    width: u32,
    age: u32,
}

/// A bucket: its first unit since the Unix epoch, and its count.
pub(super) type Point = (u32, u32);

/// Counts over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    layers: [Vec<Point>; 3],
}

impl Series {
    /// Counts something at `unit`.
    pub(super) fn add(&mut self, unit: u32, count: u32, now: u32) {
        let age = now.saturating_sub(unit);
        let layer = LAYERS.iter().position(|l| age < l.age).unwrap_or(LAYERS.len() - 1);
        self.add_to(layer, unit, count);
    }

    fn add_to(&mut self, layer: usize, unit: u32, count: u32) {
        let start = unit - unit % LAYERS[layer].width;
        let points = &mut self.layers[layer];
        let at = match points.last() {
            Some(last) if last.0 <= start => points.len() - usize::from(last.0 == start),
            _ => points.partition_point(|p| p.0 < start),
        };
        match points.get_mut(at) {
            Some(point) if point.0 == start => point.1 = point.1.saturating_add(count),
            _ => points.insert(at, (start, count)),
        }
    }

    /// Moves what has grown old to wider buckets and forgets what is older than `kept`. Counts older than `fine` leave
    /// the finest buckets even if they could stay. True if anything is left.
    pub(super) fn age(&mut self, now: u32, kept: u32, fine: u32) -> bool {
        for (layer, Layer { age, .. }) in LAYERS[..LAYERS.len() - 1].iter().enumerate() {
            let age = if layer == 0 { fine.min(*age) } else { *age };
            let cut = now.saturating_sub(age);
            let old = self.layers[layer].partition_point(|p| p.0 < cut);
            let moved: Vec<Point> = self.layers[layer].drain(..old).collect();
            for (unit, count) in moved {
                self.add_to(layer + 1, unit, count);
            }
        }
        let cut = now.saturating_sub(kept);
        for (points, layer) in self.layers.iter_mut().zip(&LAYERS) {
            points.drain(..points.partition_point(|p| p.0.saturating_add(layer.width) <= cut));
            if points.capacity() > 2 * points.len() + 8 {
                points.shrink_to_fit();
            }
        }
        self.layers.iter().any(|points| !points.is_empty())
    }

    /// Everything counted.
    pub(super) fn total(&self) -> u64 {
        self.layers.iter().flatten().map(|p| u64::from(p.1)).sum()
    }

    /// Calls `found` for the counts from `start` to before `end`, in units. Counts of wide buckets are spread evenly.
    pub(super) fn visit(&self, start: i64, end: i64, mut found: impl FnMut(i64, u64)) {
        for (points, layer) in self.layers.iter().zip(&LAYERS) {
            for (from, count) in points {
                let (width, count) = (i64::from(layer.width), i64::from(*count));
                for i in 0..width {
                    let unit = i64::from(*from) + i;
                    let part = count * (i + 1) / width - count * i / width;
                    if part > 0 && (start..end).contains(&unit) {
                        found(unit, part as u64);
                    }
                }
            }
        }
    }

    /// Bytes of memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        let points: usize = self.layers.iter().map(Vec::capacity).sum();
        size_of::<Self>() + points * size_of::<Point>()
    }

    /// The buckets of all layers, finest first.
    pub(super) fn layers(&self) -> &[Vec<Point>; 3] {
        &self.layers
    }

    /// From what [`Series::layers`] gave; buckets out of order are put in order.
    pub(super) fn from_layers(layers: [Vec<Point>; 3]) -> Self {
        let mut series = Self::default();
        for (layer, points) in layers.into_iter().enumerate() {
            for (unit, count) in points {
                series.add_to(layer, unit, count);
            }
        }
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_but_by_age(adds in proptest::collection::vec((0u32..1500, 1u32..50), 1..60)) {
            let now = 1500;
            let mut series = Series::default();
            let mut expected = 0;
            for (unit, count) in &adds {
                series.add(*unit, *count, now);
                expected += u64::from(*count);
            }
            prop_assert_eq!(series.total(), expected);
            series.age(now, 10_000, 20);
            prop_assert_eq!(series.total(), expected);
            let mut visited = 0;
            series.visit(0, 2000, |_, n| visited += n);
            prop_assert_eq!(visited, expected);
            prop_assert_eq!(Series::from_layers(series.layers().clone()), series.clone());
            prop_assert!(!series.age(now + 2000, 100, 180));
        }
    }

    #[test]
    fn young_counts_are_exact_and_old_ones_spread() {
        let mut series = Series::default();
        series.add(1000, 5, 1000);
        series.add(999, 7, 1000);
        let visit = |series: &Series| {
            let mut all = Vec::new();
            series.visit(0, 5000, |unit, n| all.push((unit, n)));
            all.sort();
            all
        };
        assert_eq!(visit(&series), [(999, 7), (1000, 5)]);
        series.age(1200, 1000, 180);
        assert_eq!(visit(&series).iter().map(|p| p.1).sum::<u64>(), 12);
        assert_eq!(visit(&series).len(), 6, "{:?}", visit(&series));
    }
}
