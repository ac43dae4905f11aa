//! Structured metadata on its way in: names made valid, pairs sorted, each entry's set packed behind the last.

use std::ops::Range;

use skald_model::labels::pack_pair;

use super::utf8;

/// Packs the structured metadata of one entry after the other into one buffer.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    /// Names and values of the entry in hand.
    scratch: Vec<u8>,
    pairs: Vec<Pair>,
    packed: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Pair {
    name: Range<usize>,
    value: Range<usize>,
}

impl Packer {
    /// Adds a pair to the entry in hand. Bytes of the value that are not UTF-8 are left out, as in Loki.
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        let start = self.scratch.len();
        sanitise_name(name, &mut self.scratch);
        let middle = self.scratch.len();
        match simdutf8::basic::from_utf8(value) {
            Ok(_) => self.scratch.extend_from_slice(value),
            Err(_) => utf8::without_invalid(value, &mut self.scratch),
        }
        let end = self.scratch.len();
        if middle > start && end > middle {
            self.pairs.push(Pair { name: start..middle, value: middle..end });
        }
    }

    /// Ends the entry and returns where its packed pairs begin and how long they are. Of a repeated name the last
    /// value counts.
    pub(crate) fn finish(&mut self) -> (u32, u32) {
        let start = self.packed.len();
        if !self.pairs.is_empty() {
            let scratch = &self.scratch;
            let name = |p: &Pair| &scratch[p.name.clone()];
            if !self.pairs.is_sorted_by(|a, b| name(a) < name(b)) {
                self.pairs.sort_by(|a, b| name(a).cmp(name(b)));
            }
            for (i, pair) in self.pairs.iter().enumerate() {
                if self.pairs.get(i + 1).is_some_and(|next| name(next) == name(pair)) {
                    continue;
                }
                let text = |r: &Range<usize>| std::str::from_utf8(&scratch[r.clone()]).unwrap_or_default();
                pack_pair(&mut self.packed, text(&pair.name), text(&pair.value));
            }
            self.pairs.clear();
            self.scratch.clear();
        }
        (start as u32, (self.packed.len() - start) as u32)
    }

    /// All packed pairs.
    pub(crate) fn into_packed(self) -> Vec<u8> {
        self.packed
    }

    /// Bytes packed so far.
    pub(crate) fn len(&self) -> usize {
        self.packed.len()
    }
}

/// Appends `name` as Loki stores names of metadata: every character outside of `[a-zA-Z0-9_]` becomes `_`, and a
/// name that begins with a digit gets `key_` in front.
fn sanitise_name(name: &[u8], out: &mut Vec<u8>) {
    if name.first().is_some_and(u8::is_ascii_digit) {
        out.extend_from_slice(b"key_");
    }
    let valid = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if name.iter().all(valid) {
        out.extend_from_slice(name);
        return;
    }
    for chunk in name.utf8_chunks() {
        out.extend(
            chunk.valid().chars().map(|c| if c.is_ascii() && valid(&(c as u8)) { c as u8 } else { b'_' }),
        );
        out.extend(chunk.invalid().iter().map(|_| b'_'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::LabelsRef;

    fn pack(pairs: &[(&[u8], &[u8])]) -> String {
        let mut p = Packer::default();
        p.add(b"before", b"1");
        p.finish();
        for (n, v) in pairs {
            p.add(n, v);
        }
        let (start, len) = p.finish();
        let packed = p.into_packed();
        LabelsRef::check(&packed[start as usize..][..len as usize]).unwrap().to_string()
    }

    #[test]
    fn names_are_made_valid_and_sorted() {
        assert_eq!(pack(&[]), "{}");
        assert_eq!(
            pack(&[(b"c-d", b"dashed"), (b"a.b", b"dotted"), (b"1x", b"digit")]),
            r#"{a_b="dotted", c_d="dashed", key_1x="digit"}"#
        );
        assert_eq!(pack(&[("größe".as_bytes(), b"1"), (b"b\xff\xfe", b"2")]), r#"{b__="2", gr__e="1"}"#);
        assert_eq!(pack(&[(b"_x", b"1"), (b"__y", b"2")]), r#"{__y="2", _x="1"}"#);
    }

    #[test]
    fn the_last_of_a_name_counts_and_empty_pairs_do_not() {
        assert_eq!(pack(&[(b"a", b"1"), (b"b", b"x"), (b"a", b"2")]), r#"{a="2", b="x"}"#);
        assert_eq!(pack(&[(b"a.b", b"1"), (b"a_b", b"2")]), r#"{a_b="2"}"#);
        assert_eq!(pack(&[(b"a", b""), (b"", b"x")]), "{}");
    }

    #[test]
    fn invalid_bytes_of_values_are_left_out() {
        assert_eq!(pack(&[(b"a", b"x\xffy\xe2\x82")]), r#"{a="xy"}"#);
    }
}
