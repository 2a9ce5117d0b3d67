//! Messages between hosts: latency, loss, duplication, corruption, and links that can be cut.
//!
//! A message is sent from one host to a port of another; nothing blocks and nothing fails by itself. Each directed link
//! draws from a stream of its own, one draw per message, so a message more on one link reshuffles no other. Reordering
//! follows from jitter. **Bytes in flight obey a cut**: a message is lost if its link was cut at any moment of its flight.
//!
//! A dead process whose operating system lives answers with a refusal ([`Event::Refused`]), as does a live one that has
//! nothing bound to the port; after a loss of power there is only silence.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};

use serde::{Deserialize, Serialize};

use super::agenda::Kind;
use super::draws::{self, Dice, Purpose, Stream};
use super::host::HostStatus;
use super::slab::{Key, Slab};
use super::state::{Inner, try_with, with};
use super::task::note_wait;
use super::trace::{Class, hash_bytes};
use super::{Cause, HostId, Incarnation, Nanos, hash, section};

const LINK: Purpose = Purpose("link");

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
}

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
}

struct Link {
    draws: Stream,
    /// Hash of the two ends, for ties.
    id: u64,
    config: Option<NetworkConfig>,
    is_cut: bool,
    /// Grows with every cut; a message whose link's epoch changed is lost.
    epoch: u64,
}

enum Payload {
    Bytes(Vec<u8>),
    /// The message to this port was refused.
    Refusal(u16),
}

pub(crate) struct InFlight {
    from: HostId,
    from_port: u16,
    to: HostId,
    to_port: u16,
    payload: Payload,
    hash: (usize, u64),
    epoch: u64,
    sent_by: u64,
}

pub(crate) struct Mailbox {
    owner: Incarnation,
    queue: VecDeque<Event>,
    waker: Option<Waker>,
}

pub(crate) struct Network {
    config: NetworkConfig,
    key: draws::Key,
    links: Vec<Vec<Option<Box<Link>>>>,
    flying: Slab<InFlight>,
    mailboxes: Slab<Mailbox>,
    /// (host, port) to mailbox, in the order of binding per host.
    bound: Vec<Vec<(u16, Key)>>,
    counts: NetworkCounts,
    /// The links that are cut now.
    cut_links: BTreeSet<(HostId, HostId)>,
}

impl Network {
    pub fn new(config: NetworkConfig, key: draws::Key) -> Network {
        Network {
            config,
            key,
            links: Vec::new(),
            flying: Slab::new(),
            mailboxes: Slab::new(),
            bound: Vec::new(),
            counts: NetworkCounts::default(),
            cut_links: BTreeSet::new(),
        }
    }

    fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        let (row, column) = (from.0 as usize, to.0 as usize);
        if self.links.len() <= row {
            self.links.resize_with(row + 1, Vec::new);
        }
        let links = &mut self.links[row];
        if links.len() <= column {
            links.resize_with(column + 1, || None);
        }
        let key = &self.key;
        links[column].get_or_insert_with(|| {
            let id = draws::entity(&[u64::from(from.0), u64::from(to.0)]);
            Box::new(Link { draws: key.stream(LINK, id), id, config: None, is_cut: false, epoch: 0 })
        })
    }

    fn find(&self, host: HostId, port: u16) -> Option<Key> {
        let ports = self.bound.get(host.0 as usize)?;
        ports.iter().find(|(bound, _)| *bound == port).map(|&(_, key)| key)
    }

    fn first_port(&self, host: HostId) -> u16 {
        self.bound.get(host.0 as usize).and_then(|ports| ports.first()).map_or(0, |&(port, _)| port)
    }

    /// Unbinds all ports of a host. The caller drops the mailboxes, with the wakers in them, outside its borrow.
    #[must_use]
    pub fn unbind_host(&mut self, host: HostId) -> Vec<Mailbox> {
        let ports = self.bound.get_mut(host.0 as usize).map(std::mem::take).unwrap_or_default();
        ports.into_iter().filter_map(|(_, key)| self.mailboxes.remove(key)).collect()
    }

    /// Forgets what flies and what is bound, like [`unbind_host`](Network::unbind_host).
    #[must_use]
    pub fn clear(&mut self) -> Slab<Mailbox> {
        self.flying = Slab::new();
        self.bound.clear();
        std::mem::replace(&mut self.mailboxes, Slab::new())
    }
}

/// One copy of a message: when it arrives and what happens to it.
struct Flight {
    latency: Nanos,
    corrupt_bit: Option<u64>,
}

impl Flight {
    fn draw(config: &NetworkConfig, dice: &mut Dice, bits: u64, counts: &mut NetworkCounts) -> Flight {
        let mut latency = config.latency_ns.saturating_add(dice.below(config.jitter_ns.saturating_add(1).max(1)));
        if dice.chance(config.spike_ppm) {
            counts.spikes += 1;
            latency = latency.saturating_add(dice.below(config.spike_ns_max.max(1)));
        }
        let corrupt_bit = (bits > 0 && dice.chance(config.corrupt_ppm)).then(|| dice.below(bits));
        Flight { latency, corrupt_bit }
    }
}

impl Inner {
    fn send_message(&self, from_port: Option<u16>, to: HostId, to_port: u16, bytes: Vec<u8>) {
        let from = self.context.get().incarnation.host;
        self.with_host(to, |_| ());
        let from_port = from_port.unwrap_or_else(|| self.network.borrow().first_port(from));
        let hash = hash_bytes(&bytes);
        let fields = [u64::from(to.0), u64::from(to_port), u64::from(from_port)];
        let sent_by = self.record(Class::Send, "", &fields, hash);
        let payload = Payload::Bytes(bytes);
        self.fly(InFlight { from, from_port, to, to_port, payload, hash, epoch: 0, sent_by });
    }

    /// Puts a message on its link, or loses it there.
    fn fly(&self, mut message: InFlight) {
        let sent_at = self.seen_now();
        let mut network = self.network.borrow_mut();
        network.counts.sent += 1;
        network.counts.sent_bytes += message.hash.0 as u64;
        let world_config = network.config.clone();
        let link = network.link(message.from, message.to);
        let ordinal = link.draws.ordinal();
        let mut dice = Dice::new(link.draws.next_u64());
        let config = link.config.clone().unwrap_or(world_config);
        let (is_cut, id) = (link.is_cut, link.id);
        message.epoch = link.epoch;
        if is_cut || dice.chance(config.loss_ppm) {
            let counts = &mut network.counts;
            if is_cut {
                counts.cut_drops += 1
            } else {
                counts.lost += 1
            }
            drop(network);
            self.drop_message(&message, if is_cut { "cut" } else { "lost" });
            return;
        }
        let bits = message.hash.0 as u64 * 8;
        let copies = 1 + usize::from(dice.chance(config.duplicate_ppm));
        for copy in 0..copies {
            let flight = Flight::draw(&config, &mut dice, bits, &mut network.counts);
            let mut message = if copy + 1 < copies { message.copy() } else { std::mem::take(&mut message) };
            if copy > 0 {
                network.counts.duplicated += 1;
            }
            if let Some(bit) = flight.corrupt_bit {
                network.counts.corrupted += 1;
                message.flip(bit);
            }
            let key = network.flying.insert(message);
            let at = sent_at.saturating_add(flight.latency).max(self.now.get());
            let tie = hash::mix(self.salt ^ id, ordinal * 2 + copy as u64);
            self.agenda.borrow_mut().push(at, tie, Kind::Packet, key);
        }
    }

    fn drop_message(&self, message: &InFlight, why: &'static str) {
        let fields = [u64::from(message.from.0), u64::from(message.to.0), u64::from(message.to_port)];
        self.record_caused(message.to, Class::Drop, why, message.sent_by, &fields, message.hash);
    }

    /// A message arrives.
    pub fn deliver(&self, key: Key) {
        let mut network = self.network.borrow_mut();
        let Some(message) = network.flying.remove(key) else { return };
        let link = network.link(message.from, message.to);
        if link.is_cut || link.epoch != message.epoch {
            network.counts.cut_drops += 1;
            drop(network);
            return self.drop_message(&message, "cut");
        }
        let is_silent = self.with_host(message.to, |host| {
            matches!(host.status, HostStatus::NeverBooted | HostStatus::Killed(Cause::PowerLoss))
        });
        if is_silent {
            network.counts.silent_drops += 1;
            drop(network);
            return self.drop_message(&message, "no power");
        }
        let Some(mailbox) = network.find(message.to, message.to_port) else {
            let is_refusal = matches!(message.payload, Payload::Refusal(_));
            if !is_refusal {
                network.counts.refused += 1;
            }
            drop(network);
            if is_refusal {
                return self.drop_message(&message, "nobody");
            }
            return self.refuse(&message);
        };
        let fields = [u64::from(message.from.0), u64::from(message.to_port), u64::from(message.from_port)];
        let (class, event) = match message.payload {
            Payload::Bytes(bytes) => {
                network.counts.delivered += 1;
                let packet = Packet { from: message.from, from_port: message.from_port, bytes };
                (Class::Deliver, Event::Packet(packet))
            }
            Payload::Refusal(port) => (Class::Refused, Event::Refused { host: message.from, port }),
        };
        let mailbox = network.mailboxes.get_mut(mailbox).expect("a bound port has its mailbox");
        mailbox.queue.push_back(event);
        let waker = mailbox.waker.take();
        drop(network);
        let number = self.record_caused(message.to, class, "", message.sent_by, &fields, message.hash);
        self.cause.set(number);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The machine is up, but nobody listens: the sender is told, if the way back is open.
    fn refuse(&self, message: &InFlight) {
        let number = self.record_caused(
            message.to,
            Class::Refused,
            "",
            message.sent_by,
            &[u64::from(message.from.0), u64::from(message.to_port)],
            (0, 0),
        );
        self.fly(InFlight {
            from: message.to,
            from_port: message.to_port,
            to: message.from,
            to_port: message.from_port,
            payload: Payload::Refusal(message.to_port),
            hash: (0, 0),
            epoch: 0,
            sent_by: number,
        });
    }
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight {
            from: HostId::DRIVER,
            from_port: 0,
            to: HostId::DRIVER,
            to_port: 0,
            payload: Payload::Refusal(0),
            hash: (0, 0),
            epoch: 0,
            sent_by: super::trace::NO_EVENT,
        }
    }
}

impl InFlight {
    fn copy(&self) -> InFlight {
        let payload = match &self.payload {
            Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Payload::Refusal(port) => Payload::Refusal(*port),
        };
        InFlight { payload, ..*self }
    }

    fn flip(&mut self, bit: u64) {
        if let Payload::Bytes(bytes) = &mut self.payload
            && let Some(byte) = usize::try_from(bit / 8).ok().and_then(|index| bytes.get_mut(index))
        {
            *byte ^= 1 << (bit % 8);
            self.hash = hash_bytes(bytes);
        }
    }
}

/// A bound port of the incarnation that bound it. Dropping it unbinds the port.
pub struct Receiver {
    key: Key,
    port: u16,
    world: usize,
}

impl Receiver {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next event. Never ready once the incarnation is dead.
    pub fn recv(&mut self) -> Recv<'_> {
        Recv { receiver: self }
    }

    /// The next event, if it has arrived.
    pub fn try_recv(&mut self) -> Option<Event> {
        with(|world| world.network.borrow_mut().mailboxes.get_mut(self.key)?.queue.pop_front())
    }

    /// Sends from this port, so that a refusal comes back to it.
    pub fn send(&self, to: HostId, port: u16, bytes: Vec<u8>) {
        send_with(Some(self.port), to, port, bytes);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mailbox = try_with(|world| {
            if world.address() != self.world {
                return None;
            }
            let mut network = world.network.borrow_mut();
            let mailbox = network.mailboxes.remove(self.key)?;
            if let Some(ports) = network.bound.get_mut(mailbox.owner.host.0 as usize) {
                ports.retain(|&(_, key)| key != self.key);
            }
            Some(mailbox)
        });
        drop(mailbox);
    }
}

/// See [`Receiver::recv`]. Cancel-safe: an event is taken only when this is ready.
#[must_use = "a Recv does nothing unless awaited"]
pub struct Recv<'a> {
    receiver: &'a mut Receiver,
}

impl Future for Recv<'_> {
    type Output = Event;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Event> {
        let polled = with(|world| {
            let mut network = world.network.borrow_mut();
            let Some(mailbox) = network.mailboxes.get_mut(self.receiver.key) else { return Err(None) };
            match mailbox.queue.pop_front() {
                Some(event) => Ok(event),
                None if mailbox.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) => Err(None),
                None => Err(mailbox.waker.replace(cx.waker().clone())),
            }
        });
        match polled {
            Ok(event) => Poll::Ready(event),
            Err(stale) => {
                drop(stale);
                note_wait("a message");
                Poll::Pending
            }
        }
    }
}

/// Binds a port for the current incarnation. Of a dead one the receiver never yields anything.
///
/// # Panics
/// If the port is bound already.
pub fn bind(port: u16) -> Receiver {
    with(|world| {
        let owner = world.context.get().incarnation;
        let receiver = |key| Receiver { key, port, world: world.address() };
        if world.is_mute() || !world.is_alive(owner) {
            return receiver(Key::NONE);
        }
        let mut network = world.network.borrow_mut();
        let taken = network.find(owner.host, port);
        assert!(taken.is_none(), "port {port} of host {} is bound already", owner.host.0);
        let key = network.mailboxes.insert(Mailbox { owner, queue: VecDeque::new(), waker: None });
        let row = owner.host.0 as usize;
        if network.bound.len() <= row {
            network.bound.resize_with(row + 1, Vec::new);
        }
        network.bound[row].push((port, key));
        receiver(key)
    })
}

/// Sends a message from the current host; a refusal comes back to the port that its incarnation bound first. Inside a
/// section the message leaves when the section's virtual end is reached, unless the host dies before. A dead
/// incarnation sends nothing.
///
/// # Panics
/// If there is no such host.
pub fn send(to: HostId, port: u16, bytes: Vec<u8>) {
    send_with(None, to, port, bytes);
}

fn send_with(from_port: Option<u16>, to: HostId, port: u16, bytes: Vec<u8>) {
    section::buffer(move || {
        with(|world| {
            if !world.is_mute() {
                world.send_message(from_port, to, port, bytes);
            }
        });
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
