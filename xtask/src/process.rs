//! What the system tells about a process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Memory of a process that is in RAM, in bytes; `None` where the system does not tell (it does on Linux).
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// CPU time that a process has taken so far, in seconds; `None` where the system does not tell.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    // Of user and system: the 12th and the 13th field after the name, which may have spaces.
    const USER_AND_SYSTEM: std::ops::Range<usize> = 11..13;
    // Linux counts in hundredths of a second for everybody, whatever its own clock does.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(USER_AND_SYSTEM)?.iter().map(|f| f.parse::<f64>());
    Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS_PER_SECOND)
}

/// Follows the memory of a process.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    peak: AtomicU64,
    stop: AtomicBool,
}

impl Sampler {
    /// Samples until [`Self::stop`].
    pub(crate) fn run(&self, pid: u32) {
        while !self.stop.load(Ordering::Relaxed) {
            self.peak.fetch_max(resident_bytes(pid).unwrap_or_default(), Ordering::Relaxed);
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends the sampling.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The most that was seen, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Lines of a server's log that nobody should see: panics, and whatever it calls an error.
pub(crate) fn alarming(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("panicked") || line.contains("level=error")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        if cfg!(target_os = "linux") {
            assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
            assert!(cpu_seconds(std::process::id()).unwrap() < 1e6);
        }
        assert_eq!(resident_bytes(u32::MAX), None);
    }

    #[test]
    fn panics_and_errors_are_found_in_a_log() {
        let log = "ts=1 level=info msg=x\nthread 'a' panicked at b\nts=2 level=error msg=y\n";
        assert_eq!(alarming(log).len(), 2);
    }
}
