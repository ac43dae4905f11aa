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

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z .*]{0,6}".prop_map(|t| crate::units::go_quote(&t)),
            "[a-z\\\\\"\n\t\u{e9}\u{200b}\u{7f}]{0,5}".prop_map(|t| crate::units::go_quote(&t)),
            Just("\"\\xff\"".to_owned()),
            Just("`raw \"text\"`".to_owned()),
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b_1", "level", "rate", "ip", "bytes", "__error__"])
            .prop_map(String::from)
    }

    fn selector() -> impl Strategy<Value = String> {
        let op = prop::sample::select(vec!["=", "!=", "=~", "!~"]);
        let matcher = (name(), op, "[a-z.|]{0,4}")
            .prop_map(|(n, op, v)| format!("{n}{op}{}", crate::units::go_quote(&v)));
        prop::collection::vec(matcher, 0..3).prop_map(|m| format!("{{{}}}", m.join(", ")))
    }

    fn label_filter() -> impl Strategy<Value = String> {
        let op = prop::sample::select(vec!["=", "==", "!=", ">", ">=", "<", "<="]);
        let quantity = prop::sample::select(vec![
            "5", "-0.25", "1e9", "+3", "250ms", "1h30m", "-5m", "5MB", "77GiB", "1.5KiB",
        ]);
        let leaf = prop_oneof![
            (name(), op, quantity).prop_map(|(n, op, q)| format!("{n} {op} {q}")),
            (name(), text()).prop_map(|(n, t)| format!("{n}={t}")),
            name().prop_map(|n| format!("{n}=~\"x.*\"")),
            name().prop_map(|n| format!("{n}!=ip(\"10.0.0.0/8\")")),
        ];
        leaf.prop_recursive(3, 8, 2, |inner| {
            let join = prop::sample::select(vec![" and ", " or ", ", ", " "]);
            prop_oneof![
                (inner.clone(), join, inner.clone()).prop_map(|(a, j, b)| format!("{a}{j}{b}")),
                inner.prop_map(|a| format!("({a})")),
            ]
        })
    }

    fn stage() -> impl Strategy<Value = String> {
        let line = prop::sample::select(vec!["|=", "!=", "|~", "!~", "|>", "!>"]);
        let fixed = prop::sample::select(vec![
            "| json",
            "| json a=\"x.y\", b",
            "| logfmt",
            "| logfmt --strict --keep-empty a",
            "| unpack",
            "| decolorize",
            "| regexp \"(?P<x>.)\"",
            "| pattern \"<a> <_>\"",
            "| label_format a=b, c=\"{{.x}}\"",
            "| drop a, b=\"x\"",
            "| keep a, b=~\"x\"",
            "|= ip(\"::1\") or \"x\"",
        ]);
        prop_oneof![
            (line, text(), prop::collection::vec(text(), 0..2)).prop_map(|(op, t, more)| {
                let more: String = more.iter().map(|m| format!(" or {m}")).collect();
                format!("{op} {t}{more}")
            }),
            fixed.prop_map(String::from),
            label_filter().prop_map(|f| format!("| {f}")),
            text().prop_map(|t| format!("| line_format {t}")),
        ]
    }

    fn log() -> impl Strategy<Value = String> {
        (selector(), prop::collection::vec(stage(), 0..4))
            .prop_map(|(s, stages)| format!("{s} {}", stages.join(" ")))
    }

    fn metric() -> impl Strategy<Value = String> {
        let offset = prop::sample::select(vec!["", " offset 5m", " offset -1h30m"]);
        let range = prop_oneof![
            (log(), offset.clone()).prop_map(|(l, o)| format!("rate({l} [5m]{o})")),
            (log(), offset).prop_map(|(l, o)| format!(
                "quantile_over_time(0.5, {l} | unwrap duration(x) | a>1 [90s]{o}) by (a,b)"
            )),
        ];
        let leaf = prop_oneof![
            range,
            Just("vector(0.5)".to_owned()),
            Just("1e-9".to_owned()),
            Just("-2".to_owned())
        ];
        leaf.prop_recursive(3, 8, 2, |inner| {
            let op = prop::sample::select(vec![
                "+",
                "-",
                "*",
                "/",
                "%",
                "^",
                "==",
                ">= bool",
                "/ on (a) group_left (b)",
                "* ignoring ()",
            ]);
            let set = prop::sample::select(vec!["and", "or", "unless on (a)"]);
            let around = prop::sample::select(vec![
                "sum by (a,b) (",
                "topk(5, ",
                "sort(",
                "avg without () (",
                "label_replace(",
            ]);
            prop_oneof![
                (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
                (inner.clone(), set, inner.clone()).prop_map(|(a, op, b)| format!("sum({a}) {op} sum({b})")),
                (around, inner).prop_map(|(f, a)| match f {
                    "label_replace(" => format!("label_replace({a}, \"a\", \"$1\", \"b\", \"(.*)\")"),
                    f => format!("{f}{a})"),
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn printing_and_parsing_again_gives_the_same_tree(query in prop_oneof![log(), metric()]) {
            let expr = match parse(&query) {
                Ok(expr) => expr,
                // `or` after a line filter, set operations on numbers and the like; most of the queries are good.
                Err(e) => return Err(TestCaseError::reject(e.to_string())),
            };
            let printed = canonical(&expr);
            let again = parse(&printed).map_err(|e| TestCaseError::fail(format!("{query}\n{printed}\n{e}")))?;
            // Shown, because a number that is none does not equal itself.
            prop_assert_eq!(format!("{again:?}"), format!("{expr:?}"), "{} printed as {}", query, printed);
            prop_assert_eq!(canonical(&again), printed);
            // What is shown to users is a query too, if not always the same one.
            let shown = format_query(&expr);
            let is_number = !shown.contains("NaN") && !shown.contains("Inf");
            prop_assert!(!is_number || parse(&shown).is_ok(), "{} shown as {}", query, shown);
        }

        #[test]
        fn any_words_are_parsed_without_panic(
            words in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "a", "=", "=~", "\"x\"", "`", "'", ",", "|", "|=", "or", "and", "(", ")", "[5m]", "[", "rate", "sum", "by",
                "json", "logfmt", "--strict", "unwrap", "5", "5m", "1MB", "-", "0x", "08", "1e", ".", "offset", "topk", "#", "\n", "ü",
                "label_replace", "on", "bool", "/*", "//", "\\", "ip", "vector", "\u{0}",
            ]), 0..25),
            glue in prop::sample::select(vec!["", " "]),
        ) {
            let query = words.join(glue);
            for loki_strict in [false, true] {
                if let Ok(expr) = parse_with(&query, ParseOptions { loki_strict }) {
                    let _ = (canonical(&expr), format_query(&expr));
                }
            }
        }
    }
}
