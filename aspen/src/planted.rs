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
pub use switch::{BUGS, Bug, enable, is_on};

#[cfg(feature = "planted")]
mod switch {
    use std::sync::RwLock;

    /// A planted bug.
    #[derive(Clone, Copy, Debug)]
    pub struct Bug {
        pub name: &'static str,
        /// One of: durability, ordering, reads, snapshots, clients.
        pub family: &'static str,
        /// The spec it is searched with.
        pub spec: &'static str,
        /// What it does, and the real incident it resembles.
        pub about: &'static str,
    }

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

    /// All planted bugs.
    pub static BUGS: &[Bug] = &[
        Bug {
            name: "vote-not-synced",
            family: "durability",
            spec: "default",
            about: "save_vote returns before the vote is durable; a node that loses power votes twice in a term",
        },
        Bug {
            name: "append-acked-early",
            family: "durability",
            spec: "default",
            about: "an append is acknowledged before its sync; a quorum forgets what it acknowledged",
        },
        Bug {
            name: "read-skips-read-index",
            family: "reads",
            spec: "default",
            about: "a read is served without the quorum round; a deposed leader answers with old values",
        },
        Bug {
            name: "applied-outside-transaction",
            family: "durability",
            spec: "default",
            about: "last_applied is written in a transaction before the data's; a crash between them skips entries",
        },
        Bug {
            name: "snapshot-omits-sessions",
            family: "snapshots",
            spec: "default",
            about: "a snapshot does not carry the sessions; after an install a retry is refused or applied twice",
        },
        Bug {
            name: "truncate-leaves-hole",
            family: "ordering",
            spec: "default",
            about: "truncation removes the first conflicting entries only; the old tail stays behind a hole",
        },
        Bug {
            name: "purge-ahead-of-durable-state",
            family: "snapshots",
            spec: "default",
            about: "the log is purged up to the applied index, past the durable snapshot; a power loss leaves a gap",
        },
        Bug {
            name: "sessions-evicted-by-local-clock",
            family: "clients",
            spec: "default",
            about: "apply expires sessions by the node's own clock; replicas disagree on what a retry does",
        },
    ];
}
