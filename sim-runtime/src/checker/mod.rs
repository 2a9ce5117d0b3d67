//! Checkers of client histories that know nothing of the system under test.
//!
//! - [`cycles`]: can what is known of the order of transactions be true?
//! - [`lists`]: transactions that append to lists and read them
//! - [`history`]: what clients asked, were told, and when
//! - [`linearizability`]: is there one order of the operations, within real time, that a sequential model accepts?
//! - [`models`]: small sequential models, ready to use
//!
//! A checker answers yes, no or *undecided*; it never guesses. An operation without a known outcome may have taken
//! effect at any moment from its invocation to the end of the world, or never.
pub mod cycles;
pub mod history;
pub mod linearizability;
pub mod lists;
pub mod models;
