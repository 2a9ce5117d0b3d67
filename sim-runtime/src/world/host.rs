//! Hosts and their incarnations: boot, kill, pause, and who is told.
//!
//! Servers and client machines alike are hosts; host 0 is the outside, where the run's main future and the engine live.
//! Each boot is a new incarnation. **A dead incarnation is mute**: killing marks it dead first, then tells the hooks (the
//! disk rewinds there), then drops its tasks at once; whatever their destructors try to send, spawn, record or write
//! into a channel is ignored, and their panics are void. Destructors do close channels and release locks, so that a live
//! task of another host that waits for one (the engine for a join handle) is not left hanging.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::clock::HostClock;
use super::slab::Key;
use super::state::{Context, Inner, try_with, with};
use super::task::{Completion, Origin};
use super::trace::Class;
use super::{HostId, Incarnation, Nanos};

/// Why an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The process dies; the operating system and its page cache live on.
    Crash,
    /// Everything volatile is lost.
    PowerLoss,
    /// The process ends by itself or is stopped.
    Stop,
}

/// What a host is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStatus {
    NeverBooted,
    Running(Incarnation),
    Paused(Incarnation),
    /// The main future of the last incarnation returned.
    Exited,
    /// The main future of the last incarnation panicked.
    Panicked,
    Killed(Cause),
}

pub(crate) type KillHook = Rc<dyn Fn(Incarnation, Cause, Nanos)>;

pub(crate) struct Host {
    pub name: String,
    pub boot: u32,
    pub status: HostStatus,
    pub clock: HostClock,
    /// Ready tasks that wait for the host to resume.
    parked: VecDeque<Key>,
    /// Tasks without a parent in their incarnation, for identities.
    orphans: u64,
    /// How slowly its processes run.
    pub slowness: Slowness,
}

/// How slowly the processes of a host run: a woken task waits for the processor, with this chance in millionths, up to
/// so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slowness {
    pub ppm: u32,
    pub ns_max: Nanos,
}

impl Host {
    pub fn driver(wall_epoch_ns: Nanos) -> Host {
        Host::new("driver", wall_epoch_ns, HostStatus::Running(Incarnation::DRIVER))
    }

    fn new(name: &str, wall_epoch_ns: Nanos, status: HostStatus) -> Host {
        Host {
            name: name.to_owned(),
            boot: 0,
            status,
            clock: HostClock::new(wall_epoch_ns),
            parked: VecDeque::new(),
            orphans: 0,
            slowness: Slowness::default(),
        }
    }

    fn running(&self) -> Option<Incarnation> {
        match self.status {
            HostStatus::Running(incarnation) | HostStatus::Paused(incarnation) => Some(incarnation),
            _ => None,
        }
    }
}

impl Inner {
    /// # Panics
    /// If there is no such host.
    pub fn with_host<R>(&self, host: HostId, f: impl FnOnce(&mut Host) -> R) -> R {
        let mut hosts = self.hosts.borrow_mut();
        let known = hosts.len();
        match hosts.get_mut(host.0 as usize) {
            Some(host) => f(host),
            None => panic!("no host {}: {known} exist", host.0),
        }
    }

    #[inline]
    pub fn is_alive(&self, incarnation: Incarnation) -> bool {
        let hosts = self.hosts.borrow();
        hosts.get(incarnation.host.0 as usize).and_then(Host::running) == Some(incarnation)
    }

    pub fn running(&self, host: HostId) -> Option<Incarnation> {
        self.with_host(host, |host| host.running())
    }

    pub fn driver(&self) -> Incarnation {
        Incarnation { host: HostId::DRIVER, boot: self.with_host(HostId::DRIVER, |host| host.boot) }
    }

    /// The outside lives as long as a run.
    pub fn revive_driver(&self) {
        self.set_status(HostId::DRIVER, HostStatus::Running(Incarnation::DRIVER));
    }

    pub fn host_name(&self, host: HostId) -> String {
        self.with_host(host, |host| host.name.clone())
    }

    pub fn is_paused(&self, host: HostId) -> bool {
        self.with_host(host, |host| matches!(host.status, HostStatus::Paused(_)))
    }

    /// Changes what a host is doing, and returns what it was doing.
    fn set_status(&self, host: HostId, status: HostStatus) -> HostStatus {
        let is_paused = |status: &HostStatus| u32::from(matches!(status, HostStatus::Paused(_)));
        let now = is_paused(&status);
        let old = self.with_host(host, |host| std::mem::replace(&mut host.status, status));
        self.paused.set(self.paused.get() + now - is_paused(&old));
        old
    }

    /// Parks a ready task if its host is paused.
    #[inline]
    pub fn park(&self, host: HostId, task: Key) -> bool {
        if self.paused.get() == 0 {
            return false;
        }
        self.with_host(host, |host| {
            let is_paused = matches!(host.status, HostStatus::Paused(_));
            if is_paused {
                host.parked.push_back(task);
            }
            is_paused
        })
    }

    pub fn count_orphan(&self, incarnation: Incarnation) -> u64 {
        self.with_host(incarnation.host, |host| {
            host.orphans += 1;
            host.orphans
        })
    }

    fn boot<F, Fut>(&self, origin: Origin, host: HostId, main: F) -> Incarnation
    where
        F: FnOnce() -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let incarnation = self.with_host(host, |entry| {
            assert!(entry.running().is_none(), "{} is up: kill it before booting it again", entry.name);
            entry.boot += 1;
            entry.orphans = 0;
            Incarnation { host, boot: entry.boot }
        });
        self.set_status(host, HostStatus::Running(incarnation));
        self.record_for(host, Class::Boot, "", &[u64::from(incarnation.boot)], (0, 0));
        drop(self.spawn_local_for(origin, incarnation, true, async move { main().await }));
        incarnation
    }

    /// Kills a host now. None of its tasks may be running.
    pub fn kill(&self, host: HostId, cause: Cause) {
        let (last, was_running) = self.with_host(host, |entry| {
            let was_running = entry.running();
            (Incarnation { host, boot: entry.boot }, was_running.is_some())
        });
        // A crashed host still has its page cache; only a loss of power takes that.
        let loses_cache = cause == Cause::PowerLoss
            && self.with_host(host, |entry| {
                !matches!(entry.status, HostStatus::NeverBooted | HostStatus::Killed(Cause::PowerLoss))
            });
        if !was_running && !loses_cache {
            return;
        }
        let event = self.record_for(host, Class::Kill, "", &[u64::from(last.boot), cause as u64], (0, 0));
        self.set_status(host, HostStatus::Killed(cause));
        self.with_host(host, |entry| entry.parked.clear());
        let before = self.cause.replace(event);
        if was_running {
            self.end_sections_of(last);
        }
        self.tell_hooks(last, cause);
        if was_running {
            self.bury(host);
            let mailboxes = self.network.borrow_mut().unbind_host(host);
            drop(mailboxes);
            self.break_streams_of(host, cause);
        }
        self.cause.set(before);
    }

    fn tell_hooks(&self, incarnation: Incarnation, cause: Cause) {
        let hooks: Vec<KillHook> = self.kill_hooks.borrow().clone();
        let at = self.now.get();
        self.in_context(Context::OUTSIDE, self.cause.get(), || {
            for hook in hooks {
                hook(incarnation, cause, at);
            }
        });
    }

    /// Drops all tasks of a dead host, in the order of their spawning.
    fn bury(&self, host: HostId) {
        let mut doomed: Vec<(u64, Key)> = {
            let tasks = self.tasks.borrow();
            let of_host = tasks.iter().filter(|(_, entry)| entry.incarnation.host == host);
            of_host.map(|(key, entry)| (entry.sequence, key)).collect()
        };
        doomed.sort_unstable_by_key(|&(sequence, _)| sequence);
        for (_, key) in doomed {
            self.cancel(key);
        }
        self.drain();
    }

    /// The main future of an incarnation ended; so does the incarnation, right after this poll.
    pub fn root_ended(&self, incarnation: Incarnation, completion: Completion) {
        let panicked = completion == Completion::Panicked;
        let cause = if panicked { Cause::Crash } else { Cause::Stop };
        self.record_for(incarnation.host, Class::Exit, "", &[u64::from(incarnation.boot)], (0, 0));
        if self.is_alive(incarnation) {
            self.kill(incarnation.host, cause);
            self.set_status(incarnation.host, if panicked { HostStatus::Panicked } else { HostStatus::Exited });
        }
    }

    /// The end of a run: every host stops, the outside last.
    pub fn kill_everything(&self) {
        let hosts = u32::try_from(self.hosts.borrow().len()).expect("host ids are u32");
        for host in (1..hosts).chain([0]) {
            self.kill(HostId(host), Cause::Stop);
        }
    }
}

/// Adds a host. It is off until booted.
pub fn add_host(name: &str) -> HostId {
    with(|world| {
        let mut hosts = world.hosts.borrow_mut();
        let id = HostId(u32::try_from(hosts.len()).expect("fewer than 2^32 hosts"));
        hosts.push(Host::new(name, world.config.wall_epoch_ns, HostStatus::NeverBooted));
        id
    })
}

/// The name given to [`add_host`]; `driver` for host 0.
pub fn host_name(host: HostId) -> String {
    with(|world| world.host_name(host))
}

/// All hosts, the outside included.
pub fn hosts() -> Vec<HostId> {
    with(|world| {
        (0..world.hosts.borrow().len()).map(|id| HostId(u32::try_from(id).expect("host ids are u32"))).collect()
    })
}

pub fn host_status(host: HostId) -> HostStatus {
    with(|world| world.with_host(host, |host| host.status.clone()))
}

/// How often a host was booted; its latest boot has this number.
pub fn boots(host: HostId) -> u32 {
    with(|world| world.with_host(host, |host| host.boot))
}

/// Starts a new incarnation; `main` runs as its first task. When `main` returns or panics, the incarnation ends as a
/// process does: all its tasks with it.
///
/// # Panics
/// If the host is up, or is the outside.
#[track_caller]
pub fn boot<F, Fut>(host: HostId, main: F) -> Incarnation
where
    F: FnOnce() -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let origin = Origin::caller("main");
    with(|world| world.boot(origin, host, main))
}

/// Ends the current incarnation of a host: it is dead and mute when this returns, except when called by a task of that
/// very host; then right after the task's poll. Inside a section it happens at the time the section has reached. Power
/// loss also reaches a host whose process is already dead, as long as its operating system lives.
pub fn kill(host: HostId, cause: Cause) {
    with(|world| {
        let Context { incarnation, task, mute } = world.context.get();
        if mute {
            return;
        }
        assert!(host != HostId::DRIVER, "the outside is not killed");
        if world.section.borrow().is_some() {
            let target = world.running(host);
            super::at(world.seen_now(), move || {
                // A later incarnation is not meant; a dead process may still lose its page cache.
                if running(host).is_none_or(|running| Some(running) == target) {
                    kill(host, cause);
                }
            });
        } else if incarnation.host == host && task != Key::NONE {
            world.pending_kills.borrow_mut().push((incarnation, cause));
        } else {
            world.kill(host, cause);
        }
    });
}

/// From now on no task of the host runs; timers and packets pile up. Nothing happens to a host that is not running.
pub fn pause(host: HostId) {
    with(|world| {
        if world.is_mute() {
            return;
        }
        assert!(host != HostId::DRIVER, "the outside is not paused");
        if let HostStatus::Running(incarnation) = host_status(host) {
            world.set_status(host, HostStatus::Paused(incarnation));
            world.record_for(host, Class::Pause, "", &[], (0, 0));
        }
    });
}

/// From now on the processes of a host run slowly, until told otherwise; a reboot does not help.
pub fn set_slowness(host: HostId, slowness: Slowness) {
    with(|world| {
        if world.is_mute() {
            return;
        }
        let old = world.with_host(host, |host| std::mem::replace(&mut host.slowness, slowness));
        let is_slow = |slowness: Slowness| u32::from(slowness.ppm > 0);
        world.slow.set(world.slow.get() + is_slow(slowness) - is_slow(old));
        world.record_for(host, Class::Pause, "slow", &[u64::from(slowness.ppm), slowness.ns_max], (0, 0));
    });
}

/// How often tasks had to wait because their host was slow, so far.
pub fn slow_waits() -> u64 {
    with(|world| world.slow_waits.get())
}

/// Ends a [`pause`]. Returns how many tasks had become ready meanwhile.
pub fn resume(host: HostId) -> u64 {
    with(|world| {
        if world.is_mute() {
            return 0;
        }
        let HostStatus::Paused(incarnation) = host_status(host) else { return 0 };
        world.set_status(host, HostStatus::Running(incarnation));
        let parked = world.with_host(host, |entry| std::mem::take(&mut entry.parked));
        world.record_for(host, Class::Resume, "", &[], (0, 0));
        let ready = u64::try_from(parked.len()).unwrap_or(u64::MAX);
        for task in parked {
            world.enqueue(task);
        }
        ready
    })
}

/// Calls `hook` whenever an incarnation ends: after it is marked dead, before its tasks are dropped. The hook runs
/// outside any task, with the virtual time of the end.
pub fn on_kill(hook: impl Fn(Incarnation, Cause, Nanos) + 'static) {
    with(|world| world.kill_hooks.borrow_mut().push(Rc::new(hook)));
}

/// Whose task or section is running.
pub fn current() -> Incarnation {
    with(|world| world.context.get().incarnation)
}

/// Whether the host is up and this is its current incarnation.
pub fn is_alive(incarnation: Incarnation) -> bool {
    with(|world| world.is_alive(incarnation))
}

/// The current incarnation of a host, if it is up.
pub fn running(host: HostId) -> Option<Incarnation> {
    with(|world| world.running(host))
}

/// Whether the running code belongs to a dead incarnation, so that nothing it does counts. False outside a world.
#[inline]
pub fn is_mute() -> bool {
    try_with(|world| world.is_mute()).unwrap_or(false)
}
