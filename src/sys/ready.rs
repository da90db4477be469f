//! One ready descriptor, in the layout in which epoll reports it, so that the kernel fills the
//! loop's list in place.

use std::fmt;

/// What is ready, and the user data that the descriptor was registered with.
#[derive(Clone, Copy)]
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
pub(crate) struct Event {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { events, data } = *self;
        write!(formatter, "Event({events:#x}, {data:#x})")
    }
}

#[cfg(target_os = "linux")]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Event>() == size_of::<libc::epoll_event>());
    assert!(align_of::<Event>() == align_of::<libc::epoll_event>());
    assert!(offset_of!(Event, events) == offset_of!(libc::epoll_event, events));
    assert!(offset_of!(Event, data) == offset_of!(libc::epoll_event, u64));
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_shows_its_bits() {
        let event = Event {
            events: 0x11,
            data: 0xab,
        };
        assert_eq!(format!("{event:?}"), "Event(0x11, 0xab)");
    }
}
