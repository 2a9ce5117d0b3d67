//! `aspen` under test: its operation alphabets, faults on its roles, its oracles.
//!
//! - [`event`]: what the oracles see
pub mod event;
