//! The world behind the interfaces that dependencies define. Thin: the behaviour lives in [`crate::world`].
#[cfg(feature = "openraft")]
pub mod openraft;
