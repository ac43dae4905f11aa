use super::*;
use crate::ast::Expr;
use crate::plan::LogQuery;

/// Runs a line through a query and shows the line and the labels, or nothing if it was dropped.
fn run(query: &str, line: &str, metadata: &[(&str, &str)]) -> Option<String> {
    let Expr::Log(log) = crate::parse(query).unwrap() else { panic!("a log query") };
    let query = LogQuery::compile(&log);
    assert!(query.invalid.is_none(), "{:?}", query.invalid);
    if !query.predicate.matches(line.as_bytes()) {
        return None;
    }
    let stream = Labels::from_pairs([("app", "a"), ("pod", "p")]);
    let metadata = Labels::from_pairs(metadata.iter().copied());
    let line = Bytes::from(line.to_owned());
    let p = query.pipeline?.task().process(1_768_440_000_000_000_000, &line, &stream, metadata.as_ref())?;
    Some(format!("{} {} {}", String::from_utf8_lossy(&p.line), p.labels.stream, p.labels.parsed))
}

#[track_caller]
fn check(query: &str, line: &str, want: &str) {
    assert_eq!(run(query, line, &[]).as_deref(), Some(want), "{query} over {line}");
}

#[test]
fn json_flattens_and_renames() {
    check(
        r#"{a="b"} | json | drop app, pod"#,
        r#"{"x":{"y z":1.50,"n":null,"l":[1]},"app":"q","1d":"\u00e9","x_y_z":2}"#,
        r#"{"x":{"y z":1.50,"n":null,"l":[1]},"app":"q","1d":"\u00e9","x_y_z":2} {} {_1d="é", app_extracted="q", x_y_z="1.50"}"#,
    );
}

#[test]
fn keep_limits_what_is_parsed() {
    check(
        r#"{a="b"} | json | keep x_y | line_format "{{.x_y}}{{.gone}}""#,
        r#"{"gone":"g","x":{"y":"v","z":"w"},"big":1}"#,
        r#"v {} {x_y="v"}"#,
    );
}

#[test]
fn a_filter_stops_the_parser() {
    let pass = run(r#"{a="b"} | json | level="info""#, r#"{"level":"error","x":broken"#, &[]);
    assert_eq!(pass, None);
    // Loki's parsers apply later filters on fresh labels, whatever stands between.
    assert_eq!(run(r#"{a="b"} | json | drop level="error" | level="""#, r#"{"level":"error"}"#, &[]), None);
}

#[test]
fn broken_values_leave_errors() {
    check(
        r#"{a="b"} | logfmt | d > 1s | drop app, pod"#,
        "d=5",
        r#"d=5 {} {__error__="LabelFilterErr", __error_details__="time: missing unit in duration \"5\"", d="5"}"#,
    );
    check(
        r#"{a="b"} | logfmt | d > 1s | drop app, pod, __error__, __error_details__"#,
        "d=5",
        r#"d=5 {} {d="5"}"#,
    );
    assert_eq!(run(r#"{a="b"} | logfmt | d != 1s"#, "x=1", &[]), None);
}

#[test]
fn metadata_and_parsed_labels_do_not_hide_each_other() {
    let out =
        run(r#"{a="b"} | logfmt | level="m" | keep level, level_extracted"#, "level=p", &[("level", "m")]);
    assert_eq!(out.as_deref(), Some(r#"level=p {} {level_extracted="p"}"#));
}

#[test]
fn patterns_and_expressions_capture() {
    check(
        r#"{a="b"} | pattern "<a> [<b>] <_>" | regexp "(?P<n>\\d+)$" | drop app, pod"#,
        "x [y] z 15",
        r#"x [y] z 15 {} {a="x", b="y", n="15"}"#,
    );
}

#[test]
fn labels_are_formatted_from_what_was_there_before() {
    check(
        r#"{a="b"} | logfmt | label_format x="{{.y}}", z="{{.x}}", w=y | drop app, pod"#,
        "x=1 y=2",
        r#"x=1 y=2 {} {w="2", x="2", z="1"}"#,
    );
}

#[test]
fn unpack_replaces_the_line() {
    check(
        r#"{a="b"} | unpack |= "inner" | drop app, pod"#,
        r#"{"node":"n1","_entry":"the \"inner\" line","n":5}"#,
        r#"the "inner" line {} {node="n1"}"#,
    );
}

#[test]
fn invalid_stages_are_reported_when_they_meet_an_entry() {
    for (query, error) in [
        (
            r#"{a="b"} |~ "(""#,
            r#"parse error : stage '|~ "("' : error parsing regexp: missing closing ): `(`"#,
        ),
        (
            r#"{a="b"} | line_format "{{.x""#,
            r#"parse error : stage '| line_format "{{.x"' : invalid line template: template: line:1: unclosed action"#,
        ),
        (
            r#"{a="b"} | label_format a=b,a=c"#,
            "parse error : stage '| label_format a=b,a=c' : multiple label name 'a' not allowed in a single format operation",
        ),
    ] {
        let Expr::Log(log) = crate::parse(query).unwrap() else { panic!("a log query") };
        assert_eq!(LogQuery::compile(&log).invalid.unwrap().to_string(), error);
    }
}

#[test]
fn plain_labels_keep_both_values_of_a_name() {
    let mut plain = PlainLabels::default();
    let stream = Labels::from_pairs([("app", "a")]);
    let metadata = Labels::from_pairs([("app", "m")]);
    let a = plain.labels(&stream, metadata.as_ref());
    assert_eq!(a.structured_metadata.to_string(), r#"{app_extracted="m"}"#);
    assert!(Arc::ptr_eq(&a, &plain.labels(&stream, metadata.as_ref())));
}

#[test]
fn probing_for_filters_changes_nothing() {
    let Expr::Log(log) = crate::parse(r#"{a="b"} | json | n >= 3 | t="x" | drop app, pod"#).unwrap() else {
        panic!("a log query")
    };
    let mut task = LogQuery::compile(&log).pipeline.unwrap().task();
    let stream = Labels::from_pairs([("app", "a"), ("pod", "p")]);
    let mut passed = vec![];
    for i in 0..2000 {
        let line = match i % 5 {
            0 => format!(r#"{{"o":{{"p":"{i}"}},"n":{},"t":"x"}}"#, i % 7),
            1 => r#"{"t":"y","n":9}"#.to_owned(),
            2 => r#"{"n":"many","t":"x"}"#.to_owned(),
            3 => "no json".to_owned(),
            _ => format!(r#"{{"t":"x","n":{i}"#),
        };
        let line = Bytes::from(line);
        if let Some(p) = task.process(0, &line, &stream, LabelsRef::EMPTY) {
            passed.push((i, p.labels.parsed.to_string()));
        }
    }
    for (i, labels) in &passed {
        match i % 5 {
            0 => assert_eq!(*labels, format!(r#"{{n="{}", o_p="{i}", t="x"}}"#, i % 7)),
            2 => assert!(labels.starts_with(r#"{__error__="LabelFilterErr""#), "{labels}"),
            4 => assert!(labels.starts_with(r#"{__error__="JSONParserErr""#), "{labels}"),
            other => panic!("line {other} should not pass: {labels}"),
        }
    }
    assert_eq!(
        passed.iter().filter(|(i, _)| i % 5 == 0).count(),
        (0..2000).filter(|i| i % 5 == 0 && i % 7 >= 3).count()
    );
    assert_eq!(passed.iter().filter(|(i, _)| i % 5 == 2).count(), 400);
    assert_eq!(passed.iter().filter(|(i, _)| i % 5 == 4).count(), 400);
}
