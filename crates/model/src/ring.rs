//! Placement of streams on a hash ring: a pure function of the members.

use crate::labels::StreamId;

/// A member of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// Node name, unique.
    pub name: String,
    /// Availability zone, empty when zones are not used.
    pub zone: String,
    /// Its places on the ring.
    pub tokens: Vec<u32>,
}

/// A ring over members. The same members in any order give the same ring.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    members: Vec<RingMember>,
    /// (token, member), sorted.
    tokens: Vec<(u32, usize)>,
}

impl Ring {
    /// A ring of `members`.
    pub fn new(mut members: Vec<RingMember>) -> Self {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.dedup_by(|a, b| a.name == b.name);
        let mut tokens: Vec<_> =
            members.iter().enumerate().flat_map(|(i, m)| m.tokens.iter().map(move |t| (*t, i))).collect();
        tokens.sort_unstable();
        Self { members, tokens }
    }

    /// The members by name.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    /// The part of all streams, from 0 to 1, that each of [`Ring::members`] comes first for.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.members.len()];
        let Some((last, _)) = self.tokens.last() else { return shares };
        let mut before = *last;
        for (n, (token, member)) in self.tokens.iter().enumerate() {
            let places = match (n, token.wrapping_sub(before)) {
                // A ring of one place: all of it.
                (0, 0) => 1u64 << 32,
                (_, places) => u64::from(places),
            };
            shares[*member] += places as f64 / (1u64 << 32) as f64;
            before = *token;
        }
        shares
    }

    /// The first `factor` distinct members clockwise from the stream's place, in ring order. Where zones are set,
    /// zones are distinct too, as far as there are enough of them.
    pub fn replicas(&self, stream: StreamId, factor: usize) -> Vec<&RingMember> {
        let key = (stream.0 >> 32) as u32;
        let start = self.tokens.partition_point(|(t, _)| *t < key);
        let walk = || self.tokens[start..].iter().chain(&self.tokens[..start]).map(|(_, m)| *m);
        let mut chosen: Vec<usize> = Vec::with_capacity(factor);
        for m in walk() {
            if chosen.len() == factor {
                break;
            }
            let zone = &self.members[m].zone;
            let zone_taken = !zone.is_empty() && chosen.iter().any(|c| self.members[*c].zone == *zone);
            if !zone_taken && !chosen.contains(&m) {
                chosen.push(m);
            }
        }
        for m in walk() {
            if chosen.len() == factor.min(self.members.len()) {
                break;
            }
            if !chosen.contains(&m) {
                chosen.push(m);
            }
        }
        chosen.into_iter().map(|m| &self.members[m]).collect()
    }
}

/// `count` tokens of the node called `name`: a function of the name, so that a node comes back to its old places.
pub fn tokens_of(name: &str, count: usize) -> Vec<u32> {
    (0..count as u64)
        .map(|i| (xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), i) >> 32) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(nodes: usize, zones: usize) -> Ring {
        Ring::new(
            (0..nodes)
                .map(|i| RingMember {
                    name: format!("n{i}"),
                    zone: if zones == 0 { String::new() } else { format!("z{}", i % zones) },
                    tokens: tokens_of(&format!("n{i}"), 128),
                })
                .collect(),
        )
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_and_in_distinct_zones(id in any::<u64>(), nodes in 1usize..9, rf in 1usize..5) {
            let r = ring(nodes, 3);
            let got = r.replicas(StreamId(id), rf);
            prop_assert_eq!(got.len(), rf.min(nodes));
            let mut names: Vec<_> = got.iter().map(|m| &m.name).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), got.len());
            let zones: std::collections::BTreeSet<_> = got.iter().map(|m| &m.zone).collect();
            prop_assert_eq!(zones.len(), rf.min(3).min(nodes));
        }

        #[test]
        fn a_leaver_moves_only_its_own_streams(id in any::<u64>()) {
            let before = ring(5, 0);
            let after = Ring::new(before.members()[1..].to_vec());
            let was = before.replicas(StreamId(id), 2);
            if was.iter().all(|m| m.name != "n0") {
                prop_assert_eq!(was, after.replicas(StreamId(id), 2));
            }
        }
    }

    #[test]
    fn shares_are_those_of_the_streams() {
        assert!(Ring::default().shares().is_empty());
        let alone = |token| RingMember { name: "a".into(), zone: String::new(), tokens: vec![token] };
        assert_eq!(Ring::new(vec![alone(7)]).shares(), [1.0]);
        let r = ring(4, 0);
        let shares = r.shares();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let mut counts = [0u32; 4];
        for key in 0..1u64 << 16 {
            let first = r.replicas(StreamId(key << 48), 1)[0];
            counts[r.members().iter().position(|m| m.name == first.name).unwrap()] += 1;
        }
        for (share, count) in shares.iter().zip(counts) {
            assert!((share - f64::from(count) / 65536.0).abs() < 0.01, "{shares:?} {counts:?}");
        }
    }

    #[test]
    fn an_empty_ring_has_no_replicas() {
        assert!(Ring::default().replicas(StreamId(7), 3).is_empty());
    }
}
