//! The world behind the interfaces that dependencies define. Thin: the behaviour lives in [`crate::world`].
#[cfg(feature = "openraft")]
pub mod openraft;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(feature = "sqlite")]
pub mod sqlite;
