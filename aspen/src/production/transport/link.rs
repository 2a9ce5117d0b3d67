//! One connection: requests go out on it and come in.
//!
//! Short requests share one long-lived stream, the lane, which costs a third of a stream per request; a long one (a
//! batch, a chunk of a snapshot) has a stream of its own, so that no heartbeat waits behind it. The same holds for
//! replies. Each end opens a lane of its own; whoever accepts a stream answers every request on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iroh::PublicKey;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::production::transport::Shared;
use crate::production::transport::frame::{self, Frame, FrameError, Kind};
use crate::production::transport::gate::Role;
use crate::production::transport::hello::Introduction;

/// A longer message has a stream of its own.
const ALONE_BYTES: usize = 64 << 10;
/// Frames that wait for a lane to take them.
const QUEUE_FRAMES_MAX: usize = 1024;
/// Frames written at once.
const COALESCE_BYTES: usize = 256 << 10;
/// Requests of one peer in progress; its lane waits beyond.
const REQUESTS_MAX: usize = 4096;
/// A stream that the peer does not let us open for so long is no stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a request got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkError {
    /// Nobody serves there; it was not handled.
    Unserved,
    /// The connection broke.
    Reset,
}

type Answer = Result<Vec<u8>, LinkError>;

/// An open connection.
pub(super) struct Link {
    connection: Connection,
    pub(super) remote: PublicKey,
    pub(super) introduction: Introduction,
    role: Role,
    lane: mpsc::Sender<Vec<u8>>,
    /// `None` once the connection is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    next: AtomicU64,
}

impl Link {
    /// Begins to use a connection whose handshake is over.
    pub(super) fn start(
        shared: &Arc<Shared>,
        connection: Connection,
        introduction: Introduction,
        role: Role,
    ) -> Arc<Link> {
        let (lane, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
        let link = Arc::new(Link {
            remote: connection.remote_id(),
            connection,
            introduction,
            role,
            lane,
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
        });
        shared.net.spawn(link.clone().run_lane(shared.clone(), frames));
        shared.net.spawn(link.clone().accept_streams(shared.clone()));
        shared.net.spawn(link.clone().accept_long_replies(shared.clone()));
        link
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        self.connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Sends a request and waits for its reply for as long as the caller wants to.
    pub(super) async fn ask(&self, shared: &Shared, kind: Kind, request: &[u8]) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = frame::encode(kind, id, request);
        shared.counters.sent(bytes.len());
        if request.len() > ALONE_BYTES {
            return self.ask_alone(shared, bytes).await;
        }
        let (reply, replied) = oneshot::channel();
        // Forgets the request when the caller does.
        let _forget = Forget { link: self, id };
        match self.waiting().as_mut() {
            Some(waiting) => waiting.insert(id, reply),
            None => return Err(LinkError::Reset),
        };
        self.lane.send(bytes).await.map_err(|_| LinkError::Reset)?;
        replied.await.unwrap_or(Err(LinkError::Reset))
    }

    async fn ask_alone(&self, shared: &Shared, bytes: Vec<u8>) -> Answer {
        let (mut send, mut recv) = self.connection.open_bi().await.map_err(|_| LinkError::Reset)?;
        send.write_all(&bytes).await.map_err(|_| LinkError::Reset)?;
        // An error here is one of the stream, which reading the reply meets too.
        let _ = send.finish();
        match frame::read(&mut recv, shared.message_bytes_max).await {
            Ok(Some(Frame { kind: Kind::Reply, payload, .. })) => {
                shared.counters.received(payload.len());
                Ok(payload)
            }
            Ok(Some(Frame { kind: Kind::Unserved, .. })) => Err(LinkError::Unserved),
            Ok(_) => Err(LinkError::Reset),
            Err(error) => Err(self.broken(shared, &error)),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is sent on our lane and hands out the replies, until the connection is over.
    async fn run_lane(self: Arc<Self>, shared: Arc<Shared>, frames: mpsc::Receiver<Vec<u8>>) {
        if let Ok(Ok((send, recv))) = tokio::time::timeout(OPEN_TIMEOUT, self.connection.open_bi()).await {
            tokio::select! {
                biased;
                () = self.read_replies(&shared, recv) => {}
                () = write_frames(send, frames) => {}
            }
        }
        self.close(CODE_LANE, "the lane ended");
        // Whoever waits learns that no reply comes any more; nobody else can begin to wait.
        drop(self.waiting().take());
    }

    async fn read_replies(&self, shared: &Shared, mut recv: RecvStream) {
        loop {
            match frame::read(&mut recv, shared.message_bytes_max).await {
                Ok(Some(frame)) => self.deliver(shared, frame),
                Ok(None) => return,
                Err(error) => {
                    self.broken(shared, &error);
                    return;
                }
            }
        }
    }

    /// Hands a reply to whoever waits for it; one that nobody waits for is dropped.
    fn deliver(&self, shared: &Shared, frame: Frame) {
        shared.counters.received(frame.payload.len());
        let Some(waiting) = self.waiting().as_mut().and_then(|waiting| waiting.remove(&frame.id)) else { return };
        let answer = match frame.kind {
            Kind::Reply => Ok(frame.payload),
            Kind::Unserved => Err(LinkError::Unserved),
            _ => Err(LinkError::Reset),
        };
        let _ = waiting.send(answer);
    }

    async fn accept_streams(self: Arc<Self>, shared: Arc<Shared>) {
        let in_progress = Arc::new(Semaphore::new(REQUESTS_MAX));
        while let Ok((send, recv)) = self.connection.accept_bi().await {
            tokio::spawn(self.clone().serve_stream(shared.clone(), in_progress.clone(), send, recv));
        }
    }

    async fn accept_long_replies(self: Arc<Self>, shared: Arc<Shared>) {
        while let Ok(mut recv) = self.connection.accept_uni().await {
            let (link, shared) = (self.clone(), shared.clone());
            tokio::spawn(async move {
                match frame::read(&mut recv, shared.message_bytes_max).await {
                    Ok(Some(frame)) => link.deliver(&shared, frame),
                    Ok(None) => {}
                    Err(error) => drop(link.broken(&shared, &error)),
                }
            });
        }
    }

    /// Answers the requests on a stream that the peer opened.
    async fn serve_stream(
        self: Arc<Self>,
        shared: Arc<Shared>,
        in_progress: Arc<Semaphore>,
        send: SendStream,
        mut recv: RecvStream,
    ) {
        let (replies, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
        tokio::spawn(write_frames(send, frames));
        loop {
            let frame = match frame::read(&mut recv, shared.message_bytes_max).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => {
                    self.broken(&shared, &error);
                    return;
                }
            };
            shared.counters.received(frame.payload.len());
            let permit = in_progress.clone().acquire_owned().await.expect("nobody closes it");
            let handler = shared.handler_for(frame.kind, &self.remote, self.role);
            let (link, shared, replies) = (self.clone(), shared.clone(), replies.clone());
            let alone = frame.payload.len() > ALONE_BYTES;
            let app = shared.app.clone();
            app.spawn(async move {
                let reply = match handler {
                    Some(handler) => {
                        let payload = handler.handle(frame.payload).await;
                        frame::encode(Kind::Reply, frame.id, &payload)
                    }
                    None => frame::encode(Kind::Unserved, frame.id, &[]),
                };
                shared.counters.sent(reply.len());
                if reply.len() > ALONE_BYTES && !alone {
                    link.send_alone(reply).await;
                } else {
                    // The stream is gone, and with it whoever waits.
                    let _ = replies.send(reply).await;
                }
                drop(permit);
            });
        }
    }

    async fn send_alone(&self, reply: Vec<u8>) {
        let Ok(mut send) = self.connection.open_uni().await else { return };
        if send.write_all(&reply).await.is_ok() {
            let _ = send.finish();
        }
    }

    /// A stream broke. If the peer sent what is no frame, the connection ends.
    fn broken(&self, shared: &Shared, error: &FrameError) -> LinkError {
        if !matches!(error, FrameError::Broken(_)) {
            shared.counters.malformed();
            tracing::warn!("{}: {error}; the connection is closed", self.remote.fmt_short());
            self.close(CODE_FRAME, "a frame is malformed");
        }
        LinkError::Reset
    }
}

/// Codes with which connections are closed.
pub(super) const CODE_DONE: u32 = 0;
const CODE_LANE: u32 = 1;
const CODE_FRAME: u32 = 2;
pub(super) const CODE_REFUSED: u32 = 3;
pub(super) const CODE_SUPERSEDED: u32 = 4;

struct Forget<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.link.waiting().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// Writes frames until their senders are gone, many at a time when many wait.
async fn write_frames(mut send: SendStream, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(mut bytes) = frames.recv().await {
        while bytes.len() < COALESCE_BYTES
            && let Ok(more) = frames.try_recv()
        {
            bytes.extend_from_slice(&more);
        }
        if send.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = send.finish();
}
