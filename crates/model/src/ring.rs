//! Placement of streams on a hash ring: a pure function of the members.

use std::collections::BTreeSet;

use crate::labels::StreamId;
use crate::rendezvous::rank;
use crate::tenant::TenantId;

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

    /// The first `factor` distinct members clockwise from the stream's place, in ring order. Where zones are set,
    /// zones are distinct too, as far as there are enough of them.
    pub fn replicas(&self, stream: StreamId, factor: usize) -> Vec<&RingMember> {
        self.places(stream, factor, None).into_iter().map(|m| &self.members[m]).collect()
    }

    /// The positions in [`Ring::members`] of the stream's replicas, as [`Ring::replicas`] chooses them among the members
    /// of `subset`; `None` is all.
    pub fn places(&self, stream: StreamId, factor: usize, subset: Option<&Subset>) -> Vec<usize> {
        let walk = || self.walk(stream).filter(|m| subset.is_none_or(|s| s.0[*m]));
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
        if chosen.len() < factor {
            for m in walk() {
                if chosen.len() == factor {
                    break;
                }
                if !chosen.contains(&m) {
                    chosen.push(m);
                }
            }
        }
        chosen
    }

    /// The positions of all members with places on the ring, clockwise from the stream's place, each once.
    pub fn order(&self, stream: StreamId) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.members.len());
        let mut seen = vec![false; self.members.len()];
        for m in self.walk(stream) {
            if !std::mem::replace(&mut seen[m], true) {
                order.push(m);
            }
        }
        order
    }

    /// Members by the places on the ring, clockwise from the stream's.
    fn walk(&self, stream: StreamId) -> impl Iterator<Item = usize> {
        let key = (stream.0 >> 32) as u32;
        let start = self.tokens.partition_point(|(t, _)| *t < key);
        self.tokens[start..].iter().chain(&self.tokens[..start]).map(|(_, m)| *m)
    }

    /// The `size` members that serve a tenant, as many from each zone where zones are set (so there may be some more):
    /// those with the highest scores for it, so that a member that comes or goes changes the choice by one. `None` if
    /// all of them do.
    pub fn subset(&self, tenant: &TenantId, size: usize) -> Option<Subset> {
        let serving: Vec<usize> =
            (0..self.members.len()).filter(|m| !self.members[*m].tokens.is_empty()).collect();
        if size == 0 || size >= serving.len() {
            return None;
        }
        let zones: BTreeSet<&str> = serving.iter().map(|m| &*self.members[*m].zone).collect();
        let of_each = size.div_ceil(zones.len());
        let mut chosen = vec![false; self.members.len()];
        for zone in zones {
            let inside: Vec<usize> =
                serving.iter().copied().filter(|m| self.members[*m].zone == zone).collect();
            let names = inside.iter().map(|m| &*self.members[*m].name);
            for at in rank(tenant.as_str(), names).take(of_each) {
                chosen[inside[at]] = true;
            }
        }
        Some(Subset(chosen))
    }
}

/// Some members of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset(Vec<bool>);

impl Subset {
    /// Their positions in [`Ring::members`].
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, chosen)| **chosen).map(|(m, _)| m)
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

    proptest! {
        #[test]
        fn a_tenant_has_its_share_of_members_and_keeps_most_of_them(
            tenant in "[a-z]{1,9}", nodes in 1usize..12, zones in 0usize..4, size in 0usize..14,
        ) {
            let tenant = TenantId::new(&tenant).unwrap();
            let all = ring(nodes, zones);
            let names = |ring: &Ring| -> Option<BTreeSet<String>> {
                let subset = ring.subset(&tenant, size)?;
                Some(subset.positions().map(|m| ring.members()[m].name.clone()).collect())
            };
            let Some(chosen) = names(&all) else {
                prop_assert!(size == 0 || size >= nodes);
                return Ok(());
            };
            let of_zone = |z: usize| chosen.iter().filter(|n| zones == 0 || n[1..].parse::<usize>().unwrap() % zones == z).count();
            for z in 0..zones.min(nodes) {
                prop_assert!(of_zone(z) <= size.div_ceil(zones.min(nodes)));
            }
            if zones == 0 {
                prop_assert_eq!(chosen.len(), size);
            } else if nodes >= size + zones {
                prop_assert!(chosen.len() >= size);
            }
            let fewer = Ring::new(all.members()[1..].to_vec());
            if zones < 2 && let Some(after) = names(&fewer) {
                prop_assert!(chosen.difference(&after).count() <= 1);
            }
            let subset = all.subset(&tenant, size).unwrap();
            let inside: Vec<_> = subset.positions().collect();
            let places = all.places(StreamId(7 << 60), 2, Some(&subset));
            prop_assert_eq!(places.len(), 2.min(inside.len()));
            prop_assert!(places.iter().all(|p| inside.contains(p)));
        }

        #[test]
        fn the_order_begins_with_the_replicas_where_there_are_no_zones(id in any::<u64>(), nodes in 1usize..9) {
            let r = ring(nodes, 0);
            let order = r.order(StreamId(id));
            prop_assert_eq!(order.len(), nodes);
            prop_assert_eq!(&order[..nodes.min(3)], &r.places(StreamId(id), 3, None)[..]);
        }
    }

    #[test]
    fn an_empty_ring_has_no_replicas() {
        assert!(Ring::default().replicas(StreamId(7), 3).is_empty());
    }
}
