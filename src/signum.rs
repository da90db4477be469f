//! Signal numbers.

use std::fmt;
use std::io;

/// The number of a signal that a loop can handle.
///
/// Not among them are `SIGKILL` and `SIGSTOP`, which nobody can, and `SIGSEGV`, `SIGBUS`, `SIGFPE`
/// and `SIGILL`: when a program's own fault raises one of these, it would be raised again before
/// any loop could look at it.
///
/// ```
/// use tevent::Signum;
///
/// assert_eq!(Signum::SIGTERM.to_string(), "SIGTERM");
/// assert_eq!(Signum::new(Signum::SIGHUP.number()).unwrap(), Signum::SIGHUP);
/// assert!(Signum::new(0).is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signum(i32);

const REFUSED: [i32; 6] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
];

const NAMED: [(Signum, &str); 20] = [
    (Signum::SIGHUP, "SIGHUP"),
    (Signum::SIGINT, "SIGINT"),
    (Signum::SIGQUIT, "SIGQUIT"),
    (Signum::SIGTRAP, "SIGTRAP"),
    (Signum::SIGABRT, "SIGABRT"),
    (Signum::SIGUSR1, "SIGUSR1"),
    (Signum::SIGUSR2, "SIGUSR2"),
    (Signum::SIGPIPE, "SIGPIPE"),
    (Signum::SIGALRM, "SIGALRM"),
    (Signum::SIGTERM, "SIGTERM"),
    (Signum::SIGCHLD, "SIGCHLD"),
    (Signum::SIGCONT, "SIGCONT"),
    (Signum::SIGTSTP, "SIGTSTP"),
    (Signum::SIGTTIN, "SIGTTIN"),
    (Signum::SIGTTOU, "SIGTTOU"),
    (Signum::SIGURG, "SIGURG"),
    (Signum::SIGXCPU, "SIGXCPU"),
    (Signum::SIGXFSZ, "SIGXFSZ"),
    (Signum::SIGWINCH, "SIGWINCH"),
    (Signum::SIGIO, "SIGIO"),
];

impl Signum {
    /// The terminal was closed; for daemons: read the configuration again.
    pub const SIGHUP: Signum = Signum(libc::SIGHUP);
    /// Interrupt from the keyboard.
    pub const SIGINT: Signum = Signum(libc::SIGINT);
    /// Quit from the keyboard.
    pub const SIGQUIT: Signum = Signum(libc::SIGQUIT);
    /// A debugger's breakpoint.
    pub const SIGTRAP: Signum = Signum(libc::SIGTRAP);
    /// `abort(3)`.
    pub const SIGABRT: Signum = Signum(libc::SIGABRT);
    /// For the program's own use.
    pub const SIGUSR1: Signum = Signum(libc::SIGUSR1);
    /// For the program's own use.
    pub const SIGUSR2: Signum = Signum(libc::SIGUSR2);
    /// A write with nobody to read it. Rust's runtime ignores it.
    pub const SIGPIPE: Signum = Signum(libc::SIGPIPE);
    /// `alarm(2)`.
    pub const SIGALRM: Signum = Signum(libc::SIGALRM);
    /// Please end.
    pub const SIGTERM: Signum = Signum(libc::SIGTERM);
    /// A child ended, stopped or went on.
    pub const SIGCHLD: Signum = Signum(libc::SIGCHLD);
    /// Go on after a stop.
    pub const SIGCONT: Signum = Signum(libc::SIGCONT);
    /// Stop from the keyboard.
    pub const SIGTSTP: Signum = Signum(libc::SIGTSTP);
    /// A background process reads from the terminal.
    pub const SIGTTIN: Signum = Signum(libc::SIGTTIN);
    /// A background process writes to the terminal.
    pub const SIGTTOU: Signum = Signum(libc::SIGTTOU);
    /// Urgent data on a socket.
    pub const SIGURG: Signum = Signum(libc::SIGURG);
    /// The limit of processor time is reached.
    pub const SIGXCPU: Signum = Signum(libc::SIGXCPU);
    /// The limit of a file's size is reached.
    pub const SIGXFSZ: Signum = Signum(libc::SIGXFSZ);
    /// The terminal's size has changed.
    pub const SIGWINCH: Signum = Signum(libc::SIGWINCH);
    /// A descriptor is ready (`O_ASYNC`).
    pub const SIGIO: Signum = Signum(libc::SIGIO);

    /// Checks a number.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`]: no signal has that number, or it is one that no loop can
    /// handle. That goes for numbers above 64 too, which only Linux on MIPS has.
    ///
    /// ```
    /// use tevent::Signum;
    ///
    /// assert!(Signum::new(9).is_err(), "SIGKILL");
    /// ```
    #[doc(alias = "tevent_num_signals")]
    pub fn new(number: i32) -> io::Result<Signum> {
        if (1..=last()).contains(&number) && !REFUSED.contains(&number) {
            Ok(Signum(number))
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("signal {number} can't be handled by an event loop"),
            ))
        }
    }

    /// The real-time signal number `offset`, counted from 0 (`SIGRTMIN + offset`). Real-time
    /// signals are queued by the kernel one by one, and can carry a value.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`]: the system doesn't have so many.
    ///
    /// ```
    /// use tevent::Signum;
    ///
    /// # #[cfg(target_os = "linux")] {
    /// assert_eq!(Signum::realtime(2).unwrap().to_string(), "SIGRTMIN+2");
    /// assert!(Signum::realtime(100).is_err());
    /// # }
    /// ```
    #[doc(alias = "SIGRTMIN")]
    pub fn realtime(offset: u8) -> io::Result<Signum> {
        match first_realtime() {
            Some(first) => Signum::new(first + i32::from(offset)),
            None => Signum::new(0),
        }
    }

    /// The number.
    ///
    /// ```
    /// assert_eq!(tevent::Signum::SIGTERM.number(), 15);
    /// ```
    pub fn number(self) -> i32 {
        self.0
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn first_realtime() -> Option<i32> {
    Some(libc::SIGRTMIN())
}

/// Linux has more of them on MIPS, but they are as many as there are bits for in a loop.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn last() -> i32 {
    libc::SIGRTMAX().min(64)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn first_realtime() -> Option<i32> {
    None
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn last() -> i32 {
    libc::SIGUSR2
}

impl TryFrom<i32> for Signum {
    type Error = io::Error;

    fn try_from(number: i32) -> io::Result<Signum> {
        Signum::new(number)
    }
}

impl fmt::Display for Signum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, name)) = NAMED.iter().find(|(signum, _)| signum == self) {
            return formatter.pad(name);
        }
        match first_realtime() {
            Some(first) if self.0 >= first => write!(formatter, "SIGRTMIN+{}", self.0 - first),
            _ => write!(formatter, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Signum({}: {self})", self.0)
    }
}
