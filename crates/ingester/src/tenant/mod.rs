//! One tenant's entries in memory: the segment that grows, and the sealed ones on their way to the table.
//!
//! All of it is under one lock, and a push takes its place in the log under the same lock. So segments hold LSNs
//! without gaps or overlaps, in order, and "everything up to LSN n is in the table" says which segments may go.
//!
//! What a query sees is cut at one instant under that lock, for the table version that it reads beside:
//! * Entries that were released are in the table at `released` and later; older versions are refused.
//! * A sealed segment whose commit has not begun is in no version of the table.
//! * While a commit is under way it is in no version up to the one that the commit began on. For later ones the table
//!   itself has to be asked ([`Cut::Unsettled`]), and what it says counts for everybody.

pub(crate) mod refusal;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use skald_model::{Batch, Error, Kind, Result, StreamId, TenantId, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::replicas::pending::Selection;
use crate::replicas::{Copies, Lists, Patience, Pending};
use crate::segment::{HeldBatch, Inserted, Segment};
use crate::table::{Part, Standing};
use crate::wal::Lsn;
use window::Window;
pub(crate) use window::{Checked, Rules};

/// Why a segment was sealed; a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealReason {
    /// Its epoch has ended.
    Epoch,
    /// It has reached its size.
    Full,
    /// The memory budget is nearly used up.
    Memory,
    /// It keeps too much of the log.
    Log,
    /// Somebody asked for a flush.
    Forced,
    /// A replay filled the memory.
    Replay,
    /// What comes now comes after a delete request that is about what it holds.
    Deletes,
}

impl SealReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            SealReason::Epoch => "max_age",
            SealReason::Full => "full",
            SealReason::Memory => "memory",
            SealReason::Log => "log",
            SealReason::Forced => "forced",
            SealReason::Replay => "replay",
            SealReason::Deletes => "deletes",
        }
    }
}

/// How far the flushes of a tenant have come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The table has everything up to here.
    pub(crate) covered: Lsn,
    /// Attempts that failed, ever.
    pub(crate) failures: u64,
    /// The last of them, until one succeeds.
    pub(crate) error: Option<Error>,
}

/// A tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

/// What is under the tenant's lock.
#[derive(Debug)]
pub(crate) struct State {
    active: Segment,
    active_since: Timestamp,
    /// The second of the delete request for which a segment was sealed last.
    sealed_for: i64,
    sealed: VecDeque<Sealed>,
    window: Window,
    /// The newest table version at which something was released; `None` while nobody has asked.
    released: Option<i64>,
    /// Whether others keep the tenant's streams, too.
    shared: bool,
    lists: Lists,
    /// Everything up to here was released.
    covered: Option<Lsn>,
    /// Waits for or is in a flush.
    scheduled: bool,
    retry_at: Option<Instant>,
    /// Failed flushes in a row.
    failures: u32,
    used_at: Timestamp,
    retired: bool,
}

/// A segment that no longer grows.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) reason: SealReason,
    /// Streams it had when it was sealed.
    pub(crate) chunks: usize,
    /// Bytes it held of the budget when it was sealed.
    pub(crate) bytes: usize,
    first_try: Option<Timestamp>,
    /// The table version that the commit under way began on.
    committing: Option<i64>,
    /// Where several keep the streams.
    copies: Option<Shared>,
}

/// What there is to know of a sealed segment whose streams others keep, too.
#[derive(Debug)]
struct Shared {
    pending: Pending,
    /// The number of the first list of a block that `pending` has not been told.
    next_list: u64,
    /// The streams of which the table lacks something, unless it lacks all.
    visible: Option<Arc<Segment>>,
    sealed_at: Timestamp,
    /// Somebody waits for it.
    hurried: bool,
}

impl Shared {
    fn new(segment: &Segment, sealed_at: Timestamp, hurried: bool) -> Self {
        let pending = Pending::all_of(segment);
        Self { pending, next_list: 0, visible: None, sealed_at, hurried }
    }
}

/// A part of a sealed segment that is due to be written.
#[derive(Debug)]
pub(crate) struct DueCopies {
    pub(crate) copies: Copies,
    /// Streams that were another's to write.
    pub(crate) taken_over: usize,
    selection: Selection,
    /// The last LSN of the segment.
    last: Lsn,
}

impl Sealed {
    /// What queries see of it.
    fn visible(&self) -> &Arc<Segment> {
        self.copies.as_ref().and_then(|c| c.visible.as_ref()).unwrap_or(&self.segment)
    }

    /// Counts the names under which it was tried to be written for too long.
    fn attempt(&mut self, now: Timestamp, abandon_after: Duration) -> u32 {
        let first_try = *self.first_try.get_or_insert(now);
        let tried_for = now.saturating_sub(first_try).max(0) as u128;
        u32::try_from(tried_for / abandon_after.as_nanos().max(1)).unwrap_or(u32::MAX)
    }
}

/// What a query sees of memory.
#[derive(Debug)]
pub(crate) enum Cut {
    /// These segments, older ones first, hold exactly what the table does not at the version asked for.
    Ready(Vec<Arc<Segment>>),
    /// Only the table's present standing can tell; see [`State::settle`].
    Unsettled,
}

/// What a settlement let go.
#[derive(Debug, Default)]
pub(crate) struct Released {
    pub(crate) segments: Vec<Sealed>,
    /// Everything up to here is covered, if anything became so.
    pub(crate) covered: Option<Lsn>,
}

impl Tenant {
    /// A tenant without entries. `shared` if others keep its streams, too.
    pub(crate) fn new(id: TenantId, now: Timestamp, shared: bool) -> Self {
        let state = State {
            active: Segment::new(shared),
            active_since: now,
            sealed_for: i64::MIN,
            sealed: VecDeque::new(),
            window: Window::default(),
            released: None,
            shared,
            lists: Lists::default(),
            covered: None,
            scheduled: false,
            retry_at: None,
            failures: 0,
            used_at: now,
            retired: false,
        };
        Self { id, state: Mutex::new(state), progress: watch::Sender::new(Progress::default()) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn report_covered(&self, lsn: Lsn) {
        self.progress.send_modify(|p| {
            p.covered = p.covered.max(lsn);
            p.error = None;
        });
    }

    pub(crate) fn report_failure(&self, error: Error) {
        self.progress.send_modify(|p| {
            p.failures += 1;
            p.error = Some(error);
        });
    }
}

impl State {
    /// Whether the tenant was taken out of the map; a new one has to be made.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Checks what is pushed against window and limits.
    pub(crate) fn check(&mut self, batch: &Batch, rules: &Rules<'_>) -> Checked {
        self.used_at = rules.now;
        self.window.check(batch, rules)
    }

    /// Remembers a replayed batch's times; returns how many streams are new.
    pub(crate) fn learn(&mut self, batch: &Batch, now: Timestamp) -> usize {
        self.used_at = now;
        self.window.learn(batch, now)
    }

    /// Whether the growing segment is to be sealed before something of second `second` is added, because of a delete
    /// request in between, which `between` finds. An exact copy of something that is deleted would be lost in one segment
    /// with it. Once for each request: stamps need not come in order.
    pub(crate) fn is_divided(&mut self, second: i64, between: impl FnOnce(i64, i64) -> Option<i64>) -> bool {
        let Some((first, _)) = self.active.seconds() else { return false };
        match between(first, second) {
            Some(border) if border > self.sealed_for => {
                self.sealed_for = border;
                true
            }
            _ => false,
        }
    }

    /// Adds a logged batch.
    pub(crate) fn insert(&mut self, held: Arc<HeldBatch>, now: Timestamp) -> Inserted {
        if self.active.is_empty() {
            self.active_since = now;
        }
        self.active.insert(held)
    }

    /// Bytes of the segment that grows.
    pub(crate) fn active_bytes(&self) -> usize {
        self.active.memory_bytes()
    }

    /// Since when the growing segment holds something, its lowest second of stamps, and its bytes; `None` if it is empty.
    pub(crate) fn active_age(&self) -> Option<(Timestamp, i64, usize)> {
        self.active.seconds().map(|(lowest, _)| (self.active_since, lowest, self.active.memory_bytes()))
    }

    /// The lowest second of stamps of what the table does not hold.
    pub(crate) fn oldest_second(&self) -> Option<i64> {
        let sealed = self.sealed.iter().filter_map(|s| s.segment.seconds());
        sealed.chain(self.active.seconds()).map(|(lowest, _)| lowest).min()
    }

    /// Seals the growing segment. Returns its bytes, or `None` if there is nothing in it.
    pub(crate) fn seal(&mut self, reason: SealReason, now: Timestamp) -> Option<usize> {
        if self.active.is_empty() {
            return None;
        }
        let segment = Arc::new(std::mem::replace(&mut self.active, Segment::new(self.shared)));
        let (chunks, bytes) = (segment.streams().len(), segment.memory_bytes());
        let hurried = reason == SealReason::Forced;
        let copies = self.shared.then(|| Shared::new(&segment, now, hurried));
        self.sealed.push_back(Sealed {
            segment,
            reason,
            chunks,
            bytes,
            first_try: None,
            committing: None,
            copies,
        });
        Some(bytes)
    }

    /// The last LSN that waits for the table.
    pub(crate) fn last_sealed(&self) -> Option<Lsn> {
        self.sealed.back().and_then(|s| s.segment.lsns()).map(|l| l.1)
    }

    /// Whether a flush should be queued now; if so it counts as queued.
    pub(crate) fn schedule(&mut self, now: Instant) -> bool {
        let due = !self.scheduled && !self.sealed.is_empty() && self.retry_at.is_none_or(|at| at <= now);
        self.scheduled |= due;
        due
    }

    /// Lets a flush that waits after a failure come at once.
    pub(crate) fn hurry(&mut self) {
        self.retry_at = None;
        self.sealed.iter_mut().filter_map(|s| s.copies.as_mut()).for_each(|c| c.hurried = true);
    }

    /// The flush has come as far as it could and goes on at `at`.
    pub(crate) fn flush_waits(&mut self, at: Instant) {
        self.scheduled = false;
        self.failures = 0;
        self.retry_at = Some(at);
    }

    /// Begins a look at what the table lists: since which second it is of interest, and what is known already. `None` if
    /// nothing waits for the table.
    pub(crate) fn begin_look(&mut self) -> Option<(i64, Lists)> {
        self.sealed.front()?;
        Some((self.oldest_second()?, std::mem::take(&mut self.lists)))
    }

    /// Ends a look.
    pub(crate) fn keep_lists(&mut self, lists: Lists) {
        self.lists = lists;
    }

    /// Takes over what the lists of blocks say that the table has at `version`.
    pub(crate) fn settle_listed(&mut self, version: i64) -> Released {
        for sealed in &mut self.sealed {
            let Some(copies) = &mut sealed.copies else { continue };
            let (lists, next) = self.lists.since(copies.next_list);
            lists.for_each(|list| copies.pending.cover(list));
            copies.next_list = next;
        }
        let released = self.release_covered(version);
        self.lists.forget_before(self.oldest_second().unwrap_or(i64::MAX));
        released
    }

    /// What is to be written next: `ranks` tells this ingester's place among the replicas of each stream.
    pub(crate) fn next_copies(
        &mut self,
        now: Timestamp,
        ranks: &dyn Fn(StreamId) -> usize,
        patience: Patience,
        abandon_after: Duration,
    ) -> Option<DueCopies> {
        for sealed in &mut self.sealed {
            let Some(copies) = &sealed.copies else { continue };
            let waited = now.saturating_sub(copies.sealed_at);
            let due = |stream| waited >= patience.after(ranks(stream), copies.hurried);
            let selection = copies.pending.select(due);
            let Some((_, last)) = sealed.segment.lsns().filter(|_| !selection.is_empty()) else { continue };
            let id = |number: u32| sealed.segment.streams()[number as usize].id;
            let taken_over = selection.iter().filter(|(number, _)| ranks(id(*number)) > 0).count();
            let attempt = sealed.attempt(now, abandon_after);
            let copies = Copies::new(&sealed.segment, &selection, attempt);
            return Some(DueCopies { copies, taken_over, selection, last });
        }
        None
    }

    /// The table has these copies at `version`.
    pub(crate) fn settle_written(&mut self, written: &DueCopies, version: i64) -> Released {
        let is_it = |s: &&mut Sealed| s.segment.lsns().is_some_and(|(_, last)| last == written.last);
        if let Some(sealed) = self.sealed.iter_mut().find(is_it) {
            sealed.first_try = None;
            if let Some(copies) = &mut sealed.copies {
                copies.pending.cover_selection(&written.selection);
            }
        }
        self.release_covered(version)
    }

    /// Lets go of what the table has at `version`, from the front; what lies behind is no longer shown.
    fn release_covered(&mut self, version: i64) -> Released {
        let mut released = Released::default();
        let mut hidden = false;
        for sealed in &mut self.sealed {
            let Some(copies) = &mut sealed.copies else { continue };
            let shown = copies.visible.as_ref().unwrap_or(&sealed.segment).streams().len();
            if copies.pending.left() < shown {
                let open = copies.pending.open_streams();
                copies.visible = Some(Arc::new(sealed.segment.with_streams(open)));
                hidden = true;
            }
        }
        let done = |s: &Sealed| s.copies.as_ref().is_some_and(|c| c.pending.is_done());
        while self.sealed.front().is_some_and(done) {
            released.segments.extend(self.sealed.pop_front());
        }
        if let Some(last) = released.segments.last().and_then(|s| s.segment.lsns()) {
            released.covered = Some(last.1);
            self.covered = Some(last.1);
        }
        if hidden || !released.segments.is_empty() {
            self.released = Some(version.max(self.released.unwrap_or(version)));
        }
        released
    }

    /// How long ago the oldest sealed segment was sealed.
    pub(crate) fn sealed_age(&self, now: Timestamp) -> Option<Duration> {
        let sealed_at = self.sealed.front()?.copies.as_ref()?.sealed_at;
        Some(Duration::from_nanos(now.saturating_sub(sealed_at).max(0) as u64))
    }

    /// How far everything that was given to this ingester is in the table, as far as it knows.
    pub(crate) fn covered(&self) -> Option<Lsn> {
        self.covered
    }

    /// The oldest sealed segment for a flush.
    pub(crate) fn next_part(&mut self, now: Timestamp, abandon_after: Duration) -> Option<Part> {
        let front = self.sealed.front_mut()?;
        Some(Part { attempt: front.attempt(now, abandon_after), segment: front.segment.clone() })
    }

    /// A commit of the oldest sealed segment begins, on top of table version `base`.
    pub(crate) fn commit_begins(&mut self, base: i64) {
        if let Some(front) = self.sealed.front_mut() {
            front.committing = Some(base);
        }
    }

    /// The flush has ended well.
    pub(crate) fn flush_succeeded(&mut self) {
        self.scheduled = false;
        self.retry_at = None;
        self.failures = 0;
    }

    /// The flush has failed. Returns the pause before the next try, which is made from the number of failures in a row.
    pub(crate) fn flush_failed(&mut self, now: Instant, pause: impl Fn(u32) -> Duration) -> Duration {
        self.scheduled = false;
        self.failures = self.failures.saturating_add(1);
        let pause = pause(self.failures);
        self.retry_at = Some(now + pause);
        pause
    }

    /// Cuts what a query at table version `version` sees.
    pub(crate) fn cut(&mut self, version: i64, now: Timestamp) -> Result<Cut> {
        self.used_at = now;
        let Some(released) = self.released else { return Ok(Cut::Unsettled) };
        if version < released {
            return Err(Error::new(
                Kind::SnapshotTooOld,
                format!(
                    "version {version} of the table is too old: entries up to version {released} have left memory"
                ),
            ));
        }
        let in_doubt = |s: &Sealed| s.committing.is_some_and(|base| version > base);
        if self.sealed.front().is_some_and(in_doubt) {
            return Ok(Cut::Unsettled);
        }
        let mut segments: Vec<_> = self.sealed.iter().map(|s| s.visible().clone()).collect();
        if !self.active.is_empty() {
            segments.push(Arc::new(self.active.frozen()));
        }
        Ok(Cut::Ready(segments))
    }

    /// Takes over what the table says: what it has is released, what it does not have is in no version up to its own.
    pub(crate) fn settle(&mut self, standing: Standing) -> Released {
        let mut released = Released::default();
        let mut trimmed = false;
        if let Some(committed) = standing.committed {
            while let Some(front) = self.sealed.front()
                && front.segment.lsns().is_some_and(|(_, last)| last <= committed)
            {
                released.segments.extend(self.sealed.pop_front());
            }
            let partly = |segment: &Segment| {
                let partly = segment.lsns().is_some_and(|(first, _)| first <= committed);
                partly.then(|| segment.without(committed))
            };
            // Only the commit of a process before this one, late on its way, can end inside a segment.
            if let Some(front) = self.sealed.front_mut()
                && let Some(rest) = partly(&front.segment)
            {
                front.segment = Arc::new(rest);
                if let Some(copies) = &mut front.copies {
                    *copies = Shared::new(&front.segment, copies.sealed_at, copies.hurried);
                }
                trimmed = true;
            } else if self.sealed.is_empty()
                && let Some(rest) = partly(&self.active)
            {
                self.active = rest;
                trimmed = true;
            }
            released.covered = Some(committed);
            self.covered = self.covered.max(Some(committed));
        }
        if trimmed || !released.segments.is_empty() || self.released.is_none() {
            self.released = Some(standing.version.max(self.released.unwrap_or(standing.version)));
        }
        if let Some(base) = self.sealed.front_mut().and_then(|front| front.committing.as_mut()) {
            *base = standing.version.max(*base);
        }
        released
    }

    /// Forgets streams that were idle since `cut`.
    pub(crate) fn forget_idle(&mut self, cut: Timestamp) {
        self.window.forget_idle(cut);
    }

    /// Live streams.
    pub(crate) fn streams_len(&self) -> usize {
        self.window.len()
    }

    /// Marks the tenant as gone if nothing is known of it and nobody used it since `cut`.
    pub(crate) fn retire(&mut self, cut: Timestamp) -> bool {
        let empty = self.active.is_empty() && self.sealed.is_empty() && self.window.len() == 0;
        self.retired = empty && !self.scheduled && self.used_at < cut;
        self.retired
    }
}
