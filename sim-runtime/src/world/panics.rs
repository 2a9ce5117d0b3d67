//! Panics of simulated code: caught at the task, recorded with host, task and place, never swallowed.
//!
//! A panic of a live incarnation is a finding of the run. It is recorded, and, unless a join handle takes the result, it
//! halts the run. A dead incarnation's panics are void. Std's panic hook is process-wide; ours is put before the existing
//! one when the first world starts, and handles only panics of threads that run a world.

use std::any::Any;
use std::cell::RefCell;
use std::panic;
use std::sync::Once;

use super::state::{Inner, try_with};
use super::trace::{Class, hash_bytes};
use super::{Halt, HostId, Nanos};

/// A panic of a task of a live incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanicRecord {
    pub at_ns: Nanos,
    pub host: HostId,
    pub host_name: String,
    pub boot: u32,
    /// Name of the task; empty for a world action.
    pub task: String,
    pub message: String,
    /// `file:line:column` of the panic.
    pub place: String,
}

thread_local! {
    /// Where the last panic of this thread happened, from the hook to the catch.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps std from printing the panics of simulated code: they are part of the run's result.
pub(crate) fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if try_with(|world| world.running.get()) != Some(true) {
                return previous(info);
            }
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let _ = PLACE.try_with(|slot| slot.replace(place));
        }));
    });
}

/// Records a caught panic and returns its message.
pub(crate) fn record(payload: &(dyn Any + Send)) -> String {
    let message = message_of(payload);
    let place = PLACE.try_with(|slot| slot.take()).unwrap_or_default();
    try_with(|world| world.record_panic(&message, &place));
    message
}

/// Records a caught panic that no handle waits for.
pub(crate) fn caught(payload: Box<dyn Any + Send>) {
    let message = record(payload.as_ref());
    // A payload may itself panic when dropped; there is nothing left to tell it.
    std::mem::forget(payload);
    unhandled(&message);
}

/// Nobody will take the result of a task that panicked.
pub(crate) fn unhandled(message: &str) {
    try_with(|world| {
        if world.is_mute() || !world.config.halt_on_panic {
            return;
        }
        let last = world.panics.borrow().iter().rev().find(|panic| panic.message == message).cloned();
        if let Some(panic) = last {
            world.halt.borrow_mut().get_or_insert(Halt::Panic(panic));
        }
    });
}

impl Inner {
    fn record_panic(&self, message: &str, place: &str) {
        let context = self.context.get();
        if context.mute {
            return;
        }
        let task = self.tasks.borrow().get(context.task).map_or("", |entry| entry.name);
        let incarnation = context.incarnation;
        self.record(Class::Panic, task, &[u64::from(incarnation.boot)], hash_bytes(message.as_bytes()));
        self.trace.borrow_mut().note(|| format!("{message} at {place}"));
        self.panics.borrow_mut().push(PanicRecord {
            at_ns: self.seen_now(),
            host: incarnation.host,
            host_name: self.host_name(incarnation.host),
            boot: incarnation.boot,
            task: task.to_owned(),
            message: message.to_owned(),
            place: place.to_owned(),
        });
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
