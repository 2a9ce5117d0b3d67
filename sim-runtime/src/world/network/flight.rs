//! Messages under way: what a link draws for them, when they arrive, and who takes them.

use std::collections::{BTreeSet, VecDeque};
use std::task::Waker;

use super::{Event, NetworkConfig, NetworkCounts, Packet};
use crate::world::agenda::Kind;
use crate::world::draws::{self, Dice, Purpose, Stream};
use crate::world::host::HostStatus;
use crate::world::slab::{Key, Slab};
use crate::world::state::Inner;
use crate::world::trace::{Class, hash_bytes};
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
        links[column] = Some(Box::new(Link { draws, id, config: None, is_cut: false, epoch: 0 }));
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
    pub(super) fn send_message(&self, from_port: Option<u16>, to: HostId, to_port: u16, bytes: Vec<u8>) {
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
        network.open_link(message.from, message.to);
        let Network { config, links, flying, counts, .. } = &mut *network;
        let link = links[message.from.0 as usize][message.to.0 as usize].as_mut().expect("the link was opened");
        counts.sent += 1;
        counts.sent_bytes += message.hash.0 as u64;
        let ordinal = link.draws.ordinal();
        let mut dice = Dice::new(link.draws.next_u64());
        let config = link.config.as_ref().unwrap_or(config);
        let (is_cut, id) = (link.is_cut, link.id);
        message.epoch = link.epoch;
        if is_cut || dice.chance(config.loss_ppm) {
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
        let twin = dice.chance(config.duplicate_ppm).then(|| message.copy());
        counts.duplicated += u64::from(twin.is_some());
        let mut launch = |mut message: InFlight, copy: u64| {
            let flight = Flight::draw(config, &mut dice, bits, counts);
            if let Some(bit) = flight.corrupt_bit {
                counts.corrupted += 1;
                message.flip(bit);
            }
            let key = flying.insert(message);
            let at = sent_at.saturating_add(flight.latency).max(self.now.get());
            let tie = hash::mix(self.salt ^ id, ordinal * 2 + copy);
            self.agenda.borrow_mut().push(at, tie, Kind::Packet, key);
        };
        launch(message, 0);
        if let Some(twin) = twin {
            launch(twin, 1);
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
