//! What an event asks for.

use bitflags::bitflags;

bitflags! {
    /// What a descriptor event waits for, and what its handler is told.
    ///
    /// The values are those of tevent's `TEVENT_FD_READ`, `TEVENT_FD_WRITE` and `TEVENT_FD_ERROR`.
    ///
    /// Hang-up and errors of the descriptor are no flag of their own. They are reported as
    /// [`READ`](FdFlags::READ) to an event that waits for `READ`, and as
    /// [`ERROR`](FdFlags::ERROR) to one that waits for `ERROR`. An event that waits for
    /// [`WRITE`](FdFlags::WRITE) alone is not told: its `WRITE` flag is cleared, so that a dead
    /// peer can't make the loop spin. Ask for `READ` or `ERROR` too when that matters.
    ///
    /// ```
    /// use tevent::FdFlags;
    ///
    /// let both = FdFlags::READ | FdFlags::WRITE;
    /// assert!(both.contains(FdFlags::WRITE));
    /// assert_eq!(both.bits(), 3);
    /// ```
    #[doc(alias = "TEVENT_FD_READ")]
    #[doc(alias = "TEVENT_FD_WRITE")]
    #[doc(alias = "TEVENT_FD_ERROR")]
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct FdFlags: u8 {
        /// There is something to read, the peer closed, or the descriptor failed.
        const READ = 1;
        /// There is room to write.
        const WRITE = 2;
        /// The peer hung up or the descriptor failed, whether or not there is something to read.
        const ERROR = 4;
    }
}

bitflags! {
    /// How a signal is handled: the `sa_flags` of `sigaction(2)` that make sense in a loop.
    ///
    /// `RESTART`, `NODEFER` and `NOCLDSTOP` belong to the process: the first registration of a
    /// number, in whichever context, installs them, and they stay until the last is gone. The
    /// others belong to the event.
    ///
    /// ```
    /// use tevent::SignalFlags;
    ///
    /// let flags = SignalFlags::RESTART | SignalFlags::SIGINFO;
    /// assert!(!flags.contains(SignalFlags::RESETHAND));
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct SignalFlags: u8 {
        /// Interrupted system calls of this process are restarted where the kernel can.
        #[doc(alias = "SA_RESTART")]
        const RESTART = 1;
        /// The event is removed after its handler was called once.
        #[doc(alias = "SA_RESETHAND")]
        const RESETHAND = 2;
        /// The handler is called once for each signal, with its [`SigInfo`](crate::SigInfo).
        #[doc(alias = "SA_SIGINFO")]
        const SIGINFO = 4;
        /// The signal isn't blocked while it is being counted.
        #[doc(alias = "SA_NODEFER")]
        const NODEFER = 8;
        /// `SIGCHLD` doesn't come when a child is stopped or continued.
        #[doc(alias = "SA_NOCLDSTOP")]
        const NOCLDSTOP = 16;
    }
}
