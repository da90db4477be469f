//! What the fuzz targets run: each module turns bytes into something to be done, and checks what
//! happens. A target in `targets/` is one call.

pub mod event_loop;
