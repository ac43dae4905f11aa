//! A thread that queries as fast as it is answered.

use std::time::Instant;

use super::{Latencies, Shared};
use crate::random::Random;

use anyhow::Context as _;

/// From a search for one id to counts over everything.
const QUERIES: [&str; 7] = [
    r#"{job="load"}"#,
    r#"{job="load"} |= "status=500""#,
    r#"{job="load", pusher="3"} | logfmt | duration > 800ms"#,
    r#"{job="load"} |= "00000000deadbeef""#,
    r#"sum by (pusher) (rate({job="load"}[1m]))"#,
    r#"sum by (level) (count_over_time({job="load", pusher=~"1.*"} | logfmt [30s]))"#,
    r#"quantile_over_time(0.9, {job="load", pusher="1"} | logfmt | unwrap duration(duration) [1m]) by (pusher)"#,
];

/// Queries until it is told to stop.
pub(super) fn run(shared: &Shared, number: usize) -> Latencies {
    let mut random = Random::new(shared.seed, 0x9e00 + number as u64);
    let mut latencies = Latencies::default();
    while !shared.stopped() {
        if let Err(error) = query(shared, &mut latencies, &mut random) {
            shared.find(format!("query: {error:#}"));
        }
    }
    latencies
}

fn query(shared: &Shared, latencies: &mut Latencies, random: &mut Random) -> anyhow::Result<()> {
    let query = match shared.only {
        Some(number) => QUERIES.get(number).context("no query has this number")?,
        None => QUERIES[random.within(0..QUERIES.len() as u64) as usize],
    };
    let start = Instant::now();
    let answer = match shared.only.map_or_else(|| random.within(0..10), |_| 9) {
        0 => shared.client.get("/loki/api/v1/labels", &[])?,
        1 => shared.client.get("/loki/api/v1/series", &[("match[]", r#"{job="load"}"#)])?,
        _ => {
            let limit = random.within(1..5000).to_string();
            let parameters = [
                ("query", query),
                ("since", shared.since.as_str()),
                ("step", "10s"),
                ("limit", limit.as_str()),
            ];
            shared.client.get("/loki/api/v1/query_range", &parameters)?
        }
    };
    match answer.status {
        200 => latencies.add(start),
        429 => latencies.refused += 1,
        status => anyhow::bail!("{query}: status {status}: {}", answer.text()),
    }
    Ok(())
}
