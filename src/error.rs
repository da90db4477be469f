//! Errors that say which operation failed, and that lose nothing.

use std::error::Error;
use std::fmt;
use std::io;

/// A system call that failed, inside an [`io::Error`]: its name, and what the system said. (Also
/// its [`source`](Error::source).)
///
/// [`io::Error::raw_os_error`] knows no number of an error with a text, so it is here:
///
/// ```
/// use tevent::OsError;
///
/// fn number(error: &std::io::Error) -> Option<i32> {
///     let inner = error.get_ref()?.downcast_ref::<OsError>()?;
///     inner.error().raw_os_error()
/// }
/// # assert_eq!(number(&std::io::Error::from_raw_os_error(9)), None);
/// ```
#[derive(Debug)]
pub struct OsError {
    operation: &'static str,
    source: io::Error,
}

impl OsError {
    /// Names the operation that failed with `error`.
    pub(crate) fn wrap(operation: &'static str, error: io::Error) -> io::Error {
        if error.get_ref().is_some_and(|inner| inner.is::<OsError>()) {
            return error;
        }
        let source = error;
        io::Error::new(source.kind(), OsError { operation, source })
    }

    /// The name of the call that has failed with `error`, if it was named.
    pub(crate) fn operation_of(error: &io::Error) -> Option<&'static str> {
        let inner = error.get_ref()?.downcast_ref::<OsError>()?;
        Some(inner.operation)
    }

    /// The name of the system call, such as `"epoll_ctl"`. Where the library doesn't know that,
    /// since a program's own backend hasn't said it, it is what was to be done: `"reopening after
    /// fork"`, `"changing an interest"`, `"wait"`.
    ///
    /// ```
    /// fn operation(error: &std::io::Error) -> &str {
    ///     match error.get_ref().and_then(|inner| inner.downcast_ref::<tevent::OsError>()) {
    ///         Some(inner) => inner.operation(),
    ///         None => "something",
    ///     }
    /// }
    /// # operation(&std::io::Error::from_raw_os_error(9));
    /// ```
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// What the system said, with its number.
    pub fn error(&self) -> &io::Error {
        &self.source
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.operation, self.source)
    }
}

impl Error for OsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// The number that the system gave an error, also when the operation was named by [`OsError`].
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(OsError { source, .. }) => source.raw_os_error(),
        None => error.raw_os_error(),
    }
}

/// Adding a descriptor event failed; the source is in here, not lost.
///
/// Converts into an [`io::Error`] by `?`, which drops the source.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::os::fd::AsFd;
/// use tevent::{BackendKind, Context, FdFlags};
///
/// # #[cfg(target_os = "linux")] {
/// let context = Context::builder().backend(BackendKind::Epoll).build()?;
/// let file = std::fs::File::open("/proc/self/exe")?;
/// // A regular file is nothing for a bare epoll (the standard backend takes it).
/// let error = context.add_fd(file, FdFlags::READ, |_, _, _| {}).unwrap_err();
/// println!("{error}");
/// let file = error.into_source();
/// assert!(file.metadata()?.is_file());
/// # }
/// # Ok(())
/// # }
/// ```
pub struct AddFdError<S> {
    source: S,
    error: io::Error,
}

impl<S> AddFdError<S> {
    pub(crate) fn new(source: S, error: io::Error) -> Self {
        AddFdError { source, error }
    }

    /// Why the source was refused.
    pub fn error(&self) -> &io::Error {
        &self.error
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }

    /// Gives the source and the reason back.
    pub fn into_parts(self) -> (S, io::Error) {
        (self.source, self.error)
    }
}

impl<S> fmt::Debug for AddFdError<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AddFdError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Display for AddFdError<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "can't watch the descriptor: {}", self.error)
    }
}

impl<S> Error for AddFdError<S> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl<S> From<AddFdError<S>> for io::Error {
    fn from(error: AddFdError<S>) -> io::Error {
        error.error
    }
}

/// The loop was run inside one of its own handlers, and nesting isn't allowed.
pub(crate) fn nested() -> io::Error {
    io::Error::new(
        io::ErrorKind::Deadlock,
        "the loop is running already: allow nesting with Context::set_nesting_allowed, \
         or re-initialise the context in a forked child",
    )
}
