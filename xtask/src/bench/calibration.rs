//! What the machine can do: the measure that other figures are read against.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::random::Random;

/// Zstd level 1 in blocks of 256 KiB, its decompression, and memmem for a text that is not there, each over the same
/// bytes: generated lines of the kind that the benchmarks use. MB/s of one core, best of several rounds.
pub(crate) fn measure() -> Result<Vec<(&'static str, f64)>> {
    let lines = lines(64 << 20);
    let pages: Vec<&[u8]> = lines.chunks(256 << 10).collect();
    let mut compressed: Vec<Vec<u8>> = Vec::new();
    let compress = best(|| {
        compressed.clear();
        for page in &pages {
            let mut out = vec![0; zstd_safe::compress_bound(page.len())];
            let length = zstd_safe::compress(&mut out[..], page, 1).map_err(zstd_error)?;
            out.truncate(length);
            compressed.push(out);
        }
        Ok(())
    })?;
    let mut page = vec![0; 256 << 10];
    let decompress = best(|| {
        for bytes in &compressed {
            black_box(zstd_safe::decompress(&mut page[..], bytes).map_err(zstd_error)?);
        }
        Ok(())
    })?;
    let finder = memchr::memmem::Finder::new("0123456789abcdefghij-not-there");
    let search = best(|| {
        for page in &pages {
            black_box(finder.find(page));
        }
        Ok(())
    })?;
    let rate = |time: Duration| lines.len() as f64 / time.as_secs_f64() / 1e6;
    Ok(vec![
        ("calibration: zstd -1 compress", rate(compress)),
        ("calibration: zstd -1 decompress", rate(decompress)),
        ("calibration: memmem miss", rate(search)),
    ])
}

fn best(mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

fn zstd_error(code: usize) -> anyhow::Error {
    anyhow!("zstd: {}", zstd_safe::get_error_name(code))
}

/// Lines with ids, times and repeated words, about 200 bytes each.
fn lines(bytes: usize) -> Vec<u8> {
    let mut random = Random::new(1, 1);
    let mut out = Vec::with_capacity(bytes + 512);
    let paths = ["/api/v1/orders", "/api/v1/users", "/healthz", "/checkout", "/login"];
    while out.len() < bytes {
        let line = format!(
            "{{\"time\":\"2026-01-15T{:02}:{:02}:{:02}.{:06}Z\",\"level\":\"info\",\"method\":\"GET\",\"path\":\"{}\",\
             \"status\":{},\"latency_ms\":{}.{:03},\"trace_id\":\"{:016x}{:016x}\",\"msg\":\"request served\"}}\n",
            random.within(0..24),
            random.within(0..60),
            random.within(0..60),
            random.within(0..1_000_000),
            paths[random.within(0..5) as usize],
            [200, 200, 200, 404, 500][random.within(0..5) as usize],
            random.within(0..900),
            random.within(0..1000),
            random.next(),
            random.next(),
        );
        out.extend_from_slice(line.as_bytes());
    }
    out
}
