//! The labels of the entry in hand.
//!
//! Names are interned, so that a label is found by number; values lie in one buffer that is reused from entry to
//! entry. A stream's own labels are set up once per stream, and the finished label sets are kept, so that entries
//! whose sets repeat cost no allocation.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use skald_model::labels::pack_pair;
use skald_model::{EntryLabels, Labels, LabelsRef};

/// The label that says that a stage failed.
pub const ERROR: &str = "__error__";
/// The label that says why.
pub const ERROR_DETAILS: &str = "__error_details__";
/// What is added to the name of a label that would hide another.
const DUPLICATE_SUFFIX: &str = "_extracted";

/// Finished label sets kept per stream, and streams kept, before all are dropped.
const MAX_SETS: usize = 4096;
const MAX_STREAMS: usize = 16_384;
/// Names kept before a task starts over, so that lines cannot fill the memory with invented keys.
const MAX_NAMES: usize = 200_000;

/// An interned name.
pub(crate) type NameId = u32;

/// Where a label comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Category {
    Stream,
    Metadata,
    Parsed,
}

/// Interned names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: FxHashMap<Arc<str>, NameId>,
    names: Vec<Arc<str>>,
    /// The id of the name with the suffix, once it was needed.
    extracted: Vec<Option<NameId>>,
}

impl Names {
    pub(crate) fn id(&mut self, name: &str) -> NameId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let id = self.names.len() as NameId;
        self.names.push(name.clone());
        self.extracted.push(None);
        self.ids.insert(name, id);
        id
    }

    pub(crate) fn name(&self, id: NameId) -> &str {
        &self.names[id as usize]
    }

    pub(crate) fn get(&self, name: &str) -> Option<NameId> {
        self.ids.get(name).copied()
    }

    /// The name with the suffix for labels that would hide another.
    pub(crate) fn extracted(&mut self, id: NameId) -> NameId {
        if let Some(id) = self.extracted[id as usize] {
            return id;
        }
        let longer = format!("{}{DUPLICATE_SUFFIX}", self.name(id));
        let found = self.id(&longer);
        self.extracted[id as usize] = Some(found);
        found
    }

    fn len(&self) -> usize {
        self.names.len()
    }
}

/// A value in the buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

/// What the entry says about a name, if its stamp is the entry's.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    stamp: u32,
    /// `None`: the label was removed.
    value: Option<(CategoryByte, Span)>,
}

type CategoryByte = u8;

/// A stream that was met.
#[derive(Debug)]
struct StreamState {
    labels: Labels,
    names: Vec<NameId>,
    sets: FxHashMap<Box<[u8]>, Arc<EntryLabels>>,
    hits: u32,
    misses: u32,
    /// Entries that are not to be looked up, because sets did not repeat.
    unsought: u32,
}

impl StreamState {
    fn new(labels: Labels, names: Vec<NameId>) -> Self {
        Self { labels, names, sets: FxHashMap::default(), hits: 0, misses: 0, unsought: 0 }
    }

    fn find(&mut self, key: &[u8]) -> Option<Arc<EntryLabels>> {
        let found = self.sets.get(key).cloned();
        if found.is_some() {
            self.hits += 1;
        } else {
            self.misses += 1;
        }
        if self.hits + self.misses >= 1024 {
            if self.hits * 4 < self.misses {
                self.unsought = 16 * 1024;
                self.sets.clear();
            }
            (self.hits, self.misses) = (0, 0);
        }
        found
    }
}

/// The labels of the entry in hand.
#[derive(Debug, Default)]
pub(crate) struct EntryState {
    pub(crate) names: Names,
    streams: Vec<StreamState>,
    by_labels: FxHashMap<Labels, usize>,
    current: Option<usize>,
    /// How often the streams were forgotten: their numbers mean others afterwards.
    epoch: u32,

    /// Per name: the value in the stream's labels, if the stamp is the stream's.
    base: Vec<(u32, Span)>,
    base_stamp: u32,
    /// Bytes of the stream's values at the beginning of `values`.
    base_bytes: usize,

    slots: Vec<Slot>,
    stamp: u32,
    touched: Vec<NameId>,
    values: Vec<u8>,

    error: Option<&'static str>,
    details: String,
    key: Vec<u8>,
}

impl EntryState {
    /// Begins an entry of `stream` with `metadata`.
    pub(crate) fn begin(&mut self, stream: &Labels, metadata: LabelsRef<'_>) {
        self.enter_stream(stream);
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.slots.fill(Slot::default());
            self.stamp = 1;
        }
        self.touched.clear();
        self.values.truncate(self.base_bytes);
        self.error = None;
        self.details.clear();
        for (name, value) in metadata.iter() {
            let mut id = self.names.id(name);
            if self.base_has(id) {
                id = self.names.extracted(id);
            }
            self.set(Category::Metadata, id, value.as_bytes());
        }
    }

    fn enter_stream(&mut self, stream: &Labels) {
        if let Some(current) = self.current {
            let known = &self.streams[current].labels;
            let same = std::ptr::eq(known.packed(), stream.packed());
            if same || known == stream {
                return;
            }
        }
        if self.streams.len() >= MAX_STREAMS || self.names.len() >= MAX_NAMES {
            self.streams.clear();
            self.by_labels.clear();
            self.epoch += 1;
        }
        let index = match self.by_labels.get(stream) {
            Some(index) => *index,
            None => {
                let names = stream.iter().map(|(n, _)| self.names.id(n)).collect();
                self.streams.push(StreamState::new(stream.clone(), names));
                self.by_labels.insert(stream.clone(), self.streams.len() - 1);
                self.streams.len() - 1
            }
        };
        self.current = Some(index);
        self.base_stamp = self.base_stamp.wrapping_add(1);
        if self.base_stamp == 0 {
            self.base.fill((0, Span::default()));
            self.base_stamp = 1;
        }
        self.values.clear();
        let state = &self.streams[index];
        for (id, (_, value)) in state.names.iter().zip(state.labels.iter()) {
            let span = Span { start: self.values.len() as u32, len: value.len() as u32 };
            self.values.extend_from_slice(value.as_bytes());
            let place = *id as usize;
            if self.base.len() <= place {
                self.base.resize(place + 1, (0, Span::default()));
            }
            self.base[place] = (self.base_stamp, span);
        }
        self.base_bytes = self.values.len();
    }

    /// An empty state that is not taken for this one.
    pub(crate) fn successor(&self) -> Self {
        Self { epoch: self.epoch + 1, ..Self::default() }
    }

    /// Whether names piled up so that the task should be rebuilt.
    pub(crate) fn is_overgrown(&self) -> bool {
        self.names.len() >= MAX_NAMES
    }

    /// Whether the stored stream has this label, whatever became of it since.
    pub(crate) fn base_has(&self, id: NameId) -> bool {
        self.base.get(id as usize).is_some_and(|(stamp, _)| *stamp == self.base_stamp)
    }

    fn slot(&self, id: NameId) -> Option<&Slot> {
        self.slots.get(id as usize).filter(|s| s.stamp == self.stamp)
    }

    fn span(&self, id: NameId) -> Option<(Category, Span)> {
        match self.slot(id) {
            Some(slot) => slot.value.map(|(c, span)| (category(c), span)),
            None => self
                .base
                .get(id as usize)
                .filter(|(stamp, _)| *stamp == self.base_stamp)
                .map(|(_, span)| (Category::Stream, *span)),
        }
    }

    fn text(&self, span: Span) -> &str {
        // Values are checked when they are set.
        std::str::from_utf8(&self.values[span.start as usize..][..span.len as usize]).unwrap_or_default()
    }

    /// The value of a label.
    pub(crate) fn get(&self, id: NameId) -> Option<&str> {
        self.span(id).map(|(_, span)| self.text(span))
    }

    /// The value of a label with where it comes from.
    pub(crate) fn category(&self, id: NameId) -> Option<Category> {
        self.span(id).map(|(category, _)| category)
    }

    /// The value of a label by name; the error labels are not among them.
    pub(crate) fn get_by_name(&self, name: &str) -> Option<&str> {
        self.names.get(name).and_then(|id| self.get(id))
    }

    /// Sets a label, whatever it was before. Bytes that are not UTF-8 are replaced.
    pub(crate) fn set(&mut self, category: Category, id: NameId, value: &[u8]) {
        let start = self.values.len() as u32;
        match std::str::from_utf8(value) {
            Ok(_) => self.values.extend_from_slice(value),
            Err(_) => self.values.extend_from_slice(String::from_utf8_lossy(value).as_bytes()),
        }
        let span = Span { start, len: self.values.len() as u32 - start };
        self.put(id, Some((category as u8, span)));
    }

    /// Moves the value of `from` to `to`, which counts as made by the query.
    pub(crate) fn rename(&mut self, from: NameId, to: NameId) {
        if let Some((_, span)) = self.span(from) {
            self.put(to, Some((Category::Parsed as u8, span)));
            self.put(from, None);
        }
    }

    /// Whether the entry says anything about a label, or a stage has removed it.
    pub(crate) fn is_touched(&self, id: NameId) -> bool {
        self.slot(id).is_some()
    }

    /// Where the entry stands, to come back to.
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.touched.len(), self.values.len())
    }

    /// Undoes everything since `mark`, when there was no error and none of the labels set since had been touched.
    pub(crate) fn roll_back(&mut self, (touched, values): (usize, usize)) {
        for id in self.touched.drain(touched..) {
            self.slots[id as usize] = Slot::default();
        }
        self.values.truncate(values);
        self.error = None;
        self.details.clear();
    }

    /// How many labels the entry has touched.
    pub(crate) fn touched(&self) -> usize {
        self.touched.len()
    }

    /// Removes the labels that were touched first after `count` others.
    pub(crate) fn forget_since(&mut self, count: usize) {
        for i in count..self.touched.len() {
            self.put(self.touched[i], None);
        }
    }

    /// Removes a label.
    pub(crate) fn remove(&mut self, id: NameId) {
        self.put(id, None);
    }

    fn put(&mut self, id: NameId, value: Option<(CategoryByte, Span)>) {
        let place = id as usize;
        if self.slots.len() <= place {
            self.slots.resize(place + 1, Slot::default());
        }
        let slot = &mut self.slots[place];
        if slot.stamp != self.stamp {
            slot.stamp = self.stamp;
            self.touched.push(id);
        }
        slot.value = value;
    }

    /// The name under which a parser stores a key: with a suffix if the stream or the metadata has it already.
    pub(crate) fn parsed_name(&mut self, id: NameId) -> NameId {
        if self.base_has(id) || self.category(id) == Some(Category::Metadata) {
            self.names.extracted(id)
        } else {
            id
        }
    }

    /// The same, but only for what the stream has.
    pub(crate) fn parsed_name_of_base(&mut self, id: NameId) -> NameId {
        if self.base_has(id) { self.names.extracted(id) } else { id }
    }

    /// Whether an earlier key or stage has made this label.
    pub(crate) fn is_parsed(&self, id: NameId) -> bool {
        self.slot(id).and_then(|s| s.value).is_some_and(|(c, _)| c == Category::Parsed as u8)
    }

    /// Notes that a stage failed.
    pub(crate) fn fail(&mut self, error: &'static str, details: Option<&str>) {
        self.error = Some(error);
        if let Some(details) = details {
            self.details.clear();
            self.details.push_str(details);
        }
    }

    pub(crate) fn error(&self) -> &'static str {
        self.error.unwrap_or_default()
    }

    pub(crate) fn details(&self) -> &str {
        &self.details
    }

    /// The details as the entry's labels show them: not alone on an entry that no stage has touched, as in Loki.
    fn shown_details(&self) -> &str {
        if self.error.is_none() && self.touched.is_empty() { "" } else { &self.details }
    }

    pub(crate) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    pub(crate) fn clear_error(&mut self) {
        self.error = None;
    }

    pub(crate) fn clear_details(&mut self) {
        self.details.clear();
    }

    /// The ids of all labels that are there, the stream's first; in no particular order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NameId> + '_ {
        let base = self.current.map_or(&[][..], |c| &self.streams[c].names[..]);
        let untouched = base.iter().copied().filter(|id| self.slot(*id).is_none());
        let set = self.touched.iter().copied();
        untouched.chain(set.filter(|id| self.slot(*id).is_some_and(|s| s.value.is_some())))
    }

    /// All labels with the error labels, in no particular order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let errors = [(ERROR, self.error()), (ERROR_DETAILS, self.shown_details())];
        let labels = self.ids().map(|id| (self.names.name(id), self.get(id).unwrap_or_default()));
        labels.chain(errors.into_iter().filter(|(_, v)| !v.is_empty()))
    }

    /// Appends bytes that stand for the labels of the entry: equal bytes mean equal labels.
    pub(crate) fn add_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.epoch.to_le_bytes());
        key.extend_from_slice(&(self.current.unwrap_or(usize::MAX) as u32).to_le_bytes());
        self.add_changes(key);
    }

    /// The same within one stream.
    fn add_changes(&self, key: &mut Vec<u8>) {
        for id in &self.touched {
            let slot = self.slots[*id as usize];
            key.extend_from_slice(&id.to_le_bytes());
            match slot.value {
                None => key.push(0xff),
                Some((category, span)) => {
                    key.push(category);
                    key.extend_from_slice(&span.len.to_le_bytes());
                    key.extend_from_slice(&self.values[span.start as usize..][..span.len as usize]);
                }
            }
        }
        let details = self.shown_details();
        if self.error.is_some() || !details.is_empty() {
            key.extend_from_slice(&u32::MAX.to_le_bytes());
            key.extend_from_slice(self.error().as_bytes());
            key.push(0xff);
            key.extend_from_slice(details.as_bytes());
        }
    }

    /// The finished labels; sets that were made before are shared.
    pub(crate) fn finish(&mut self) -> Arc<EntryLabels> {
        let Some(current) = self.current else { return Arc::new(self.build()) };
        if self.streams[current].unsought > 0 {
            self.streams[current].unsought -= 1;
            return Arc::new(self.build());
        }
        let mut key = std::mem::take(&mut self.key);
        key.clear();
        self.add_changes(&mut key);
        let labels = self.streams[current].find(&key).unwrap_or_else(|| {
            let labels = Arc::new(self.build());
            let sets = &mut self.streams[current].sets;
            if sets.len() >= MAX_SETS {
                sets.clear();
            }
            sets.insert(key.clone().into_boxed_slice(), labels.clone());
            labels
        });
        self.key = key;
        labels
    }

    fn build(&self) -> EntryLabels {
        // Mostly the stream's labels are as they were, and then they are shared too.
        let whole_stream = self
            .current
            .map(|c| &self.streams[c].labels)
            .filter(|_| self.touched.iter().all(|id| !self.base_has(*id)));
        let mut groups: [Vec<(&str, &str)>; 3] = Default::default();
        let mut add = |id: NameId| {
            if let Some((category, span)) = self.span(id) {
                groups[category as usize].push((self.names.name(id), self.text(span)));
            }
        };
        match whole_stream {
            Some(_) => self.touched.iter().for_each(|id| add(*id)),
            None => self.ids().for_each(add),
        }
        for (name, value) in [(ERROR, self.error()), (ERROR_DETAILS, self.shown_details())] {
            if !value.is_empty() {
                groups[Category::Parsed as usize].push((name, value));
            }
        }
        let [stream, structured_metadata, parsed] = groups.map(pack);
        EntryLabels { stream: whole_stream.cloned().unwrap_or(stream), structured_metadata, parsed }
    }
}

fn category(byte: CategoryByte) -> Category {
    match byte {
        0 => Category::Stream,
        1 => Category::Metadata,
        _ => Category::Parsed,
    }
}

/// Packs pairs into a label set that may hold empty values, as Loki's answers do.
pub(crate) fn pack(mut pairs: Vec<(&str, &str)>) -> Labels {
    pairs.sort_unstable();
    let mut out = Vec::with_capacity(pairs.iter().map(|(n, v)| n.len() + v.len() + 4).sum());
    for (name, value) in pairs {
        pack_pair(&mut out, name, value);
    }
    LabelsRef::from_trusted(&out).to_owned()
}

/// A key made into a label name as Loki does: what is not `[a-zA-Z0-9_]` becomes `_`, and a leading digit gets one in
/// front if the name begins here.
pub(crate) fn sanitize(key: &str, begins: bool) -> String {
    let key = key.trim();
    let mut out = String::with_capacity(key.len() + 1);
    if begins && key.starts_with(|c: char| c.is_ascii_digit()) {
        out.push('_');
    }
    out.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_are_shared_and_kept_apart_by_origin() {
        let mut state = EntryState::default();
        let stream = Labels::from_pairs([("app", "a"), ("pod", "p")]);
        let metadata = Labels::from_pairs([("pod", "m"), ("trace", "t")]);
        let mut run = |value: &str| {
            state.begin(&stream, metadata.as_ref());
            let id = state.names.id("app");
            let id = state.parsed_name(id);
            state.set(Category::Parsed, id, value.as_bytes());
            state.finish()
        };
        let (a, b, c) = (run("x"), run("x"), run("y"));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!(a.stream, stream);
        assert_eq!(a.structured_metadata.to_string(), r#"{pod_extracted="m", trace="t"}"#);
        assert_eq!(a.parsed.to_string(), r#"{app_extracted="x"}"#);
    }

    #[test]
    fn what_was_removed_is_gone_for_this_entry_only() {
        let mut state = EntryState::default();
        let stream = Labels::from_pairs([("app", "a")]);
        state.begin(&stream, LabelsRef::EMPTY);
        let id = state.names.id("app");
        state.remove(id);
        assert_eq!(state.get(id), None);
        assert!(state.base_has(id) && state.finish().stream.is_empty());
        state.begin(&stream, LabelsRef::EMPTY);
        assert_eq!(state.get(id), Some("a"));
    }
}
