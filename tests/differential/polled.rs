//! The order of the array that the C library hands to `poll(2)`.
//!
//! It has an entry for every event that wants something; where several are on a descriptor only the
//! order tells which is whose. As seen from outside: before the next wait those that were taken out are
//! looked for from the front, and each leaves its place to the last; then new ones are appended.

#[derive(Default)]
pub struct Polled {
    /// `None`: that event was taken out.
    entries: Vec<Option<usize>>,
    to_append: Vec<usize>,
}

impl Polled {
    /// An event wants something, or doesn't any more.
    pub fn note(&mut self, slot: usize, wants: bool) {
        let place = self.entries.iter().position(|&other| other == Some(slot));
        match place {
            _ if !wants => {
                self.to_append.retain(|&other| other != slot);
                if let Some(place) = place {
                    self.entries[place] = None;
                }
            }
            None if !self.to_append.contains(&slot) => self.to_append.push(slot),
            _ => {}
        }
    }

    /// The library is about to wait.
    pub fn append(&mut self) {
        while let Some(place) = self.entries.iter().position(Option::is_none) {
            self.entries.swap_remove(place);
        }
        self.entries.extend(self.to_append.drain(..).map(Some));
    }

    pub fn clear(&mut self) {
        *self = Polled::default();
    }

    /// As they are handed over, if the library is about to wait.
    pub fn entries(&self) -> Vec<usize> {
        self.entries.iter().copied().flatten().collect()
    }
}
