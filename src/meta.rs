//! [`Meta`]: what every event carries for those who look at the loop.

use std::cell::Cell;
use std::panic::Location;
use std::rc::Rc;

/// What every event carries for those who look at the loop.
pub(crate) struct Meta {
    pub(crate) location: &'static Location<'static>,
    /// Apart, as few events have any.
    label: Cell<Option<Box<Label>>>,
}

#[derive(Default)]
struct Label {
    tag: u64,
    name: Option<Rc<str>>,
}

impl Meta {
    #[track_caller]
    pub(crate) fn here() -> Meta {
        Meta::at(Location::caller())
    }

    pub(crate) fn at(location: &'static Location<'static>) -> Meta {
        Meta {
            location,
            label: Cell::new(None),
        }
    }

    pub(crate) fn set_tag(&self, tag: u64) {
        let mut label = self.label.take().unwrap_or_default();
        label.tag = tag;
        self.label.set(Some(label));
    }

    pub(crate) fn tag(&self) -> u64 {
        self.look_at_label(|label| label.tag).unwrap_or_default()
    }

    pub(crate) fn set_name(&self, name: &str) {
        let mut label = self.label.take().unwrap_or_default();
        label.name = Some(name.into());
        self.label.set(Some(label));
    }

    pub(crate) fn name(&self) -> Option<String> {
        self.shared_name().map(|name| name.to_string())
    }

    pub(crate) fn shared_name(&self) -> Option<Rc<str>> {
        self.look_at_label(|label| label.name.clone()).flatten()
    }

    fn look_at_label<R>(&self, look: impl FnOnce(&Label) -> R) -> Option<R> {
        let label = self.label.take()?;
        let result = look(&label);
        self.label.set(Some(label));
        Some(result)
    }
}
