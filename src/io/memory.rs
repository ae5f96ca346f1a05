//! Keeping the daemon's memory where its buffers are, not where they were.

/// Allocations from this size on go back to the kernel when they are freed, in bytes.
const GIVE_BACK_FROM: libc::c_int = 128 * 1024;

/// Have the C library give large allocations back when they are freed. By itself it raises that limit to the largest
/// block ever freed, and a daemon that reads a megabyte at a time then keeps hundreds of them.
pub fn give_large_allocations_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt(3) sets a parameter of the allocator under its own lock and takes no pointer.
        let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, GIVE_BACK_FROM) };
        if taken == 0 {
            log::warn!("mallopt: the allocator keeps what is freed; resident memory will be larger than need be");
        }
    }
}
