//! Goal: the level that a reader would name. Method: one line each.

use skald_model::Labels;

use super::*;

#[track_caller]
fn line(text: &str, expected: &str) {
    assert_eq!(LevelDetector::new(&Limits::default()).of_line(text.as_bytes()).as_str(), expected, "{text}");
}

#[test]
fn fields_of_json() {
    line(r#"{"ts":1,"level":"WARNING","msg":"error"}"#, "warn");
    line(r#" { "msg" : "x" , "severity" : "Critical" } "#, "critical");
    line(r#"{"a":{"b":1},"lvl":"dbg"}"#, "debug");
    line(r#"{"log":{"level":"fatal"}}"#, "fatal");
    line(r#"{"log.level":"trace"}"#, "trace");
    line(r#"{"msg":"the \"level\": \"fatal\" is not it","SeverityText":"inf"}"#, "info");
    line(r#"{"names":["level"],"level":"error"}"#, "error");
    line(r#"{"a":"{{{","level":"error"}"#, "error");
}

#[test]
fn json_is_searched_two_objects_deep() {
    line(r#"{"a":{"level":"warn"}}"#, "warn");
    line(r#"{"a":{"b":{"level":"x"}},"level":"debug"}"#, "debug");
    line(r#"{"a":{"b":{"level":"x","c":"fatal"}},"d":[{"level":"y"}]}"#, "fatal");
    let unlimited = Limits { log_level_from_json_max_depth: 0, ..Limits::default() };
    let text = br#"{"msg":"info","a":{"b":{"c":{"level":"warn"}}}}"#;
    assert_eq!(LevelDetector::new(&unlimited).of_line(text), Level::Warn);
    assert_eq!(LevelDetector::new(&Limits::default()).of_line(text), Level::Info);
}

#[test]
fn fields_of_logfmt() {
    line(r#"ts=1 level=warn msg="an error occurred""#, "warn");
    line(r#"level="DEBUG" x=1"#, "debug");
    line(r#"msg="level=fatal is not it" level=info"#, "info");
    line(r#"xlevel=fatal severity=error"#, "error");
    line("msg=hello level=", "unknown");
    line("caller=x.go level=notice msg=\"error\"", "error");
}

#[test]
fn the_first_word_that_names_a_level() {
    line("2026-01-02 03:04:05 [ERROR] disk full, info follows", "error");
    line("INFO: no error found", "info");
    line("Error: x", "error");
    line("E0102 traces/warnings and errors, reinforced forward software", "unknown");
    line("dinfo infos _info info_ 1info", "unknown");
    line("<err>", "error");
    line("GET /index.html 200", "unknown");
    line("", "unknown");
    line("warning", "warn");
    line(&format!("{} fatal", "x ".repeat(500)), "fatal");
}

#[test]
fn labels_and_metadata_come_first() {
    let detector = LevelDetector::new(&Limits::default());
    let of = |pairs: &[(&str, &str)]| {
        detector.of_metadata(Labels::from_pairs(pairs.iter().copied()).as_ref()).map(Level::as_str)
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("trace_id", "error")]), None);
    assert_eq!(of(&[("level", "Warning"), ("severity_number", "9")]), Some("warn"));
    assert_eq!(of(&[("log_level", "ERR")]), Some("error"));
    assert_eq!(of(&[("severity_number", "17")]), Some("error"));
    assert_eq!(of(&[("severity_number", "0")]), Some("unknown"));
    assert_eq!(of(&[("level", "loud")]), Some("unknown"));
    assert_eq!(detector.of_labels(Labels::from_pairs([("lvl", "INFO")]).as_ref()), Some(Level::Info));
}

#[test]
fn the_names_of_fields_are_a_setting() {
    let limits = Limits { log_level_fields: vec!["prio".into()], ..Limits::default() };
    let detector = LevelDetector::new(&limits);
    assert_eq!(detector.of_line(br#"{"level":"x","prio":"fatal"}"#), Level::Fatal);
    let none = LevelDetector::new(&Limits { log_level_fields: vec![], ..Limits::default() });
    assert_eq!(none.of_line(b"level=fatal warn"), Level::Fatal);
    let many = (0..500).map(|i| format!("field_{i}")).chain(["prio".into()]).collect();
    let many = LevelDetector::new(&Limits { log_level_fields: many, ..Limits::default() });
    assert_eq!(many.of_line(b"prio=fatal"), Level::Fatal);
}
