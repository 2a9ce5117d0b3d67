//! The thread that iroh runs on.

use std::io;
use std::sync::mpsc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A thread with a runtime for one thread. It ends when this is dropped; nobody waits for it.
pub(super) struct NetThread {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl NetThread {
    pub(super) fn start() -> io::Result<NetThread> {
        let (end, ended) = oneshot::channel::<()>();
        let (started, handle) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("aspen-net".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            let _ = started.send(Ok(runtime.handle().clone()));
            // An error says that the sender was dropped, which is the sign to end.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        let handle = handle.recv().map_err(io::Error::other)??;
        Ok(NetThread { handle, _end: end })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}
