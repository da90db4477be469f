//! System calls that fail when they are told to.
//!
//! The functions of libc by which the library makes its system calls are defined here, and take the
//! place of libc's in the whole process. Each does what libc's does, but the `nth` call of one of
//! them, and some that follow it, fail. What the test itself does is left alone where it can be
//! told apart: only the library opens epoll instances, eventfds and pidfds, and only such descriptors
//! are looked at when something is read, written or closed.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::fmt;
use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicUsize, Ordering::SeqCst,
};

/// What can fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Call {
    EpollCreate,
    EpollAdd,
    EpollModify,
    EpollRemove,
    EpollWait,
    EpollPwait2,
    Ppoll,
    Eventfd,
    /// Of a wake-up descriptor.
    Read,
    Dup3,
    Close,
    /// That installs a handler.
    Sigaction,
    Atfork,
    Fork,
    /// By which the threads are counted, and so is the way without `/proc`.
    Opendir,
    Unshare,
    PidfdOpen,
    Waitid,
    Waitpid,
    /// By which a signal is sent on.
    SendOn,
}

use Call::*;

const CALLS: usize = SendOn as usize + 1;

/// What each call can fail with: what its manual page says and the kernel does, and what a sandbox
/// answers to calls that it doesn't allow.
///
/// Left out are calls that have no way to fail as the library makes them (`pthread_sigmask`,
/// `gettid`, the clock), and a write to an eventfd, which fails only after 2^64 - 2 others.
pub const FAULTS: &[(Call, &[c_int])] = {
    use libc::*;
    &[
        (EpollCreate, &[EMFILE, ENFILE, ENOMEM, ENOSYS, EPERM]),
        (EpollAdd, &[ENOMEM, ENOSPC, EBADF]),
        (EpollModify, &[ENOMEM, ENOSPC, EPERM]),
        // The descriptor isn't in the set afterwards, whatever the kernel says.
        (EpollRemove, &[ENOENT, EBADF]),
        (EpollWait, &[EINTR, EBADF, ENOMEM]),
        (EpollPwait2, &[EINTR, ENOSYS, EPERM, EBADF, ENOMEM]),
        (Ppoll, &[EINTR, EAGAIN, ENOMEM, EINVAL]),
        (Eventfd, &[EMFILE, ENFILE, ENOMEM, ENODEV, EPERM]),
        (Read, &[EAGAIN, EINTR]),
        (Dup3, &[EBUSY, EINTR, EMFILE, EBADF]),
        // The descriptor is closed all the same.
        (Close, &[EINTR, EIO]),
        (Sigaction, &[EPERM, ENOMEM]),
        (Atfork, &[ENOMEM]),
        (Fork, &[EAGAIN, ENOMEM, ENOSYS, EPERM]),
        (Opendir, &[EMFILE, ENFILE, ENOMEM, EACCES]),
        (Unshare, &[EPERM, ENOSYS]),
        (PidfdOpen, &[EMFILE, ENFILE, ENOMEM, ENODEV, EPERM, ENOSYS]),
        (Waitid, &[ECHILD, EINVAL, EPERM]),
        (Waitpid, &[ECHILD, EPERM]),
        (SendOn, &[EAGAIN, EPERM]),
    ]
};

impl Call {
    /// What the library's error calls it.
    pub fn operation(self) -> &'static str {
        match self {
            EpollCreate => "epoll_create1",
            EpollAdd | EpollModify | EpollRemove => "epoll_ctl",
            EpollWait => "epoll_wait",
            EpollPwait2 => "epoll_pwait2",
            Ppoll => "ppoll",
            Eventfd => "eventfd",
            Read => "read",
            Dup3 => "dup3",
            Close => "close",
            Sigaction => "sigaction",
            Atfork => "pthread_atfork",
            Fork => "fork",
            Opendir => "opendir",
            Unshare => "unshare",
            PidfdOpen => "pidfd_open",
            Waitid => "waitid",
            Waitpid => "waitpid",
            SendOn => "rt_tgsigqueueinfo",
        }
    }
}

/// From the `nth` call on, `length` calls fail with `errno`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub call: Call,
    pub errno: c_int,
    pub nth: u32,
    pub length: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { nth, length, .. } = self;
        let (name, why) = (self.call, io::Error::from_raw_os_error(self.errno));
        write!(
            formatter,
            "{name:?} fails from call {nth} on {length} times: {why}"
        )
    }
}

const NONE: u32 = u32::MAX;

static FAILING: AtomicU32 = AtomicU32::new(NONE);
static ERRNO: AtomicI32 = AtomicI32::new(0);
static NTH: AtomicU32 = AtomicU32::new(0);
static LENGTH: AtomicU32 = AtomicU32::new(0);
static WITHOUT_PROC: AtomicBool = AtomicBool::new(false);
static WITHOUT_PIDFDS: AtomicBool = AtomicBool::new(false);

/// What parent and child both add to.
struct Shared {
    failures: AtomicU32,
    calls: [AtomicU32; CALLS],
}

/// How often this process has waited since it was made.
static WAITS: AtomicU32 = AtomicU32::new(0);

static SHARED: OnceLock<&'static Shared> = OnceLock::new();

/// To be called once, before anything fails.
pub fn prepare() {
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            mem::size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    // Zeroes are what it consists of, and it is never unmapped.
    SHARED.get_or_init(|| unsafe { &*memory.cast::<Shared>() });
    // So that no signal handler looks for them.
    unsafe {
        libc::syscall(libc::SYS_gettid);
        libc::write(-1, ptr::null(), 0);
    }
}

/// Has calls fail from now on. Counting begins anew.
pub fn fail(fault: Fault) {
    stop_failing();
    let shared = SHARED.get().expect("prepared");
    shared.failures.store(0, SeqCst);
    shared.calls.iter().for_each(|calls| calls.store(0, SeqCst));
    ERRNO.store(fault.errno, SeqCst);
    NTH.store(fault.nth, SeqCst);
    LENGTH.store(fault.length, SeqCst);
    FAILING.store(fault.call as u32, SeqCst);
}

/// Lets all calls succeed. Returns how many have failed, in this process and its children.
pub fn stop_failing() -> u32 {
    FAILING.store(NONE, SeqCst);
    SHARED
        .get()
        .map_or(0, |shared| shared.failures.load(SeqCst))
}

/// Lets all calls of this process succeed while `work` is done, and doesn't count them.
pub fn undisturbed<R>(work: impl FnOnce() -> R) -> R {
    let failing = FAILING.swap(NONE, SeqCst);
    let result = work();
    FAILING.store(failing, SeqCst);
    result
}

/// From now on, there is no `/proc` to list.
pub fn hide_proc(hidden: bool) {
    WITHOUT_PROC.store(hidden, SeqCst);
}

/// From now on, the kernel is one that has no pidfds.
pub fn hide_pidfds(hidden: bool) {
    WITHOUT_PIDFDS.store(hidden, SeqCst);
}

/// What fails.
pub fn fault() -> Option<Fault> {
    let failing = FAILING.load(SeqCst);
    let (call, _) = FAULTS.iter().find(|(call, _)| *call as u32 == failing)?;
    Some(Fault {
        call: *call,
        errno: ERRNO.load(SeqCst),
        nth: NTH.load(SeqCst),
        length: LENGTH.load(SeqCst),
    })
}

/// How often something was called since [`fail`].
pub fn calls(call: Call) -> u32 {
    SHARED
        .get()
        .map_or(0, |shared| shared.calls[call as usize].load(SeqCst))
}

/// How often this process has waited.
pub fn waits() -> u32 {
    WAITS.load(SeqCst)
}

/// Counts a call. Async-signal-safe. If it is to fail, sets `errno`.
fn fails(call: Call) -> bool {
    let Some(shared) = SHARED.get() else {
        return false;
    };
    let failing = FAILING.load(SeqCst);
    if failing == NONE {
        return false;
    }
    if matches!(call, EpollWait | EpollPwait2 | Ppoll) {
        WAITS.fetch_add(1, SeqCst);
    }
    let count = shared.calls[call as usize].fetch_add(1, SeqCst) + 1;
    let nth = NTH.load(SeqCst);
    if failing != call as u32 || count < nth || count - nth >= LENGTH.load(SeqCst) {
        return false;
    }
    shared.failures.fetch_add(1, SeqCst);
    set_errno();
    true
}

fn set_errno() {
    unsafe { *libc::__errno_location() = ERRNO.load(SeqCst) };
}

/// Has the kernel itself refuse to make processes and threads, for as long as this process lives.
pub fn refuse_new_processes() {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let step = |code: u32, jt: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let mut filter = vec![step(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
    let calls = [libc::SYS_clone, libc::SYS_clone3];
    for (left, call) in (0..calls.len()).rev().zip(calls) {
        filter.push(step(BPF_JMP | BPF_JEQ | BPF_K, left as u8 + 1, call as u32));
    }
    filter.push(step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32;
    filter.push(step(BPF_RET | BPF_K, 0, refusal));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
            0
        );
    }
}

// The library's descriptors

const UNKNOWN: u8 = 0;
const OTHER: u8 = 1;
const EVENTFD: u8 = 2;

static DESCRIPTORS: [AtomicU8; 1024] = [const { AtomicU8::new(UNKNOWN) }; 1024];

fn descriptor(fd: c_int) -> u8 {
    let entry = usize::try_from(fd).ok().and_then(|fd| DESCRIPTORS.get(fd));
    entry.map_or(UNKNOWN, |entry| entry.load(SeqCst))
}

fn remember(fd: c_int, what: u8) {
    if let Some(entry) = usize::try_from(fd).ok().and_then(|fd| DESCRIPTORS.get(fd)) {
        entry.store(what, SeqCst);
    }
}

// Libc's functions

/// The function that would be called if there were none here.
fn next(cache: &AtomicUsize, name: &CStr) -> usize {
    let mut address = cache.load(SeqCst);
    if address == 0 {
        address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
        cache.store(address, SeqCst);
    }
    address
}

/// Defines functions in the place of libc's. In the block `$real` is libc's.
macro_rules! in_place_of_libc {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty = |$real:ident| $block:block)*) => {$(
        /// In the place of libc's.
        ///
        /// # Safety
        ///
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            static CACHE: AtomicUsize = AtomicUsize::new(0);
            const NAME: &CStr = match CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => panic!("no name"),
            };
            let address = next(&CACHE, NAME);
            let $real: unsafe extern "C" fn($($type),*) -> $result =
                unsafe { mem::transmute(address) };
            unsafe { $block }
        }
    )*};
}

in_place_of_libc! {
    fn epoll_create1(flags: c_int) -> c_int = |real| {
        if fails(EpollCreate) {
            return -1;
        }
        let fd = real(flags);
        remember(fd, OTHER);
        fd
    }

    fn epoll_ctl(
        instance: c_int,
        change: c_int,
        fd: c_int,
        event: *mut libc::epoll_event
    ) -> c_int = |real| {
        match change {
            libc::EPOLL_CTL_ADD if fails(EpollAdd) => -1,
            libc::EPOLL_CTL_MOD if fails(EpollModify) => -1,
            libc::EPOLL_CTL_DEL if fails(EpollRemove) => {
                real(instance, change, fd, event);
                set_errno();
                -1
            }
            _ => real(instance, change, fd, event),
        }
    }

    fn epoll_wait(
        instance: c_int,
        events: *mut libc::epoll_event,
        room: c_int,
        timeout: c_int
    ) -> c_int = |real| {
        if fails(EpollWait) { -1 } else { real(instance, events, room, timeout) }
    }

    fn ppoll(
        fds: *mut libc::pollfd,
        count: libc::nfds_t,
        timeout: *const libc::timespec,
        mask: *const libc::sigset_t
    ) -> c_int = |real| {
        if fails(Ppoll) { -1 } else { real(fds, count, timeout, mask) }
    }

    fn eventfd(value: c_uint, flags: c_int) -> c_int = |real| {
        if fails(Eventfd) {
            return -1;
        }
        let fd = real(value, flags);
        remember(fd, EVENTFD);
        fd
    }

    fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize = |real| {
        if descriptor(fd) == EVENTFD && fails(Read) {
            return -1;
        }
        real(fd, buffer, length)
    }

    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int = |real| {
        if fails(Dup3) { -1 } else { real(from, to, flags) }
    }

    fn close(fd: c_int) -> c_int = |real| {
        let known = descriptor(fd);
        remember(fd, UNKNOWN);
        let result = real(fd);
        if known != UNKNOWN && fails(Close) {
            set_errno();
            return -1;
        }
        result
    }

    fn sigaction(
        signal: c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction
    ) -> c_int = |real| {
        // Asking and restoring, for which the library gives one of the two, can't fail.
        if !new.is_null() && !old.is_null() && fails(Sigaction) {
            return -1;
        }
        real(signal, new, old)
    }

    fn fork() -> libc::pid_t = |real| {
        if fails(Fork) { -1 } else { real() }
    }

    fn opendir(path: *const c_char) -> *mut libc::DIR = |real| {
        if fails(Opendir) {
            return ptr::null_mut();
        }
        if WITHOUT_PROC.load(SeqCst) {
            *libc::__errno_location() = libc::ENOENT;
            return ptr::null_mut();
        }
        real(path)
    }

    fn unshare(flags: c_int) -> c_int = |real| {
        if fails(Unshare) { -1 } else { real(flags) }
    }

    fn waitid(
        kind: libc::idtype_t,
        id: libc::id_t,
        info: *mut libc::siginfo_t,
        options: c_int
    ) -> c_int = |real| {
        if fails(Waitid) { -1 } else { real(kind, id, info, options) }
    }

    fn waitpid(pid: libc::pid_t, status: *mut c_int, options: c_int) -> libc::pid_t = |real| {
        if fails(Waitpid) { -1 } else { real(pid, status, options) }
    }

    // The six arguments are where those of a variadic function would be.
    fn syscall(
        number: c_long,
        first: c_long,
        second: c_long,
        third: c_long,
        fourth: c_long,
        fifth: c_long,
        sixth: c_long
    ) -> c_long = |real| {
        match number {
            libc::SYS_epoll_pwait2 if fails(EpollPwait2) => -1,
            libc::SYS_pidfd_open if fails(PidfdOpen) => -1,
            libc::SYS_pidfd_open if WITHOUT_PIDFDS.load(SeqCst) => {
                *libc::__errno_location() = libc::ENOSYS;
                -1
            }
            libc::SYS_rt_tgsigqueueinfo if fails(SendOn) => -1,
            _ => {
                let result = real(number, first, second, third, fourth, fifth, sixth);
                if number == libc::SYS_pidfd_open {
                    remember(result as c_int, OTHER);
                }
                result
            }
        }
    }

    // Only to be called before: see `prepare`.
    fn write(fd: c_int, buffer: *const c_void, length: usize) -> isize = |real| {
        real(fd, buffer, length)
    }
}

type AtFork = Option<unsafe extern "C" fn()>;

unsafe extern "C" {
    fn __register_atfork(
        prepare: AtFork,
        parent: AtFork,
        child: AtFork,
        object: *mut c_void,
    ) -> c_int;
}

/// In the place of libc's, which is part of the program and not of the shared library.
///
/// # Safety
///
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_atfork(prepare: AtFork, parent: AtFork, child: AtFork) -> c_int {
    if fails(Atfork) {
        return ERRNO.load(SeqCst);
    }
    unsafe { __register_atfork(prepare, parent, child, ptr::null_mut()) }
}
