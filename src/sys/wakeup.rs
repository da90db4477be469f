//! What ends a wait from outside the loop: an `eventfd(2)`, elsewhere a pipe to oneself.

#[cfg(not(target_os = "linux"))]
use super::check;
use super::replace;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A descriptor that becomes readable when its number to write to is written to.
#[derive(Debug)]
pub(crate) struct Wakeup {
    read: OwnedFd,
    /// A pipe's other end; an eventfd is its own.
    write: Option<OwnedFd>,
}

impl Wakeup {
    pub(crate) fn new() -> io::Result<Wakeup> {
        let (read, write) = create()?;
        Ok(Wakeup { read, write })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.read
    }

    /// The number to hand to [`signal`].
    pub(crate) fn write_number(&self) -> RawFd {
        self.write.as_ref().unwrap_or(&self.read).as_raw_fd()
    }

    /// Puts a new object behind the same numbers, so that a forked child no longer shares its
    /// parent's.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let (read, write) = create()?;
        replace(&self.read, read)?;
        if let (Some(old), Some(new)) = (&self.write, write) {
            replace(old, new)?;
        }
        Ok(())
    }

    /// Makes the descriptor unreadable again.
    pub(crate) fn drain(&self) {
        let mut buffer = [0u8; 64];
        // A pipe may hold more than one buffer; an eventfd is empty after one read.
        loop {
            // SAFETY: the buffer is ours and as long as we say; the descriptor is open, as we
            // own it, and non-blocking.
            let count = unsafe {
                libc::read(
                    self.read.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            };
            if count < buffer.len() as isize {
                return;
            }
        }
    }
}

/// Makes the [`Wakeup`] whose number to write to is `number` readable. Async-signal-safe, and
/// never blocks. A full pipe or counter is readable already, so a failure changes nothing.
pub(crate) fn signal(number: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is as long as we say. The kernel checks the number; that it is still the
    // one of the wake-up is the doorbell's to guarantee (it waits for its users before a number
    // is closed).
    unsafe { libc::write(number, one.as_ptr().cast(), one.len()) };
}

#[cfg(target_os = "linux")]
fn create() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    // SAFETY: no memory is involved.
    let fd = super::owned("eventfd", unsafe {
        libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
    })?;
    Ok((fd, None))
}

#[cfg(not(target_os = "linux"))]
fn create() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    use std::os::fd::FromRawFd;
    let mut ends = [0; 2];
    // SAFETY: pipe() fills in the two numbers, which belong to nobody else yet.
    let (read, write) = unsafe {
        check("pipe", libc::pipe(ends.as_mut_ptr()))?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    for end in [&read, &write] {
        // SAFETY: no memory is involved; the descriptor is open, as we own it.
        unsafe {
            check(
                "fcntl",
                libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC),
            )?;
            check(
                "fcntl",
                libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK),
            )?;
        }
    }
    Ok((read, Some(write)))
}
