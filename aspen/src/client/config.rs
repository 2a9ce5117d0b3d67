//! What a client chooses.

use crate::config::knobs;
use crate::message::ClusterId;

/// How a client works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConfig {
    pub cluster: ClusterId,
    pub tuning: ClientTuning,
    /// Writes go through a session: they are retried until their outcome is known or the deadline passes, and have one
    /// effect at most. Without it a write that may have been delivered is never retried.
    pub session: bool,
}

knobs! {
    /// Times and bounds of a client.
    ClientTuning {
        deadline_ms: "ms" = 5000, [300, 30000], "An operation with all its retries ends after so long";
        attempt_ms: "ms" = 1000, [100, 5000], "One attempt waits so long for its reply";
        backoff_min_ms: "ms" = 10, [1, 200], "The first pause between two attempts";
        backoff_max_ms: "ms" = 500, [20, 2000], "Pauses double up to so long";
        redirects_max: "redirects" = 3, [1, 10], "So many hints in a row are followed without a pause";
        session_ttl_ms: "ms" = 60000, [500, 1000, 3000, 3600000], "A session expires when it was not used for so long, in log time";
        message_bytes_max: "bytes" = 10485760, [10485760], "A longer reply is refused";
    }
}
