//! Examples, and a naive model that looks at every row.

use proptest::prelude::*;
use skald_model::limits::StreamRetention;
use skald_model::retention::STREAM_PERIOD_MIN;
use skald_model::time::SECOND;
use skald_model::{Limits, MatchOp, Matcher};
use skald_storage::block::{Masks, PageProbe, WordIndex, WordIndexBuilder};

use super::*;

fn delete(generation: u64, accepted: i64, range: (i64, i64), query: &str) -> Delete {
    let range = TimeRange::new(range.0, range.1);
    Delete::compile(DeleteRule { generation, accepted, range, query: query.into() }).unwrap()
}

fn removals(deletes: Vec<Delete>) -> Removals {
    let generation = deletes.iter().map(|d| d.rule.generation).max().unwrap_or(0);
    Removals { generation, deletes: deletes.into_iter().map(Arc::new).collect(), ..Removals::default() }
}

fn labels(app: &str) -> Labels {
    Labels::from_pairs([("app", app)])
}

const BLOCK: Source = Source::Block { deletes: 0, received_min: 5 };

#[test]
fn a_request_is_about_what_came_before_it() {
    let r = removals(vec![delete(3, 10, (0, 100), r#"{app="a"}"#)]);
    let of = |source| r.stream(&source, labels("a").as_ref(), 20, 30);
    let block = |deletes, received_min| of(Source::Block { deletes, received_min });
    assert_eq!(block(0, 10), Keep::Nothing, "in the same second");
    assert_eq!(block(0, 11), Keep::All);
    assert_eq!(block(0, 0), Keep::Nothing, "nobody knows when it came");
    assert_eq!(block(2, 5), Keep::Nothing);
    assert_eq!(block(3, 5), Keep::All, "it has been carried out");
    let memory = |received_min, received_max| of(Source::Memory { received_min, received_max });
    assert_eq!(memory(5, 10), Keep::Nothing);
    assert_eq!(memory(11, 12), Keep::All);
    assert!(matches!(memory(5, 11), Keep::Rows(_)), "some of it may have come after the request");
    assert_eq!(r.stream(&BLOCK, labels("b").as_ref(), 20, 30), Keep::All);
    assert_eq!(r.stream(&BLOCK, labels("a").as_ref(), 100, 130), Keep::All);
}

#[test]
fn rows_of_memory_are_told_apart_by_when_they_came() {
    let r = Arc::new(removals(vec![delete(3, 10, (0, 100), r#"{app="a"}"#)]));
    let source = Source::Memory { received_min: 5, received_max: 20 };
    let Keep::Rows(rules) = r.stream(&source, labels("a").as_ref(), 20, 130) else { panic!() };
    let mut sieve = Sieve::new(r);
    let mut keeps = |timestamp, received| {
        let entry = Entry { timestamp, received, line: b"x", metadata: LabelsRef::EMPTY };
        sieve.keeps(&rules, &labels("a"), entry)
    };
    assert!(!keeps(20, 10));
    assert!(keeps(20, 11), "older times, but it came later");
    assert!(keeps(100, 10), "not in the range");
}

#[test]
fn cuts_through_time_need_no_look_at_rows() {
    let r = removals(vec![delete(1, 10, (25, 100), "{}"), delete(2, 10, (0, 10), r#"{app="a"}"#)]);
    let of = |app: &str, min, max| r.stream(&BLOCK, labels(app).as_ref(), min, max);
    assert_eq!(of("a", 20, 30), Keep::Within(TimeRange::new(20, 25)));
    assert_eq!(of("a", 5, 30), Keep::Within(TimeRange::new(10, 25)));
    assert_eq!(of("b", 5, 30), Keep::Within(TimeRange::new(5, 25)));
    assert_eq!(of("a", 25, 30), Keep::Nothing);
    // Two that take everything together.
    let r = removals(vec![delete(1, 10, (0, 25), "{}"), delete(2, 10, (25, 40), "{}")]);
    assert_eq!(r.stream(&BLOCK, labels("a").as_ref(), 5, 39), Keep::Nothing);
    // A hole in the middle has to be looked for in the rows.
    let r = Arc::new(removals(vec![delete(1, 10, (10, 20), "{}")]));
    let Keep::Rows(rules) = r.stream(&BLOCK, labels("a").as_ref(), 5, 39) else { panic!() };
    let mut sieve = Sieve::new(r);
    let stays: Vec<i64> = (5..40)
        .filter(|t| {
            let entry =
                Entry { timestamp: *t, received: Entry::OF_BLOCK, line: b"", metadata: LabelsRef::EMPTY };
            sieve.keeps(&rules, &labels("a"), entry)
        })
        .collect();
    assert_eq!(stays, (5..10).chain(20..40).collect::<Vec<_>>());
}

#[test]
fn filters_see_line_labels_and_metadata() {
    let queries = [
        r#"{app="a"} |= "secret""#,
        r#"{app=~"a|b"} | json | user="eve""#,
        r#"{app="a"} | trace_id="7" != "keep""#,
    ];
    let deletes = queries.iter().enumerate().map(|(i, q)| delete(i as u64 + 1, 10, (0, 100), q)).collect();
    let r = Arc::new(removals(deletes));
    let mut sieve = Sieve::new(r.clone());
    let mut keeps = |app: &str, line: &str, trace: &str| {
        let metadata = Labels::from_pairs([("trace_id", trace)]);
        let entry = Entry {
            timestamp: 7,
            received: Entry::OF_BLOCK,
            line: line.as_bytes(),
            metadata: metadata.as_ref(),
        };
        match r.stream(&BLOCK, labels(app).as_ref(), 0, 9) {
            Keep::Rows(rules) => sieve.keeps(&rules, &labels(app), entry),
            keep => keep == Keep::All,
        }
    };
    assert!(!keeps("a", "a secret", ""));
    assert!(keeps("b", "a secret", ""));
    assert!(!keeps("b", r#"{"user":"eve"}"#, ""));
    assert!(keeps("b", r#"{"user":"bob"}"#, ""));
    assert!(!keeps("a", "x", "7"));
    assert!(keeps("a", "keep", "7"));
    assert!(keeps("c", "a secret", "7"));
}

#[test]
fn what_is_known_of_the_lines_that_go() {
    let known = |queries: &[&str], cut: (i64, i64)| {
        let mut deletes: Vec<_> = queries.iter().map(|q| delete(3, 10, (0, 100), q)).collect();
        deletes.push(delete(3, 10, cut, r#"{app="a"}"#));
        let r = removals(deletes);
        let Keep::Rows(rules) = r.stream(&BLOCK, labels("a").as_ref(), 20, 30) else { panic!() };
        r.keys_of_gone(&rules, 20, 30).map(|keys| keys.len())
    };
    let (word, id) = (r#"{app="a"} |= "word""#, r#"{app="a"} |= "1234abcd" | json | x="y""#);
    assert_eq!(known(&[word], (0, 20)), Some(1));
    assert_eq!(known(&[word, id], (31, 100)), Some(2));
    assert_eq!(known(&[word], (0, 21)), None, "what is cut through time may have any line");
    assert_eq!(known(&[word, r#"{app="a"} != "word""#], (0, 20)), None);
    assert_eq!(known(&[r#"{app="a"} | json | x="y""#], (0, 20)), None);
}

#[test]
fn what_is_no_log_query_is_refused() {
    let error = |query: &str| {
        let rule = DeleteRule { generation: 1, accepted: 0, range: TimeRange::ALL, query: query.into() };
        Delete::compile(rule).unwrap_err().message
    };
    for query in
        ["", "not a query", r#"{app="a"} |~ "(""#, r#"rate({app="a"}[5m])"#, r#"{app="a"}[5m]"#, "{app=}"]
    {
        let message = error(query);
        assert!(message.starts_with("invalid query expression: "), "{query}: {message}");
    }
}

#[test]
fn only_what_is_about_the_times_of_a_query_is_told() {
    let day = STREAM_PERIOD_MIN;
    let limits = Limits {
        retention_period: 3 * day,
        retention_stream: vec![StreamRetention { selector: r#"{app="a"}"#.into(), priority: 1, period: day }],
        ..Limits::default()
    };
    let retention = Retention::of(&limits).unwrap();
    let now = 10 * day;
    let deletes = vec![Arc::new(delete(4, 10, (8 * day, 9 * day), "{}"))];
    let r = Arc::new(Removals::new(7, deletes, &retention, now));
    assert_eq!(r.cutoff_of(labels("a").as_ref()), 9 * day);
    assert_eq!(r.cutoff_of(labels("b").as_ref()), 7 * day);
    assert!(r.within(TimeRange::new(9 * day, now)).is_none(), "nothing is about the newest day");
    let spec = r.within(TimeRange::new(8 * day, now)).unwrap().spec().unwrap();
    assert_eq!((spec.deletes.len(), spec.cutoffs.len(), spec.generation), (1, 1, 7));
    let spec = r.within(TimeRange::new(5 * day, 6 * day)).unwrap().spec().unwrap();
    assert_eq!((spec.deletes.len(), spec.cutoff), (0, 7 * day));
    // The other side understands the same.
    let again = Removals::compile(&r.spec().unwrap()).unwrap();
    assert_eq!(again.spec(), r.spec());
    assert_eq!(again.cutoff_of(labels("a").as_ref()), 9 * day);
}

#[test]
fn shares_are_by_time() {
    let keep = Keep::Within(TimeRange::new(5, 10));
    assert_eq!((keep.share(100, 0, 9), keep.bounds(0, 9)), (50, Some((5, 9))));
    assert_eq!((Keep::All.share(100, 0, 9), Keep::All.bounds(0, 9)), (100, Some((0, 9))));
    assert_eq!((Keep::Nothing.share(100, 0, 9), Keep::Nothing.bounds(0, 9)), (0, None));
    assert_eq!(Keep::All.bounds(0, i64::MAX), Some((0, i64::MAX - 1)));
}

/// An entry of the model.
#[derive(Clone, Debug)]
struct Row {
    app: usize,
    time: i64,
    received: i64,
    line: usize,
}

const APPS: [&str; 2] = ["a", "b"];
const LINES: [&str; 3] = ["plain", "with secret", r#"{"user":"eve"}"#];

/// What a request takes, said naively.
#[derive(Clone, Debug)]
struct Rule {
    app: Option<usize>,
    line: Option<usize>,
    range: (i64, i64),
    accepted: i64,
}

impl Rule {
    fn query(&self) -> String {
        let selector = self.app.map_or("{}".to_owned(), |a| format!(r#"{{app="{}"}}"#, APPS[a]));
        match self.line {
            None => selector,
            Some(0) => format!(r#"{selector} |= "plain""#),
            Some(1) => format!(r#"{selector} |~ "sec.*t""#),
            Some(_) => format!(r#"{selector} | json | user="eve""#),
        }
    }

    fn takes(&self, row: &Row) -> bool {
        self.app.is_none_or(|a| a == row.app)
            && self.line.is_none_or(|l| l == row.line)
            && self.range.0 <= row.time
            && row.time < self.range.1
            && row.received <= self.accepted
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0..2usize, 0..30i64, 0..10i64, 0..3usize);
    let row = row.prop_map(|(app, time, received, line)| Row { app, time, received, line });
    prop::collection::vec(row, 1..30)
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (prop::option::of(0..2usize), prop::option::of(0..3usize), (0..30i64, 0..20i64), 0..10i64);
    let rule = rule.prop_map(|(app, line, (start, length), accepted)| Rule {
        app,
        line,
        range: (start, start + length),
        accepted,
    });
    prop::collection::vec(rule, 0..4)
}

/// The word index of a page with this line alone.
fn words_of(line: usize) -> WordIndex {
    let (line, mut masks, mut builder) =
        (LINES[line].as_bytes(), Masks::default(), WordIndexBuilder::default());
    masks.fill(line, &[line.len() as u32]);
    builder.add_page(line, &masks);
    WordIndex::open(&builder.finish().into()).unwrap()
}

proptest! {
    /// Of memory, where it is known of each entry when it came.
    #[test]
    fn is_as_the_naive_model_says(rows in rows(), rules in rules(), cutoffs in (0..20i64, 0..20i64)) {
        let deletes = rules.iter().enumerate().map(|(i, r)| delete(i as u64 + 1, r.accepted, r.range, &r.query()));
        let mut removals = removals(deletes.collect());
        removals.cutoff = cutoffs.0;
        let of_b = Selector { matchers: vec![Matcher::new("app", MatchOp::Equal, "b").unwrap()] };
        removals.cutoffs = vec![(of_b, cutoffs.1)];
        let removals = Arc::new(removals);
        // Through the words that go over the wire, too.
        let told = removals.spec().map_or_else(Removals::default, |s| Removals::compile(&s).unwrap());
        for removals in [removals, Arc::new(told)] {
            let received = rows.iter().map(|r| r.received);
            let source = Source::Memory {
                received_min: received.clone().min().unwrap(),
                received_max: received.max().unwrap(),
            };
            let mut sieve = Sieve::new(removals.clone());
            for (app, name) in APPS.iter().enumerate() {
                let of_app: Vec<&Row> = rows.iter().filter(|r| r.app == app).collect();
                let times = of_app.iter().map(|r| r.time);
                let (Some(min), Some(max)) = (times.clone().min(), times.max()) else { continue };
                let keep = removals.stream(&source, labels(name).as_ref(), min, max);
                for row in of_app {
                    let line = LINES[row.line].as_bytes();
                    let entry = Entry {
                        timestamp: row.time, received: row.received, line, metadata: LabelsRef::EMPTY,
                    };
                    let stays = match &keep {
                        Keep::All => true,
                        Keep::Nothing => false,
                        Keep::Within(range) => range.contains(row.time),
                        Keep::Rows(rules) => sieve.keeps(rules, &labels(name), entry),
                    };
                    let cutoff = if app == 1 { cutoffs.1 } else { cutoffs.0 };
                    let expected = row.time >= cutoff && !rules.iter().any(|r| r.takes(row));
                    prop_assert_eq!(stays, expected, "{:?} {:?}", row, keep);
                    if let Keep::Rows(rules) = &keep
                        && let Some(keys) = removals.keys_of_gone(rules, min, max)
                        && !stays
                    {
                        let words = words_of(row.line);
                        let may_hold = |k: &Arc<FilterKeys>| PageProbe::new(None, Some(&words), k).may_hold(0);
                        prop_assert!(keys.iter().any(may_hold), "{:?} goes, {:?}", row, keys);
                    }
                }
            }
        }
    }
}

#[test]
fn a_cutoff_is_told_apart_from_none() {
    assert!(Removals::default().is_empty());
    assert!(Removals::default().spec().is_none());
    let retention = Retention::of(&Limits { retention_period: SECOND, ..Limits::default() }).unwrap();
    assert!(!Removals::new(0, Vec::new(), &retention, 0).is_empty());
}
