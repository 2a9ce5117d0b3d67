//! Messages under way: what a link draws for them, when they arrive, and who takes them.

use std::collections::{BTreeSet, VecDeque};
use std::task::Waker;

use super::{Event, IDLE_REVIVE_NS, NetworkConfig, NetworkCounts, Packet, QUEUE_NS_MAX};
use crate::world::agenda::Kind;
use crate::world::draws::{self, Dice, Purpose, Stream};
use crate::world::host::HostStatus;
use crate::world::slab::{Key, Slab};
use crate::world::state::Inner;
use crate::world::trace::{Class, NO_EVENT, hash_bytes};
use crate::world::{Cause, HostId, Incarnation, Nanos, hash};

const LINK: Purpose = Purpose("link");

pub(super) struct Link {
    pub(super) draws: Stream,
    /// Hash of the two ends, for ties.
    pub(super) id: u64,
    pub(super) config: Option<NetworkConfig>,
    pub(super) is_cut: bool,
    /// Grows with every cut; a message whose link's epoch changed is lost.
    pub(super) epoch: u64,
    /// Messages wait here until then.
    pub(super) clogged_until: Nanos,
    /// The messages that are under transmission are through by then.
    busy_until: Nanos,
    last_sent_at: Nanos,
    /// Found dead after idling; made anew then.
    dead_until: Nanos,
    /// Number of messages sent, and of the latest one that arrived.
    sent: u64,
    arrived: u64,
}

/// Why a link did not take a message.
#[derive(Clone, Copy)]
enum Swallowed {
    Cut,
    Lost,
    Hung,
    Idle,
    QueueFull,
}

impl Swallowed {
    fn reason(self) -> &'static str {
        match self {
            Swallowed::Cut => "cut",
            Swallowed::Lost => "lost",
            Swallowed::Hung => "hung",
            Swallowed::Idle => "dead after idling",
            Swallowed::QueueFull => "queue full",
        }
    }

    fn count(self, counts: &mut NetworkCounts) {
        let count = match self {
            Swallowed::Cut => &mut counts.cut_drops,
            Swallowed::Lost => &mut counts.lost,
            Swallowed::Hung => &mut counts.hung,
            Swallowed::Idle => &mut counts.idle_drops,
            Swallowed::QueueFull => &mut counts.queue_drops,
        };
        *count += 1;
    }
}

impl Link {
    fn new(draws: Stream, id: u64) -> Link {
        Link {
            draws,
            id,
            config: None,
            is_cut: false,
            epoch: 0,
            clogged_until: 0,
            busy_until: 0,
            last_sent_at: 0,
            dead_until: 0,
            sent: 0,
            arrived: 0,
        }
    }

    /// Takes a message of `bytes` at `now`: how long it waits for its turn, or why it is gone.
    #[inline]
    fn admit(&mut self, config: &NetworkConfig, dice: &mut Dice, now: Nanos, bytes: u64) -> Result<Nanos, Swallowed> {
        let idle_ns = now.saturating_sub(std::mem::replace(&mut self.last_sent_at, now));
        if self.is_cut {
            return Err(Swallowed::Cut);
        }
        if dice.chance(config.loss_ppm) {
            return Err(Swallowed::Lost);
        }
        if config.hangs {
            return Err(Swallowed::Hung);
        }
        if config.idle_dead_ns > 0 {
            if idle_ns >= config.idle_dead_ns && now >= self.dead_until {
                self.dead_until = now.saturating_add(IDLE_REVIVE_NS);
            }
            if now < self.dead_until {
                return Err(Swallowed::Idle);
            }
        }
        let mut through_at = self.clogged_until.max(now);
        if config.bytes_per_s > 0 {
            let begins_at = through_at.max(self.busy_until);
            if begins_at - through_at > QUEUE_NS_MAX {
                return Err(Swallowed::QueueFull);
            }
            let takes = u128::from(bytes) * 1_000_000_000 / u128::from(config.bytes_per_s);
            through_at = begins_at.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
            self.busy_until = through_at;
        }
        Ok(through_at - now)
    }
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
    /// Ordinal on its link, from 1.
    number: u64,
    marks: Marks,
}

/// What was done to a message on its way, to be counted when that is felt.
#[derive(Clone, Copy, Default)]
struct Marks {
    is_copy: bool,
    held_back: bool,
    slow: bool,
    /// The connection breaks when it arrives.
    resets: bool,
    refuses: bool,
}

pub(crate) struct Mailbox {
    pub(super) owner: Incarnation,
    pub(super) queue: VecDeque<Event>,
    pub(super) waker: Option<Waker>,
}

pub(crate) struct Network {
    pub(super) config: NetworkConfig,
    pub(super) key: draws::Key,
    pub(super) links: Vec<Vec<Option<Box<Link>>>>,
    pub(super) flying: Slab<InFlight>,
    pub(super) mailboxes: Slab<Mailbox>,
    /// (host, port) to mailbox, in the order of binding per host.
    pub(super) bound: Vec<Vec<(u16, Key)>>,
    pub(super) counts: NetworkCounts,
    /// The links that are cut now.
    pub(super) cut_links: BTreeSet<(HostId, HostId)>,
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

    pub(super) fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.open_link(from, to);
        self.opened(from, to)
    }

    /// A link that was made before.
    #[inline]
    fn opened(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.links[from.0 as usize][to.0 as usize].as_mut().expect("the link was opened")
    }

    /// Makes the link if there is none yet.
    #[inline]
    fn open_link(&mut self, from: HostId, to: HostId) {
        let links = self.links.get(from.0 as usize).and_then(|links| links.get(to.0 as usize));
        if !matches!(links, Some(Some(_))) {
            self.make_link(from, to);
        }
    }

    #[cold]
    fn make_link(&mut self, from: HostId, to: HostId) {
        let (row, column) = (from.0 as usize, to.0 as usize);
        if self.links.len() <= row {
            self.links.resize_with(row + 1, Vec::new);
        }
        let links = &mut self.links[row];
        if links.len() <= column {
            links.resize_with(column + 1, || None);
        }
        let id = draws::entity(&[u64::from(from.0), u64::from(to.0)]);
        let draws = self.key.stream(LINK, id);
        links[column] = Some(Box::new(Link::new(draws, id)));
    }

    pub(super) fn find(&self, host: HostId, port: u16) -> Option<Key> {
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

/// Bytes of a stream that a link takes.
pub(super) struct Carried {
    pub at: Nanos,
    /// Of the link when they were sent.
    pub epoch: u64,
    /// Their connection breaks on the way.
    pub breaks: bool,
    /// A request for a connection is refused.
    pub refuses: bool,
}

/// One copy of a message: when it arrives and what happens to it.
struct Flight {
    latency: Nanos,
    corrupt_bit: Option<u64>,
    marks: Marks,
}

impl Flight {
    #[inline]
    fn draw(config: &NetworkConfig, dice: &mut Dice, bits: u64, counts: &mut NetworkCounts) -> Flight {
        let mut latency = config.latency_ns.saturating_add(dice.below(config.jitter_ns.saturating_add(1).max(1)));
        if dice.chance(config.spike_ppm) {
            counts.spikes += 1;
            latency = latency.saturating_add(dice.below(config.spike_ns_max.max(1)));
        }
        let corrupt_bit = (bits > 0 && dice.chance(config.corrupt_ppm)).then(|| dice.below(bits));
        let mut marks = Marks { slow: config.slow_ns > 0, ..Marks::default() };
        latency = latency.saturating_add(config.slow_ns);
        if dice.chance(config.reorder_ppm) {
            marks.held_back = true;
            counts.held_back += 1;
            latency = latency.saturating_add(1 + dice.below(config.reorder_ns_max.max(1)));
        }
        // A notice that nobody listens is not itself refused.
        marks.refuses = bits > 0 && dice.chance(config.refuse_ppm);
        marks.resets = bits > 0 && dice.chance(config.reset_ppm);
        Flight { latency, corrupt_bit, marks }
    }
}

impl Inner {
    pub(super) fn send_message(&self, from_port: Option<u16>, to: HostId, to_port: u16, bytes: Vec<u8>) {
        let from = self.context.get().incarnation.host;
        self.with_host(to, |_| ());
        let from_port = from_port.unwrap_or_else(|| self.network.borrow().first_port(from));
        let hash = hash_bytes(&bytes);
        let fields = [u64::from(to.0), u64::from(to_port), u64::from(from_port)];
        let sent_by = self.record(Class::Send, "", &fields, hash);
        let payload = Payload::Bytes(bytes);
        self.fly(InFlight { from, from_port, to, to_port, payload, hash, sent_by, ..InFlight::default() });
    }

    /// Puts a message on its link, or loses it there.
    fn fly(&self, mut message: InFlight) {
        let sent_at = self.seen_now();
        let mut network = self.network.borrow_mut();
        network.open_link(message.from, message.to);
        let Network { config, links, flying, counts, .. } = &mut *network;
        let link = links[message.from.0 as usize][message.to.0 as usize].as_mut().expect("the link was opened");
        counts.sent += 1;
        counts.sent_bytes += message.hash.0 as u64;
        let ordinal = link.draws.ordinal();
        let mut dice = Dice::new(link.draws.next_u64());
        let own = link.config.clone();
        let config = own.as_ref().unwrap_or(config);
        let id = link.id;
        link.sent += 1;
        message.epoch = link.epoch;
        message.number = link.sent;
        let is_clogged = link.clogged_until > sent_at;
        let waits = match link.admit(config, &mut dice, sent_at, message.hash.0 as u64) {
            Ok(waits) => waits,
            Err(swallowed) => {
                swallowed.count(counts);
                drop(network);
                return self.drop_message(&message, swallowed.reason());
            }
        };
        counts.clogged += u64::from(is_clogged);
        counts.queued += u64::from(waits > 0 && !is_clogged);
        let bits = message.hash.0 as u64 * 8;
        let mut twin = dice.chance(config.duplicate_ppm).then(|| message.copy());
        counts.duplicated += u64::from(twin.is_some());
        let mut copy = 0;
        loop {
            let flight = Flight::draw(config, &mut dice, bits, counts);
            message.marks = Marks { is_copy: copy > 0, ..flight.marks };
            if let Some(bit) = flight.corrupt_bit {
                counts.corrupted += 1;
                message.flip(bit);
            }
            let key = flying.insert(message);
            let at = sent_at.saturating_add(waits).saturating_add(flight.latency).max(self.now.get());
            let tie = hash::mix(self.salt ^ id, ordinal * 2 + copy);
            self.agenda.borrow_mut().push(at, tie, Kind::Packet, key);
            let Some(next) = twin.take() else { return };
            (message, copy) = (next, copy + 1);
        }
    }

    /// Draws what becomes of `bytes` of a stream on their way; `None` when the link swallows them, damaged ones too: a
    /// stream's checksum finds them.
    pub(super) fn carry(&self, from: HostId, to: HostId, bytes: usize) -> Option<Carried> {
        let now = self.seen_now();
        let mut network = self.network.borrow_mut();
        network.counts.sent += 1;
        network.counts.sent_bytes += bytes as u64;
        let world_config = network.config.clone();
        let link = network.link(from, to);
        let mut dice = Dice::new(link.draws.next_u64());
        let config = link.config.clone().unwrap_or(world_config);
        let epoch = link.epoch;
        let waits = match link.admit(&config, &mut dice, now, bytes as u64) {
            Ok(waits) => waits,
            Err(swallowed) => {
                swallowed.count(&mut network.counts);
                return None;
            }
        };
        let flight = Flight::draw(&config, &mut dice, bytes as u64 * 8, &mut network.counts);
        if flight.corrupt_bit.is_some() {
            network.counts.corrupted += 1;
            network.counts.damage_found += 1;
            return None;
        }
        let (breaks, refuses) = (flight.marks.resets, flight.marks.refuses);
        network.counts.resets += u64::from(breaks);
        Some(Carried { at: now.saturating_add(waits).saturating_add(flight.latency), epoch, breaks, refuses })
    }

    /// Whether nothing cut the link since it had this epoch.
    pub(super) fn is_link_open(&self, from: HostId, to: HostId, epoch: u64) -> bool {
        let mut network = self.network.borrow_mut();
        let link = network.link(from, to);
        let is_open = !link.is_cut && link.epoch == epoch;
        network.counts.cut_drops += u64::from(!is_open);
        is_open
    }

    fn drop_message(&self, message: &InFlight, why: &'static str) {
        let fields = [u64::from(message.from.0), u64::from(message.to.0), u64::from(message.to_port)];
        self.record_caused(message.to, Class::Drop, why, message.sent_by, &fields, message.hash);
    }

    /// A message arrives.
    pub fn deliver(&self, key: Key) {
        let mut network = self.network.borrow_mut();
        let Some(message) = network.flying.remove(key) else { return };
        let link = network.opened(message.from, message.to);
        if link.is_cut || link.epoch != message.epoch {
            network.counts.cut_drops += 1;
            drop(network);
            return self.drop_message(&message, "cut");
        }
        let is_overtaken = link.arrived > message.number;
        link.arrived = link.arrived.max(message.number);
        let is_silent = self.with_host(message.to, |host| {
            matches!(host.status, HostStatus::NeverBooted | HostStatus::Killed(Cause::PowerLoss))
        });
        if is_silent {
            network.counts.silent_drops += 1;
            drop(network);
            return self.drop_message(&message, "no power");
        }
        let marks = message.marks;
        network.counts.duplicates_delivered += u64::from(marks.is_copy);
        network.counts.overtaken += u64::from(marks.held_back && is_overtaken);
        network.counts.slow_delivered += u64::from(marks.slow);
        if marks.refuses {
            network.counts.refused_by_fault += 1;
            drop(network);
            return self.refuse(&message);
        }
        if marks.resets {
            network.counts.resets += 1;
            drop(network);
            self.refuse(&message);
            network = self.network.borrow_mut();
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
            sent_by: number,
            ..InFlight::default()
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
            sent_by: NO_EVENT,
            number: 0,
            marks: Marks::default(),
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
