//! Flags that several commands share.

use clap::ValueEnum;
use skald_model::time::TimeRange;
use skald_runtime::units::parse_nanos;

use crate::time;

/// Which times.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Times")]
pub(crate) struct Times {
    /// How far to look back from --to, for example 15m, 6h or 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_nanos)]
    pub(crate) since: i64,
    /// The first time, inclusive: RFC 3339, now-1h, or a number since 1970; instead of --since
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub(crate) from: Option<String>,
    /// The last time, exclusive [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
}

impl Times {
    /// The times in nanoseconds.
    pub(crate) fn range(&self, now: i64) -> anyhow::Result<TimeRange> {
        let parse =
            |name: &str, text: &str| time::parse(text, now).map_err(|why| anyhow::anyhow!("{name} {why}"));
        let end = self.to.as_deref().map_or(Ok(now), |text| parse("--to", text))?;
        let start = match &self.from {
            Some(text) => parse("--from", text)?,
            None => end.saturating_sub(self.since),
        };
        anyhow::ensure!(
            start < end,
            "the range is empty: it begins at {} and ends at {}",
            time::exact(start),
            time::exact(end)
        );
        Ok(TimeRange::new(start, end))
    }

    /// The parameters `start` and `end` of a request.
    pub(crate) fn parameters(&self, now: i64) -> anyhow::Result<[(&'static str, String); 2]> {
        let range = self.range(now)?;
        Ok([("start", range.start.to_string()), ("end", range.end.to_string())])
    }
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: time, labels, line; metrics as tables.
    Default,
    /// Lines as they were pushed, and nothing else.
    Raw,
    /// One JSON object per line: timestamp, labels, line, metadata.
    Jsonl,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000_000;

    fn range(from: Option<&str>, to: Option<&str>) -> anyhow::Result<TimeRange> {
        let times = Times { since: 3_600_000_000_000, from: from.map(Into::into), to: to.map(Into::into) };
        times.range(NOW)
    }

    #[test]
    fn ranges_end_now_unless_told_otherwise() {
        let hour = 3_600_000_000_000;
        assert_eq!(range(None, None).unwrap(), TimeRange::new(NOW - hour, NOW));
        assert_eq!(range(None, Some("now-1h")).unwrap(), TimeRange::new(NOW - 2 * hour, NOW - hour));
        assert_eq!(range(Some("1"), Some("2")).unwrap(), TimeRange::new(1_000_000_000, 2_000_000_000));
    }

    #[test]
    fn empty_and_unreadable_ranges_are_named() {
        assert!(range(Some("now"), None).unwrap_err().to_string().contains("the range is empty"));
        assert!(range(Some("x"), None).unwrap_err().to_string().starts_with("--from \"x\""));
    }
}
