//! Credits: how many requests a client may have under way, and which message
//! ids it may use for them ([MS-SMB2] 3.3.1.1, 3.3.1.2).

use std::collections::VecDeque;

/// The most credits a client holds. A READ of 8 MiB costs 128.
const MAX_CREDITS: usize = 8192;
/// The most the oldest unused id may lag behind the newest granted.
const MAX_WINDOW: usize = 2 * MAX_CREDITS;

/// The message ids a client may use, each once.
#[derive(Debug)]
pub(super) struct CreditWindow {
    /// The oldest id that has not been used.
    low: u64,
    /// From `low` on, for each granted id: whether it has been used. The first
    /// is always unused.
    used: VecDeque<bool>,
    unused: usize,
}

impl CreditWindow {
    /// A new connection may use id 0.
    pub(super) fn new() -> Self {
        CreditWindow {
            low: 0,
            used: VecDeque::from([false]),
            unused: 1,
        }
    }

    /// Uses up `charge` ids from `first` on. `false` if one of them is not the
    /// client's to use; nothing has changed then.
    pub(super) fn consume(&mut self, first: u64, charge: u16) -> bool {
        let charge = usize::from(charge.max(1));
        let Some(start) = first
            .checked_sub(self.low)
            .and_then(|start| usize::try_from(start).ok())
        else {
            return false;
        };
        let Some(end) = start
            .checked_add(charge)
            .filter(|&end| end <= self.used.len())
        else {
            return false;
        };
        if self.used.range(start..end).any(|&used| used) {
            return false;
        }
        self.used
            .range_mut(start..end)
            .for_each(|used| *used = true);
        self.unused -= charge;
        while self.used.front() == Some(&true) {
            self.used.pop_front();
            self.low += 1;
        }
        true
    }

    /// Grants what a response grants to a client that asks for `requested`.
    ///
    /// That is what it asks for, within bounds, and never nothing when it has
    /// nothing left: it could not ask again.
    pub(super) fn grant(&mut self, requested: u16) -> u16 {
        let room = MAX_CREDITS
            .saturating_sub(self.unused)
            .min(MAX_WINDOW.saturating_sub(self.used.len()));
        let least = usize::from(self.unused == 0);
        let granted = usize::from(requested.max(1)).min(room).max(least);
        self.used.resize(self.used.len() + granted, false);
        self.unused += granted;
        granted as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_be_used_once() {
        let mut window = CreditWindow::new();
        assert!(window.consume(0, 0));
        assert!(!window.consume(0, 1));
        assert!(!window.consume(1, 1), "not granted yet");
        assert_eq!(window.grant(10), 10);
        assert!(window.consume(3, 4));
        assert!(!window.consume(2, 2), "overlaps");
        assert!(window.consume(1, 2));
        assert!(!window.consume(u64::MAX, 2));
        assert_eq!(window.low, 7);
    }

    #[test]
    fn a_client_is_never_left_without_credit() {
        let mut window = CreditWindow::new();
        assert!(window.consume(0, 1));
        assert_eq!(window.grant(0), 1);
        assert_eq!(usize::from(window.grant(u16::MAX)), MAX_CREDITS - 1);
        assert_eq!(window.grant(100), 0);
    }

    #[test]
    fn an_id_held_back_ends_the_granting() {
        let mut window = CreditWindow::new();
        assert!(window.consume(0, 1));
        window.grant(2);
        let mut next = 2;
        while window.consume(next, 1) {
            window.grant(1);
            next += 1;
        }
        assert!(window.used.len() <= MAX_WINDOW);
    }
}
