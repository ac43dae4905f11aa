//! Metrics of the process itself, under the names that every Prometheus dashboard knows.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, IntGaugeVec, Opts, Registry};

/// Registers `process_…` metrics and `loki_build_info`.
///
/// # Errors
/// When metrics of these names are registered already.
pub fn register(registry: &Registry, build: &BuildInfo) -> prometheus::Result<()> {
    registry.register(Box::new(Process::new()?))?;
    let info = IntGaugeVec::new(
        Opts::new("loki_build_info", "What this process was built from; always 1."),
        &["version", "revision", "branch", "builddate", "product"],
    )?;
    info.with_label_values(&[build.version, build.revision, build.branch, build.date, "skald"]).set(1);
    registry.register(Box::new(info))
}

/// What this binary was built from.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// Skald's version.
    pub version: &'static str,
    /// The commit, or `unknown`.
    pub revision: &'static str,
    /// The branch, or `unknown`.
    pub branch: &'static str,
    /// When it was built, or `unknown`.
    pub date: &'static str,
}

/// Ticks per second of the times in `/proc`; 100 on every Linux since 2.6, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

struct Process {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    resident_bytes_max: IntGauge,
    virtual_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start_seconds: Gauge,
}

impl Process {
    fn new() -> prometheus::Result<Self> {
        let this = Self {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "CPU time used, user and system, in seconds.",
            )?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Memory in RAM, in bytes.")?,
            resident_bytes_max: IntGauge::new(
                "process_resident_memory_max_bytes",
                "Most memory in RAM since the start, in bytes.",
            )?,
            virtual_bytes: IntGauge::new("process_virtual_memory_bytes", "Address space in use, in bytes.")?,
            open_fds: IntGauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "Most file descriptors that may be open.")?,
            threads: IntGauge::new("process_threads", "Threads of the process.")?,
            start_seconds: Gauge::new(
                "process_start_time_seconds",
                "When the process started, in seconds since the Unix epoch.",
            )?,
        };
        this.start_seconds.set(start_time().unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64().floor())
        }));
        Ok(this)
    }

    /// What cannot be read keeps its last value: a metric must never fail a scrape.
    fn read(&self) {
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
            self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            for (gauge, key, scale) in [
                (&self.resident_bytes, "VmRSS:", 1024),
                (&self.resident_bytes_max, "VmHWM:", 1024),
                (&self.virtual_bytes, "VmSize:", 1024),
                (&self.threads, "Threads:", 1),
            ] {
                if let Some(value) = first_number(&status, key) {
                    gauge.set(value * scale);
                }
            }
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory just opened.
            self.open_fds.set(fds.count() as i64 - 1);
        }
        if let Some(max) =
            fs::read_to_string("/proc/self/limits").ok().and_then(|l| first_number(&l, "Max open files"))
        {
            self.max_fds.set(max);
        }
    }

    fn parts(&self) -> [&dyn Collector; 8] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.resident_bytes_max,
            &self.virtual_bytes,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.start_seconds,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

/// The first number after the line that begins with `key`.
fn first_number(text: &str, key: &str) -> Option<i64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The fields of `/proc/<pid>/stat` after the command, which may itself hold spaces and brackets; the first is the state.
fn stat_fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields = stat_fields(stat)?;
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let since_boot: f64 = stat_fields(&stat)?.get(19)?.parse().ok()?;
    let boot = first_number(&fs::read_to_string("/proc/stat").ok()?, "btime ")?;
    Some(boot as f64 + since_boot / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 1 1 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 9 0 4242 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
    }

    #[test]
    fn the_process_has_a_size_an_age_and_open_files() {
        let registry = Registry::new();
        let build = BuildInfo { version: "1.2.3", revision: "abc", branch: "main", date: "unknown" };
        register(&registry, &build).unwrap();
        let families = registry.gather();
        let value = |name: &str| {
            let m =
                &families.iter().find(|f| f.name() == name).unwrap_or_else(|| panic!("{name}")).get_metric()
                    [0];
            m.get_gauge().get_value() + m.get_counter().get_value()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_open_fds") >= 3.0);
        assert!((now - 3600.0..now + 1.0).contains(&value("process_start_time_seconds")));
        assert_eq!(value("loki_build_info"), 1.0);
    }
}
