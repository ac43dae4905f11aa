use proptest::prelude::*;
use skald_model::time::DAY;

use super::*;
use crate::samples::{self, Sample, batch, tenant};
use skald_runtime::memory::Memory;

fn held(batch: Batch, lsn: Lsn) -> HeldBatch {
    let bytes = memory_cost(&batch);
    HeldBatch::new(batch, lsn, PushStamp::unnumbered(7), Memory::new(1 << 40).try_reserve(bytes).unwrap())
}

fn push(segment: &mut Segment, lsn: Lsn, streams: &[(&str, &[Sample<'_>])]) -> Inserted {
    segment.insert(held(batch(&tenant("t"), streams), lsn))
}

/// The entries of a stream as (time, line, metadata).
fn dump(segment: &Segment, stream: &StreamRows) -> Vec<(i64, String, String)> {
    let batches = segment.batches();
    let text = |row: &Row| String::from_utf8(batches.line(row).to_vec()).unwrap();
    let value = |row: &Row| batches.metadata(row).get("k").unwrap_or("").to_owned();
    stream.rows.iter().map(|r| (r.timestamp, text(r), value(r))).collect()
}

fn lines(segment: &Segment) -> Vec<String> {
    dump(segment, &segment.streams()[0]).into_iter().map(|(t, l, _)| format!("{t}{l}")).collect()
}

#[test]
fn entries_of_one_time_keep_the_order_of_arrival_and_late_ones_find_their_place() {
    let mut s = Segment::default();
    push(&mut s, 1, &[("a", &[(5, "x", ""), (5, "y", ""), (9, "z", "")])]);
    push(&mut s, 2, &[("a", &[(7, "q", ""), (5, "w", ""), (9, "v", ""), (1, "u", ""), (5, "x", "")])]);
    assert_eq!(lines(&s), ["1u", "5x", "5y", "5w", "7q", "9z", "9v"]);
    assert_eq!(s.entries(), 7);
}

#[test]
fn duplicates_differ_in_nothing() {
    let mut s = Segment::default();
    let first = push(&mut s, 1, &[("a", &[(5, "x", ""), (5, "x", "m"), (5, "x", "")])]);
    assert_eq!((first.entries, first.duplicates), (2, 1));
    let again = push(&mut s, 2, &[("a", &[(5, "x", "m")]), ("b", &[(5, "x", "m")])]);
    assert_eq!((again.entries, again.duplicates, again.new_streams), (1, 1, 1));
}

#[test]
fn a_push_of_known_entries_is_not_held_but_its_lsn_counts() {
    let mut s = Segment::default();
    push(&mut s, 1, &[("a", &[(5, "x", "")])]);
    let memory = s.memory_bytes();
    push(&mut s, 9, &[("a", &[(5, "x", "")])]);
    assert_eq!((s.batches().len(), s.memory_bytes(), s.lsns()), (1, memory, Some((1, 9))));
}

#[test]
fn streams_that_share_an_id_stay_apart() {
    let mut s = Segment::default();
    for (lsn, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "b")] {
        let mut b = batch(&tenant("t"), &[(name, &[(lsn as i64, name, "")])]);
        b.streams[0].id = StreamId(42);
        s.insert(held(b, lsn));
    }
    let names: Vec<_> = s.streams().iter().map(|s| (s.labels.get("app").unwrap(), s.rows.len())).collect();
    assert_eq!(names, [("a", 1), ("b", 2), ("c", 1)]);
}

#[test]
fn a_reader_keeps_what_it_saw() {
    let mut s = Segment::default();
    push(&mut s, 1, &[("a", &[(5, "x", "")])]);
    let (seen, batches) = (s.streams()[0].rows.clone(), s.batches().clone());
    push(&mut s, 2, &[("a", &[(4, "y", ""), (6, "z", "")])]);
    assert_eq!((seen.len(), batches.line(&seen[0])), (1, &b"x"[..]));
    assert_eq!(lines(&s), ["4y", "5x", "6z"]);
}

#[test]
fn days_are_cut_at_midnight_with_streams_by_labels() {
    let mut s = Segment::default();
    push(&mut s, 1, &[("b", &[(-1, "x", ""), (0, "y", ""), (DAY, "z", "")]), ("a", &[(DAY - 1, "w", "")])]);
    let days: Vec<_> = s.days().into_iter().collect();
    let rows = |stream, rows| DayRows { stream, rows };
    assert_eq!(
        days,
        [(-1, vec![rows(0, 0..1)]), (0, vec![rows(1, 0..1), rows(0, 1..2)]), (1, vec![rows(0, 2..3)])]
    );
    push(&mut s, 2, &[("b", &[(i64::MAX, "end", ""), (i64::MIN, "start", "")])]);
    assert_eq!(s.days().values().flatten().map(|d| d.rows.len()).sum::<usize>(), 6);
}

#[test]
fn ranges_are_half_open() {
    let mut s = Segment::default();
    push(&mut s, 1, &[("a", &[(1, "x", ""), (2, "y", ""), (3, "z", "")])]);
    let stream = &s.streams()[0];
    assert_eq!(stream.range(&TimeRange::new(2, 3)), 1..2);
    assert_eq!(stream.range(&TimeRange::ALL), 0..3);
    assert_eq!(stream.range(&TimeRange::new(3, 2)).len(), 0);
    assert_eq!(stream.bounds(), Some((1, 3)));
}

#[test]
fn what_the_table_has_can_be_taken_out() {
    let mut s = Segment::default();
    push(&mut s, 1, &[("a", &[(1, "x", "")]), ("b", &[(1, "x", "")])]);
    push(&mut s, 2, &[("a", &[(1, "x", ""), (2, "y", "")])]);
    push(&mut s, 3, &[("c", &[(3, "z", "")])]);
    let rest = s.without(1);
    assert_eq!((rest.entries(), rest.lsns(), rest.streams().len()), (2, Some((2, 3)), 2));
    assert_eq!(lines(&rest), ["2y"]);
    assert!(s.without(3).is_empty());
}

#[test]
fn memory_is_given_back_with_the_last_holder() {
    let memory = Memory::new(1 << 20);
    let b = batch(&tenant("t"), &[("a", &[(1, "x", "")])]);
    let mut s = Segment::default();
    s.insert(HeldBatch::new(b, 1, PushStamp::default(), memory.try_reserve(1024).unwrap()));
    let reader = s.batches().clone();
    assert_eq!((memory.used(), s.memory_bytes()), (1024, 1024));
    drop(s);
    assert_eq!(memory.used(), 1024);
    drop(reader);
    assert_eq!(memory.used(), 0);
}

/// The obvious way: append, drop what is there, sort by time keeping the order.
fn naive(pushes: &[Vec<(i64, String, String)>]) -> Vec<(i64, String, String)> {
    let mut all: Vec<(i64, String, String)> = Vec::new();
    for e in pushes.iter().flatten() {
        if !all.contains(e) {
            all.push(e.clone());
        }
    }
    all.sort_by_key(|e| e.0);
    all
}

fn check_like_naive(pushes: &[Vec<(i64, String, String)>]) -> std::result::Result<(), TestCaseError> {
    let mut s = Segment::default();
    for (lsn, entries) in pushes.iter().enumerate() {
        let entries: Vec<_> = entries.iter().map(|(t, l, m)| (*t, l.as_str(), m.as_str())).collect();
        push(&mut s, lsn as Lsn, &[("a", &entries)]);
    }
    let expected = naive(pushes);
    let got = s.streams().first().map(|stream| dump(&s, stream)).unwrap_or_default();
    prop_assert_eq!(&got, &expected);
    prop_assert_eq!(s.entries(), expected.len() as u64);
    let bytes: usize = expected.iter().map(|e| e.1.len()).sum();
    prop_assert_eq!(s.streams().first().map_or(0, |s| s.bytes), bytes as u64);
    Ok(())
}

proptest! {
    #[test]
    fn insertion_is_like_sorting_without_duplicates(
        pushes in proptest::collection::vec(
            proptest::collection::vec((0i64..12, "[xy]{0,2}", "[m]{0,1}"), 0..8), 0..8)
    ) {
        check_like_naive(&pushes)?;
    }

    #[test]
    fn many_entries_of_one_time_are_compared_by_hash_to_the_same_end(
        pushes in proptest::collection::vec(
            proptest::collection::vec((0i64..2, "[a-e]{2}", ""), 0..60), 0..5)
    ) {
        check_like_naive(&pushes)?;
    }

    #[test]
    fn a_round_trip_through_the_batch_encoding_changes_nothing(
        entries in proptest::collection::vec((any::<i64>(), ".{0,9}", "[a-z]{0,2}"), 0..9)
    ) {
        let entries: Vec<_> = entries.iter().map(|(t, l, m)| (*t, l.as_str(), m.as_str())).collect();
        let b = batch(&tenant("t"), &[("a", &entries)]);
        let (head, body) = b.encode();
        let glued: bytes::Bytes = [&head[..], &body].concat().into();
        let back = Batch::decode(&glued, &|_, _| None).unwrap();
        prop_assert_eq!(samples::entries(&back), samples::entries(&b));
    }
}
