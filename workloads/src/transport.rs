//! `aspen`'s transport over the simulated message network.
//!
//! A call is a request packet and a reply packet, matched by a correlation number that is never used twice by one
//! incarnation. Packets carry a checksum; one that does not match is dropped, as a corrupt datagram would be. Nothing
//! is retransmitted: a lost packet is a call that times out, which is what a connection that died looks like.
//!
//! A request that arrives twice is handled once, as a stream transport would have it: the server remembers the
//! correlation numbers it has seen from each caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen::transport::{Handler, Transport, TransportError};
use aspen::types::Address;
use sim_runtime::sync::oneshot;
use sim_runtime::world::network::{self, Event as Arrival, Packet};
use sim_runtime::world::{self, HostId};

use crate::byzantine::{self, Tampered};
use crate::told;

/// The port on which every endpoint listens.
const PORT: u16 = 1;
/// A message with its header may not be longer.
const MESSAGE_BYTES_MAX: usize = 10 << 20;
/// Correlation numbers remembered per caller.
const SEEN_MAX: usize = 4096;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Kind, correlation number, checksum.
const HEADER_BYTES: usize = 1 + 8 + 8;

/// One endpoint of one incarnation.
#[derive(Clone)]
pub struct SimTransport {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    next_correlation: u64,
    pending: BTreeMap<u64, Pending>,
    handler: Option<Arc<dyn Handler>>,
    seen: BTreeMap<(HostId, u16), BTreeSet<u64>>,
    closed: bool,
}

impl Shared {
    /// Never used twice by one incarnation of a host.
    fn next_correlation(&mut self) -> u64 {
        self.next_correlation += 1;
        (u64::from(world::current().boot) << 40) | self.next_correlation
    }
}

struct Pending {
    to: HostId,
    reply: oneshot::Sender<Result<Vec<u8>, ()>>,
}

/// The address of a host.
pub fn address(host: HostId) -> Address {
    Address(format!("host-{}", host.0))
}

fn host(address: &Address) -> Option<HostId> {
    address.0.strip_prefix("host-")?.parse().ok().map(HostId)
}

impl SimTransport {
    /// Binds the current incarnation's endpoint.
    pub fn bind() -> SimTransport {
        let transport = SimTransport { shared: Arc::default() };
        let mut arrivals = network::bind(PORT);
        let receiving = transport.clone();
        world::spawn("transport", async move {
            loop {
                receiving.arrived(arrivals.recv().await);
            }
        });
        transport
    }

    /// Calls without a reply yet.
    pub fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    fn next_correlation(&self) -> u64 {
        self.lock().next_correlation()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("a simulation has one thread and its tasks do not unwind here")
    }

    fn arrived(&self, arrival: Arrival) {
        match arrival {
            Arrival::Packet(Packet { from, bytes, .. }) => match decode(&bytes) {
                Some((REQUEST, correlation, body)) => self.request(from, correlation, body.to_vec()),
                Some((REPLY, correlation, body)) => {
                    let pending = self.lock().pending.remove(&correlation);
                    if let Some(pending) = pending {
                        // The caller may have given up.
                        let _ = pending.reply.send(Ok(body.to_vec()));
                    }
                }
                _ => {
                    network::damage_found();
                    world::note(|| format!("a damaged packet from {from:?} is dropped"));
                }
            },
            Arrival::Refused { host, .. } => {
                let mut shared = self.lock();
                let refused: Vec<u64> =
                    shared.pending.iter().filter(|(_, call)| call.to == host).map(|(number, _)| *number).collect();
                for number in refused {
                    if let Some(call) = shared.pending.remove(&number) {
                        let _ = call.reply.send(Err(()));
                    }
                }
            }
        }
    }

    fn request(&self, from: HostId, correlation: u64, body: Vec<u8>) {
        let handler = {
            let mut shared = self.lock();
            let seen = shared.seen.entry((from, PORT)).or_default();
            if !seen.insert(correlation) {
                return;
            }
            if seen.len() > SEEN_MAX {
                seen.pop_first();
            }
            match (&shared.handler, shared.closed) {
                (Some(handler), false) => Arc::clone(handler),
                _ => return,
            }
        };
        world::spawn("request", async move {
            let here = world::current().host;
            let reply = handler.handle(body.clone()).await;
            told::replies(&body, &reply);
            let reply = byzantine::tamper_with_reply(here, from, &body, reply);
            network::send(from, PORT, encode(REPLY, correlation, &reply));
        });
    }
}

impl Transport for SimTransport {
    async fn call(&self, to: &Address, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, TransportError> {
        let actual = request.len() + HEADER_BYTES;
        if actual > MESSAGE_BYTES_MAX {
            return Err(TransportError::TooLarge { actual, max: MESSAGE_BYTES_MAX });
        }
        let Some(peer) = host(to) else {
            return Err(TransportError::Unreachable(to.clone()));
        };
        let (sender, receiver) = oneshot::channel();
        let correlation = {
            let mut shared = self.lock();
            if shared.closed {
                return Err(TransportError::Closed);
            }
            let correlation = shared.next_correlation();
            shared.pending.insert(correlation, Pending { to: peer, reply: sender });
            correlation
        };
        let _forget = Forget { transport: self, correlation };
        let Tampered { bytes, twice } = byzantine::tamper_with_request(world::current().host, peer, request);
        network::send(peer, PORT, encode(REQUEST, correlation, &bytes));
        if twice {
            // Under a number that nobody waits for.
            network::send(peer, PORT, encode(REQUEST, self.next_correlation(), &bytes));
        }
        match world::timeout(timeout, receiver).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            // The peer's machine answers that nobody listens: now. An earlier delivery is possible.
            Ok(Ok(Err(()))) => Err(TransportError::Reset(to.clone())),
            // Closed here while the request was on its way.
            Ok(Err(_)) => Err(TransportError::Reset(to.clone())),
            Err(_) => Err(TransportError::Timeout(to.clone(), timeout)),
        }
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        self.lock().handler = Some(handler);
    }

    fn close(&self) {
        let mut shared = self.lock();
        shared.closed = true;
        shared.handler = None;
        // Dropping the reply slots tells the callers.
        shared.pending.clear();
    }
}

/// Forgets an abandoned call, so that nothing leaks when its future is dropped.
struct Forget<'a> {
    transport: &'a SimTransport,
    correlation: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.transport.lock().pending.remove(&self.correlation);
    }
}

fn checksum(kind: u8, correlation: u64, body: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(body, correlation ^ u64::from(kind))
}

fn encode(kind: u8, correlation: u64, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER_BYTES + body.len());
    packet.push(kind);
    packet.extend_from_slice(&correlation.to_le_bytes());
    packet.extend_from_slice(&checksum(kind, correlation, body).to_le_bytes());
    packet.extend_from_slice(body);
    packet
}

fn decode(packet: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (kind, rest) = packet.split_first()?;
    let (correlation, rest) = rest.split_first_chunk()?;
    let (sum, body) = rest.split_first_chunk()?;
    let correlation = u64::from_le_bytes(*correlation);
    (checksum(*kind, correlation, body) == u64::from_le_bytes(*sum)).then_some((*kind, correlation, body))
}
