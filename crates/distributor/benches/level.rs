//! What finding levels costs, in bytes of lines per second: the budget is 0.3 s per GB.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use skald_distributor::level::LevelDetector;
use skald_model::Limits;

/// Nanoseconds that this process has run on any core.
struct CpuTime;

impl CpuTime {
    fn now() -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;
    fn start(&self) -> u64 {
        Self::now()
    }
    fn end(&self, start: u64) -> u64 {
        Self::now() - start
    }
    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }
    fn zero(&self) -> u64 {
        0
    }
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Kinds of lines as they come, with the level near the beginning, at the end, or nowhere.
fn lines(kind: &str, n: usize) -> Vec<String> {
    let levels = ["info", "info", "info", "warn", "error", "debug"];
    (0..n)
        .map(|i| {
            let level = levels[i * 7 % levels.len()];
            match kind {
                "json" => format!(
                    r#"{{"ts":"2026-01-15T00:{:02}:{:02}.123456Z","level":"{level}","service":"checkout","trace_id":"{:016x}","request":{{"method":"GET","path":"/api/v1/items/{i}","status":200,"duration_ms":{}}},"msg":"request handled in time"}}"#,
                    i / 60 % 60, i % 60, i * 2_654_435_761, i % 997
                ),
                "json late" => format!(
                    r#"{{"ts":"2026-01-15T00:{:02}:{:02}.123456Z","service":"checkout","request":{{"method":"GET","path":"/api/v1/items/{i}","status":200,"duration_ms":{}}},"user":{{"id":{i}}},"level":"{level}","msg":"done"}}"#,
                    i / 60 % 60, i % 60, i % 997
                ),
                "logfmt" => format!(
                    r#"ts=2026-01-15T00:{:02}:{:02}.123Z level={level} caller=cache.go:211 component=cache msg="shard evicted" key=X9{i:05} bytes={}"#,
                    i / 60 % 60, i % 60, i % 99991
                ),
                "plain" => format!(
                    "2026-01-15 00:{:02}:{:02},123 {} [worker-{}] com.example.Checkout: order {i} was accepted by the warehouse",
                    i / 60 % 60, i % 60, level.to_uppercase(), i % 16
                ),
                // No level anywhere, so all of the line is searched.
                _ => format!(
                    r#"10.{}.{}.7 - - [15/Jan/2026:00:{:02}:{:02} +0000] "GET /api/v1/transfer/{i}/carts HTTP/1.1" 200 {} "-" "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0""#,
                    i % 256, i / 256 % 256, i / 60 % 60, i % 60, i % 99991
                ),
            }
        })
        .collect()
}

fn level(c: &mut Criterion<CpuTime>) {
    let detector = LevelDetector::new(&Limits::default());
    let mut group = c.benchmark_group("level");
    for kind in ["json", "json late", "logfmt", "plain", "access log"] {
        let lines = lines(kind, 2000);
        group.throughput(Throughput::Bytes(lines.iter().map(|l| l.len() as u64).sum()));
        group.bench_function(kind, |b| {
            b.iter(|| lines.iter().map(|l| detector.of_line(l.as_bytes()) as usize).sum::<usize>());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = level
}
criterion_main!(benches);
