//! What marks a push inside the cluster.

/// Which push a batch is a part of, and when it came. The distributor makes it; all replicas get the same one, and
/// retries inside the cluster keep it. So replicas can tell of each entry with which push it came, and compare what they
/// have without looking at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PushStamp {
    /// Who received the push: a number that no two processes share; 0 of pushes that are not numbered.
    pub origin: u64,
    /// Its number among all pushes of that process, below 2^63.
    pub sequence: u64,
    /// When it was received, whole seconds since the Unix epoch by the clock of that process.
    pub second: i64,
    /// Whether an ingester has refused entries of it, so that what it holds is not all of the push. Others may have
    /// taken them.
    pub partial: bool,
}

/// The bit of an encoded sequence that tells a partial push.
const PARTIAL: u64 = 1 << 63;

impl PushStamp {
    /// Bytes of the encoded form.
    pub const ENCODED_LEN: usize = 24;

    /// A stamp that says only when.
    pub fn unnumbered(second: i64) -> Self {
        Self { second, ..Self::default() }
    }

    /// Which push it is, unless it is not numbered.
    pub fn push(&self) -> Option<PushId> {
        (self.origin != 0).then_some(PushId { origin: self.origin, sequence: self.sequence })
    }

    /// Origin, sequence and second, little endian.
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[..8].copy_from_slice(&self.origin.to_le_bytes());
        let sequence = self.sequence & !PARTIAL | if self.partial { PARTIAL } else { 0 };
        out[8..16].copy_from_slice(&sequence.to_le_bytes());
        out[16..].copy_from_slice(&self.second.to_le_bytes());
        out
    }

    /// The inverse of [`PushStamp::encode`].
    pub fn decode(bytes: &[u8; Self::ENCODED_LEN]) -> Self {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let sequence = number(8);
        Self {
            origin: number(0),
            sequence: sequence & !PARTIAL,
            second: number(16) as i64,
            partial: sequence & PARTIAL != 0,
        }
    }
}

/// Which push: who received it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PushId {
    /// See [`PushStamp::origin`].
    pub origin: u64,
    /// See [`PushStamp::sequence`].
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for partial in [false, true] {
            let stamp = PushStamp { origin: u64::MAX, sequence: 7, second: -3, partial };
            assert_eq!(PushStamp::decode(&stamp.encode()), stamp);
        }
        let stamp = PushStamp { origin: u64::MAX, sequence: 7, ..PushStamp::default() };
        assert_eq!(stamp.push(), Some(PushId { origin: u64::MAX, sequence: 7 }));
        assert_eq!(PushStamp::unnumbered(5).push(), None);
    }
}
