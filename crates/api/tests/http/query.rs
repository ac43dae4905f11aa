use std::sync::Arc;

use axum::body::Body;
use http::Request;
use skald_api::Config;
use skald_model::{Digest, Error, Labels, StreamId};
use skald_rpc::frontend::{QueryData, Series};
use skald_rpc::ingester::StreamInfo;

use crate::services::{Services, get, send, surface, surface_with};

/// What the frontend is asked for a request, or the refusal.
async fn check(uri: &str, expected: &str) {
    let services = Arc::new(Services::default());
    let answer = get(&surface(&services), uri).await;
    let got = match &services.asked()[..] {
        [question] if answer.status == 200 => question.clone(),
        _ => format!("{} {}", answer.status.as_u16(), answer.text()),
    };
    assert_eq!(got, expected, "{uri}");
}

#[tokio::test]
async fn defaults_of_a_range_query() {
    check(
        "/loki/api/v1/query_range?query=%7Ba%3D%22b%22%7D",
        "range tenant=fake query={a=\"b\"} start=1768453200000000000 end=1768456800000000000 \
         step=14000000000 interval=0 limit=100 Backward",
    )
    .await;
    check(
        "/loki/api/v1/query_range?query=x&start=1768456790&end=1768456800&limit=&step=&direction=FORWARD&interval=1m",
        "range tenant=fake query=x start=1768456790000000000 end=1768456800000000000 \
         step=1000000000 interval=60000000000 limit=100 Forward",
    )
    .await;
    // `since` counts from the end, or from now if that is earlier.
    check(
        "/loki/api/v1/query_range?query=x&since=5m&end=4000000000",
        "range tenant=fake query=x start=1768456500000000000 end=4000000000000000000 \
         step=8926174000000000 interval=0 limit=100 Backward",
    )
    .await;
    check("/loki/api/v1/query_range?query=a&query=b&start=1&end=2", "range tenant=fake query=a start=1000000000 end=2000000000 step=1000000000 interval=0 limit=100 Backward").await;
}

#[tokio::test]
async fn the_first_complaint_is_lokis() {
    const R: &str = "/loki/api/v1/query_range?query=x&start=1768438800&end=1768442400";
    for (uri, expected) in [
        (
            format!("{R}&since=x&limit=abc"),
            "400 could not parse 'since' parameter: not a valid duration string: \"x\"",
        ),
        (format!("{R}&limit=abc&step=abc"), "400 strconv.Atoi: parsing \"abc\": invalid syntax"),
        (format!("{R}&limit=-1"), "400 limit must be a positive value"),
        (format!("{R}&limit=4294967296"), "400 limit value 4294967296 is out of range [0, 4294967295]"),
        (format!("{R}&direction=up&step=0"), "400 invalid direction 'up'"),
        (
            format!("{R}&step=0&interval=x"),
            "400 zero or negative query resolution step widths are not accepted. Try a positive integer",
        ),
        (
            format!("{R}&step=1ms&interval=x"),
            "400 exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
        ),
        (format!("{R}&interval=-1"), "400 interval must be >= 0"),
        (
            "/loki/api/v1/query_range?start=2&end=1&limit=abc".to_owned(),
            "400 end timestamp must not be before or equal to start time",
        ),
        (
            "/loki/api/v1/query_range?start=x&end=y".to_owned(),
            "400 could not parse 'end' parameter: strconv.ParseInt: parsing \"y\": invalid syntax",
        ),
        (
            "/loki/api/v1/query?time=abc&direction=up".to_owned(),
            "400 strconv.ParseInt: parsing \"abc\": invalid syntax",
        ),
        ("/loki/api/v1/query?limit=0&time=abc".to_owned(), "400 limit must be a positive value"),
        ("/loki/api/v1/labels?start=%zz".to_owned(), "400 invalid URL escape \"%zz\""),
    ] {
        check(&uri, expected).await;
    }
}

#[tokio::test]
async fn other_queries_are_passed_on() {
    const RANGE: &str = "start=1768438800&end=1768442400";
    const T: &str = "tenant=fake start=1768438800000000000 end=1768442400000000000";
    check(
        "/loki/api/v1/query?query=vector(1)%2Bvector(1)&direction=backward&time=4000000000",
        "instant tenant=fake query=vector(1)+vector(1) time=4000000000000000000 limit=100 Backward",
    )
    .await;
    for (uri, expected) in [
        (format!("/loki/api/v1/labels?{RANGE}"), format!("names {T} selectors=[]")),
        (
            format!("/loki/api/v1/label?{RANGE}&query=%7Ba%3D%22b%22%7D"),
            format!("names {T} selectors=[\"{{a=\\\"b\\\"}}\"]"),
        ),
        (format!("/loki/api/v1/label/a-b/values?{RANGE}"), format!("values of a-b {T} selectors=[]")),
        (format!("/loki/api/v1/label/a%2Fb/values?{RANGE}"), format!("values of a/b {T} selectors=[]")),
        (format!("/loki/api/v1/series?{RANGE}"), format!("series {T} selectors=[]")),
        (format!("/loki/api/v1/series?{RANGE}&match=%7B+%7D"), format!("series {T} selectors=[]")),
        (
            format!("/loki/api/v1/series?{RANGE}&match[]=b&match=c&match[]=a&match[]=b"),
            format!("series {T} selectors=[\"a\", \"b\", \"c\"]"),
        ),
        (format!("/api/prom/label?{RANGE}"), format!("names {T} selectors=[]")),
        (format!("/api/prom/label/a/values?{RANGE}"), format!("values of a {T} selectors=[]")),
        (format!("/api/prom/series?{RANGE}"), format!("series {T} selectors=[]")),
    ] {
        check(&uri, &expected).await;
    }
}

#[tokio::test]
async fn forms_count_before_the_url() {
    let services = Arc::new(Services::default());
    let request = Request::post("/loki/api/v1/query?limit=3&time=1768442400")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("query=a+%7B&limit=1"))
        .unwrap();
    assert_eq!(send(&surface(&services), request).await.status, 200);
    assert_eq!(services.asked(), ["instant tenant=fake query=a { time=1768442400000000000 limit=1 Backward"]);
}

#[tokio::test]
async fn queries_need_a_tenant() {
    let services = Arc::new(Services::default());
    let router = surface_with(&services, Config::default());
    for uri in ["/loki/api/v1/query_range", "/loki/api/v1/labels?start=x", "/loki/api/v1/series"] {
        let answer = get(&router, uri).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (401, "no org id"));
    }
    let request =
        Request::get("/loki/api/v1/labels").header("x-scope-orgid", "t").body(Body::empty()).unwrap();
    assert_eq!(send(&router, request).await.status, 200);
    assert!(services.asked()[0].starts_with("names tenant=t "));
}

#[tokio::test]
async fn answers_of_names_values_and_series() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    assert_eq!(get(&router, "/loki/api/v1/labels").await.text(), r#"{"status":"success"}"#);
    assert_eq!(get(&router, "/api/prom/label").await.text(), "{}");
    assert_eq!(get(&router, "/loki/api/v1/series").await.text(), r#"{"status":"success","data":[]}"#);
    *services.names.lock().unwrap() = vec!["a".to_owned(), "\"b\"".to_owned()];
    let stream = |pairs: &[(&str, &str)]| StreamInfo {
        id: StreamId(0),
        labels: Labels::from_pairs(pairs.iter().copied()),
        min_ts: 0,
        max_ts: 0,
        entries: 0,
        bytes: 0,
        digest: Digest::default(),
    };
    *services.series.lock().unwrap() = vec![stream(&[("b", "2"), ("a", "1")]), stream(&[])];
    let answer = get(&router, "/loki/api/v1/label/x/values").await;
    assert_eq!(answer.text(), r#"{"status":"success","data":["a","\"b\""]}"#);
    assert_eq!(answer.header("content-type"), "application/json; charset=UTF-8");
    assert_eq!(get(&router, "/api/prom/label/x/values").await.text(), r#"{"values":["a","\"b\""]}"#);
    assert_eq!(
        get(&router, "/loki/api/v1/series").await.text(),
        r#"{"status":"success","data":[{"a":"1","b":"2"},{}]}"#
    );
}

#[tokio::test]
async fn the_legacy_query_adds_its_regexp() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    let answer = get(&router, "/api/prom/query?query=%7Ba%3D%22b%22%7D&regexp=x%22y&start=1&end=2").await;
    assert!(answer.text().starts_with(r#"{"streams":[],"stats":{"#), "{}", answer.text());
    assert!(services.asked()[0].starts_with(r#"range tenant=fake query={a="b"} |~ "x\"y" start="#));
    *services.data.lock().unwrap() = Some(QueryData::Vector(vec![]));
    let answer = get(&router, "/api/prom/query?query=x&start=1&end=2").await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (400, "legacy endpoints only support streams result type")
    );
}

#[tokio::test]
async fn refusals_of_the_frontend_keep_their_words() {
    let services = Arc::new(Services::default());
    *services.refusal.lock().unwrap() = Some(Error::invalid("parse error : syntax error: unexpected $end"));
    let answer = get(&surface(&services), "/loki/api/v1/query_range").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (400, "parse error : syntax error: unexpected $end"));
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
}

#[tokio::test]
async fn large_answers_are_compressed_if_wanted() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    let series = (0..50).map(|i| Series {
        labels: Labels::from_pairs([("pod", format!("pod-{i}").as_str())]),
        samples: vec![(1_768_442_400_000_000_000, f64::from(i))],
    });
    *services.data.lock().unwrap() = Some(QueryData::Vector(series.collect()));
    let request = |accept: &str| {
        Request::get("/loki/api/v1/query?query=x")
            .header("accept-encoding", accept)
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(send(&router, request("gzip, deflate")).await.header("content-encoding"), "gzip");
    assert_eq!(send(&router, request("identity")).await.header("content-encoding"), "");
    *services.names.lock().unwrap() = vec!["app".to_owned()];
    let labels =
        Request::get("/loki/api/v1/labels").header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    assert_eq!(send(&router, labels).await.header("content-encoding"), "");
}

#[tokio::test]
async fn metadata_routes_ask_with_their_defaults() {
    const HOUR: &str = "start=1768453200000000000 end=1768456800000000000";
    for (uri, expected) in [
        ("index/stats?query=%7B%7D", format!("stats tenant=fake {HOUR} selectors=[\"{{}}\"]")),
        ("index/stats", format!("stats tenant=fake {HOUR} selectors=[\"\"]")),
        (
            "index/volume?query=x",
            format!("volume tenant=fake query=x {HOUR} step=0 limit=0 labels=[] by_name=false"),
        ),
        (
            "index/volume?query=x&targetLabels=a,b&aggregateBy=labels&limit=7",
            format!("volume tenant=fake query=x {HOUR} step=0 limit=7 labels=[\"a\", \"b\"] by_name=true"),
        ),
        (
            "index/volume_range?query=x&step=60s",
            format!("volume tenant=fake query=x {HOUR} step=60000000000 limit=0 labels=[] by_name=false"),
        ),
        ("detected_labels?query=", format!("labels tenant=fake {HOUR} selectors=[]")),
        (
            "detected_fields?query=x&field_limit=5",
            format!("fields tenant=fake query=x {HOUR} line_limit=100 limit=5"),
        ),
        (
            "detected_field/a/values?query=x&line_limit=9",
            format!("values of a tenant=fake query=x {HOUR} line_limit=9 limit=1000"),
        ),
        ("index/volume?limit=-1", "400 limit must be a positive value\n".to_owned()),
        ("index/volume?aggregateBy=x", "400 invalid aggregation option\n".to_owned()),
        ("detected_fields?line_limit=0", "400 limit must be a positive value\n".to_owned()),
    ] {
        check(&format!("/loki/api/v1/{uri}"), expected.trim_end()).await;
    }
}

#[tokio::test]
async fn metadata_answers_have_lokis_shapes() {
    let services = Arc::new(Services::default());
    let ask = async |path: &str| {
        let answer = get(&surface(&services), &format!("/loki/api/v1/{path}")).await;
        answer.text().to_owned()
    };
    assert_eq!(ask("index/stats?query=x").await, r#"{"bytes":3,"chunks":2,"entries":4,"streams":1}"#);
    let shards = ask("index/shards?query=x").await;
    assert!(shards.contains(r#""bounds":{"max":18446744073709551615,"min":0}"#), "{shards}");
    for path in ["detected_labels", "detected_fields", "detected_field/a/values"] {
        assert_eq!(ask(path).await, "{}");
    }
    *services.names.lock().unwrap() = vec!["a".into(), "b".into()];
    assert_eq!(
        ask("detected_labels").await,
        r#"{"detectedLabels":[{"cardinality":2,"label":"a"},{"cardinality":2,"label":"b"}]}"#
    );
    assert_eq!(
        ask("detected_fields").await,
        concat!(
            r#"{"fields":[{"cardinality":7,"label":"a","parsers":null,"type":"int"},"#,
            r#"{"cardinality":7,"jsonPath":["b","x"],"label":"b","parsers":["json"],"type":"int"}],"limit":1000}"#
        )
    );
    assert_eq!(ask("detected_field/a/values").await, r#"{"limit":1000,"values":["a","b"]}"#);
}

#[tokio::test]
async fn patterns_are_asked_for_and_answered_with_numbers() {
    const P: &str = "/loki/api/v1/patterns?query=%7Ba%3D%22b%22%7D";
    check(
        P,
        "patterns tenant=fake query={a=\"b\"} start=1768453200000000000 end=1768456800000000000 step=14000000000",
    )
    .await;
    check(
        &format!("{P}&start=1&end=2&step=10m"),
        "patterns tenant=fake query={a=\"b\"} start=1000000000 end=2000000000 step=600000000000",
    )
    .await;
    check(
        &format!("{P}&start=zz"),
        "400 could not parse 'start' parameter: strconv.ParseInt: parsing \"zz\": invalid syntax",
    )
    .await;
    let services = Arc::new(Services::default());
    let form = Request::post("/loki/api/v1/patterns")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("query=x"))
        .unwrap();
    let answer = send(&surface(&services), form).await;
    assert_eq!(
        answer.text(),
        r#"{"status":"success","data":[{"pattern":"took \u003c_\u003e","level":"info","samples":[[10,1],[20,3]]}]}"#
    );
}
