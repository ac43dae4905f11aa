//! The allocator: mimalloc, made to give memory back.
//!
//! Bodies of pushes and pages of blocks are some hundred kilobytes large, come from many threads, and live from
//! milliseconds to minutes. mimalloc puts blocks of 64 to 512 KiB by eights and more into pages of 4 MiB, apart by thread
//! and by size, and none of that goes back to the system before the whole page is free. A simulation of twenty
//! pushing threads that held 52 MiB had 195 MiB resident that way, and 90 MiB with what is done here, for two thirds more
//! time in the allocator and the kernel (0.3 and 0.5 s for 500 MB). So such blocks are asked for as if they were a little larger than
//! that, which gives each of them a page of its own. What is not touched of it takes no memory.

use std::alloc::{GlobalAlloc, Layout};
use std::time::Duration;

use mimalloc::MiMalloc;

/// Number of mimalloc's option for the delay in milliseconds after which freed memory goes back to the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long freed memory is kept. Segments of tens of megabytes come and go all the time: at mimalloc's 10 ms they cost a
/// quarter more resident memory at full ingest, at 0 a query pays for its buffers anew each time.
const PURGE_DELAY_MS: std::ffi::c_long = 3;

/// Number of mimalloc's option that says whether memory is committed as a whole when it is reserved. Then freed parts of
/// it stay resident for long: under many pushes and queries at once twice the memory that is in use.
const ARENA_EAGER_COMMIT: libmimalloc_sys::mi_option_t = 4;

/// Number of mimalloc's option that lets it ask for huge pages.
const ALLOW_THP: libmimalloc_sys::mi_option_t = 43;

/// Blocks of more than the first and up to the second many bytes share pages of 4 MiB in mimalloc.
const SHARED: (usize, usize) = (64 << 10, 512 << 10);

/// Makes the allocator give freed memory back soon.
pub(crate) fn give_memory_back_soon() {
    #[expect(unsafe_code, reason = "mimalloc has no safe way to set an option")]
    // SAFETY: setting options is not thread safe, and this runs before any other thread does.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
        libmimalloc_sys::mi_option_set(ARENA_EAGER_COMMIT, 0);
        libmimalloc_sys::mi_option_set(ALLOW_THP, 0);
    }
    refuse_huge_pages();
}

/// How often [`sweep`] has to be called.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Gives back what is free and should have been given back already.
///
/// mimalloc (3.3) keeps the time of the next purge twice, for each arena and for all together. A purge that finds nothing
/// resets the second one, and when some other thread frees memory just then, the first one alone stays set. Then nothing
/// is ever purged again: under twenty pushers that came after half a minute, and resident memory went from 60 to 200 MiB and more. A
/// forced purge does not ask for the time, and resets it. The calling thread needs a heap of its own, as it has when it
/// has allocated anything.
pub(crate) fn sweep() {
    #[expect(unsafe_code, reason = "mimalloc has no safe way to collect")]
    // SAFETY: may be called at any time from any thread.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// Tells the kernel to give this process no transparent huge pages. mimalloc asks for them for its whole heap, and has
/// done so for the first part of it before the program can tell it not to. The kernel fills a page of 2 MiB where a
/// few bytes of it are touched and joins small ones again after their neighbours were given back, so what is resident
/// grows for minutes: under twenty pushers from 70 to 350 MiB in 100 s, without them to 90 MiB and no further. Ingest
/// takes a tenth less CPU without, as far less is cleared.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "the standard library does not know this call")]
        // SAFETY: sets a flag of the process; no memory is handed over. Where the kernel doesn't know it, nothing happens.
        unsafe {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        }
    }
}

/// mimalloc, which keeps blocks of middling size apart from each other.
pub(crate) struct Allocator;

/// How many bytes are asked for where `size` are wanted.
fn apart(size: usize) -> usize {
    if size > SHARED.0 && size <= SHARED.1 { SHARED.1 + 1 } else { size }
}

/// The same as a layout.
fn layout_apart(layout: Layout) -> Layout {
    // Far from the largest size, so rounding it up to the alignment does not overflow, or the layout stays as it is.
    Layout::from_size_align(apart(layout.size()), layout.align()).unwrap_or(layout)
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
// SAFETY: mimalloc fulfils the contract. Its blocks are here never smaller than what was asked for, and it frees and
// resizes them without a look at the size that it is told they have.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise; the size grows at most.
        unsafe { MiMalloc.alloc(layout_apart(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if apart(layout.size()) == layout.size() {
            // SAFETY: the caller's promise.
            return unsafe { MiMalloc.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise; what is written to was allocated just before. Only what is used is touched.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; the new size grows at most.
        unsafe { MiMalloc.realloc(block, layout, apart(new_size)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_of_middling_size_are_kept_apart() {
        for (size, asked) in
            [(0, 0), (65_536, 65_536), (65_537, 524_289), (524_288, 524_289), (600_000, 600_000)]
        {
            assert_eq!(apart(size), asked);
        }
    }

    #[test]
    fn blocks_are_zeroed_grow_and_shrink_with_their_content() {
        let mut bytes = vec![0_u8; 100_000];
        assert!(bytes.iter().all(|b| *b == 0));
        bytes.fill(7);
        bytes.resize(700_000, 8);
        bytes.truncate(90_000);
        bytes.shrink_to_fit();
        assert!(bytes.iter().all(|b| *b == 7) && bytes.len() == 90_000);
    }
}
