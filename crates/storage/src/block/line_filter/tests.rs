use proptest::prelude::*;
use skald_model::LinePredicate;
use skald_model::line_filter::{LineFilter, Needle};

use super::*;

fn filter(pages: &[Vec<Vec<u8>>], bits: f64) -> IdFilter {
    let mut b = IdFilterBuilder::new(bits);
    for lines in pages {
        let lengths: Vec<u32> = lines.iter().map(|l| l.len() as u32).collect();
        b.add_page(&lines.concat(), &lengths);
    }
    IdFilter::open(b.finish().into()).unwrap()
}

fn contains(needle: &[u8]) -> FilterKeys {
    FilterKeys::new(&LinePredicate { all: vec![LineFilter::Contains(Needle::new(needle))] })
}

fn page(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|l| l.as_bytes().to_vec()).collect()
}

#[test]
fn the_three_rules() {
    let f = filter(&[page(&["id=4bf92f3577b34da6 ok", "short ab12"])], 16.0);
    let probe = |needle: &str| f.probe(&contains(needle.as_bytes()), 0);
    assert!(probe("4bf92f3577b34da6"));
    assert!(probe("=4bf92f35"), "a prefix with its border");
    assert!(probe("77b34da6 "), "a suffix with its border");
    assert!(probe("2f3577b34d"), "a piece of a longer token can't be judged");
    assert!(probe("4BF92F3577B34DA6"), "case does not matter to the filter");
    assert!(!probe("=5bf92f35"));
    assert!(!probe("77b34da7 "));
    assert!(!probe("4bf92f3577b34da7"), "no longer token is there, so it must be equal");
    assert!(!probe("4bf92f3577b34da6a"), "no token is as long");
    assert!(probe("deadlock detected"), "nothing id-like");
}

#[test]
fn clauses_and_alternatives() {
    let f = filter(&[page(&["id=aaaaaaa1 id=bbbbbbb2"])], 16.0);
    let one = |s: &str| LineFilter::Contains(Needle::new(s.as_bytes()));
    let probe = |all: Vec<LineFilter>| f.probe(&FilterKeys::new(&LinePredicate { all }), 0);
    assert!(probe(vec![one("aaaaaaa1"), one("bbbbbbb2")]));
    assert!(!probe(vec![one("aaaaaaa1"), one("ccccccc3")]));
    assert!(probe(vec![LineFilter::Any(vec![one("ccccccc3"), one("bbbbbbb2")])]));
    assert!(!probe(vec![LineFilter::Any(vec![one("ccccccc3"), one("ddddddd2")])]));
    assert!(probe(vec![LineFilter::Any(vec![one("ccccccc3"), one("x")])]), "one alternative is unknown");
}

#[test]
fn lengths_of_63_and_more_are_not_told_apart() {
    let long = format!("{}7", "a".repeat(80));
    let f = filter(&[page(&[&long]), page(&["nothing"])], 16.0);
    for len in [62, 63, 64, 70] {
        let needle = &long.as_bytes()[81 - len..];
        assert!(f.probe(&contains(needle), 0), "{len}");
        assert!(!f.probe(&contains(needle), 1), "{len}");
    }
}

#[test]
fn false_positives_are_as_rare_as_designed() {
    let pages: Vec<_> = (0..20u64)
        .map(|p| (0..1000u64).map(|i| format!("id={:032x}", hash(p * 1000 + i)).into_bytes()).collect())
        .collect();
    let f = filter(&pages, 6.0);
    let mut hits = 0;
    for i in 0..1000u64 {
        let keys = contains(format!("{:032x}", hash(1 << 40 | i)).as_bytes());
        hits += (0..20).filter(|p| f.probe(&keys, *p)).count();
    }
    // Two anchors with a chance of 6 % each: 0.4 %, 80 of 20 000.
    assert!(hits < 160, "{hits}");
}

fn hash(i: u64) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes())
}

fn some_line() -> impl Strategy<Value = String> {
    "([a-z]{1,9}|[0-9A-Fa-f]{6,40}|[ é\n=:\"K]|[a-f]{7}[0-9]){0,10}"
}

proptest! {
    /// Needles cut from lines at any position are found, in their case and in another.
    #[test]
    fn no_false_negatives(
        lines in proptest::collection::vec(some_line(), 1..20),
        per_page in 1usize..5,
        picks in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..60), 1..30),
        bits in 2.0f64..10.0,
    ) {
        let lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
        let pages: Vec<Vec<Vec<u8>>> = lines.chunks(per_page).map(<[_]>::to_vec).collect();
        let f = filter(&pages, bits);
        for (line, start, len) in picks {
            let i = line.index(lines.len());
            let text = &lines[i];
            if text.is_empty() { continue; }
            let start = start.index(text.len());
            let needle = &text[start..text.len().min(start + len)];
            prop_assert!(f.probe(&contains(needle), i / per_page));
            prop_assert!(f.probe(&contains(&needle.to_ascii_uppercase()), i / per_page));
            // Every page that holds the needle anywhere is a candidate.
            for (p, lines) in pages.iter().enumerate() {
                if lines.iter().any(|l| memchr::memmem::find(l, needle).is_some()) {
                    prop_assert!(f.probe(&contains(needle), p));
                }
            }
        }
    }

    #[test]
    fn damaged_sections_never_panic(b in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = IdFilter::open(b.into()).map(|f| f.probe(&contains(b"=4bf92f35"), 0));
    }
}
