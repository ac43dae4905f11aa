//! Adds levels to the structured metadata of entries.

use skald_model::labels::pack_pair;
use skald_model::{Batch, LabelsRef};

use super::{DETECTED_LEVEL, Level, LevelDetector};

/// Metadata that consists of the level alone is held once for all entries of a push: where each level's lies.
#[derive(Default)]
struct Shared([Option<(u32, u32)>; Level::COUNT]);

impl Shared {
    fn place(&mut self, level: Level, metadata: &mut Vec<u8>) -> (u32, u32) {
        *self.0[level as usize].get_or_insert_with(|| {
            let start = metadata.len();
            pack_pair(metadata, DETECTED_LEVEL, level.as_str());
            (start as u32, (metadata.len() - start) as u32)
        })
    }
}

/// Gives each entry its `detected_level`, unless it has one. `of_streams` are the levels that the labels of the batch's
/// streams tell.
pub(crate) fn tag(batch: &mut Batch, of_streams: &[Option<Level>], detector: &LevelDetector) {
    let entries = &mut batch.entries;
    let mut refs = std::mem::take(&mut entries.refs);
    let mut metadata = Vec::with_capacity(entries.metadata.len() * 5 / 4 + 64);
    let mut shared = Shared::default();
    for (stream, of_labels) in batch.streams.iter().zip(of_streams) {
        for e in &mut refs[stream.entries.start as usize..stream.entries.end as usize] {
            let own = entries.metadata(e);
            let detect = || {
                of_labels
                    .or_else(|| detector.of_metadata(own))
                    .unwrap_or_else(|| detector.of_line(entries.line(e)))
            };
            (e.metadata_start, e.metadata_len) = if own.is_empty() {
                shared.place(detect(), &mut metadata)
            } else {
                let start = metadata.len();
                match own.get(DETECTED_LEVEL) {
                    Some(_) => metadata.extend_from_slice(own.packed()),
                    None => pack_with(own, detect(), &mut metadata),
                }
                (start as u32, (metadata.len() - start) as u32)
            };
        }
    }
    entries.refs = refs;
    entries.metadata = metadata.into();
}

/// Appends the pairs with the level among them, in order of the name.
fn pack_with(own: LabelsRef<'_>, level: Level, out: &mut Vec<u8>) {
    let mut pairs = own.iter().peekable();
    while let Some((name, value)) = pairs.next_if(|(name, _)| *name < DETECTED_LEVEL) {
        pack_pair(out, name, value);
    }
    pack_pair(out, DETECTED_LEVEL, level.as_str());
    for (name, value) in pairs {
        pack_pair(out, name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::batch::Entries;
    use skald_model::{BatchStream, EntryRef, Labels, Limits, StreamId, TenantId};

    #[test]
    fn levels_are_added_in_order_and_shared() {
        let lines = ["INFO a", "b", "INFO c", "error d"];
        let own = [
            vec![],
            vec![("a", "1"), ("severity_text", "warn"), ("z", "2")],
            vec![],
            vec![("detected_level", "x")],
        ];
        let (mut body, mut metadata, mut refs) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (line, pairs)) in lines.iter().zip(own).enumerate() {
            let packed = Labels::from_pairs(pairs);
            refs.push(EntryRef {
                timestamp: i as i64,
                line_start: body.len() as u32,
                line_len: line.len() as u32,
                metadata_start: metadata.len() as u32,
                metadata_len: packed.packed().len() as u32,
            });
            body.extend_from_slice(line.as_bytes());
            metadata.extend_from_slice(packed.packed());
        }
        let labels = Labels::from_pairs([("app", "x")]);
        let id = StreamId::of(&TenantId::new("t").unwrap(), labels.as_ref());
        let streams = vec![
            BatchStream { id, labels: labels.clone(), entries: 0..3 },
            BatchStream { id, labels, entries: 3..4 },
        ];
        let entries = Entries { body: body.into(), compressed: None, metadata: metadata.into(), refs };
        let mut batch = Batch { streams, entries };
        tag(&mut batch, &[None, Some(Level::Fatal)], &LevelDetector::new(&Limits::default()));
        let text = |i: usize| batch.entries.metadata(&batch.entries.refs[i]).to_string();
        assert_eq!(text(0), r#"{detected_level="info"}"#);
        assert_eq!(text(1), r#"{a="1", detected_level="warn", severity_text="warn", z="2"}"#);
        assert_eq!(batch.entries.refs[0].metadata_start, batch.entries.refs[2].metadata_start);
        assert_eq!(text(3), r#"{detected_level="x"}"#);
    }
}
