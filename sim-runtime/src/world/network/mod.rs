//! Messages between hosts: latency, loss, duplication, corruption, and links that can be cut.
//!
//! A message is sent from one host to a port of another; nothing blocks and nothing fails by itself. Each directed link
//! draws from a stream of its own, one draw per message, so a message more on one link reshuffles no other. Reordering
//! follows from jitter. **Bytes in flight obey a cut**: a message is lost if its link was cut at any moment of its flight.
//!
//! A dead process whose operating system lives answers with a refusal ([`Event::Refused`]), as does a live one that has
//! nothing bound to the port; after a loss of power there is only silence.

mod flight;
mod port;
pub mod stream;

use serde::{Deserialize, Serialize};

use super::state::with;
use super::trace::Class;
use super::{HostId, Nanos};

pub(crate) use flight::{Mailbox, Network};
pub use port::{Receiver, Recv, bind, send};

/// How messages travel, on all links or on one. All times in ns, all probabilities in millionths per message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// Least latency.
    pub latency_ns: Nanos,
    /// Uniform addition to it, up to this much.
    pub jitter_ns: Nanos,
    /// Probability of a spike.
    pub spike_ppm: u32,
    /// Longest spike, added to the rest.
    pub spike_ns_max: Nanos,
    pub loss_ppm: u32,
    /// Probability that a second copy arrives, with a latency of its own.
    pub duplicate_ppm: u32,
    /// Probability that one bit of the message flips.
    pub corrupt_ppm: u32,
    /// Probability that the message is held back, so that later ones overtake it.
    pub reorder_ppm: u32,
    /// Longest time that it is held back.
    pub reorder_ns_max: Nanos,
    /// Bytes per second that the link carries; 0 for any number. What does not fit waits, for [`QUEUE_NS_MAX`] at most.
    pub bytes_per_s: u64,
    /// Addition to the latency, for links that are always slow.
    pub slow_ns: Nanos,
    /// Probability that the message is refused as if nobody listened.
    pub refuse_ppm: u32,
    /// Probability that the message arrives, but its connection breaks at once: the sender is told.
    pub reset_ppm: u32,
    /// Everything is taken and nothing arrives: a connection that hangs.
    pub hangs: bool,
    /// The link is dead after it was idle for so long, until [`IDLE_REVIVE_NS`] after the first message that finds it so;
    /// 0 for never.
    pub idle_dead_ns: Nanos,
}

/// A message that would wait longer for its turn on a link of limited bandwidth is lost: the queue is full.
pub const QUEUE_NS_MAX: Nanos = 1_000_000_000;
/// An idle connection that turned out to be dead is made anew after so long.
pub const IDLE_REVIVE_NS: Nanos = 500_000_000;

impl Default for NetworkConfig {
    /// A quiet local network: 100 to 150 us, nothing lost.
    fn default() -> NetworkConfig {
        NetworkConfig {
            latency_ns: 100_000,
            jitter_ns: 50_000,
            spike_ppm: 0,
            spike_ns_max: 0,
            loss_ppm: 0,
            duplicate_ppm: 0,
            corrupt_ppm: 0,
            reorder_ppm: 0,
            reorder_ns_max: 0,
            bytes_per_s: 0,
            slow_ns: 0,
            refuse_ppm: 0,
            reset_ppm: 0,
            hangs: false,
            idle_dead_ns: 0,
        }
    }
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: HostId,
    /// Port the message was sent from; 0 when the sender bound none.
    pub from_port: u16,
    pub bytes: Vec<u8>,
}

/// What a bound port receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Packet(Packet),
    /// A message sent from this port to `host`:`port` found nobody there, though the machine is up.
    Refused {
        host: HostId,
        port: u16,
    },
}

/// What the network did, since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCounts {
    pub sent: u64,
    pub sent_bytes: u64,
    pub delivered: u64,
    pub lost: u64,
    pub spikes: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    /// Calls that cut a link that was not cut.
    pub cuts: u64,
    /// Messages that a cut dropped.
    pub cut_drops: u64,
    pub refused: u64,
    /// Messages to hosts without power.
    pub silent_drops: u64,
    /// Second copies that arrived.
    pub duplicates_delivered: u64,
    /// Messages that were found damaged by their checksum; told by [`damage_found`].
    pub damage_found: u64,
    /// Messages that were held back, and how many of them arrived after one that was sent later.
    pub held_back: u64,
    pub overtaken: u64,
    /// Messages that waited for bandwidth, and those for which there was no room.
    pub queued: u64,
    pub queue_drops: u64,
    /// Messages delivered over a link that is always slow.
    pub slow_delivered: u64,
    /// Messages refused though somebody listened.
    pub refused_by_fault: u64,
    /// Connections that broke after the message had arrived.
    pub resets: u64,
    /// Messages that hung links and dead idle ones swallowed.
    pub hung: u64,
    pub idle_drops: u64,
    /// Messages that waited for a clog to end.
    pub clogged: u64,
}

/// A receiver found a message damaged, and dropped it.
pub fn damage_found() {
    with(|world| {
        if !world.is_mute() {
            world.network.borrow_mut().counts.damage_found += 1;
        }
    });
}

/// Until `until_ns` messages from `a` to `b` wait; then they travel on. Nothing is lost.
pub fn clog(a: HostId, b: HostId, until_ns: Nanos) {
    with(|world| {
        if !world.is_mute() {
            world.network.borrow_mut().link(a, b).clogged_until = until_ns;
            world.record(Class::Link, "clog", &[u64::from(a.0), u64::from(b.0), until_ns], (0, 0));
        }
    });
}

/// Cuts the link from `a` to `b` in this direction: nothing passes, what is in flight is lost.
pub fn cut(a: HostId, b: HostId) {
    with(|world| {
        if world.is_mute() {
            return;
        }
        let mut network = world.network.borrow_mut();
        let link = network.link(a, b);
        if link.is_cut {
            return;
        }
        link.is_cut = true;
        link.epoch += 1;
        network.counts.cuts += 1;
        network.cut_links.insert((a, b));
        drop(network);
        world.record(Class::Link, "cut", &[u64::from(a.0), u64::from(b.0)], (0, 0));
    });
}

/// Ends a [`cut`].
pub fn heal(a: HostId, b: HostId) {
    with(|world| {
        if world.is_mute() {
            return;
        }
        let mut network = world.network.borrow_mut();
        let link = network.link(a, b);
        if !link.is_cut {
            return;
        }
        link.is_cut = false;
        network.cut_links.remove(&(a, b));
        drop(network);
        world.record(Class::Link, "heal", &[u64::from(a.0), u64::from(b.0)], (0, 0));
    });
}

/// Ends every cut and every override of a link.
pub fn heal_all() {
    with(|world| {
        let cut: Vec<_> = world.network.borrow().cut_links.iter().copied().collect();
        for (a, b) in cut {
            heal(a, b);
        }
        for link in world.network.borrow_mut().links.iter_mut().flatten().flatten() {
            link.config = None;
            link.clogged_until = 0;
        }
    });
}

/// Whether the link from `a` to `b` is cut.
pub fn is_cut(a: HostId, b: HostId) -> bool {
    with(|world| world.network.borrow_mut().link(a, b).is_cut)
}

/// How messages from `a` to `b` travel from now on; `None` for the world's setting.
pub fn configure_link(a: HostId, b: HostId, config: Option<NetworkConfig>) {
    with(|world| {
        if !world.is_mute() {
            world.network.borrow_mut().link(a, b).config = config;
            world.record(Class::Link, "configure", &[u64::from(a.0), u64::from(b.0)], (0, 0));
        }
    });
}

/// How messages travel from now on where no link says otherwise.
pub fn configure(config: NetworkConfig) {
    with(|world| {
        if !world.is_mute() {
            world.network.borrow_mut().config = config;
            world.record(Class::Link, "configure", &[], (0, 0));
        }
    });
}

/// The setting in force where no link says otherwise.
pub fn config() -> NetworkConfig {
    with(|world| world.network.borrow().config.clone())
}

pub fn counts() -> NetworkCounts {
    with(|world| world.network.borrow().counts)
}
