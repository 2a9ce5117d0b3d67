//! The command `aspen`.
