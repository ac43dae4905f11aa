use super::*;
use skald_model::limits::{AttributeRule, OtlpConfig, ResourceAttributes};

const NOW: i64 = 77;

fn decode_json(body: &str) -> Result<Push, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    decode(&headers, Bytes::copy_from_slice(body.as_bytes()), 1 << 20, NOW, &OtlpRules::default())
}

fn plain(push: &Push) -> String {
    let e = &push.entries;
    let mut out = Vec::new();
    for s in &push.streams {
        let PushLabels::Set(labels) = &s.labels else { panic!("labels are a set") };
        for r in &e.refs[s.entries.start as usize..s.entries.end as usize] {
            let line = String::from_utf8_lossy(e.line(r));
            out.push(format!("{labels} {} {line} {}", r.timestamp, e.metadata(r)));
        }
    }
    out.join("\n")
}

/// A record inside of a resource and a scope.
#[track_caller]
fn check(record: &str, expected: &str) {
    let body = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}"#);
    assert_eq!(plain(&decode_json(&body).unwrap()), expected, "{record}");
}

#[test]
fn bodies_become_lines() {
    let body = |value: &str| format!(r#"{{"timeUnixNano":"5","body":{value}}}"#);
    check(&body(r#"{"stringValue":"x"}"#), "{} 5 x {}");
    check(&body(r#"{"intValue":"42"}"#), "{} 5 42 {}");
    check(&body(r#"{"intValue":42}"#), "{} 5 42 {}");
    check(&body(r#"{"doubleValue":1.5}"#), "{} 5 1.5 {}");
    check(&body(r#"{"boolValue":true}"#), "{} 5 true {}");
    check(&body(r#"{"bytesValue":"YWJj"}"#), "{} 5 YWJj {}");
    check(
        &body(
            r#"{"kvlistValue":{"values":[{"key":"s","value":{"stringValue":"b"}},{"key":"n","value":{"intValue":"1"}}]}}"#,
        ),
        r#"{} 5 {"n":1,"s":"b"} {}"#,
    );
    check(&body(r#"{"arrayValue":{"values":[{"doubleValue":2.5},{}]}}"#), "{} 5 [2.5,null] {}");
    // Nothing to show, but taken.
    check(&body("{}"), "");
    check(r#"{"timeUnixNano":"5","severityNumber":9}"#, r#"{} 5  {severity_number="9"}"#);
}

#[test]
fn times() {
    check(r#"{"body":{"stringValue":"x"}}"#, "{} 77 x {}");
    check(r#"{"observedTimeUnixNano":"6","body":{"stringValue":"x"}}"#, r#"{} 6 x {observed_timestamp="6"}"#);
}

#[test]
fn attributes_become_labels_and_metadata() {
    let body = r#"{"resourceLogs":[{
        "resource":{"attributes":[
            {"key":"service.name","value":{"stringValue":"shop"}},
            {"key":"k8s.pod.name","value":{"stringValue":"shop-0"}},
            {"key":"host.name","value":{"stringValue":"h1"}}],"droppedAttributesCount":2},
        "scopeLogs":[{
            "scope":{"name":"my.lib","version":"1.2","attributes":[{"key":"sa","value":{"stringValue":"v"}}]},
            "logRecords":[{"timeUnixNano":"5","body":{"stringValue":"x"},"severityText":"WARN","flags":1,
                "droppedAttributesCount":3,"traceId":"000102030405060708090a0b0c0d0e0f","spanId":"0001020304050607",
                "attributes":[
                    {"key":"m","value":{"kvlistValue":{"values":[{"key":"y","value":{"kvlistValue":{"values":[{"key":"z","value":{"intValue":"2"}}]}}}]}}},
                    {"key":"arr","value":{"arrayValue":{"values":[{"intValue":"1"},{"stringValue":"two"}]}}}]}]}]}]}"#;
    assert_eq!(
        plain(&decode_json(body).unwrap()),
        "{k8s_pod_name=\"shop-0\", service_name=\"shop\"} 5 x {arr=\"[1,\\\"two\\\"]\", dropped_attributes_count=\"3\", \
         flags=\"1\", host_name=\"h1\", m_y_z=\"2\", resource_dropped_attributes_count=\"2\", sa=\"v\", \
         scope_name=\"my.lib\", scope_version=\"1.2\", severity_text=\"WARN\", span_id=\"0001020304050607\", \
         trace_id=\"000102030405060708090a0b0c0d0e0f\"}"
    );
}

#[test]
fn malformed_requests_are_refused() {
    let kind = |body: &str| decode_json(body).unwrap_err().kind;
    for body in ["nonsense", "[]", "", r#"{"resourceLogs":5}"#] {
        assert_eq!(kind(body), Kind::InvalidArgument, "{body}");
    }
    let record = |r: &str| format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{r}]}}]}}]}}"#);
    for r in [
        r#"{"timeUnixNano":"x"}"#,
        r#"{"timeUnixNano":-1}"#,
        r#"{"traceId":"xyz"}"#,
        r#"{"body":{"bytesValue":"*"}}"#,
    ] {
        assert_eq!(kind(&record(r)), Kind::InvalidArgument, "{r}");
    }
    for body in ["{}", r#"{"resourceLogs":[]}"#, &record("")] {
        assert_eq!(kind(body), Kind::Unprocessable, "{body}");
    }
}

#[test]
fn refusals_are_status_messages() {
    let response = refusal(Error::internal("no quorum"));
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/octet-stream");
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(refusal(Error::invalid("x")).status(), 400);
}

#[test]
fn a_tenant_may_say_what_becomes_of_attributes() {
    let rule = |action, attributes: &[&str], regex: &str| AttributeRule {
        action,
        attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
        regex: regex.to_owned(),
    };
    let config = OtlpConfig {
        resource_attributes: ResourceAttributes {
            ignore_defaults: true,
            attributes_config: vec![
                rule(OtlpAction::Drop, &["host.ip"], ""),
                rule(OtlpAction::IndexLabel, &[], "host\\..*"),
            ],
        },
        scope_attributes: vec![rule(OtlpAction::Drop, &["noise"], "")],
        log_attributes: vec![
            rule(OtlpAction::IndexLabel, &["env"], ""),
            rule(OtlpAction::Drop, &[], "secret.*"),
        ],
        severity_text_as_label: true,
    };
    let attribute =
        |key: &str, value: &str| format!(r#"{{"key":"{key}","value":{{"stringValue":"{value}"}}}}"#);
    let record = |line: &str, attributes: &str, severity: &str| {
        format!(
            r#"{{"timeUnixNano":"5","body":{{"stringValue":"{line}"}},"severityText":"{severity}","attributes":[{attributes}]}}"#
        )
    };
    let resource =
        [attribute("service.name", "s"), attribute("host.ip", "i"), attribute("host.id", "h")].join(",");
    let records = [
        record("one", &attribute("env", "a"), "INFO"),
        record("two", &[attribute("env", "b"), attribute("secrets", "x")].join(","), "INFO"),
        record("three", &attribute("env", "a"), "INFO"),
    ]
    .join(",");
    let body = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{resource}]}},"scopeLogs":[{{"scope":{{"attributes":[{}]}},"logRecords":[{records}]}}]}}]}}"#,
        attribute("noise", "n")
    );
    let request = from_json(body.as_bytes()).unwrap();
    let push = convert(request, NOW, &OtlpRules::new(&config)).unwrap();
    assert_eq!(
        plain(&push),
        "{env=\"a\", host_id=\"h\", severity_text=\"INFO\"} 5 one {service_name=\"s\"}\n\
         {env=\"a\", host_id=\"h\", severity_text=\"INFO\"} 5 three {service_name=\"s\"}\n\
         {env=\"b\", host_id=\"h\", severity_text=\"INFO\"} 5 two {service_name=\"s\"}"
    );
}
