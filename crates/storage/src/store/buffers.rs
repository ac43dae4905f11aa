//! Buffers that files are read into, used again and again.
//!
//! A search reads megabytes, looks at them once and lets go. Fresh memory for each read costs more than the reading:
//! the kernel has to clear every page before it may be written to.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes up to which buffers are kept, those in use included: while much is read, nothing waits beside it.
const KEPT_MAX: usize = 24 << 20;
/// Smaller buffers are cheap to make, and keeping them would crowd out those that are not.
const LENGTH_MIN: usize = 64 << 10;

/// Buffers that wait to be used again.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffers {
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    bytes_in_use: usize,
}

/// A buffer in use; returns when the last view of it is gone.
struct InUse {
    buffer: Vec<u8>,
    length: usize,
    home: Arc<ReadBuffers>,
}

impl ReadBuffers {
    /// `length` bytes as `fill` writes them.
    pub(crate) fn read<E>(
        self: &Arc<Self>,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        if length < LENGTH_MIN {
            let mut buffer = vec![0; length];
            fill(&mut buffer)?;
            return Ok(buffer.into());
        }
        let mut in_use = InUse { buffer: self.take(length), length, home: self.clone() };
        fill(&mut in_use.buffer[..length])?;
        Ok(Bytes::from_owner(in_use))
    }

    /// A buffer of at least `length` bytes, of whatever content: the smallest that is free, or a new one.
    fn take(&self, length: usize) -> Vec<u8> {
        let mut free = self.free.lock();
        let fitting = free.buffers.iter().enumerate().filter(|(_, b)| b.len() >= length);
        if let Some((place, _)) = fitting.min_by_key(|(_, b)| b.len()) {
            let buffer = free.buffers.swap_remove(place);
            free.bytes -= buffer.len();
            free.bytes_in_use += buffer.len();
            return buffer;
        }
        // Eighths of a power of two, so that the next read finds it long enough.
        let step = length.next_power_of_two() / 8;
        let length = length.next_multiple_of(step);
        free.bytes_in_use += length;
        let surplus = free.surplus();
        drop(free);
        drop(surplus);
        vec![0; length]
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock();
        free.bytes_in_use -= buffer.len();
        if free.bytes_in_use + free.bytes + buffer.len() <= KEPT_MAX {
            free.bytes += buffer.len();
            free.buffers.push(buffer);
        }
    }
}

impl Free {
    /// Takes out what may no longer be kept beside the buffers in use.
    fn surplus(&mut self) -> Vec<Vec<u8>> {
        let mut surplus = Vec::new();
        while self.bytes_in_use + self.bytes > KEPT_MAX
            && let Some(buffer) = self.buffers.pop()
        {
            self.bytes -= buffer.len();
            surplus.push(buffer);
        }
        surplus
    }
}

impl AsRef<[u8]> for InUse {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_looks_at_it() {
        let buffers = Arc::new(ReadBuffers::default());
        let read = |length: usize, byte: u8| {
            let fill = |b: &mut [u8]| -> Result<(), ()> {
                b.fill(byte);
                Ok(())
            };
            buffers.read(length, fill).unwrap()
        };
        let first = read(100_000, 1);
        let part = first.slice(10..20);
        let place = first.as_ptr();
        drop(first);
        let second = read(90_000, 2);
        assert_ne!(second.as_ptr(), place, "a view is left");
        assert_eq!((second.len(), &part[..]), (90_000, &[1; 10][..]));
        drop(part);
        assert_eq!(read(80_000, 3).as_ptr(), place);
        assert!(buffers.free.lock().bytes <= 1 << 18);
        let large: Vec<Bytes> = (0..8).map(|_| read(8 << 20, 4)).collect();
        drop(large);
        assert!(buffers.free.lock().bytes <= KEPT_MAX);
    }

    #[test]
    fn nothing_is_kept_beside_much_that_is_in_use() {
        let buffers = Arc::new(ReadBuffers::default());
        let read = || buffers.read(8 << 20, |_| Ok::<(), ()>(())).unwrap();
        drop(read());
        assert_eq!(buffers.free.lock().bytes, 8 << 20);
        let used: Vec<Bytes> = (0..4).map(|_| read()).collect();
        assert_eq!(buffers.free.lock().bytes, 0);
        drop(used);
        let free = buffers.free.lock();
        assert_eq!((free.bytes, free.bytes_in_use), (KEPT_MAX, 0));
    }

    #[test]
    fn a_read_that_fails_gives_its_buffer_back() {
        let buffers = Arc::new(ReadBuffers::default());
        assert!(buffers.read(100_000, |_| Err("no")).is_err());
        assert_eq!(buffers.free.lock().buffers.len(), 1);
    }
}
