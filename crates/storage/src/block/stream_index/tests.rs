use proptest::prelude::*;
use skald_model::{EntryHash, LabelsRef, Matcher};

use super::build::BuiltStream;
use super::*;

fn build(streams: &[(Labels, i64, i64)]) -> StreamIndex {
    let mut b = StreamIndexBuilder::default();
    for (i, (labels, min_ts, max_ts)) in streams.iter().enumerate() {
        let mut digest = Digest::default();
        digest.add(EntryHash::of(*min_ts, b"x", LabelsRef::EMPTY));
        let id = StreamId(i as u64 * 7919);
        b.add(BuiltStream {
            labels: labels.clone(),
            id,
            rows: i as u32 % 5 + 1,
            min_ts: *min_ts,
            max_ts: *max_ts,
            bytes: i as u64,
            digest,
        })
        .unwrap();
    }
    let (section, _) = b.finish(3).unwrap();
    StreamIndex::open(section.into()).unwrap()
}

fn some_labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map("[a-c]", "[x-z]{1,2}", 0..4)
        .prop_map(|m| Labels::from_pairs(m.iter().map(|(k, v)| (k.as_str(), v.as_str()))))
}

fn some_matcher() -> impl Strategy<Value = Matcher> {
    let op = prop_oneof![
        Just(MatchOp::Equal),
        Just(MatchOp::NotEqual),
        Just(MatchOp::Match),
        Just(MatchOp::NotMatch)
    ];
    ("[a-d]", op, "[x-z]{0,2}").prop_map(|(n, op, v)| {
        let v = if matches!(op, MatchOp::Match | MatchOp::NotMatch) { format!("{v}.?") } else { v };
        Matcher::new(&n, op, &v).unwrap()
    })
}

proptest! {
    #[test]
    fn selection_is_what_matching_each_stream_gives(
        mut labels in proptest::collection::vec((some_labels(), 0i64..100, 0i64..50), 0..40),
        matchers in proptest::collection::vec(some_matcher(), 0..3),
        start in 0i64..120, len in 0i64..60,
    ) {
        labels.sort();
        let streams: Vec<_> = labels.into_iter().map(|(l, min, len)| (l, min, min + len)).collect();
        let index = build(&streams);
        let selector = Selector { matchers };
        let range = TimeRange::new(start, start + len);
        let expected: Vec<u32> = streams.iter().enumerate()
            .filter(|(_, (l, min, max))| selector.matches(l.as_ref()) && range.overlaps(*min, *max))
            .map(|(i, _)| i as u32).collect();
        prop_assert_eq!(index.select(&selector, range).unwrap(), expected);
        for (i, (l, min, max)) in streams.iter().enumerate() {
            let info = index.get(i as u32).unwrap();
            prop_assert_eq!((&info.labels, info.min_ts, info.max_ts), (l, *min, *max));
        }
    }
}

#[test]
fn pages_that_cannot_match_are_not_decoded() {
    let streams: Vec<_> = (0..3000)
        .map(|i| {
            let (pod, app) = (format!("p{i:05}"), format!("a{}", i / 1024));
            (Labels::from_pairs([("app", app.as_str()), ("pod", pod.as_str())]), i, i + 1)
        })
        .collect();
    let index = build(&streams);
    let selector = Selector { matchers: vec![Matcher::new("app", MatchOp::Equal, "a1").unwrap()] };
    let found = index.select(&selector, TimeRange::ALL).unwrap();
    assert_eq!(found, (1024..2048).collect::<Vec<u32>>());
    assert!(index.pages[0].get().is_none() && index.pages[2].get().is_none());
    let found = index.select(&Selector::default(), TimeRange::new(2999, 3001)).unwrap();
    assert_eq!(found, [2998, 2999]);
    assert!(index.pages[0].get().is_none());
    let last = index.get(2999).unwrap();
    assert_eq!(u64::from(last.rows.end), index.totals().rows);
    assert_eq!(last.id, StreamId(2999 * 7919));
    let mut names = std::collections::BTreeSet::new();
    index
        .for_each_pair(|n, _| {
            names.insert(n.to_owned());
        })
        .unwrap();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["app", "pod"]);
}
