//! Which lines are looked at, when there are more than may be.

/// Looks at about `lines_per_second_max` lines a second: all of them up to that rate, beyond it every n-th, which then
/// stands for n.
#[derive(Clone, Debug, Default)]
pub(super) struct Sampler {
    second: i64,
    /// Lines of this second so far, and of the one before.
    arrived: u64,
    arrived_before: u64,
    /// Lines to leave out before the next one.
    skip: u64,
}

impl Sampler {
    /// Counts `lines` that arrive at `second`; returns n.
    pub(super) fn weight(&mut self, lines: u64, second: i64, lines_per_second_max: u64) -> u64 {
        if second != self.second {
            self.arrived_before = if second == self.second + 1 { self.arrived } else { 0 };
            (self.second, self.arrived) = (second, 0);
        }
        self.arrived += lines;
        self.arrived.max(self.arrived_before).div_ceil(lines_per_second_max.max(1)).max(1)
    }

    /// The places of the lines to look at, among the next `lines`, when every `weight`-th is.
    pub(super) fn places(&mut self, lines: u64, weight: u64) -> impl Iterator<Item = u64> + use<> {
        let first = self.skip.min(weight - 1);
        let taken = lines.saturating_sub(first).div_ceil(weight);
        self.skip = (first + taken * weight).saturating_sub(lines);
        (0..taken).map(move |i| first + i * weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_below_the_rate_and_a_share_that_adds_up_above_it() {
        let mut sampler = Sampler::default();
        assert_eq!(sampler.weight(100, 7, 100), 1);
        assert_eq!(sampler.places(3, 1).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(sampler.weight(900, 7, 100), 10);
        // The next second goes on where the last one was.
        assert_eq!(sampler.weight(1, 8, 100), 10);
        assert_eq!(sampler.weight(1, 10, 100), 1);
        // Batches of any size: what the chosen lines stand for is what there was, but for one weight.
        for size in [1u64, 3, 10, 25] {
            let mut sampler = Sampler::default();
            let mut taken = 0;
            for _ in 0..1000 {
                let places: Vec<_> = sampler.places(size, 10).collect();
                assert!(places.iter().all(|p| *p < size));
                taken += places.len() as u64;
            }
            assert!((taken * 10).abs_diff(size * 1000) <= 10, "{taken} of {size} thousand");
        }
    }
}
