//! The machine.

/// Bytes of memory that it has; as good as endless where it does not say.
pub fn memory() -> usize {
    // SAFETY: both only ask for a number.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let number = |number| usize::try_from(number).ok().filter(|number| *number > 0);
    number(pages).zip(number(size)).map_or(usize::MAX, |(pages, size)| pages.saturating_mul(size))
}
