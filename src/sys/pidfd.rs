//! Waiting for one child process without blocking: by `pidfd_open(2)`, or by its number.
//!
//! Nothing here waits for any child but the one that is named, and with `WNOHANG` nothing waits at
//! all, so no call is ever interrupted.

#[cfg(target_os = "linux")]
pub(crate) use linux::PidFd;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::PidFd;

use super::check;
use crate::error::{OsError, errno};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How the end of a child can be learned.
pub(crate) enum Watch {
    /// The descriptor is readable when it has ended.
    PidFd(PidFd),
    /// The system has no such descriptor to give: `SIGCHLD` says that it may have ended.
    Sigchld,
}

/// Finds a way to learn of the end of the child `pid`.
///
/// The error is `ECHILD` if this process has no such child, or has reaped it.
pub(crate) fn watch(pid: libc::pid_t) -> io::Result<Watch> {
    wait_without_reaping(libc::P_PID, pid as libc::id_t)?;
    // Not there, not allowed, no descriptor left: the child is to be reaped all the same.
    let Ok(pidfd) = PidFd::open(pid) else {
        return Ok(Watch::Sigchld);
    };
    // Between the two calls somebody else could have reaped the child, and its number could have
    // gone to a process that isn't ours.
    match pidfd.assert_is_child() {
        Ok(()) => Ok(Watch::PidFd(pidfd)),
        Err(error) if is_no_child(&error) => Err(error),
        // Linux 5.3 has the descriptor, and can't wait for it.
        Err(_) => Ok(Watch::Sigchld),
    }
}

/// Reaps the child `pid` if it has ended.
///
/// The error is `ECHILD` if there is no such child (any more).
pub(crate) fn reap(pid: libc::pid_t) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` is ours, and may be written until the call returns.
    let result = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    let reaped = check("waitpid", result)?;
    // A tracer is told of stops as well.
    let is_end = reaped == pid && (libc::WIFEXITED(status) || libc::WIFSIGNALED(status));
    Ok(is_end.then(|| ExitStatus::from_raw(status)))
}

/// Whether an error says that there is no such child of this process.
fn is_no_child(error: &io::Error) -> bool {
    errno(error) == Some(libc::ECHILD)
}

/// Looks at a child, and leaves it as it is.
fn wait_without_reaping(kind: libc::idtype_t, id: libc::id_t) -> io::Result<()> {
    wait_id(kind, id, libc::WNOWAIT).map(|_| ())
}

/// `waitid(2)` for a child that has ended. If none has, `si_signo` of the result is 0.
fn wait_id(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: libc::c_int,
) -> io::Result<libc::siginfo_t> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = flags | libc::WEXITED | libc::WNOHANG;
    // SAFETY: `info` is ours, and may be written until the call returns.
    check("waitid", unsafe {
        libc::waitid(kind, id, info.as_mut_ptr(), flags)
    })?;
    // SAFETY: it consists of numbers and pointers, for which zeros are valid, and of what the
    // kernel has written over them.
    Ok(unsafe { info.assume_init() })
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::sys::owned;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

    /// A descriptor that stands for one process, also after its number went to another one.
    #[derive(Debug)]
    pub(crate) struct PidFd(OwnedFd);

    impl PidFd {
        pub(super) fn open(pid: libc::pid_t) -> io::Result<PidFd> {
            // SAFETY: no memory is involved. The C library of older systems has no function for
            // it.
            let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            // Descriptors are small, and so is -1.
            let fd = owned("pidfd_open", result as libc::c_int)?;
            Ok(PidFd(fd))
        }

        fn id(&self) -> libc::id_t {
            self.0.as_raw_fd() as libc::id_t
        }

        pub(super) fn assert_is_child(&self) -> io::Result<()> {
            wait_without_reaping(libc::P_PIDFD, self.id())
        }

        /// Reaps the child if it has ended.
        ///
        /// The error is `ECHILD` if somebody else has reaped it, or it isn't this process's.
        pub(crate) fn reap(&self) -> io::Result<Option<ExitStatus>> {
            let info = wait_id(libc::P_PIDFD, self.id(), 0)?;
            if info.si_signo == 0 {
                return Ok(None);
            }
            // SAFETY: this is the siginfo of a SIGCHLD, in which the kernel sets this field.
            let status = unsafe { info.si_status() };
            wait_status(info.si_code, status)
                .map(|raw| Some(ExitStatus::from_raw(raw)))
                .ok_or_else(|| OsError::wrap("waitid", io::ErrorKind::InvalidData.into()))
        }
    }

    impl AsFd for PidFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    /// What `waitpid(2)` would have said in place of `waitid(2)`: Linux's encoding, which is the
    /// same on all architectures.
    fn wait_status(code: libc::c_int, status: libc::c_int) -> Option<libc::c_int> {
        const CORE_DUMPED: libc::c_int = 0x80;
        match code {
            libc::CLD_EXITED => Some((status & 0xff) << 8),
            libc::CLD_KILLED => Some(status & 0x7f),
            libc::CLD_DUMPED => Some(status & 0x7f | CORE_DUMPED),
            _ => None,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn statuses_are_what_waitpid_says() {
            let status = |code, status| wait_status(code, status).map(ExitStatus::from_raw);
            let exited = status(libc::CLD_EXITED, 255).unwrap();
            assert_eq!((exited.code(), exited.signal()), (Some(255), None));
            let killed = status(libc::CLD_KILLED, libc::SIGKILL).unwrap();
            assert_eq!(
                (killed.code(), killed.signal()),
                (None, Some(libc::SIGKILL))
            );
            assert!(!killed.core_dumped());
            let dumped = status(libc::CLD_DUMPED, libc::SIGABRT).unwrap();
            assert_eq!(
                (dumped.code(), dumped.signal()),
                (None, Some(libc::SIGABRT))
            );
            assert!(dumped.core_dumped());
            assert_eq!(status(libc::CLD_STOPPED, libc::SIGSTOP), None);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::*;
    use std::os::fd::{AsFd, BorrowedFd};

    /// There are none on this system.
    #[derive(Debug)]
    pub(crate) enum PidFd {}

    impl PidFd {
        pub(super) fn open(_: libc::pid_t) -> io::Result<PidFd> {
            Err(OsError::wrap(
                "pidfd_open",
                io::ErrorKind::Unsupported.into(),
            ))
        }

        pub(super) fn assert_is_child(&self) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn reap(&self) -> io::Result<Option<ExitStatus>> {
            match *self {}
        }
    }

    impl AsFd for PidFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            match *self {}
        }
    }
}
