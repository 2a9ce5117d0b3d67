//! The tunables of a node: the times and sizes of its Raft.
//!
//! Every tunable has a default and extremes, side by side in one table ([`RaftTuning::KNOBS`]), so that a simulation
//! can draw among them and a document can print them. [`RaftTuning::validate`] says which combinations make sense.

use std::time::Duration;

use openraft::SnapshotPolicy;

use crate::message::ENTRIES_MAX;
use crate::planted::planted;

/// The configuration makes no sense; the message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {message}")]
pub struct ConfigError {
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        ConfigError { message: message.into() }
    }
}

/// A tunable: its name, default and extremes.
#[derive(Clone, Copy, Debug)]
pub struct Knob<T: 'static> {
    pub name: &'static str,
    pub unit: &'static str,
    pub default: u64,
    /// Values worth trying; each is valid when all other knobs have their defaults.
    pub extremes: &'static [u64],
    pub about: &'static str,
    pub(crate) field: fn(&mut T) -> &mut u64,
}

impl<T> Knob<T> {
    pub fn set(&self, target: &mut T, value: u64) {
        *(self.field)(target) = value;
    }
}

/// Declares a struct of tunables and the table of its knobs together.
macro_rules! knobs {
    ($(#[$outer:meta])* $name:ident { $($field:ident: $unit:literal = $default:literal, $extremes:expr, $about:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $(#[doc = concat!($about, " (", $unit, ")")] pub $field: u64,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }

        impl $name {
            /// Every tunable, with its default and extremes.
            pub const KNOBS: &'static [$crate::config::Knob<$name>] = &[$($crate::config::Knob {
                name: stringify!($field),
                unit: $unit,
                default: $default,
                extremes: &$extremes,
                about: $about,
                field: |target| &mut target.$field,
            },)*];

            /// The knob of this name.
            pub fn knob(name: &str) -> Option<&'static $crate::config::Knob<$name>> {
                Self::KNOBS.iter().find(|knob| knob.name == name)
            }
        }
    };
}
pub(crate) use knobs;

knobs! {
    /// Times and sizes of Raft and of the requests around it.
    ///
    /// A heartbeat must go to a follower and back within three quarters of its interval, or the leader's lease runs
    /// out: set the interval to several round trips.
    RaftTuning {
        heartbeat_ms: "ms" = 100, [50, 200], "Interval of the leader's heartbeats";
        election_min_ms: "ms" = 500, [250, 900], "A follower waits at least so long for a heartbeat before it campaigns";
        election_max_ms: "ms" = 1000, [600, 2000], "and at most so long; also the leader's lease";
        append_timeout_ms: "ms" = 500, [80, 2000], "A follower has so long to make a batch durable, and 1 ms for each 4 KiB of it";
        batch_entries: "entries" = 300, [1, 2, 4096], "A replication batch stops at so many entries";
        snapshot_entries: "entries" = 5000, [5, 50, 100000], "A snapshot is taken after so many committed entries";
        snapshot_bytes: "bytes" = 67108864, [0, 4000, 40000], "and after so many bytes of entries since the last one (0: whatever their size)";
        snapshot_age_ms: "ms" = 0, [1000, 5000, 20000], "and when the last one is so old and something was applied since (0: never)";
        log_keep_entries: "entries" = 1000, [0, 3, 10000], "So many entries before the snapshot stay in the log, for followers that lag";
        purge_batch_entries: "entries" = 1, [1, 100], "The log is purged when so many entries can go";
        lag_entries: "entries" = 5000, [10, 100000], "A follower that lags by more is sent a snapshot rather than entries";
        snapshot_call_timeout_ms: "ms" = 2000, [150, 10000], "One call of a snapshot transfer may take so long";
        snapshot_retries: "calls" = 10, [1, 50], "A snapshot transfer is given up after so many failed calls in a row";
        backoff_ms: "ms" = 200, [20, 1000], "A leader leaves an unreachable follower alone for so long";
        probe_ms: "ms" = 4000, [4000, 10000], "A leader that lost its quorum heartbeats only in every other such interval";
        request_timeout_ms: "ms" = 10000, [300, 60000], "A client's request is answered after so long, whatever its outcome";
        raft_calls_max: "calls" = 1000, [8, 10000], "Requests of other nodes in progress; more are refused";
        stop_timeout_ms: "ms" = 5000, [50, 20000], "A graceful stop takes no longer than this";
    }
}

impl RaftTuning {
    /// Checks that the values make sense together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for knob in Self::KNOBS {
            let value = *(knob.field)(&mut self.clone());
            let may_be_zero = ["log_keep_entries", "snapshot_bytes", "snapshot_age_ms"].contains(&knob.name);
            if (value == 0 && !may_be_zero) || value > VALUE_MAX {
                return Err(ConfigError::new(format!("{} is {value}, 1 to {VALUE_MAX} are allowed", knob.name)));
            }
        }
        if self.batch_entries > u64::from(ENTRIES_MAX) {
            return Err(ConfigError::new(format!(
                "batch_entries is {}, {ENTRIES_MAX} are allowed",
                self.batch_entries
            )));
        }
        self.openraft_config("check").map(|_| ())
    }

    /// The same for openraft.
    pub(crate) fn openraft_config(&self, cluster: &str) -> Result<openraft::Config, ConfigError> {
        let config = openraft::Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: self.snapshot_call_timeout_ms,
            max_payload_entries: self.batch_entries,
            max_append_entries: Some(self.batch_entries),
            replication_lag_threshold: self.lag_entries,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.log_keep_entries,
            purge_batch_size: self.purge_batch_entries,
            api_channel_size: Some(CHANNEL_SIZE),
            notification_channel_size: Some(NOTIFICATION_CHANNEL_SIZE),
            quorum_loss_probe_interval: Some(self.probe_ms.max(2 * self.election_max_ms)),
            enable_pre_vote: Some(true),
            // A leader replicates entries before they are durable at itself. If it lost power then and went on leading
            // the same term, it would give the lost entries' log ids to other entries, and a follower that has the first
            // ones would not notice: same term and index, another command. A new term tells them apart.
            enable_leader_restore: Some(planted!("leader-resumes-its-term")),
            backoff: format!("{}ms", self.backoff_ms),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| ConfigError::new(error.to_string()))
    }

    /// How long one replication batch of `bytes` may take until it is durable at the follower.
    ///
    /// openraft's own limit for it is one heartbeat interval, which a slow disk or a large value exceeds every time, so
    /// that the follower would never catch up. openraft leaves the timeout of a stream of appends to the network.
    pub(crate) fn append_timeout(&self, bytes: usize) -> Duration {
        Duration::from_millis(self.append_timeout_ms + u64::try_from(bytes).unwrap_or(u64::MAX) / APPEND_BYTES_PER_MS)
    }

    /// The longest that a node works on another node's request.
    pub(crate) fn raft_call_timeout(&self) -> Duration {
        Duration::from_millis(4 * self.election_max_ms + self.append_timeout_ms + self.snapshot_call_timeout_ms)
    }
}

/// 1 day in ms; no knob needs more.
const VALUE_MAX: u64 = 24 * 3600 * 1000;
/// Messages to openraft's core that wait at most; senders wait beyond.
const CHANNEL_SIZE: u64 = 16_384;
/// Core and its helpers notify each other; a full channel would stall both, so it is larger than what can be in flight.
const NOTIFICATION_CHANNEL_SIZE: u64 = 65_536;
/// A link that carries less than 4 MB/s makes large batches time out.
const APPEND_BYTES_PER_MS: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_every_extreme_are_valid() {
        RaftTuning::default().validate().unwrap();
        for knob in RaftTuning::KNOBS {
            for &extreme in knob.extremes {
                let mut tuning = RaftTuning::default();
                knob.set(&mut tuning, extreme);
                tuning.validate().unwrap_or_else(|error| panic!("{} = {extreme}: {error}", knob.name));
            }
        }
    }

    /// Each of these was wrong by default, or fatal when it was forgotten.
    #[test]
    fn openraft_is_told_what_safety_rests_on() {
        let config = RaftTuning::default().openraft_config("test").unwrap();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_ne!(config.allow_log_reversion, Some(true));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases: [(&str, u64); 5] = [
            ("heartbeat_ms", 0),
            ("heartbeat_ms", 500),
            ("election_min_ms", 1000),
            ("batch_entries", 5000),
            ("stop_timeout_ms", u64::MAX),
        ];
        for (name, value) in cases {
            let mut tuning = RaftTuning::default();
            RaftTuning::knob(name).unwrap().set(&mut tuning, value);
            assert!(tuning.validate().is_err(), "{name} = {value}");
        }
    }
}
