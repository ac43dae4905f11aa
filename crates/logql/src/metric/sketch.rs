//! Quantiles of more values than are kept one by one.
//!
//! A value is counted in the bin of its magnitude; bins grow by [`GROWTH`], so that a quantile is off by at most half a
//! percent of itself. Sketches of parts add up to the sketch of the whole.

use std::collections::BTreeMap;

/// Values of one window that are kept one by one, for exact quantiles.
pub(crate) const EXACT_VALUES: usize = 16_384;
/// Each bin ends this much above its beginning.
const GROWTH: f64 = 1.01;
/// Magnitudes below this count as zero.
const SMALLEST: f64 = 1e-300;

/// Counts of values by magnitude.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sketch {
    /// By bin: negative values (the greatest magnitude has the least number), zero, positive values.
    pub(crate) bins: BTreeMap<i32, u64>,
}

/// Bins of positive values begin here, those of negative ones are below zero; 0 is zero.
const OFFSET: i32 = 1 << 20;

fn bin(value: f64) -> i32 {
    if value.abs() < SMALLEST || value.is_nan() {
        return 0;
    }
    let size = (value.abs().min(f64::MAX).ln() / GROWTH.ln()).ceil() as i32 + OFFSET;
    if value < 0.0 { -size } else { size }
}

fn value(bin: i32) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    // The middle of the bin.
    let magnitude = GROWTH.powi(bin.abs() - OFFSET) * 2.0 / (1.0 + GROWTH);
    if bin < 0 { -magnitude } else { magnitude }
}

impl Sketch {
    pub(crate) fn add(&mut self, value: f64, count: u64) {
        *self.bins.entry(bin(value)).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Sketch) {
        for (bin, count) in &other.bins {
            *self.bins.entry(*bin).or_default() += count;
        }
    }

    pub(crate) fn quantile(&self, q: f64) -> f64 {
        if q < 0.0 {
            return f64::NEG_INFINITY;
        }
        if q > 1.0 {
            return f64::INFINITY;
        }
        let total: u64 = self.bins.values().sum();
        let rank = q * total.saturating_sub(1) as f64;
        let mut seen = 0;
        for (bin, count) in &self.bins {
            seen += count;
            if seen as f64 > rank {
                return value(*bin);
            }
        }
        f64::NAN
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        // Nodes of the tree are two thirds full, and have a head.
        self.bins.len() * 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_within_half_a_percent(
            values in prop::collection::vec(prop_oneof![-1e9f64..1e9, -1.0..1.0, Just(0.0)], 1..200),
            q in 0.0f64..=1.0,
            cut in 0usize..200,
        ) {
            let (mut a, mut b) = (Sketch::default(), Sketch::default());
            for (i, v) in values.iter().enumerate() {
                if i < cut { a.add(*v, 1) } else { b.add(*v, 1) }
            }
            a.merge(&b);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[(q * (values.len() - 1) as f64).floor() as usize];
            prop_assert!((a.quantile(q) - exact).abs() <= 0.0051 * exact.abs() + 1e-290, "{} {}", a.quantile(q), exact);
        }
    }
}
