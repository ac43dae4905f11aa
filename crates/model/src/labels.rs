//! Label sets in one packed allocation.
//!
//! Layout of the packed form: for each pair, in order of the name, `varint(len) name varint(len) value`. Names
//! are unique and values not empty. The same form serves stream labels and an entry's structured metadata, in
//! memory, in batches and in the write-ahead log.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::tenant::TenantId;

/// The 64-bit identity of a stream: the hash of its tenant and its labels.
///
/// Two label sets of one tenant may in theory share an id, so indexes compare the labels too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl StreamId {
    /// The id of the stream of `tenant` with `labels`.
    pub fn of(tenant: &TenantId, labels: LabelsRef<'_>) -> Self {
        let mut h = Xxh3::new();
        h.update(tenant.as_str().as_bytes());
        h.update(&[0xff]);
        h.update(labels.0);
        StreamId(h.digest())
    }
}

/// An immutable label set, sorted by name. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[u8]>);

/// A borrowed label set in packed form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelsRef<'a>(&'a [u8]);

impl Labels {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(Arc::from(&[][..]))
    }

    /// The set of `pairs`: sorted; of a repeated name the last value wins; empty values are left out.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut b = LabelsBuilder::default();
        for (n, v) in pairs {
            b.set(n, v);
        }
        b.build()
    }

    /// Takes over bytes that [`Labels::packed`] gave, for example from a file; `None` if they are not well formed.
    pub fn from_packed(bytes: &[u8]) -> Option<Self> {
        LabelsRef::check(bytes).map(|r| Self(Arc::from(r.0)))
    }

    /// The packed form.
    pub fn packed(&self) -> &[u8] {
        &self.0
    }

    /// A borrowed view.
    pub fn as_ref(&self) -> LabelsRef<'_> {
        LabelsRef(&self.0)
    }

    /// The value of `name`, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.as_ref().get(name)
    }

    /// The pairs in order of the name.
    pub fn iter(&self) -> Iter<'_> {
        self.as_ref().iter()
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> LabelsRef<'a> {
    /// The set without labels.
    pub const EMPTY: LabelsRef<'static> = LabelsRef(&[]);

    /// Views `bytes` as a packed set after checking that they are one (lengths and UTF-8; order is not checked).
    pub fn check(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (n, r) = split_str(rest)?;
            let (v, r) = split_str(r)?;
            std::str::from_utf8(n).ok()?;
            std::str::from_utf8(v).ok()?;
            rest = r;
        }
        Some(Self(bytes))
    }

    /// Views bytes that are known to be a packed set, because they were made by [`pack_pair`] or checked before.
    /// Malformed bytes give fewer pairs, never a panic.
    pub fn from_trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The packed bytes.
    pub fn packed(self) -> &'a [u8] {
        self.0
    }

    /// An owned copy.
    pub fn to_owned(self) -> Labels {
        Labels(Arc::from(self.0))
    }

    /// The value of `name`, if it is there.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The pairs in order of the name.
    pub fn iter(self) -> Iter<'a> {
        Iter(self.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Iterates over the pairs of a label set in order of the name.
pub struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        let (n, rest) = split_str(self.0)?;
        let (v, rest) = split_str(rest)?;
        self.0 = rest;
        Some((std::str::from_utf8(n).ok()?, std::str::from_utf8(v).ok()?))
    }
}

fn split_str(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = get_varint(bytes)?;
    let len = usize::try_from(len).ok()?;
    (len <= rest.len()).then(|| rest.split_at(len))
}

/// Appends an LEB128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Reads an LEB128 varint and returns it with the rest.
pub fn get_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut v = 0u64;
    for (i, b) in bytes.iter().enumerate().take(10) {
        v |= u64::from(b & 0x7f).checked_shl(7 * i as u32)?;
        if b & 0x80 == 0 {
            return Some((v, &bytes[i + 1..]));
        }
    }
    None
}

/// Appends one pair in packed form. The caller keeps names sorted and unique.
pub fn pack_pair(out: &mut Vec<u8>, name: &str, value: &str) {
    put_varint(out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

impl Ord for LabelsRef<'_> {
    /// Compares pair by pair, name before value: the order of streams in a block.
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}
impl PartialOrd for LabelsRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(&other.as_ref())
    }
}
impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LabelsRef<'_> {
    /// Loki's canonical text: `{a="b", c="d"}` with values quoted as Go does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (n, v)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(n)?;
            f.write_str("=")?;
            write_go_quoted(f, v)?;
        }
        f.write_str("}")
    }
}
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Debug for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes `s` in double quotes with the escapes of Go's `strconv.Quote`.
pub fn write_go_quoted(f: &mut impl fmt::Write, s: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in s.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\u{7}' => f.write_str("\\a")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{b}' => f.write_str("\\v")?,
            '\u{c}' => f.write_str("\\f")?,
            c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
            // Go prints graphic characters as they are and escapes the rest; these are the ones met in practice.
            '\u{80}'..='\u{a0}'
            | '\u{ad}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' => {
                write!(f, "\\u{:04x}", c as u32)?;
            }
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// Collects pairs in any order and builds a sorted set.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Starts from `labels`.
    pub fn from_labels(labels: &Labels) -> Self {
        Self { pairs: labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }

    /// Sets `name`, replacing an earlier value. An empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.pairs.retain(|(n, _)| n != name);
        if !value.is_empty() {
            self.pairs.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The value of `name` so far.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The finished set.
    pub fn build(mut self) -> Labels {
        self.pairs.sort_unstable();
        let mut out = Vec::with_capacity(self.pairs.iter().map(|(n, v)| n.len() + v.len() + 4).sum());
        for (n, v) in &self.pairs {
            pack_pair(&mut out, n, v);
        }
        Labels(Arc::from(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_form_is_sorted_and_quoted() {
        let l = Labels::from_pairs([("b", "x\"y"), ("a", "1"), ("c", ""), ("a", "2")]);
        assert_eq!(l.to_string(), r#"{a="2", b="x\"y"}"#);
        assert_eq!(l.get("b"), Some("x\"y"));
        assert_eq!(l.get("c"), None);
    }

    #[test]
    fn tenants_do_not_share_stream_ids() {
        let l = Labels::from_pairs([("a", "1")]);
        let (x, y) = (TenantId::new("x").unwrap(), TenantId::new("y").unwrap());
        assert_ne!(StreamId::of(&x, l.as_ref()), StreamId::of(&y, l.as_ref()));
    }

    proptest! {
        #[test]
        fn packed_form_round_trips(m in proptest::collection::btree_map("[a-z_]{1,5}", ".{1,9}", 0..6)) {
            let l = Labels::from_pairs(m.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            let back = Labels::from_packed(l.packed()).unwrap();
            prop_assert_eq!(&back, &l);
            let pairs: Vec<_> = m.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), pairs);
        }

        #[test]
        fn any_bytes_are_read_without_panic(b in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Labels::from_packed(&b);
            let _ = LabelsRef::from_trusted(&b).iter().count();
        }
    }
}
