//! System calls of the tests, and looks into `/proc`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::{Duration, Instant};
use tevent::Signum;

#[track_caller]
fn check(result: i32) -> i32 {
    assert_ne!(result, -1, "{}", io::Error::last_os_error());
    result
}

// Processes

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Exited(i32),
    Killed(i32),
}

/// Forks by libc's function. The child does `work` and ends: with 0, or 101 when it panics.
#[track_caller]
pub fn fork(work: impl FnOnce()) -> u32 {
    match check(unsafe { libc::fork() }) {
        0 => end(super::exit_code(work)),
        pid => pid as u32,
    }
}

/// Forks by libc's function, and goes on in both processes. Returns whether this is the child.
#[track_caller]
pub fn is_child_of_foreign_fork() -> Option<u32> {
    let pid = check(unsafe { libc::fork() });
    (pid != 0).then_some(pid as u32)
}

/// Ends this process and nothing else: no destructors run.
pub fn end(code: i32) -> ! {
    let _ = io::stdout().flush();
    unsafe { libc::_exit(code) }
}

/// Has `exit(3)` call a function.
pub fn at_exit(function: extern "C" fn()) {
    assert_eq!(unsafe { libc::atexit(function) }, 0);
}

#[track_caller]
pub fn reap(pid: u32) -> Status {
    let mut status = 0;
    loop {
        if unsafe { libc::waitpid(pid as i32, &mut status, 0) } != -1 {
            break;
        }
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    }
    if libc::WIFEXITED(status) {
        Status::Exited(libc::WEXITSTATUS(status))
    } else {
        Status::Killed(libc::WTERMSIG(status))
    }
}

/// Reaps a child that has ended, if there is one.
pub fn reap_any() -> Option<Status> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let pid = unsafe {
        let result = libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags);
        (result == 0).then(|| info.assume_init().si_pid())
    };
    pid.filter(|&pid| pid != 0).map(|pid| reap(pid as u32))
}

/// Waits for a child, if there is one.
pub fn await_any_child() -> Option<Status> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOWAIT;
    let pid = unsafe {
        let result = libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags);
        (result == 0).then(|| info.assume_init().si_pid())
    };
    pid.map(|pid| reap(pid as u32))
}

/// Waits for a child that has something to assert.
#[track_caller]
pub fn assert_succeeds(pid: u32) {
    assert_eq!(
        reap(pid),
        Status::Exited(0),
        "the child process has failed, see above"
    );
}

/// Waits until a child has been stopped.
#[track_caller]
pub fn await_stop(pid: u32) {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    let flags = libc::WSTOPPED | libc::WNOWAIT;
    while unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), flags) } == -1 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    }
}

pub fn has_children() -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) == 0 }
}

/// Waits until a child has ended, without reaping it. False: it hasn't.
pub fn wait_for_exit(pid: u32, limit: Duration) -> bool {
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    if pidfd == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        // So it is under valgrind.
        let start = Instant::now();
        while !has_ended(pid) {
            if start.elapsed() >= limit {
                return false;
            }
            std::thread::yield_now();
        }
        return true;
    }
    let pidfd = unsafe { OwnedFd::from_raw_fd(check(pidfd)) };
    is_readable_within(&pidfd, limit)
}

/// Whether a child has ended; it isn't reaped.
fn has_ended(pid: u32) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    unsafe {
        check(libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), flags));
        info.assume_init().si_pid() != 0
    }
}

/// Whether a child that has ended, and stays to be reaped, has left a core.
#[track_caller]
pub fn has_left_a_core(pid: u32) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let info = unsafe {
        check(libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), flags));
        info.assume_init()
    };
    info.si_code == libc::CLD_DUMPED
}

/// Up to how many bytes of a core this process leaves.
#[track_caller]
pub fn limit_core(bytes: libc::rlim_t) {
    let mut limit = MaybeUninit::uninit();
    let mut limit = unsafe {
        check(libc::getrlimit(libc::RLIMIT_CORE, limit.as_mut_ptr()));
        limit.assume_init()
    };
    limit.rlim_cur = bytes.min(limit.rlim_max);
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) });
}

pub fn lead_group() {
    check(unsafe { libc::setpgid(0, 0) });
}

pub fn kill_group(pid: u32) {
    unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
}

/// The state that `/proc` has for a thread of another process, such as `S` for sleeping.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A thread that was joined may be in there for a moment.
pub fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").expect("proc").count()
}

// Signals

#[track_caller]
pub fn kill(pid: u32, signum: Signum) {
    check(unsafe { libc::kill(pid as i32, signum.number()) });
}

/// To this thread.
#[track_caller]
pub fn raise(signum: Signum) {
    assert_eq!(unsafe { libc::raise(signum.number()) }, 0);
}

/// Sends a signal with a value, trying again while the kernel's queue is full.
#[track_caller]
pub fn sigqueue(pid: u32, signum: Signum, value: usize) {
    let sigval = libc::sigval {
        sival_ptr: value as *mut libc::c_void,
    };
    while unsafe { libc::sigqueue(pid as i32, signum.number(), sigval) } == -1 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        std::thread::yield_now();
    }
}

/// Sends a signal with a value. False: the kernel has no room.
#[track_caller]
pub fn try_sigqueue(pid: u32, signum: Signum, value: usize) -> bool {
    let sigval = libc::sigval {
        sival_ptr: value as *mut libc::c_void,
    };
    if unsafe { libc::sigqueue(pid as i32, signum.number(), sigval) } == 0 {
        return true;
    }
    let error = io::Error::last_os_error();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    false
}

/// How many signals may wait in the kernel for the processes of this user.
#[track_caller]
pub fn limit_pending_signals(count: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    check(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) });
}

pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub fn set_errno(number: i32) {
    unsafe { *libc::__errno_location() = number };
}

/// Sends a signal with a value, without looking at errors or touching `errno`.
pub fn sigqueue_once(pid: u32, signum: Signum, value: usize) {
    let sigval = libc::sigval {
        sival_ptr: value as *mut libc::c_void,
    };
    unsafe { libc::sigqueue(pid as i32, signum.number(), sigval) };
}

/// Sends a signal with a value to this very thread.
#[track_caller]
pub fn sigqueue_to_this_thread(signum: Signum, value: usize) {
    let sigval = libc::sigval {
        sival_ptr: value as *mut libc::c_void,
    };
    let error = unsafe { libc::pthread_sigqueue(libc::pthread_self(), signum.number(), sigval) };
    assert_eq!(error, 0, "{}", io::Error::from_raw_os_error(error));
}

pub fn unblock_all_signals() {
    let mut none = MaybeUninit::uninit();
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Blocks a signal in this thread.
pub fn block(signum: Signum) {
    let mut set = MaybeUninit::uninit();
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signum.number());
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
    }
}

/// What `sigaction` says is done about a signal.
pub fn disposition(signum: Signum) -> libc::sigaction {
    let mut action = MaybeUninit::uninit();
    unsafe {
        check(libc::sigaction(
            signum.number(),
            ptr::null(),
            action.as_mut_ptr(),
        ));
        action.assume_init()
    }
}

pub fn handler_of(signum: Signum) -> libc::sighandler_t {
    disposition(signum).sa_sigaction
}

/// `SIG_DFL`, `SIG_IGN` or a function.
pub fn set_handler(signum: Signum, handler: libc::sighandler_t) {
    let before = unsafe { libc::signal(signum.number(), handler) };
    assert_ne!(before, libc::SIG_ERR);
}

/// A line of hexadecimal bits from a `status` file of `/proc`, such as `SigBlk`.
#[track_caller]
pub fn signal_set(status: &str, name: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {status}"));
    u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
}

/// The signals that this thread has blocked.
pub fn blocked_signals() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").expect("proc");
    signal_set(&status, "SigBlk")
}

/// Of all threads. One that begins or ends has everything blocked for a moment.
#[track_caller]
pub fn assert_masks_are_clean() {
    assert_own_mask_is_clean();
    wait_until("no thread has a signal blocked", || {
        let tasks = fs::read_dir("/proc/self/task").expect("proc");
        tasks.flatten().all(|task| {
            let status = fs::read_to_string(task.path().join("status"));
            status.map_or(true, |status| signal_set(&status, "SigBlk") == 0)
        })
    });
}

/// As [`assert_masks_are_clean`], of this thread only.
#[track_caller]
pub fn assert_own_mask_is_clean() {
    assert_eq!(blocked_signals(), 0, "this thread has a signal blocked");
}

pub fn bit(signum: Signum) -> u64 {
    1 << (signum.number() - 1)
}

// Descriptors

pub fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).expect("a socket");
    }
    (ours, theirs)
}

/// A pair of sockets over which processes wait for each other.
pub fn channel() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a socket pair")
}

#[track_caller]
pub fn tell(mut channel: &UnixStream) {
    channel.write_all(&[1]).expect("somebody listens");
}

/// Waits until the other side [tells](tell).
#[track_caller]
pub fn await_word(mut channel: &UnixStream) {
    let mut word = [0];
    let count = channel.read(&mut word).expect("a channel");
    assert_eq!(count, 1, "the other process has ended too early");
}

/// Closes a forked child's copy.
pub fn close_in_child(fd: &impl AsRawFd) {
    check(unsafe { libc::close(fd.as_raw_fd()) });
}

pub fn memory_file() -> File {
    let fd = check(unsafe { libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC) });
    unsafe { File::from_raw_fd(fd) }
}

pub fn duplicate_onto(fd: RawFd, number: RawFd) {
    check(unsafe { libc::dup2(fd, number) });
}

pub fn is_readable_within(fd: &impl AsRawFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut pollfd = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let left = left.as_nanos().div_ceil(1_000_000) as i32;
        match unsafe { libc::poll(&mut pollfd, 1, left) } {
            -1 => {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
            }
            ready => return ready > 0,
        }
    }
}

pub fn is_readable(fd: &impl AsRawFd) -> bool {
    is_readable_within(fd, Duration::ZERO)
}

/// The numbers of all open descriptors.
pub fn open_descriptors() -> BTreeSet<RawFd> {
    let listed: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .expect("proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // Without the one that it was listed by.
    let is_open = |&fd: &RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1;
    listed.into_iter().filter(is_open).collect()
}

pub fn is_open(fd: RawFd) -> bool {
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

fn descriptors_called(what: &str) -> Vec<RawFd> {
    let is_it = |fd: &RawFd| {
        let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        target.to_string_lossy().contains(what)
    };
    open_descriptors().into_iter().filter(is_it).collect()
}

pub fn is_epoll_instance(fd: &impl AsRawFd) -> bool {
    descriptors_called("[eventpoll]").contains(&fd.as_raw_fd())
}

/// The eventfd by which the only context of this process is woken.
#[track_caller]
pub fn wakeup_of_the_only_context() -> RawFd {
    match descriptors_called("[eventfd]")[..] {
        [fd] => fd,
        ref several => panic!("one context has one eventfd, not {several:?}"),
    }
}

/// How many descriptors of processes are open.
pub fn count_of_pidfds() -> usize {
    descriptors_called("pidfd").len()
}

#[track_caller]
pub fn write_to_eventfd(eventfd: RawFd, value: u64) {
    let bytes = value.to_ne_bytes();
    let count = unsafe { libc::write(eventfd, bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(count, 8, "{}", io::Error::last_os_error());
}

/// How often an eventfd was written to since it was read.
pub fn writes_to(eventfd: RawFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{eventfd}")).expect("proc");
    signal_set(&info, "eventfd-count")
}

/// What the kernel has registered with this process's epoll instances, as text.
pub fn epoll_sets() -> Vec<String> {
    descriptors_called("[eventpoll]")
        .into_iter()
        .map(|fd| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("proc");
            let mut watched: Vec<&str> = info
                .lines()
                .filter(|line| line.starts_with("tfd"))
                .collect();
            watched.sort_unstable();
            watched.join("\n")
        })
        .collect()
}

/// Allows no descriptor more than there are, while `work` is done.
pub fn without_descriptors<R>(work: impl FnOnce() -> R) -> R {
    // All free numbers below the highest are filled first: the limit is one of numbers.
    let mut filling = Vec::new();
    let highest = *open_descriptors().last().expect("the standard ones");
    loop {
        let fd = check(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 0) });
        filling.push(unsafe { OwnedFd::from_raw_fd(fd) });
        if fd > highest {
            break;
        }
    }
    filling.pop();
    with_descriptor_limit(highest as libc::rlim_t + 1, work)
}

/// Sets the lowest number that no new descriptor may have, while `work` is done.
pub fn with_descriptor_limit<R>(limit: libc::rlim_t, work: impl FnOnce() -> R) -> R {
    let mut before = MaybeUninit::uninit();
    let before = unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, before.as_mut_ptr()));
        before.assume_init()
    };
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: before.rlim_max,
    };
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) });
    let result = work();
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &before) });
    result
}

/// Waits for something that another thread or process does, giving way to it.
#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::yield_now();
    }
}
