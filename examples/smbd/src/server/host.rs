//! What a connection asks of the process around it.

use std::future::{Future, ready};
use std::pin::Pin;

use crate::auth::Identity;

/// The process that a connection lives in.
pub trait Host: std::fmt::Debug {
    /// Somebody has proved who they are, or is let in as a guest, or anonymously. From now on files
    /// are touched for all but the latter: the time to become their system user.
    ///
    /// # Errors
    ///
    /// Why that can't be done; the logon is refused, and this goes into the log.
    fn admit(&self, identity: &Identity) -> Result<(), String>;

    /// What an attempt to log on that has failed has to wait for before it is told so. Nothing else
    /// of the connection is processed meanwhile.
    fn delay_failure(&self) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A process that does nothing about its users, for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn admit(&self, _identity: &Identity) -> Result<(), String> {
        Ok(())
    }

    fn delay_failure(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(ready(()))
    }
}
