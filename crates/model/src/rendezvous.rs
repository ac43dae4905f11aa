//! Rendezvous hashing: which of several members does a piece of work.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The position of the member with the highest score for `key`. When a member goes, only its own work moves.
pub fn choose<'a>(key: &str, members: impl Iterator<Item = &'a str>) -> Option<usize> {
    let seed = xxh3_64_with_seed(key.as_bytes(), 0);
    members.enumerate().max_by_key(|(_, m)| xxh3_64_with_seed(m.as_bytes(), seed)).map(|(i, _)| i)
}

/// The positions of all members, the one with the highest score for `key` first.
pub fn rank<'a>(key: &str, members: impl Iterator<Item = &'a str>) -> impl Iterator<Item = usize> {
    let seed = xxh3_64_with_seed(key.as_bytes(), 0);
    let mut scores: Vec<_> =
        members.enumerate().map(|(i, m)| (xxh3_64_with_seed(m.as_bytes(), seed), i)).collect();
    scores.sort_unstable_by(|a, b| b.cmp(a));
    scores.into_iter().map(|(_, i)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_work_and_moves_only_the_leavers() {
        let four = ["a", "b", "c", "d"];
        let mut count = [0; 4];
        for i in 0..4000 {
            let key = format!("block-{i}");
            let with = choose(&key, four.into_iter()).unwrap();
            assert_eq!(rank(&key, four.into_iter()).next(), Some(with));
            count[with] += 1;
            let without = choose(&key, ["a", "b", "c"].into_iter()).unwrap();
            assert!(with == 3 || with == without);
        }
        assert!(count.iter().all(|c| (800..1200).contains(c)), "{count:?}");
    }
}
