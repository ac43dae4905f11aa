//! What the server sends to a tail.

use serde::Deserialize;
use serde_json::Value;

use crate::answer::Stream;
use crate::notes::count;

/// One message.
#[derive(Debug, Deserialize)]
pub(super) struct Frame {
    /// New entries.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) streams: Vec<Stream>,
    /// Entries that were left out because we were too slow.
    #[serde(default, deserialize_with = "null_is_empty")]
    dropped_entries: Vec<Value>,
}

impl Frame {
    /// A note about entries that were left out.
    pub(super) fn dropped(&self) -> Option<String> {
        let number = self.dropped_entries.len() as u64;
        (number > 0).then(|| {
            format!("the server left out {} entries, because this reader was too slow", count(number))
        })
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_entries_or_losses_or_neither() {
        let frame = |text: &str| serde_json::from_str::<Frame>(text).unwrap();
        let both = frame(
            r#"{"streams":[{"stream":{"a":"b"},"values":[["1","x"]]}],
                "dropped_entries":[{"timestamp":"1","labels":{"a":"b"}},{"timestamp":"2","labels":"{}"}]}"#,
        );
        assert_eq!(crate::answer::entries(both.streams).len(), 1);
        let lossy = frame(r#"{"streams":null,"dropped_entries":[{"timestamp":"1"}]}"#);
        assert!(lossy.dropped().unwrap().contains("left out 1 entries"));
        assert_eq!(frame("{}").dropped(), None);
    }
}
