//! Time: the virtual clock of the world, timers on it, and the clocks that hosts see.
//!
//! Virtual time is true time, in ns since the start of the run. A host's monotonic clock may run fast or slow (a rate
//! error in ppm) and never goes back; its wall clock is the monotonic one plus an offset that may step either way. A
//! duration given to [`sleep`] or [`timeout`] is measured by the clock of the host that asks, as it would be on a machine
//! whose oscillator is off. All errors default to zero.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::agenda::Kind;
use super::slab::Key;
use super::state::{Inner, try_with, with};
use super::task::note_wait;
use super::trace::Class;
use super::{HostId, Nanos};

/// Rate errors are limited to this many ppm either way.
pub const RATE_ERROR_PPM_MAX: i64 = 500_000;

/// After so many sleeps that need not wait, a poll yields: a loop around such a sleep is then a livelock with a name
/// instead of a poll without end.
const INSTANT_SLEEPS_PER_POLL: u32 = 1_000;

const MILLION: u128 = 1_000_000;

/// The clock of one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostClock {
    /// True and local time at which the present rate began.
    anchor: (Nanos, Nanos),
    rate_ppm: i64,
    wall_epoch_ns: Nanos,
    wall_offset_ns: i64,
    /// What the wall clock shows while it stands still.
    frozen_wall_ns: Option<Nanos>,
    reads: SkewedReads,
}

/// How often a process read a clock of its host that was off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkewedReads {
    /// Monotonic clock with a rate error, or a timer measured by it.
    pub rate: u64,
    /// Wall clock that was set off or stood still.
    pub wall: u64,
}

impl HostClock {
    pub const fn new(wall_epoch_ns: Nanos) -> HostClock {
        HostClock {
            anchor: (0, 0),
            rate_ppm: 0,
            wall_epoch_ns,
            wall_offset_ns: 0,
            frozen_wall_ns: None,
            reads: SkewedReads { rate: 0, wall: 0 },
        }
    }

    fn speed(&self) -> u128 {
        u128::try_from(1_000_000 + self.rate_ppm).expect("rate errors are limited to less than a million")
    }

    fn monotonic(&self, now: Nanos) -> Nanos {
        let elapsed = now.saturating_sub(self.anchor.0);
        if self.rate_ppm == 0 {
            return self.anchor.1 + elapsed;
        }
        self.anchor.1.saturating_add(saturate(u128::from(elapsed) * self.speed() / MILLION))
    }

    /// The first true time at which the monotonic clock shows `local` or more.
    fn true_time_of(&self, local: Nanos) -> Nanos {
        let ahead = local.saturating_sub(self.anchor.1);
        if self.rate_ppm == 0 {
            return self.anchor.0.saturating_add(ahead);
        }
        self.anchor.0.saturating_add(saturate((u128::from(ahead) * MILLION).div_ceil(self.speed())))
    }

    fn wall(&self, now: Nanos) -> Nanos {
        if let Some(frozen) = self.frozen_wall_ns {
            return frozen;
        }
        self.wall_epoch_ns.saturating_add(self.monotonic(now)).saturating_add_signed(self.wall_offset_ns)
    }

    fn set_rate(&mut self, now: Nanos, rate_ppm: i64) {
        self.anchor = (now, self.monotonic(now));
        self.rate_ppm = rate_ppm.clamp(-RATE_ERROR_PPM_MAX, RATE_ERROR_PPM_MAX);
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> Nanos {
    saturate(duration.as_nanos())
}

/// Monotonic clock of a host, in ns. Never goes back, not even across reboots.
pub fn monotonic_ns(host: HostId) -> Nanos {
    with(|world| {
        let now = world.seen_now();
        world.with_host(host, |host| {
            host.clock.reads.rate += u64::from(host.clock.rate_ppm != 0);
            host.clock.monotonic(now)
        })
    })
}

/// Wall clock of a host, in ns since the Unix epoch. May step.
pub fn wall_ns(host: HostId) -> Nanos {
    with(|world| {
        let now = world.seen_now();
        world.with_host(host, |host| {
            let is_off = host.clock.wall_offset_ns != 0 || host.clock.frozen_wall_ns.is_some();
            host.clock.reads.wall += u64::from(is_off);
            host.clock.wall(now)
        })
    })
}

/// The first virtual time at which the monotonic clock of `host` shows `local_ns` or more, at its present rate.
pub fn virtual_ns_of(host: HostId, local_ns: Nanos) -> Nanos {
    with(|world| world.clock_of(host).true_time_of(local_ns))
}

/// From now on the clock of `host` gains `rate_ppm` microseconds per second (negative: loses). Limited to
/// [`RATE_ERROR_PPM_MAX`]. A timer that is already armed is never early by the host's clock; when the clock becomes faster it
/// may be late.
pub fn set_rate_ppm(host: HostId, rate_ppm: i64) {
    with(|world| {
        let now = world.now.get();
        world.record_for(host, Class::Clock, "rate", &[rate_ppm.cast_unsigned()], (0, 0));
        world.with_host(host, |host| host.clock.set_rate(now, rate_ppm));
    });
}

/// Sets the wall clock of `host` this far off its unskewed time.
pub fn set_wall_offset_ns(host: HostId, offset_ns: i64) {
    with(|world| {
        world.record_for(host, Class::Clock, "offset", &[offset_ns.cast_unsigned()], (0, 0));
        world.with_host(host, |host| host.clock.wall_offset_ns = offset_ns);
    });
}

/// Stops the wall clock of `host` where it is, or lets it go on, at the time it would show had it never stopped.
pub fn freeze_wall(host: HostId, frozen: bool) {
    with(|world| {
        let now = world.now.get();
        world.record_for(host, Class::Clock, "freeze", &[u64::from(frozen)], (0, 0));
        world.with_host(host, |host| {
            host.clock.frozen_wall_ns = None;
            host.clock.frozen_wall_ns = frozen.then(|| host.clock.wall(now));
        });
    });
}

/// Whether the wall clock of `host` stands still.
pub fn is_wall_frozen(host: HostId) -> bool {
    with(|world| world.clock_of(host).frozen_wall_ns.is_some())
}

/// How often processes on `host` read a clock that was off.
pub fn skewed_reads(host: HostId) -> SkewedReads {
    with(|world| world.with_host(host, |host| host.clock.reads))
}

/// Offset of the wall clock of `host`, and its rate error in ppm.
pub fn skew(host: HostId) -> (i64, i64) {
    with(|world| {
        let clock = world.clock_of(host);
        (clock.wall_offset_ns, clock.rate_ppm)
    })
}

/// A timer that somebody waits for.
pub(crate) struct TimerEntry {
    pub waker: Waker,
    pub host: HostId,
    pub armed_by: u64,
    pub deadline: Nanos,
}

impl Inner {
    pub fn clock_of(&self, host: HostId) -> HostClock {
        self.with_host(host, |host| host.clock)
    }

    /// What the clock of the current host shows after a duration that starts now.
    fn local_after(&self, duration: Duration) -> LocalDeadline {
        let host = self.context.get().incarnation.host;
        let now = self.seen_now();
        let local = self.with_host(host, |host| {
            host.clock.reads.rate += u64::from(host.clock.rate_ppm != 0);
            host.clock.monotonic(now).saturating_add(nanos(duration))
        });
        LocalDeadline { host, local }
    }

    /// The virtual time of a local one at the clock's present rate.
    fn virtual_deadline(&self, deadline: LocalDeadline) -> Nanos {
        self.clock_of(deadline.host).true_time_of(deadline.local)
    }

    pub fn arm_timer(&self, deadline: Nanos, waker: Waker) -> Key {
        let host = self.context.get().incarnation.host;
        let tie = self.next_tie();
        let entry = TimerEntry { waker, host, armed_by: self.cause.get(), deadline };
        let key = self.timers.borrow_mut().insert(entry);
        self.agenda.borrow_mut().push(deadline, tie, Kind::Timer, key);
        key
    }

    /// Makes an armed timer wake `waker`. `None` if it is not armed; otherwise what it would have woken, if another.
    fn rewake_timer(&self, key: Key, waker: &Waker) -> Option<Option<Waker>> {
        let mut timers = self.timers.borrow_mut();
        let entry = timers.get_mut(key)?;
        if entry.waker.will_wake(waker) {
            return Some(None);
        }
        Some(Some(std::mem::replace(&mut entry.waker, waker.clone())))
    }

    pub fn disarm_timer(&self, key: Key) {
        let entry = self.timers.borrow_mut().remove(key);
        if entry.is_none() {
            return;
        }
        drop(entry);
        if self.agenda.borrow_mut().cancelled() {
            self.agenda.borrow_mut().sweep(|due| self.is_live(due));
        }
    }

    pub fn fire_timer(&self, key: Key) {
        let Some(entry) = self.timers.borrow_mut().remove(key) else { return };
        let event = self.record_caused(entry.host, Class::Timer, "", entry.armed_by, &[entry.deadline], (0, 0));
        self.cause.set(event);
        entry.waker.wake();
    }
}

/// A moment of a host's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct LocalDeadline {
    host: HostId,
    local: Nanos,
}

/// Waits for a virtual time, or for a moment of a host's clock. See [`sleep`].
#[derive(Debug)]
#[must_use = "a Sleep does nothing unless awaited"]
pub struct Sleep {
    deadline: Nanos,
    /// The clock that decides. Should it have become slower, the deadline moves.
    local: Option<LocalDeadline>,
    timer: Key,
    world: usize,
}

impl Sleep {
    fn until_local(world: &Inner, local: LocalDeadline) -> Sleep {
        Sleep { deadline: world.virtual_deadline(local), local: Some(local), timer: Key::NONE, world: 0 }
    }

    /// The virtual time waited for, in ns.
    pub fn deadline_ns(&self) -> Nanos {
        self.deadline
    }

    fn disarm(&mut self) {
        if self.timer != Key::NONE {
            let key = std::mem::replace(&mut self.timer, Key::NONE);
            try_with(|world| {
                if world.address() == self.world {
                    world.disarm_timer(key);
                }
            });
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let armed = with(|world| {
            if world.now.get() >= this.deadline
                && let Some(local) = this.local
            {
                this.deadline = this.deadline.max(world.virtual_deadline(local));
            }
            if world.now.get() >= this.deadline {
                let instant = world.instant_sleeps.get() + 1;
                world.instant_sleeps.set(instant);
                if instant.is_multiple_of(INSTANT_SLEEPS_PER_POLL) {
                    cx.waker().wake_by_ref();
                    return Some(None);
                }
                return None;
            }
            if let Some(stale) = world.rewake_timer(this.timer, cx.waker()) {
                return Some(stale);
            }
            this.world = world.address();
            this.timer = world.arm_timer(this.deadline, cx.waker().clone());
            Some(None)
        });
        // A replaced waker is dropped here, outside the world.
        if armed.is_none() {
            this.disarm();
            return Poll::Ready(());
        }
        note_wait("a timer");
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Waits for a duration, measured by the clock of the current host.
pub fn sleep(duration: Duration) -> Sleep {
    with(|world| Sleep::until_local(world, world.local_after(duration)))
}

/// Waits until the monotonic clock of the current host shows this time, in ns.
pub fn sleep_until_local_ns(local: Nanos) -> Sleep {
    with(|world| Sleep::until_local(world, LocalDeadline { host: world.context.get().incarnation.host, local }))
}

/// Waits until a virtual time. Ready at once when that time has come.
pub fn sleep_until_ns(deadline: Nanos) -> Sleep {
    Sleep { deadline, local: None, timer: Key::NONE, world: 0 }
}

/// A future did not complete in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

pin_project! {
    /// See [`timeout`].
    #[derive(Debug)]
    #[must_use = "a Timeout does nothing unless awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        this.sleep.poll(cx).map(|()| Err(Elapsed))
    }
}

/// Resolves to the output of `future`, or to [`Elapsed`] after `duration` by the clock of the current host. The future is
/// polled first, so it wins a tie.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration) }
}

/// [`timeout`] until the monotonic clock of the current host shows this time, in ns.
pub fn timeout_at_local_ns<F: Future>(local: Nanos, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_until_local_ns(local) }
}

/// [`timeout`] with a virtual deadline in ns.
pub fn timeout_at_ns<F: Future>(deadline: Nanos, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_until_ns(deadline) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_gains_and_converts_back() {
        let mut clock = HostClock::new(0);
        clock.set_rate(1_000, 100);
        assert_eq!(clock.monotonic(1_000), 1_000);
        assert_eq!(clock.monotonic(1_000 + 1_000_000), 1_000 + 1_000_100);
        for local in [1_000, 1_001, 5_555_555, 1_000_000_007] {
            let at = clock.true_time_of(local);
            assert!(clock.monotonic(at) >= local);
            assert!(at == 1_000 || clock.monotonic(at - 1) < local, "not the first such time");
        }
    }

    #[test]
    fn the_monotonic_clock_never_goes_back_when_its_rate_changes() {
        let mut clock = HostClock::new(0);
        let mut last = 0;
        for (step, rate) in [(1u64, 500_000i64), (2, -500_000), (3, 17), (4, 0), (5, -3)] {
            for now in [step * 1_000_003, step * 1_000_003 + 7] {
                let shown = clock.monotonic(now);
                assert!(shown >= last);
                last = shown;
            }
            clock.set_rate(step * 1_000_003 + 7, rate);
            assert_eq!(clock.monotonic(step * 1_000_003 + 7), last);
        }
    }

    #[test]
    fn the_wall_clock_follows_its_offset() {
        let mut clock = HostClock::new(1_000_000);
        assert_eq!(clock.wall(5), 1_000_005);
        clock.wall_offset_ns = -10;
        assert_eq!(clock.wall(5), 999_995);
        clock.frozen_wall_ns = Some(7);
        assert_eq!(clock.wall(1_000), 7);
    }
}
