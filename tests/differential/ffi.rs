//! The C library, loaded at run time: what of its documented interface the programs need.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::sync::OnceLock;

/// A `tevent_context`, or an event of any kind: the library's own, never looked into.
pub type Opaque = *mut c_void;

pub type FdHandler = extern "C" fn(Opaque, Opaque, u16, *mut c_void);
pub type FdCloseFn = extern "C" fn(Opaque, Opaque, c_int, *mut c_void);
pub type TimerHandler = extern "C" fn(Opaque, Opaque, libc::timeval, *mut c_void);
pub type ImmediateHandler = extern "C" fn(Opaque, Opaque, *mut c_void);
pub type SignalHandler = extern "C" fn(Opaque, Opaque, c_int, c_int, *mut c_void, *mut c_void);
pub type Finished = extern "C" fn(*mut c_void) -> bool;

pub type NestingHook =
    extern "C" fn(Opaque, *mut c_void, u32, bool, *mut c_void, *const c_char) -> c_int;

type Name = *const c_char;

/// Where the library is told that an event was made.
pub const HERE: Name = c"tests/differential".as_ptr();

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the library, by the names without which C's macros are written.
        pub struct Tevent {
            $(pub $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Tevent {
            fn load() -> Result<Tevent, String> {
                let tevent = open(c"libtevent.so.0")?;
                let talloc = open(c"libtalloc.so.2")?;
                Ok(Tevent {
                    // SAFETY: the symbol is the C function of this signature.
                    $($field: unsafe { mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn($($argument),*) $(-> $result)?,
                    >(symbol(&[tevent, talloc], $symbol)?) },)*
                })
            }
        }
    };
}

functions! {
    context_init = c"tevent_context_init_byname": fn(Opaque, Name) -> Opaque;
    add_fd = c"_tevent_add_fd":
        fn(Opaque, Opaque, c_int, u16, FdHandler, *mut c_void, Name, Name) -> Opaque;
    fd_flags = c"tevent_fd_get_flags": fn(Opaque) -> u16;
    set_fd_flags = c"tevent_fd_set_flags": fn(Opaque, u16);
    set_close_fn = c"tevent_fd_set_close_fn": fn(Opaque, Option<FdCloseFn>);
    set_auto_close = c"tevent_fd_set_auto_close": fn(Opaque);
    add_timer = c"_tevent_add_timer":
        fn(Opaque, Opaque, libc::timeval, TimerHandler, *mut c_void, Name, Name) -> Opaque;
    update_timer = c"tevent_update_timer": fn(Opaque, libc::timeval);
    create_immediate = c"_tevent_create_immediate": fn(Opaque, Name) -> Opaque;
    schedule_immediate = c"_tevent_schedule_immediate":
        fn(Opaque, Opaque, ImmediateHandler, *mut c_void, Name, Name);
    add_signal = c"_tevent_add_signal":
        fn(Opaque, Opaque, c_int, c_int, SignalHandler, *mut c_void, Name, Name) -> Opaque;
    loop_once = c"_tevent_loop_once": fn(Opaque, Name) -> c_int;
    loop_wait = c"_tevent_loop_wait": fn(Opaque, Name) -> c_int;
    loop_until = c"_tevent_loop_until": fn(Opaque, Finished, *mut c_void, Name) -> c_int;
    allow_nesting = c"tevent_loop_allow_nesting": fn(Opaque);
    set_nesting_hook = c"tevent_loop_set_nesting_hook":
        fn(Opaque, Option<NestingHook>, *mut c_void);
    re_initialise = c"tevent_re_initialise": fn(Opaque) -> c_int;
    named = c"talloc_named_const": fn(Opaque, usize, Name) -> Opaque;
    free = c"_talloc_free": fn(Opaque, Name) -> c_int;
}

/// The library, loaded once; the error says why it isn't there.
pub fn tevent() -> Result<&'static Tevent, &'static str> {
    static LOADED: OnceLock<Result<Tevent, String>> = OnceLock::new();
    LOADED
        .get_or_init(Tevent::load)
        .as_ref()
        .map_err(String::as_str)
}

fn open(name: &CStr) -> Result<Opaque, String> {
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        return Err(last_error());
    }
    Ok(library)
}

fn symbol(libraries: &[Opaque], name: &CStr) -> Result<*mut c_void, String> {
    for &library in libraries {
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        if !address.is_null() {
            return Ok(address);
        }
    }
    Err(last_error())
}

fn last_error() -> String {
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
