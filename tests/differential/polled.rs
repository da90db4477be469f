//! The order of the array that the C library hands to `poll(2)`.
//!
//! It has an entry for every event that wants something; where several are on a descriptor only the
//! order tells which is whose. As seen from outside: new ones are appended before the next wait, and
//! one that is taken out leaves its place to the last.

#[derive(Default)]
pub struct Polled {
    entries: Vec<usize>,
    to_append: Vec<usize>,
}

impl Polled {
    /// An event wants something, or doesn't any more.
    pub fn note(&mut self, slot: usize, wants: bool) {
        let place = self.entries.iter().position(|&other| other == slot);
        match place {
            _ if !wants => {
                self.to_append.retain(|&other| other != slot);
                if let Some(place) = place {
                    self.entries.swap_remove(place);
                }
            }
            None if !self.to_append.contains(&slot) => self.to_append.push(slot),
            _ => {}
        }
    }

    /// The library is about to wait.
    pub fn append(&mut self) {
        self.entries.append(&mut self.to_append);
    }

    pub fn clear(&mut self) {
        *self = Polled::default();
    }

    pub fn entries(&self) -> Vec<usize> {
        self.entries.clone()
    }
}
