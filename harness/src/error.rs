//! Mistakes in how the program was called.

use thiserror::Error;

/// One clear line that says what to do. Ends the program with [`crate::Exit::Usage`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// Line breaks in `text` become spaces.
    pub fn new(text: impl AsRef<str>) -> UsageError {
        UsageError(text.as_ref().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
