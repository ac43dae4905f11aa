//! Delete requests at a flush.

use std::sync::Arc;
use std::time::Duration;

use skald_model::{Result, TenantId, TenantLimits};
use skald_removal::{AtFlush, Delete, DeleteLists, Keep, Loaded};
use skald_runtime::Clock;

use crate::query::Removing;
use crate::segment::{Row, Segment};

/// What a flush needs to know of delete requests.
#[derive(Clone)]
pub struct FlushDeletes {
    /// The requests.
    pub lists: Arc<DeleteLists>,
    /// Whether tenants have theirs carried out.
    pub limits: Arc<dyn TenantLimits>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long requests can be taken back.
    pub cancel_period: Duration,
}

impl std::fmt::Debug for FlushDeletes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushDeletes").field("cancel_period", &self.cancel_period).finish_non_exhaustive()
    }
}

impl FlushDeletes {
    /// The requests of a tenant as a flush that begins now sees them; `None` when there never were any.
    ///
    /// What this process knows of the table is new enough: the flush has looked at it after the segment was sealed, and
    /// a request that came later is about all of the segment, which the block then tells.
    pub(crate) async fn at(&self, tenant: &TenantId) -> Result<Option<AtFlush>> {
        let Some(loaded) = self.loaded(tenant).await? else { return Ok(None) };
        let limits = self.limits.of(tenant);
        Ok(Some(AtFlush::new(&loaded, &limits, self.clock.now(), self.cancel_period)))
    }

    /// The second of the newest request that is no longer remembered; 0 when none was forgotten.
    pub(crate) async fn forgotten(&self, tenant: &TenantId) -> Result<i64> {
        Ok(self.loaded(tenant).await?.map_or(0, |loaded| loaded.list.forgotten))
    }

    /// The newest second with a request, of those from `from` on and before `to`.
    pub(crate) fn between(&self, tenant: &TenantId, from: i64, to: i64) -> Option<i64> {
        let known = self.lists.newest(tenant)?;
        let before = known.accepted.partition_point(|second| *second < to);
        known.accepted[..before].last().copied().filter(|second| *second >= from)
    }

    /// Reads the requests if they are older than `generation`.
    pub(crate) async fn learn(&self, tenant: &TenantId, generation: u64) -> Result<()> {
        if self.lists.newest(tenant).is_some_and(|known| known.list.generation >= generation) {
            return Ok(());
        }
        let snapshot = self.lists.catalog().snapshot(tenant).await?;
        self.lists.at(tenant, &snapshot).await.map(drop)
    }

    async fn loaded(&self, tenant: &TenantId) -> Result<Option<Arc<Loaded>>> {
        let catalog = self.lists.catalog();
        let snapshot = match catalog.cached(tenant) {
            Some(known) => known,
            None => catalog.snapshot(tenant).await?,
        };
        self.lists.at(tenant, &snapshot).await
    }
}

/// The segment without what requests take away, and in parts where something came after a request that was accepted
/// meanwhile and is about the same streams and times: what is about a block is about all of it.
pub(crate) fn split(segment: &Arc<Segment>, at: Option<&AtFlush>) -> Vec<Arc<Segment>> {
    let Some(at) = at else { return vec![segment.clone()] };
    let rest = if at.done.is_empty() { segment.clone() } else { without_deleted(segment, at) };
    let Some((first, last)) = rest.seconds() else { return Vec::new() };
    let mut borders: Vec<i64> = at
        .borders(first, last)
        .into_iter()
        .filter(|d| is_crossed(&rest, d))
        .map(|d| d.rule().accepted)
        .collect();
    borders.sort_unstable();
    borders.dedup();
    if borders.is_empty() {
        return vec![rest];
    }
    let side = |row: &Row| borders.partition_point(|b| *b < rest.batches().stamp(row).second);
    let part = |number| Arc::new(rest.retained(|_, row| side(row) == number));
    (0..=borders.len()).map(part).filter(|p| p.entries() > 0).collect()
}

fn without_deleted(segment: &Arc<Segment>, at: &AtFlush) -> Arc<Segment> {
    let mut removing = Removing::new(at.done.clone());
    let keeps: Vec<Keep> = segment.streams().iter().map(|s| removing.keep(segment, s)).collect();
    if keeps.iter().all(|k| *k == Keep::All) {
        return segment.clone();
    }
    Arc::new(segment.retained(|number, row| match &keeps[number] {
        Keep::All => true,
        Keep::Nothing => false,
        Keep::Within(range) => range.contains(row.timestamp),
        Keep::Rows(rules) => removing.keeps(rules, segment, &segment.streams()[number], row),
    }))
}

/// Whether something came after the request that it would be about, had it come before.
fn is_crossed(segment: &Segment, delete: &Delete) -> bool {
    let rule = delete.rule();
    let late =
        |row: &Row| rule.range.contains(row.timestamp) && segment.batches().stamp(row).second > rule.accepted;
    let streams = segment.streams().iter().filter(|s| delete.is_about_stream(s.labels.as_ref()));
    streams.flat_map(|s| s.rows.iter()).any(late)
}

#[cfg(test)]
mod tests {
    use skald_model::removal::{DeleteRule, RemovalSpec};
    use skald_model::{PushStamp, TimeRange};
    use skald_removal::Removals;
    use skald_runtime::memory::Memory;

    use super::*;
    use crate::samples::{Sample, batch, tenant};
    use crate::segment::HeldBatch;

    /// The second of a push, and its entries by stream.
    type Push<'a> = (i64, &'a [(&'a str, &'a [Sample<'a>])]);

    /// A segment of pushes.
    fn segment(pushes: &[Push<'_>]) -> Arc<Segment> {
        let mut segment = Segment::new(true);
        for (i, (second, streams)) in pushes.iter().enumerate() {
            let reservation = Memory::new(1 << 20).try_reserve(1).unwrap();
            let held = batch(&tenant("t"), streams);
            segment.insert(HeldBatch::new(held, i as u64 + 1, PushStamp::unnumbered(*second), reservation));
        }
        Arc::new(segment)
    }

    fn rule(generation: u64, accepted: i64, query: &str) -> DeleteRule {
        DeleteRule { generation, accepted, range: TimeRange::new(0, 100), query: query.into() }
    }

    fn at(done: &[DeleteRule], pending: &[DeleteRule]) -> AtFlush {
        let spec = RemovalSpec { generation: 9, deletes: done.to_vec(), ..RemovalSpec::default() };
        AtFlush {
            generation: 9,
            done: Arc::new(Removals::compile(&spec).unwrap()),
            pending: pending.iter().map(|r| Arc::new(Delete::compile(r.clone()).unwrap())).collect(),
        }
    }

    /// The lines of each part.
    fn lines(parts: &[Arc<Segment>]) -> Vec<Vec<String>> {
        let line = |p: &Segment, r: &Row| String::from_utf8(p.batches().line(r).to_vec()).unwrap();
        let of = |p: &Arc<Segment>| {
            let mut lines: Vec<_> =
                p.streams().iter().flat_map(|s| s.rows.iter().map(|r| line(p, r))).collect();
            lines.sort();
            lines
        };
        parts.iter().map(of).collect()
    }

    const A: &[Sample<'static>] = &[(5, "a secret", ""), (6, "b", "")];
    const LATE: &[Sample<'static>] = &[(7, "late secret", "")];

    #[test]
    fn without_requests_nothing_is_copied() {
        let segment = segment(&[(10, &[("a", A)])]);
        for at in [None, Some(at(&[], &[])), Some(at(&[rule(1, 50, r#"{app="b"}"#)], &[]))] {
            let parts = split(&segment, at.as_ref());
            assert!(parts.len() == 1 && Arc::ptr_eq(&parts[0], &segment));
        }
    }

    #[test]
    fn requests_that_are_final_take_what_came_before_them() {
        let segment = segment(&[(10, &[("a", A), ("b", A)]), (12, &[("a", LATE)])]);
        let parts = split(&segment, Some(&at(&[rule(1, 11, r#"{app="a"} |= "secret""#)], &[])));
        assert_eq!(lines(&parts), [["a secret", "b", "b", "late secret"]]);
        assert_eq!(parts[0].lsns(), segment.lsns());
        assert_eq!(parts[0].seconds(), Some((10, 12)));
        let parts = split(&segment, Some(&at(&[rule(1, 12, "{}")], &[])));
        assert_eq!(parts.len(), 0, "nothing is left to write");
    }

    #[test]
    fn what_came_after_a_request_that_may_be_taken_back_lies_apart() {
        let segment =
            segment(&[(10, &[("a", A)]), (12, &[("a", LATE), ("b", A)]), (14, &[("a", &[(8, "z", "")])])]);
        let query = r#"{app="a"} |= "secret""#;
        let parts =
            split(&segment, Some(&at(&[], &[rule(1, 11, query), rule(2, 12, query), rule(3, 99, query)])));
        assert_eq!(lines(&parts), [vec!["a secret", "b"], vec!["a secret", "b", "late secret"], vec!["z"]]);
        let seconds: Vec<_> = parts.iter().map(|p| p.seconds()).collect();
        assert_eq!(seconds, [Some((10, 10)), Some((12, 12)), Some((14, 14))]);
        // Nothing of the stream came later: one block does.
        assert_eq!(split(&segment, Some(&at(&[], &[rule(1, 12, r#"{app="b"}"#)]))).len(), 1);
    }
}
