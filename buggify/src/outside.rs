//! What a violated *always* does in production: it is reported once per site, and the program goes on.

use std::sync::RwLock;
use std::sync::atomic::Ordering;

use crate::Site;

/// Called with the site and the rendered details.
type Handler = Box<dyn Fn(&'static Site, &str) + Send + Sync>;

static HANDLER: RwLock<Option<Handler>> = RwLock::new(None);

/// Replaces what happens when an *always* or *unreachable* is violated outside a simulation. Called at every
/// violation; the default handler logs an error once per site.
pub fn set_violation_handler(handler: impl Fn(&'static Site, &str) + Send + Sync + 'static) {
    let mut slot = HANDLER.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    *slot = Some(Box::new(handler));
}

pub(crate) fn report(site: &'static Site, details: String) {
    let handler = HANDLER.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    match handler.as_ref() {
        Some(handler) => handler(site, &details),
        None if !site.reported.swap(true, Ordering::Relaxed) => {
            tracing::error!(site = %site.id(), file = site.file, line = site.line, details, "assertion violated");
        }
        None => {}
    }
}
