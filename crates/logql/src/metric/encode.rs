//! Partial states as bytes, for tasks that run elsewhere.
//!
//! ```text
//! u8 version (1) · u8 fold · failed: 0, or 1 · string · string
//! varint series · per series: bytes labels (packed) · varint buckets · per bucket: zigzag varint bucket · folded
//! folded: sum, min, max: f64 · moments: 3 × f64 · edges: i64, f64 · values: varint 2n, f64 … or varint 2n+1, (i64 bin, i64 count) … · samples: varint n, (i64, f64) …
//! ```

use skald_model::Labels;
use skald_model::labels::{get_varint, put_varint};

use super::sketch::Sketch;
use super::state::{Buckets, Fold, Folded, Partial};

const VERSION: u8 = 1;

/// Why bytes are not an encoded state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed partial state of a range aggregation")]
pub struct PartialDecodeError;

const FOLDS: [Fold; 8] =
    [Fold::Sum, Fold::Min, Fold::Max, Fold::Moments, Fold::First, Fold::Last, Fold::Values, Fold::Samples];

impl Partial {
    /// The state as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, FOLDS.iter().position(|f| *f == self.fold).unwrap_or(0) as u8];
        match &self.failed {
            None => out.push(0),
            Some((kind, series)) => {
                out.push(1);
                put_bytes(&mut out, kind.as_bytes());
                put_bytes(&mut out, series.as_bytes());
            }
        }
        put_varint(&mut out, self.labels.len() as u64);
        for (labels, buckets) in self.labels.iter().zip(&self.buckets) {
            put_bytes(&mut out, labels.packed());
            put_varint(&mut out, buckets.0.len() as u64);
            for (bucket, folded) in &buckets.0 {
                put_varint(&mut out, ((bucket << 1) ^ (bucket >> 63)) as u64);
                put_folded(&mut out, folded);
            }
        }
        out
    }

    /// The inverse of [`Partial::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PartialDecodeError> {
        decode(bytes).ok_or(PartialDecodeError)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_folded(out: &mut Vec<u8>, folded: &Folded) {
    let mut float = |v: f64| out.extend_from_slice(&v.to_bits().to_le_bytes());
    match folded {
        Folded::One(v) => float(*v),
        Folded::Moments(n, mean, squares) => {
            float(*n);
            float(*mean);
            float(*squares);
        }
        Folded::Edge(t, v) => {
            out.extend_from_slice(&t.to_le_bytes());
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
        Folded::Values(values) => {
            put_varint(out, 2 * values.len() as u64);
            values.iter().for_each(|v| out.extend_from_slice(&v.to_bits().to_le_bytes()));
        }
        Folded::Sketch(sketch) => {
            put_varint(out, 2 * sketch.bins.len() as u64 + 1);
            for (bin, count) in &sketch.bins {
                out.extend_from_slice(&i64::from(*bin).to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
        Folded::Samples(samples) => {
            put_varint(out, samples.len() as u64);
            for (t, v) in samples {
                out.extend_from_slice(&t.to_le_bytes());
                out.extend_from_slice(&v.to_bits().to_le_bytes());
            }
        }
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    fn varint(&mut self) -> Option<u64> {
        let (v, rest) = get_varint(self.0)?;
        self.0 = rest;
        Some(v)
    }
    fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = self.varint()?;
        self.take(usize::try_from(len).ok()?)
    }
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
    fn word(&mut self) -> Option<u64> {
        self.take(8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
    }
    fn float(&mut self) -> Option<f64> {
        self.word().map(f64::from_bits)
    }
    /// A number of items of `size` bytes that are still to come.
    fn count(&mut self, size: usize) -> Option<usize> {
        let n = usize::try_from(self.varint()?).ok()?;
        (n <= self.0.len() / size.max(1)).then_some(n)
    }
}

fn decode(bytes: &[u8]) -> Option<Partial> {
    let mut r = Reader(bytes);
    if r.u8()? != VERSION {
        return None;
    }
    let mut partial = Partial::new(*FOLDS.get(r.u8()? as usize)?);
    if r.u8()? == 1 {
        partial.failed = Some((r.text()?, r.text()?));
    }
    for _ in 0..r.count(2)? {
        let labels = Labels::from_packed(r.bytes()?)?;
        let series = partial.series_of(labels) as usize;
        let mut buckets = vec![];
        for _ in 0..r.count(2)? {
            let bucket = r.varint()?;
            let bucket = (bucket >> 1) as i64 ^ -((bucket & 1) as i64);
            let folded = match partial.fold {
                Fold::Sum | Fold::Min | Fold::Max => Folded::One(r.float()?),
                Fold::Moments => Folded::Moments(r.float()?, r.float()?, r.float()?),
                Fold::First | Fold::Last => Folded::Edge(r.word()? as i64, r.float()?),
                Fold::Values => {
                    let n = r.varint()?;
                    let (n, sketched) = (usize::try_from(n / 2).ok()?, n % 2 == 1);
                    if n > r.0.len() / if sketched { 16 } else { 8 } {
                        return None;
                    }
                    if sketched {
                        let bins = (0..n).map(|_| Some((i32::try_from(r.word()? as i64).ok()?, r.word()?)));
                        buckets.push((
                            bucket,
                            Folded::Sketch(Box::new(Sketch { bins: bins.collect::<Option<_>>()? })),
                        ));
                        continue;
                    }
                    Folded::Values((0..n).map(|_| r.float()).collect::<Option<_>>()?)
                }
                Fold::Samples => {
                    let n = r.count(16)?;
                    Folded::Samples(
                        (0..n).map(|_| Some((r.word()? as i64, r.float()?))).collect::<Option<_>>()?,
                    )
                }
            };
            buckets.push((bucket, folded));
        }
        // Order matters to whoever adds to the state.
        if !buckets.is_sorted_by(|a, b| a.0 < b.0) {
            return None;
        }
        partial.buckets[series] = Buckets(buckets);
    }
    r.0.is_empty().then_some(partial)
}
