//! Programs on the C library.

use super::ffi::{self, HERE, Opaque, Tevent};
use super::library::Library;
use super::polled::Polled;
use super::program::{Close, When};
use super::world::world;
use crate::process::sys;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Reference {
    tevent: &'static Tevent,
    context: Cell<Opaque>,
    /// What events belong to, so that they outlive the context.
    parent: Opaque,
    /// Since the Epoch: the library's clock.
    start: Duration,
    fds: RefCell<Vec<FdEvent>>,
    timers: RefCell<Vec<Opaque>>,
    immediates: RefCell<Vec<Opaque>>,
    signals: RefCell<Vec<Opaque>>,
    /// For each `run_until`, whether it is to end.
    stopped: RefCell<Vec<bool>>,
    polled: RefCell<Polled>,
}

#[derive(Clone, Copy)]
struct FdEvent {
    /// Null when it is gone.
    event: Opaque,
    fd: RawFd,
    close: Close,
    /// The flags that it gets back when its handler has returned, which runs a loop.
    suspended: Option<u16>,
}

thread_local! {
    static REFERENCE: RefCell<Option<Rc<Reference>>> = const { RefCell::new(None) };
}

fn reference() -> Rc<Reference> {
    REFERENCE.with_borrow(|reference| reference.clone().expect("a program is being carried out"))
}

impl Reference {
    pub fn open(backend: &str, nesting: bool) -> Rc<dyn Library> {
        let tevent = ffi::tevent().expect("looked for before");
        let name = CString::new(backend).expect("no zeros");
        let context = unsafe { (tevent.context_init)(ptr::null_mut(), name.as_ptr()) };
        assert!(!context.is_null(), "the library has no backend {backend}");
        if nesting {
            unsafe { (tevent.allow_nesting)(context) };
        }
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        let parent = unsafe { (tevent.named)(ptr::null_mut(), 0, HERE) };
        let reference = Rc::new(Reference {
            tevent,
            parent,
            context: Cell::new(context),
            start: start.expect("after 1970"),
            fds: RefCell::default(),
            timers: RefCell::default(),
            immediates: RefCell::default(),
            signals: RefCell::default(),
            stopped: RefCell::default(),
            polled: RefCell::default(),
        });
        REFERENCE.set(Some(Rc::clone(&reference)));
        reference
    }

    fn deadline(&self, when: When) -> libc::timeval {
        let since = match when {
            When::Zero => Duration::ZERO,
            When::Due(number) => {
                self.start - Duration::from_secs(60) + Duration::from_millis(number.into())
            }
            When::Never(number) => self.start + Duration::from_secs(3600 + u64::from(number)),
        };
        libc::timeval {
            tv_sec: since.as_secs() as libc::time_t,
            tv_usec: since.subsec_micros().into(),
        }
    }

    fn free(&self, table: &RefCell<Vec<Opaque>>, slot: usize) {
        let event = std::mem::replace(&mut table.borrow_mut()[slot], ptr::null_mut());
        if !event.is_null() {
            unsafe { (self.tevent.free)(event, HERE) };
        }
    }

    fn tell_flags(&self, slot: usize, flags: u16) {
        let event = self.fds.borrow()[slot].event;
        let mut polled = self.polled.borrow_mut();
        // The library may have disarmed it by itself.
        let former = unsafe { (self.tevent.fd_flags)(event) };
        polled.note(slot, former != 0);
        polled.note(slot, flags != 0);
        unsafe { (self.tevent.set_fd_flags)(event, flags) };
    }

    /// What ours does by itself when a handler runs a loop, see `known.rs`.
    fn suspend_running(&self) {
        let Some(slot) = world().running_fd() else {
            return;
        };
        let event = self.fds.borrow()[slot];
        if event.suspended.is_none() && !event.event.is_null() {
            let flags = unsafe { (self.tevent.fd_flags)(event.event) };
            self.fds.borrow_mut()[slot].suspended = Some(flags);
            self.tell_flags(slot, 0);
        }
    }

    fn resume(&self, slot: usize) {
        let event = self.fds.borrow()[slot];
        if let Some(flags) = event.suspended {
            self.fds.borrow_mut()[slot].suspended = None;
            if !event.event.is_null() {
                self.tell_flags(slot, flags);
            }
        }
    }
}

extern "C" fn on_fd(_: Opaque, _: Opaque, flags: u16, slot: *mut c_void) {
    world().on_fd(slot as usize, flags as u8);
    reference().resume(slot as usize);
}

extern "C" fn on_close(_: Opaque, _: Opaque, _: c_int, slot: *mut c_void) {
    world().on_close(slot as usize);
}

extern "C" fn on_timer(_: Opaque, _: Opaque, _: libc::timeval, slot: *mut c_void) {
    world().on_timer(slot as usize);
}

extern "C" fn on_immediate(_: Opaque, _: Opaque, slot: *mut c_void) {
    world().on_immediate(slot as usize);
}

extern "C" fn on_signal(
    _: Opaque,
    _: Opaque,
    signum: c_int,
    count: c_int,
    siginfo: *mut c_void,
    slot: *mut c_void,
) {
    let value = (!siginfo.is_null()).then(|| {
        let siginfo = siginfo.cast::<libc::siginfo_t>();
        let (code, value) = unsafe { ((*siginfo).si_code, (*siginfo).si_value()) };
        let is_queued = code == libc::SI_QUEUE;
        (code, is_queued.then_some(value.sival_ptr as usize))
    });
    world().on_signal(slot as usize, &format!("{signum}, {count}, {value:?}"));
}

extern "C" fn on_hook(
    _: Opaque,
    _: *mut c_void,
    level: u32,
    begins: bool,
    _: *mut c_void,
    _: *const c_char,
) -> c_int {
    world().on_hook(level, begins);
    0
}

extern "C" fn is_finished(finished: *mut c_void) -> bool {
    let finished = finished.cast::<Box<dyn FnMut() -> bool>>();
    unsafe { (*finished)() }
}

fn result(code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}

impl Library for Reference {
    fn add_fd(&self, slot: usize, fd: RawFd, flags: u8, close: Close) -> bool {
        let context = self.context.get();
        let event = unsafe {
            (self.tevent.add_fd)(
                context,
                self.parent,
                fd,
                flags.into(),
                on_fd,
                slot as *mut c_void,
                HERE,
                HERE,
            )
        };
        self.fds.borrow_mut().push(FdEvent {
            event,
            fd,
            close,
            suspended: None,
        });
        if event.is_null() {
            return false;
        }
        self.polled.borrow_mut().note(slot, flags != 0);
        match close {
            Close::Nothing => {}
            Close::Callback => unsafe { (self.tevent.set_close_fn)(event, Some(on_close)) },
            Close::Auto => unsafe { (self.tevent.set_auto_close)(event) },
        }
        true
    }

    fn fd_flags(&self, slot: usize) -> u8 {
        let event = self.fds.borrow()[slot];
        match event.suspended {
            _ if event.event.is_null() => 0,
            Some(flags) => flags as u8,
            None => unsafe { (self.tevent.fd_flags)(event.event) as u8 },
        }
    }

    fn set_fd_flags(&self, slot: usize, flags: u8) {
        let event = self.fds.borrow()[slot];
        if event.suspended.is_some() {
            self.fds.borrow_mut()[slot].suspended = Some(flags.into());
        } else if !event.event.is_null() {
            self.tell_flags(slot, flags.into());
        }
    }

    fn free_fd(&self, slot: usize) {
        let event = self.fds.borrow()[slot];
        self.fds.borrow_mut()[slot].event = ptr::null_mut();
        self.polled.borrow_mut().note(slot, false);
        unsafe { (self.tevent.free)(event.event, HERE) };
        if event.close == Close::Auto && !sys::is_open(event.fd) {
            world().on_close(slot);
        }
    }

    fn toggle(&self, slot: usize, flag: u8, on: bool) {
        let flags = self.fd_flags(slot);
        let flags = if on { flags | flag } else { flags & !flag };
        self.set_fd_flags(slot, flags);
    }

    fn take_source(&self, slot: usize) {
        let event = self.fds.borrow()[slot].event;
        unsafe { (self.tevent.set_close_fn)(event, None) };
        self.free_fd(slot);
    }

    // What is detached stays with the program, which frees it with the context.

    fn detach_fd(&self, _: usize) {}

    fn detach_timer(&self, _: usize) {}

    fn detach_immediate(&self, _: usize) {}

    fn detach_signal(&self, _: usize) {}

    fn add_timer(&self, slot: usize, when: When) {
        let timer = unsafe {
            (self.tevent.add_timer)(
                self.context.get(),
                self.parent,
                self.deadline(when),
                on_timer,
                slot as *mut c_void,
                HERE,
                HERE,
            )
        };
        assert!(!timer.is_null());
        self.timers.borrow_mut().push(timer);
    }

    fn move_timer(&self, slot: usize, when: When) {
        let timer = self.timers.borrow()[slot];
        unsafe { (self.tevent.update_timer)(timer, self.deadline(when)) };
    }

    fn free_timer(&self, slot: usize) {
        self.free(&self.timers, slot);
    }

    fn forget_timer(&self, slot: usize) {
        self.timers.borrow_mut()[slot] = ptr::null_mut();
    }

    fn add_immediate(&self, slot: usize) {
        let immediate = unsafe { (self.tevent.create_immediate)(self.parent, HERE) };
        assert!(!immediate.is_null());
        let mut immediates = self.immediates.borrow_mut();
        immediates.resize(slot, ptr::null_mut());
        immediates.push(immediate);
    }

    fn schedule(&self, slot: usize) {
        let immediate = self.immediates.borrow()[slot];
        unsafe {
            (self.tevent.schedule_immediate)(
                immediate,
                self.context.get(),
                on_immediate,
                slot as *mut c_void,
                HERE,
                HERE,
            );
        }
    }

    fn reset(&self, slot: usize) {
        // The function of that name is younger than 0.14.1. One that is freed doesn't run either.
        let immediate = unsafe { (self.tevent.create_immediate)(self.parent, HERE) };
        self.free(&self.immediates, slot);
        self.immediates.borrow_mut()[slot] = immediate;
    }

    fn free_immediate(&self, slot: usize) {
        self.free(&self.immediates, slot);
    }

    fn add_signal(&self, _: usize, signum: i32, siginfo: bool, once: bool) {
        let mut flags = 0;
        if siginfo {
            flags |= libc::SA_SIGINFO;
        }
        if once {
            flags |= libc::SA_RESETHAND;
        }
        let mut signals = self.signals.borrow_mut();
        let signal = unsafe {
            (self.tevent.add_signal)(
                self.context.get(),
                self.parent,
                signum,
                flags,
                on_signal,
                signals.len() as *mut c_void,
                HERE,
                HERE,
            )
        };
        assert!(!signal.is_null());
        signals.push(signal);
    }

    fn free_signal(&self, slot: usize) {
        self.free(&self.signals, slot);
    }

    fn forget_signal(&self, slot: usize) {
        self.signals.borrow_mut()[slot] = ptr::null_mut();
    }

    fn run_once(&self) -> Result<Option<bool>, String> {
        self.suspend_running();
        let code = unsafe { (self.tevent.loop_once)(self.context.get(), HERE) };
        result(code).map(|()| None)
    }

    fn run_until(&self, finished: Box<dyn FnMut() -> bool>) -> Result<(), String> {
        self.suspend_running();
        let mut finished = finished;
        let data = (&raw mut finished).cast();
        self.stopped.borrow_mut().push(false);
        let code = unsafe { (self.tevent.loop_until)(self.context.get(), is_finished, data, HERE) };
        self.stopped.borrow_mut().pop();
        result(code)
    }

    fn stop(&self) {
        if let Some(stopped) = self.stopped.borrow_mut().last_mut() {
            *stopped = true;
        }
    }

    fn was_stopped(&self) -> bool {
        self.stopped.borrow().last().copied().unwrap_or(false)
    }

    fn set_hook(&self, is_set: bool) {
        let hook = is_set.then_some(on_hook as ffi::NestingHook);
        unsafe { (self.tevent.set_nesting_hook)(self.context.get(), hook, ptr::null_mut()) };
    }

    fn run(&self) -> Result<(), String> {
        result(unsafe { (self.tevent.loop_wait)(self.context.get(), HERE) })
    }

    fn reinitialise(&self) -> bool {
        if let Some(stopped) = self.stopped.borrow_mut().last_mut() {
            *stopped = false;
        }
        self.polled.borrow_mut().clear();
        unsafe { (self.tevent.re_initialise)(self.context.get()) == 0 }
    }

    fn on_wait(&self) {
        let polled = self.polled.borrow().entries();
        for slot in polled {
            // It may have disarmed some by itself.
            let event = self.fds.borrow()[slot].event;
            let flags = unsafe { (self.tevent.fd_flags)(event) };
            self.polled.borrow_mut().note(slot, flags != 0);
        }
        self.polled.borrow_mut().append();
    }

    fn polled(&self) -> Option<Vec<usize>> {
        Some(self.polled.borrow().entries())
    }

    fn close(&self) {
        let context = self.context.replace(ptr::null_mut());
        unsafe { (self.tevent.free)(context, HERE) };
    }

    fn fork(&self) -> Option<u32> {
        sys::is_child_of_foreign_fork()
    }
}
