//! The patterns of all tenants: templates per service, counts per stream, template and level.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use skald_model::time::SECOND;
use skald_model::{Batch, BatchStream, Labels, Selector, StreamId, TenantId, TimeRange, Timestamp};
use skald_rpc::patterns::PatternSeries;

use super::Config;
use super::counts::{Series, UNIT_SECONDS};
use super::sample::Sampler;
use super::tokens::Tokens;
use super::tree::{Id, Template, Tree};

/// The levels that patterns are told apart by, as in Loki.
pub(super) const LEVELS: [&str; 8] =
    ["unknown", "trace", "debug", "info", "warn", "error", "critical", "fatal"];
/// Lines a second of one service that are looked at, so that a loud one does not cost the others their share.
const SERVICE_LINES_PER_SECOND: u64 = 1000;
/// Bytes of a stream and of a series besides what they hold, roughly.
const STREAM_BYTES: usize = 128;
const SERIES_BYTES: usize = 64;
/// Under pressure only so many units of fine counts are kept.
const FINE_UNITS_UNDER_PRESSURE: u32 = 30;

/// Finds and counts patterns.
#[derive(Debug)]
pub(crate) struct Miner {
    pub(super) config: Config,
    pub(super) tenants: FxHashMap<TenantId, Tenant>,
    tokens: Tokens,
    sampler: Sampler,
    /// Bytes of memory as of the last look, and what was added since.
    bytes: usize,
    /// Lines a second of one service that are looked at.
    service_lines_per_second: u64,
    /// The last log record that was looked at.
    pub(super) lsn: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub(super) services: FxHashMap<Box<str>, Service>,
    pub(super) streams: FxHashMap<StreamId, Labels>,
}

#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) tree: Tree,
    sampler: Sampler,
    pub(super) series: FxHashMap<Key, Series>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) stream: StreamId,
    pub(super) template: Id,
    pub(super) level: u8,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mined {
    /// Lines that were looked at.
    pub(crate) lines: u64,
    /// Lines that others stood for.
    pub(crate) sampled_out: u64,
    /// Lines that found no room.
    pub(crate) refused: u64,
}

impl Miner {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            tenants: FxHashMap::default(),
            tokens: Tokens::default(),
            sampler: Sampler::default(),
            bytes: 0,
            service_lines_per_second: SERVICE_LINES_PER_SECOND,
            lsn: 0,
        }
    }

    /// Looks at all lines from now on.
    pub(super) fn without_sampling(&mut self) {
        self.service_lines_per_second = u64::MAX;
        self.config.max_lines_per_second = u64::MAX;
    }

    /// Looks at the lines of one stream of a batch, each standing for `share` lines that were not brought at all.
    pub(super) fn mine(
        &mut self,
        tenant: &TenantId,
        batch: &Batch,
        stream: &BatchStream,
        now: Timestamp,
        share: u64,
    ) -> Mined {
        let Self { config, tenants, tokens, sampler, bytes, service_lines_per_second, .. } = self;
        let mut mined = Mined::default();
        let entries = batch.of(stream);
        let lines = entries.len() as u64;
        if !tenants.contains_key(tenant) {
            tenants.insert(tenant.clone(), Tenant::default());
        }
        let Some(of_tenant) = tenants.get_mut(tenant) else { return mined };
        let name = stream.labels.get("service_name").unwrap_or("unknown_service");
        let has_room = *bytes < config.max_bytes as usize;
        if !of_tenant.services.contains_key(name) {
            if !has_room {
                mined.refused = lines;
                return mined;
            }
            of_tenant.services.insert(name.into(), Service::default());
            *bytes += size_of::<Service>() + name.len();
        }
        let Some(service) = of_tenant.services.get_mut(name) else { return mined };
        let second = now.div_euclid(SECOND);
        let weight = service.sampler.weight(lines, second, *service_lines_per_second);
        let weight = weight.max(sampler.weight(lines.div_ceil(weight), second, config.max_lines_per_second));
        let oldest = now.saturating_sub(config.retain_for.as_nanos() as i64);
        let newest = now.saturating_add(super::FUTURE_MAX);
        let stream_level = level_of_stream(&stream.labels);
        let count = u32::try_from(weight.saturating_mul(share)).unwrap_or(u32::MAX);
        for place in service.sampler.places(lines, weight) {
            let entry = &entries[place as usize];
            let line = batch.entries.line(entry);
            if line.is_empty()
                || !(oldest..newest).contains(&entry.timestamp)
                || std::str::from_utf8(line).is_err()
            {
                continue;
            }
            mined.lines += 1;
            let before = service.tree.bytes();
            let templates_max = if has_room { config.max_clusters } else { 0 };
            let template = service.tree.insert(line, tokens.split(line), templates_max);
            *bytes = (*bytes + service.tree.bytes()).saturating_sub(before);
            let Some(template) = template else {
                mined.refused += weight;
                continue;
            };
            let level = batch.entries.metadata(entry).get("detected_level").map_or(stream_level, level);
            let key = Key { stream: stream.id, template, level };
            let series = match service.series.get_mut(&key) {
                Some(series) => series,
                None if !has_room => {
                    mined.refused += weight;
                    continue;
                }
                None => {
                    if of_tenant.streams.insert(stream.id, stream.labels.clone()).is_none() {
                        *bytes += STREAM_BYTES + stream.labels.packed().len();
                    }
                    *bytes += SERIES_BYTES;
                    service.series.entry(key).or_default()
                }
            };
            let before = series.bytes();
            series.add(unit_of(entry.timestamp), count, unit_of(now));
            *bytes += series.bytes() - before;
        }
        mined.sampled_out = lines.saturating_sub(mined.lines + mined.refused);
        mined
    }

    /// Lets counts grow old, forgets what is too old, and makes room if there is too little.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        let kept = (self.config.retain_for.as_secs() as i64 / UNIT_SECONDS).max(1) as u32;
        let now = unit_of(now);
        self.age(now, kept, u32::MAX);
        if self.bytes > self.config.max_bytes as usize / 10 * 9 {
            self.age(now, kept, FINE_UNITS_UNDER_PRESSURE);
        }
        if self.bytes > self.config.max_bytes as usize / 10 * 9 {
            self.forget_rare();
            self.age(now, kept, FINE_UNITS_UNDER_PRESSURE);
        }
    }

    /// Bytes of memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn age(&mut self, now: u32, kept: u32, fine: u32) {
        self.bytes = 0;
        self.tenants.retain(|_, tenant| {
            let mut alive = FxHashSet::default();
            tenant.services.retain(|name, service| {
                let Service { tree, series, .. } = service;
                series.retain(|key, series| tree.get(key.template).is_some() && series.age(now, kept, fine));
                if series.capacity() > 4 * series.len() + 16 {
                    series.shrink_to_fit();
                }
                alive.extend(series.keys().map(|k| k.stream));
                if service.series.is_empty() {
                    return false;
                }
                self.bytes += size_of::<Service>() + name.len() + service.tree.bytes();
                self.bytes += service.series.values().map(|s| SERIES_BYTES + s.bytes()).sum::<usize>();
                true
            });
            tenant.streams.retain(|id, _| alive.contains(id));
            self.bytes += tenant.streams.values().map(|l| STREAM_BYTES + l.packed().len()).sum::<usize>();
            !tenant.services.is_empty()
        });
    }

    /// Forgets the rarer half of what is counted.
    fn forget_rare(&mut self) {
        let services = || self.tenants.values().flat_map(|t| t.services.values());
        let mut totals: Vec<u64> = services().flat_map(|s| s.series.values().map(Series::total)).collect();
        if totals.is_empty() {
            return;
        }
        let kept = totals.len() / 2;
        let (_, median, upper) = totals.select_nth_unstable(kept);
        let median = *median;
        let above = upper.iter().filter(|total| **total > median).count();
        // Of those as frequent as the median just as many as make up the half.
        let mut equal = kept.saturating_sub(above);
        for service in self.tenants.values_mut().flat_map(|t| t.services.values_mut()) {
            service.series.retain(|_, series| {
                let total = series.total();
                if total == median && equal > 0 {
                    equal -= 1;
                    return true;
                }
                total > median
            });
        }
    }

    /// How often each stream that passes was counted in the range.
    pub(super) fn streams(
        &self,
        tenant: &TenantId,
        selector: &Selector,
        range: TimeRange,
    ) -> Vec<(StreamId, u64)> {
        let Some(tenant) = self.tenants.get(tenant) else { return Vec::new() };
        let (start, end) = units_of(range);
        let mut totals: FxHashMap<StreamId, u64> = FxHashMap::default();
        for (key, series) in tenant.services.values().flat_map(|s| &s.series) {
            if tenant.streams.get(&key.stream).is_some_and(|l| selector.matches(l.as_ref())) {
                let total = totals.entry(key.stream).or_default();
                series.visit(start, end, |_, count| *total += count);
            }
        }
        totals.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The patterns of the streams that pass and are not excluded, counted at multiples of `step` nanoseconds.
    pub(super) fn patterns(
        &self,
        tenant: &TenantId,
        selector: &Selector,
        range: TimeRange,
        step: i64,
        exclude: &[StreamId],
    ) -> Vec<PatternSeries> {
        let Some(tenant) = self.tenants.get(tenant) else { return Vec::new() };
        let exclude: FxHashSet<StreamId> = exclude.iter().copied().collect();
        let passes = |(id, labels): (&StreamId, &Labels)| {
            (!exclude.contains(id) && selector.matches(labels.as_ref())).then_some(*id)
        };
        let streams: FxHashSet<StreamId> = tenant.streams.iter().filter_map(passes).collect();
        let (start, end) = units_of(range);
        let step_seconds = (step.max(0) / SECOND).max(UNIT_SECONDS);
        let mut found: BTreeMap<(String, u8), BTreeMap<i64, u64>> = BTreeMap::new();
        for service in tenant.services.values() {
            let mut of_service: FxHashMap<(Id, u8), BTreeMap<i64, u64>> = FxHashMap::default();
            for (key, series) in service.series.iter().filter(|(key, _)| streams.contains(&key.stream)) {
                let samples = of_service.entry((key.template, key.level)).or_default();
                series.visit(start, end, |unit, count| {
                    let second = unit * UNIT_SECONDS;
                    *samples.entry(second - second.rem_euclid(step_seconds)).or_default() += count;
                });
            }
            for ((id, level), samples) in of_service.into_iter().filter(|(_, samples)| !samples.is_empty()) {
                let Some(template) = service.tree.get(id).map(Template::render) else { continue };
                let all = found.entry((template, level)).or_default();
                for (second, count) in samples {
                    *all.entry(second).or_default() += count;
                }
            }
        }
        let series = |((pattern, level), samples): ((String, u8), BTreeMap<i64, u64>)| PatternSeries {
            pattern,
            level: LEVELS[usize::from(level)].to_owned(),
            samples: samples.into_iter().collect(),
        };
        PatternSeries::join(found.into_iter().map(series))
    }
}

fn unit_of(t: Timestamp) -> u32 {
    u32::try_from(t.div_euclid(UNIT_SECONDS * SECOND)).unwrap_or(if t < 0 { 0 } else { u32::MAX })
}

/// The units of a range: all that it touches.
fn units_of(range: TimeRange) -> (i64, i64) {
    let unit = UNIT_SECONDS * SECOND;
    (range.start.div_euclid(unit), range.end.saturating_sub(1).div_euclid(unit).saturating_add(1))
}

/// The level that a stream's labels tell.
fn level_of_stream(labels: &Labels) -> u8 {
    ["detected_level", "level", "severity"].iter().find_map(|name| labels.get(name)).map_or(0, level)
}

/// The number of a level among [`LEVELS`].
fn level(text: &str) -> u8 {
    let same = |names: &[&str]| names.iter().any(|n| text.eq_ignore_ascii_case(n));
    let name = match text {
        _ if same(&["warning", "wrn"]) => "warn",
        _ if same(&["err", "eror"]) => "error",
        _ if same(&["information", "inf", "notice"]) => "info",
        _ if same(&["crit"]) => "critical",
        _ if same(&["dbg"]) => "debug",
        _ if same(&["trc"]) => "trace",
        _ => text,
    };
    LEVELS.iter().position(|l| name.eq_ignore_ascii_case(l)).unwrap_or(0) as u8
}
