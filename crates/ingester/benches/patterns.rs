//! What looking at one line for its pattern costs.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use skald_ingester::patterns::{Config, bench::Bench};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lines of several kinds whose variable parts differ.
fn lines(kind: &str) -> Vec<String> {
    let users = ["alice", "bob", "carol", "dave"];
    let line = |i: usize| {
        let user = users[i % 4];
        match kind {
            "nginx" => format!(
                r#"10.0.{}.{} - {user} [15/Jan/2026:06:{:02}:{:02} +0000] "GET /api/v1/users/{i}/orders?page={} HTTP/1.1" 200 {} "-" "Mozilla/5.0 (X11; Linux x86_64)""#,
                i % 200,
                i % 251,
                i % 60,
                i % 59,
                i % 9,
                i * 7
            ),
            "logfmt" => format!(
                r#"ts=2026-01-15T06:00:{:02}.{:03}Z level=info caller=api.go:{} msg="request done" user={user} path=/api/v1/items/{i} status=200 took={}ms"#,
                i % 60,
                i % 1000,
                i % 90,
                i % 500
            ),
            "json" => format!(
                r#"{{"time":"2026-01-15T06:00:{:02}Z","level":"info","msg":"order {i} of {user} was shipped","http":{{"method":"GET","path":"/orders/{i}","status":200}},"took_ms":{}}}"#,
                i % 60,
                i % 500
            ),
            _ => format!("INFO Executor: Running task {}.0 in stage {}.0 (TID {i})", i % 100, i % 8),
        }
    };
    (0..10_000).map(line).collect()
}

fn mine(c: &mut Criterion) {
    let mut group = c.benchmark_group("patterns");
    for kind in ["nginx", "logfmt", "json", "java"] {
        let lines = lines(kind);
        let mut bench = Bench::new(&Config { max_lines_per_second: u64::MAX, ..Config::default() }, &lines);
        group.throughput(Throughput::Elements(lines.len() as u64));
        group.bench_function(BenchmarkId::new("mine", kind), |b| b.iter(|| black_box(bench.run())));
    }
    group.finish();
}

criterion_group!(benches, mine);
criterion_main!(benches);
