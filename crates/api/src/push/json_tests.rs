use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const T: &str = "1768608000000000000";

/// `{labels} time line {metadata}` of every entry, one a line.
fn plain(body: &[u8], form: Form) -> Result<String, String> {
    let push = decode(body, form).map_err(|e| e.message)?;
    let e = &push.entries;
    let mut out = Vec::new();
    for s in &push.streams {
        let labels = match &s.labels {
            PushLabels::Set(l) => l.to_string(),
            PushLabels::Text(t) => format!("text {}", String::from_utf8_lossy(t)),
        };
        for r in &e.refs[s.entries.start as usize..s.entries.end as usize] {
            let time = r.timestamp.to_string().replace(T, "T");
            out.push(format!("{labels} {time} {} {}", String::from_utf8_lossy(e.line(r)), e.metadata(r)));
        }
        if s.entries.is_empty() {
            out.push(format!("{labels} empty"));
        }
    }
    Ok(out.join("\n"))
}

#[track_caller]
fn check(body: &str, expected: &str) {
    assert_eq!(plain(body.replace('T', T).as_bytes(), Form::V1), Ok(expected.to_owned()), "{body}");
}

#[test]
fn streams_and_values() {
    check(
        r#"{"streams":[{"stream":{"b":"2","a":"1"},"values":[["T","x"],["-5","y",{"k.v":"m"}]]}]}"#,
        "{a=\"1\", b=\"2\"} T x {}\n{a=\"1\", b=\"2\"} -5 y {k_v=\"m\"}",
    );
    check(r#" { "streams" : [ { "values" : [ [ "T" , "x" , {} ] ] } ] } trailing"#, "{} T x {}");
    check(
        r#"{"Streams":[{"values":[["T","x",{},{"ignored":[1]}]],"unknown":{"a":[1,-2.5e+3,true]}}]}"#,
        "{} T x {}",
    );
    check(r#"{"streams":[{"stream":{"a":"b"}}]}"#, "{a=\"b\"} empty");
    check(r#"{"streams":[{"stream":{"a":"b"},"values":null}]}"#, "{a=\"b\"} empty");
    check(r#"{"streams":[{"values":[["T"],[]]}]}"#, "{} empty");
    check(r#"{"streams":[{"labels":"{a=\"b\"}","entries":[{}]}]}"#, "{} empty");
    check(r#"{"streams":[]}"#, "");
    check("null", "");
    check("{}", "");
}

#[test]
fn labels_may_be_any_value() {
    let body = r#"{"streams":[{"stream":{"n":5,"o":{"a": "b"},"z":null,"e":"","__name__":"x"},"values":[["T","x"]]}]}"#;
    check(body, r#"{__name__="x", n="5", o="{\"a\": \"b\"}", z="null"} T x {}"#);
    let body = r#"{"streams":[{"stream":{"bad-name":"v\"","a":"1"},"values":[["T","x"]]}]}"#;
    check(body, r#"text {a="1", bad-name="v\""} T x {}"#);
}

#[test]
fn strings_are_unescaped() {
    check(
        r#"{"streams":[{"values":[["T","\"\\\/\b\f\n\r\t \u0000\u00fc\ud83d\ude80 ünï"]]}]}"#,
        "{} T \"\\/\u{8}\u{c}\n\r\t \0ü🚀 ünï {}",
    );
    assert_eq!(
        plain(b"{\"streams\":[{\"values\":[[\"1\",\"bad \xff\xfe\",{\"k\":\"x\xffy\"}]]}]}", Form::V1)
            .unwrap(),
        "{} 1 bad \u{fffd}\u{fffd} {k=\"x\u{fffd}y\"}"
    );
}

#[test]
fn what_loki_refuses() {
    let value = |v: &str| format!(r#"{{"streams":[{{"values":[{v}]}}]}}"#);
    for body in [
        "",
        " ",
        "not json",
        "nul",
        "5",
        "[]",
        "\"x\"",
        "{",
        "{\"a\"",
        "{\"a\":}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{,}",
        "\u{feff}{}",
        "\x1f\u{8b}",
        r#"{"streams":"x"}"#,
        r#"{"streams":[5]}"#,
        r#"{"streams":[null]}"#,
        r#"{"streams":[{"stream":null}]}"#,
        r#"{"streams":[{"stream":"{}"}]}"#,
        r#"{"streams":[{"values":{"a":"b"}}]}"#,
        r#"{"streams":[{"values":"x"}]}"#,
        r#"{"streams":[{"values":[["1","x"]]}"#,
        &value("null"),
        &value("5"),
        &value(r#"["", "x"]"#),
        &value(r#"[1, "x"]"#),
        &value(r#"["1.5", "x"]"#),
        &value(r#"["+5", "x"]"#),
        &value(r#"["-", "x"]"#),
        &value(r#"["99999999999999999999", "x"]"#),
        &value(r#"["1", null]"#),
        &value(r#"["1", {"a":1}]"#),
        &value(r#"["1", "x", {"n":5}]"#),
        &value(r#"["1", "x", {"n":{"deep":"y"}}]"#),
        &value(r#"["1", "x", ["a"]]"#),
        &value(r#"["1", "x", null]"#),
        &value(r#"["1", "x"] ["1", "x"]"#),
        &value(r#"["1", "\x"]"#),
        &value(r#"["1", "\u12"]"#),
        &value(r#"["1", "\ud800"]"#),
        &value(r#"["1", "\ud800\u0041"]"#),
        &value(r#"["1", "\udc00"]"#),
        &value("[\"1\", \"raw \n newline\"]"),
        &value(r#"["1", "good"], ["bad", "x"]"#),
        &format!("{{\"a\":{}", "[".repeat(5000)),
    ] {
        assert!(plain(body.as_bytes(), Form::V1).is_err(), "{body}");
    }
}

#[test]
fn the_legacy_form() {
    let check = |body: &str, expected: Result<&str, ()>| {
        assert_eq!(plain(body.as_bytes(), Form::Legacy).map_err(drop), expected.map(str::to_owned), "{body}");
    };
    check(
        r#"{"streams":[{"labels":"{a=\"b\"}","entries":[{"ts":"2026-01-17T00:00:00Z","line":"x"},{"line":"y","ts":"2026-01-17T00:00:01.5Z"}]}]}"#,
        Ok("text {a=\"b\"} T x {}\ntext {a=\"b\"} 1768608001500000000 y {}"),
    );
    check(r#"{"streams":[{"entries":[{"line":"x"}]}]}"#, Ok(&format!("text  {NO_TIMESTAMP} x {{}}")));
    check(r#"{"streams":[{"stream":{"a":"b"},"values":[["1","x"]]}]}"#, Ok("text  empty"));
    check(r#"{"streams":[{"labels":"{}","entries":[{"ts":"1768608000000000000","line":"x"}]}]}"#, Err(()));
    check(r#"{"streams":[{"labels":{"a":"b"}}]}"#, Err(()));
    check(r#"{"streams":[{"labels":"{}","entries":[{"line":5}]}]}"#, Err(()));
}

#[test]
fn a_push_of_empty_streams_is_refused() {
    let body = format!("{{\"streams\":[{}{{}}]}}", "{},".repeat(1 << 18));
    assert!(plain(body.as_bytes(), Form::V1).unwrap_err().contains("fewer streams"));
}

/// The same rules over `serde_json`'s values.
fn oracle(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let mut out = Vec::new();
    for s in value.get("streams")?.as_array()? {
        let labels = s["stream"]
            .as_object()?
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned)));
        let labels: BTreeMap<String, String> = labels.collect();
        let labels = if labels.keys().all(|name| is_label_name(name)) {
            Labels::from_pairs(labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))).to_string()
        } else {
            format!("text {}", label_text(&labels))
        };
        let values = s["values"].as_array()?;
        for v in values {
            let v = v.as_array()?;
            // Rust reads a plus sign, Loki does not.
            let time: i64 = v[0].as_str().filter(|t| !t.starts_with('+'))?.parse().ok()?;
            let mut packer = Packer::default();
            for (k, v) in v.get(2).map_or(Some(&serde_json::Map::new()), Value::as_object)? {
                packer.add(k.as_bytes(), v.as_str()?.as_bytes());
            }
            packer.finish();
            let metadata = Labels::from_packed(&packer.into_packed())?;
            out.push(format!("{labels} {} {} {metadata}", time.to_string().replace(T, "T"), v[1].as_str()?));
        }
        if values.is_empty() {
            out.push(format!("{labels} empty"));
        }
    }
    Some(out.join("\n"))
}

fn push() -> impl Strategy<Value = Value> {
    let metadata = proptest::collection::btree_map("[a-z.]{1,4}", ".{0,6}", 0..3);
    let entry = (any::<i64>(), ".{0,30}|[\\x00-\\x7f]{0,30}", metadata, any::<bool>()).prop_map(
        |(t, line, m, with)| {
            if with { json!([t.to_string(), line, m]) } else { json!([t.to_string(), line]) }
        },
    );
    let labels = proptest::collection::btree_map("[a-z_]{1,4}", ".{0,6}", 0..3);
    let stream = (labels, proptest::collection::vec(entry, 0..4))
        .prop_map(|(labels, values)| json!({"stream": labels, "values": values}));
    proptest::collection::vec(stream, 0..4).prop_map(|streams| json!({"streams": streams}))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_serde_json(push in push(), pretty in any::<bool>()) {
        let body = if pretty { serde_json::to_vec_pretty(&push) } else { serde_json::to_vec(&push) }.unwrap();
        prop_assert_eq!(plain(&body, Form::V1).ok(), oracle(&body));
    }

    #[test]
    fn damaged_text_is_refused_or_read_alike(
        push in push(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut body = serde_json::to_vec(&push).unwrap();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        // Ours accepts a little more: unknown keys, missing parts, what follows the message, broken UTF-8.
        let got = plain(&body, Form::V1);
        if let Some(expected) = oracle(&body) {
            prop_assert_eq!(got, Ok(expected));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(body in "[\\[\\]{}\",:\\\\a-f0-9 streamvluTn.-]{0,80}") {
        let _ = plain(body.as_bytes(), Form::V1);
        let _ = plain(body.as_bytes(), Form::Legacy);
    }
}
