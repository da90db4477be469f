use crate::process::{self, tests};
pub const TESTS: &[process::Test] = tests![];
