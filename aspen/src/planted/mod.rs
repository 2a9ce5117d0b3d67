//! Small, realistic defects that can be switched on, so that a simulator can prove that it finds them.
//!
//! Without the feature `planted` every `is_on` is `false` at compile time and no name below is in the binary.
//! A switch is process-wide: a simulation runs in a process of its own.

/// Expands to whether a planted bug is switched on.
macro_rules! planted {
    ($name:literal) => {{
        #[cfg(feature = "planted")]
        let on = $crate::planted::is_on($name);
        #[cfg(not(feature = "planted"))]
        let on = false;
        on
    }};
}
pub(crate) use planted;

#[cfg(feature = "planted")]
mod bugs;

#[cfg(feature = "planted")]
pub use bugs::{BUGS, Bug, FAMILIES};
#[cfg(feature = "planted")]
pub use switch::{enable, is_on};

#[cfg(feature = "planted")]
mod switch {
    use std::sync::RwLock;

    use super::bugs::BUGS;

    static ON: RwLock<Option<&'static str>> = RwLock::new(None);

    /// Switches one bug on, or all off. Returns `false` for an unknown name.
    pub fn enable(name: Option<&str>) -> bool {
        let known = name.map(|name| BUGS.iter().find(|bug| bug.name == name));
        let mut on = ON.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        match known {
            None => *on = None,
            Some(None) => return false,
            Some(Some(bug)) => *on = Some(bug.name),
        }
        true
    }

    #[doc(hidden)]
    pub fn is_on(name: &str) -> bool {
        debug_assert!(BUGS.iter().any(|bug| bug.name == name), "no planted bug is named {name}");
        *ON.read().unwrap_or_else(|poisoned| poisoned.into_inner()) == Some(name)
    }
}
