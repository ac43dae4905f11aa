use proptest::prelude::*;
use skald_model::LinePredicate;
use skald_model::line_filter::{LineFilter, LineRegex, Needle};
use skald_model::regex::{Mode, Regex};

use super::*;

fn filter(pages: &[Vec<Vec<u8>>], bits: f64) -> IdFilter {
    let mut b = IdFilterBuilder::new(bits);
    for lines in pages {
        let (data, masks) = classified(lines);
        b.add_page(&data, &masks);
    }
    IdFilter::open(b.finish().into()).unwrap()
}

fn words(pages: &[Vec<Vec<u8>>]) -> WordIndex {
    let mut b = WordIndexBuilder::default();
    for lines in pages {
        let (data, masks) = classified(lines);
        b.add_page(&data, &masks);
    }
    WordIndex::open(&b.finish().into()).unwrap()
}

fn classified(lines: &[Vec<u8>]) -> (Vec<u8>, Masks) {
    let (data, mut masks) = (lines.concat(), Masks::default());
    masks.fill(&data, &lines.iter().map(|l| l.len() as u32).collect::<Vec<_>>());
    (data, masks)
}

fn by_ids(filter: &IdFilter, keys: &FilterKeys, page: usize) -> bool {
    PageProbe::new(Some(filter), None, keys).may_hold(page)
}

fn by_words(index: &WordIndex, keys: &FilterKeys, page: usize) -> bool {
    PageProbe::new(None, Some(index), keys).may_hold(page)
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
    let probe = |needle: &str| by_ids(&f, &contains(needle.as_bytes()), 0);
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
fn words_by_their_borders() {
    let pages = [
        page(&["the GET failed, code=timeout", "xdecodery"]),
        page(&["beefcafe 17 unicode"]),
        page(&["timeouts"]),
    ];
    let w = words(&pages);
    let probe =
        |needle: &str| (0..3).map(|p| by_words(&w, &contains(needle.as_bytes()), p)).collect::<Vec<_>>();
    assert_eq!(probe("code"), [true, true, false], "anywhere in a word");
    assert_eq!(probe(" code"), [true, false, false], "a word begins with it");
    assert_eq!(probe("code=t"), [true, true, false], "a word ends with it; the other run is too short");
    assert_eq!(probe("=timeout,"), [true, false, false], "a word by itself");
    assert_eq!(probe("=timeouts,"), [false, false, true]);
    assert_eq!(probe("=outs,"), [false, false, false]);
    assert_eq!(probe("outs"), [false, false, true]);
    assert_eq!(probe("get"), [false, false, false], "letter case matters");
    assert_eq!(probe("GET the"), [true, false, false], "both words, in whatever order");
    assert_eq!(probe("beefcafe"), [true, true, true], "could be a part of an id");
    assert_eq!(probe("17"), [true, true, true], "no word");
    assert_eq!(probe("the"), [true, false, false], "the first word of all");
}

#[test]
fn words_without_regard_to_case() {
    let w = words(&[page(&["Connection REFUSED"]), page(&["unused"])]);
    let probe = |text: &str| {
        let regex = Regex::new(&format!("(?i){text}"), Mode::Search).unwrap();
        let regex = LineRegex { regex, required: vec![], folded: vec![vec![text.as_bytes().into()]] };
        let keys = FilterKeys::new(&LinePredicate { all: vec![LineFilter::Matches(regex)] });
        (0..2).map(|p| by_words(&w, &keys, p)).collect::<Vec<_>>()
    };
    assert_eq!(probe("refused"), [true, false]);
    assert_eq!(probe("connection refused"), [true, false]);
    assert_eq!(probe("used"), [true, true]);
    assert_eq!(probe(" used"), [false, false]);
}

#[test]
fn long_words_and_too_many_words() {
    let long = "q".repeat(100);
    let w = words(&[page(&[&long, "one"]), page(&["two"])]);
    let probe = |w: &WordIndex, needle: &str, p| by_words(w, &contains(needle.as_bytes()), p);
    assert!(probe(&w, "qqq", 0) && !probe(&w, "qqq", 1));
    assert!(probe(&w, "zzz", 0), "it may lie inside the long word");
    assert!(!probe(&w, " zzz ", 0), "the long word is another one");
    let w = words(&[page(&[&format!("7{long}7")]), page(&["two"])]);
    assert!(probe(&w, &format!("7{long}7"), 0), "a long word with its borders");
    assert!(!probe(&w, &format!("7{long}7"), 1));

    let random: Vec<String> = (0..40_000u64)
        .map(|i| format!("{:x}", hash(i)).bytes().map(|b| char::from(b | 0x40)).collect())
        .collect();
    let random = random.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let w = words(&[page(&["first"]), page(&[&random]), page(&["last"])]);
    assert!(w.section_len() < 100 << 10, "{}", w.section_len());
    assert_eq!(w.unknown_pages(), 1, "the page with more words than there is room for");
    assert!(probe(&w, "first", 0) && probe(&w, "first", 1) && probe(&w, "last", 2));
    assert!(!probe(&w, "last", 0) && !probe(&w, "first", 2));
}

#[test]
fn sets_of_pages_in_each_form() {
    let pages: Vec<_> = (0..200)
        .map(|i| {
            let mut lines = vec!["everywhere"];
            lines.extend((i % 2 == 0).then_some("often"));
            lines.extend((i == 77).then_some("once"));
            page(&lines)
        })
        .collect();
    let w = words(&pages);
    for p in 0..200 {
        assert!(by_words(&w, &contains(b"everywhere"), p));
        assert_eq!(by_words(&w, &contains(b"often"), p), p % 2 == 0);
        assert_eq!(by_words(&w, &contains(b"once"), p), p == 77);
        assert!(!by_words(&w, &contains(b"never"), p));
    }
}

#[test]
fn clauses_and_alternatives() {
    let f = filter(&[page(&["id=aaaaaaa1 id=bbbbbbb2"])], 16.0);
    let one = |s: &str| LineFilter::Contains(Needle::new(s.as_bytes()));
    let probe = |all: Vec<LineFilter>| by_ids(&f, &FilterKeys::new(&LinePredicate { all }), 0);
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
        assert!(by_ids(&f, &contains(needle), 0), "{len}");
        assert!(!by_ids(&f, &contains(needle), 1), "{len}");
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
        hits += (0..20).filter(|p| by_ids(&f, &keys, *p)).count();
    }
    // Two anchors with a chance of 6 % each: 0.4 %, 80 of 20 000.
    assert!(hits < 160, "{hits}");
}

fn hash(i: u64) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes())
}

fn some_line() -> impl Strategy<Value = String> {
    "([a-z]{1,9}|[a-z]{30,36}|[0-9A-Fa-f]{6,40}|[ é\n=:\"K]|[a-f]{7}[0-9]){0,10}"
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
        let (f, w) = (filter(&pages, bits), words(&pages));
        for (line, start, len) in picks {
            let i = line.index(lines.len());
            let text = &lines[i];
            if text.is_empty() { continue; }
            let start = start.index(text.len());
            let needle = &text[start..text.len().min(start + len)];
            prop_assert!(by_ids(&f, &contains(needle), i / per_page));
            prop_assert!(by_words(&w, &contains(needle), i / per_page));
            prop_assert!(by_ids(&f, &contains(&needle.to_ascii_uppercase()), i / per_page));
            // Every page that holds the needle anywhere is a candidate.
            for (p, lines) in pages.iter().enumerate() {
                if lines.iter().any(|l| memchr::memmem::find(l, needle).is_some()) {
                    prop_assert!(by_ids(&f, &contains(needle), p));
                    prop_assert!(by_words(&w, &contains(needle), p));
                }
            }
        }
    }

    #[test]
    fn damaged_word_indexes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut b = WordIndexBuilder::default();
        for lines in [page(&["one two", "three"]), page(&["two"])] {
            let (data, masks) = classified(&lines);
            b.add_page(&data, &masks);
        }
        let mut section = b.finish();
        let at = at.index(section.len());
        section[at] = byte;
        let _ = WordIndex::open(&section.into()).map(|w| by_words(&w, &contains(b" two "), 1));
    }

    #[test]
    fn damaged_sections_never_panic(b in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = WordIndex::open(&b.clone().into()).map(|w| by_words(&w, &contains(b"=code"), 0));
        let _ = IdFilter::open(b.into()).map(|f| by_ids(&f, &contains(b"=4bf92f35"), 0));
    }
}
