use super::*;
use crate::ast::*;

#[track_caller]
fn formats(query: &str, formatted: &str) {
    let expr = parse_with(query, ParseOptions { loki_strict: true }).unwrap();
    assert_eq!(format_query(&expr), formatted);
}

#[track_caller]
fn fails(query: &str, error: &str) {
    let got = parse_with(query, ParseOptions { loki_strict: true }).unwrap_err();
    assert_eq!(got.to_string(), error, "{query}");
}

#[test]
fn label_filters_nest_by_precedence() {
    formats(
        r#"{app="a"} | json | a="x" and b>5 or c=250ms"#,
        r#"{app="a"} | json | ( ( a="x" , b>5 ) or c==250ms )"#,
    );
    formats(r#"{app="a"} | a="x" b="y", c="z""#, r#"{app="a"} | ( a="x" , ( b="y" , c="z" ) )"#);
}

#[test]
fn operators_bind_as_in_promql() {
    formats("2 ^ 3 ^ 2", "512");
    formats("10 - 3 - 2", "5");
    formats(
        r#"rate({a="b"}[5m]) + rate({a="c"}[5m]) * 2"#,
        r#"(rate({a="b"}[5m]) + (rate({a="c"}[5m]) * 2))"#,
    );
    formats(
        r#"rate({a="b"}[5m]) / on (x,y) group_left (z) rate({a="c"}[5m])"#,
        r#"(rate({a="b"}[5m]) / on (x,y) group_left (z) rate({a="c"}[5m]))"#,
    );
}

#[test]
fn errors_name_the_place() {
    fails("", "parse error : syntax error: unexpected $end");
    fails("{app='a'}", "parse error at line 1, col 6: syntax error: unexpected IDENTIFIER, expecting STRING");
    fails("{app='abc'}", "parse error at line 1, col 6: invalid char literal");
    fails(r#"{app="\q"}"#, "parse error at line 1, col 6: invalid char escape");
    fails("08", "parse error at line 1, col 1: invalid digit '8' in octal literal");
    fails(r#"rate({a="b"}[5m"#, "parse error at line 0, col 13: missing closing ']' in duration");
    fails(r#"topk by (a) ({a="b"})"#, "parse error at line 1, col 21: syntax error: unexpected )");
}

#[test]
fn beyond_loki_only_when_not_strict() {
    let Expr::Log(log) = parse(r#"{} |= "x" [5m]"#).unwrap() else { panic!("a log query") };
    assert_eq!(log.range, Some(300_000_000_000));
    assert!(log.selector.matchers.is_empty());
    fails(r#"{a="b"} [5m]"#, "parse error at line 0, col 9: syntax error: unexpected RANGE");
    assert!(parse(r#"rate({a=~".*"}[5m])"#).is_ok());
}

#[test]
fn selectors_are_matchers_only() {
    let strict = ParseOptions { loki_strict: true };
    assert_eq!(parse_selector(r#"{a="b"}"#, strict, false).unwrap().matchers.len(), 1);
    let e = parse_selector(r#"{a="b"} |= "x""#, strict, false).unwrap_err();
    assert_eq!(e.to_string(), "only label matchers are supported");
    assert!(parse_selector("{}", strict, false).is_err());
    assert!(parse_selector("{}", strict, true).is_ok());
}

#[test]
fn deep_and_long_queries_are_refused_or_linear() {
    let deep = "(".repeat(60_000) + "1" + &")".repeat(60_000);
    assert!(parse(&deep).is_ok(), "parentheses make no tree");
    let chain = vec![r#"rate({a="b"}[5m])"#; 5000].join("+");
    assert!(parse(&chain).unwrap_err().to_string().contains("nested too deeply"));
    let sums = "sum(".repeat(10_000) + r#"rate({a="b"}[5m])"# + &")".repeat(10_000);
    assert!(parse(&sums).unwrap_err().to_string().contains("nested too deeply"));
    let many = format!(r#"{{a="b"}} |= "x"{}"#, r#" or "y""#.repeat(15_000));
    assert!(parse(&many).is_ok());
    let unclosed = r#"{a="b"} | json | "#.to_owned() + &"(".repeat(100_000);
    assert!(parse(&unclosed).is_err());
}
