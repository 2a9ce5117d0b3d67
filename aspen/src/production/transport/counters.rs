//! What the transport did, counted for `/metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::production::transport::hello::Rejection;

/// Counts since the process started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    frames_sent: AtomicU64,
    bytes_sent: AtomicU64,
    frames_received: AtomicU64,
    bytes_received: AtomicU64,
    dials: AtomicU64,
    dials_failed: AtomicU64,
    accepted: AtomicU64,
    malformed: AtomicU64,
    refused: Mutex<BTreeMap<Rejection, u64>>,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    pub frames_sent: u64,
    pub bytes_sent: u64,
    pub frames_received: u64,
    pub bytes_received: u64,
    /// Connections attempted from here, and those of them that failed.
    pub dials: u64,
    pub dials_failed: u64,
    pub accepted: u64,
    /// Frames that were none.
    pub malformed: u64,
    /// Connections refused here, by reason.
    pub refused: BTreeMap<Rejection, u64>,
    pub connections: u64,
}

impl Counters {
    pub(super) fn sent(&self, bytes: usize) {
        self.frames_sent.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.frames_received.fetch_add(1, Ordering::Relaxed);
        self.bytes_received.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn dialled(&self, succeeded: bool) {
        self.dials.fetch_add(1, Ordering::Relaxed);
        self.dials_failed.fetch_add(u64::from(!succeeded), Ordering::Relaxed);
    }

    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, reason: Rejection) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    pub(super) fn read(&self, connections: usize) -> TransportStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportStats {
            frames_sent: of(&self.frames_sent),
            bytes_sent: of(&self.bytes_sent),
            frames_received: of(&self.frames_received),
            bytes_received: of(&self.bytes_received),
            dials: of(&self.dials),
            dials_failed: of(&self.dials_failed),
            accepted: of(&self.accepted),
            malformed: of(&self.malformed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            connections: u64::try_from(connections).unwrap_or(u64::MAX),
        }
    }
}
