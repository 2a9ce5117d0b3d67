//! Stopping early: the first SIGINT, SIGTERM or SIGHUP asks a long command to end and to say what it has; the second
//! ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::UsageError;

/// Whether somebody wants the command to end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on.
    ///
    /// # Errors
    /// When the operating system refuses handlers.
    pub fn watch() -> Result<Interrupt, UsageError> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order, so that the first signal finds the flag unset.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .map_err(|error| UsageError::new(format!("signals cannot be handled: {error}")))?;
        }
        Ok(Interrupt(asked))
    }

    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
