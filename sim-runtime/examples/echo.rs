//! An echo server and its clients over ordered streams, on links that lose, cut and corrupt.
//!
//! Shows that a stream delivers every byte in order or breaks: what comes back is compared with what was sent, however
//! the links behave. A client whose connection broke connects again and goes on with the next line.
//!
//! `cargo run -p sim-runtime --example echo -- 7` runs seed 7.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use sim_runtime::world::network::stream::{self, Stream, StreamError};
use sim_runtime::world::network::{self, NetworkConfig};
use sim_runtime::world::{self, Cause, HostId, World, WorldConfig};

const PORT: u16 = 7;
const CLIENTS: u32 = 3;
const LINES: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(15);
/// Long enough for several segments and a full window.
const LINE_BYTES: u32 = 100_000;

/// Echoes until the client has nothing more to say.
async fn echo(mut stream: Stream) -> Result<(), StreamError> {
    let mut buffer = vec![0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => {
                stream.shut_down();
                return Ok(());
            }
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn serve() {
    let mut listener = stream::listen(PORT);
    loop {
        let accepted = listener.accept().await;
        // A connection that breaks is its client's business.
        world::spawn_local("echo", async move {
            let _ = echo(accepted).await;
        })
        .detach();
    }
}

/// Bytes of one line: nobody else's.
fn line(client: u32, number: u32) -> Vec<u8> {
    let length = 1 + (client * 7919 + number * 104_729) % LINE_BYTES;
    (0..length).map(|at| u8::try_from((at ^ client ^ (number * 31)) % 251).expect("below 256")).collect()
}

/// Sends one line and reads it back while it is being sent. Returns whether it came back; then it is the same.
async fn exchange(server: HostId, client: u32, number: u32) -> Result<(), StreamError> {
    let sent = line(client, number);
    let mut stream = stream::connect(server, PORT).await?;
    let (mut written, mut back) = (0, Vec::new());
    let mut buffer = vec![0; 8192];
    while back.len() < sent.len() {
        if written < sent.len() {
            // Less than the window, so that both directions never wait for each other.
            let upto = sent.len().min(written + 16_000);
            stream.write_all(&sent[written..upto]).await?;
            written = upto;
            if written == sent.len() {
                stream.shut_down();
            }
        }
        while back.len() < written {
            match stream.read(&mut buffer).await? {
                0 => return Err(StreamError::Reset),
                read => back.extend_from_slice(&buffer[..read]),
            }
            assert_eq!(back, sent[..back.len()], "a stream delivers what was sent, in order");
        }
    }
    Ok(())
}

fn main() {
    let seed = std::env::args().nth(1).map_or(1, |text| text.parse().expect("a seed is a number"));
    let links =
        NetworkConfig { loss_ppm: 20_000, corrupt_ppm: 5_000, jitter_ns: 2_000_000, ..NetworkConfig::default() };
    let world = World::new(WorldConfig { network: links, ..WorldConfig::seeded(seed) });
    let (whole, broken) = (Rc::new(Cell::new(0u32)), Rc::new(Cell::new(0u32)));
    let (wholes, breaks) = (Rc::clone(&whole), Rc::clone(&broken));
    let outcome = world.run(async move {
        let server = world::add_host("server");
        world::boot(server, serve);
        let clients: Vec<HostId> = (0..CLIENTS).map(|client| world::add_host(&format!("client-{client}"))).collect();
        for (client, host) in (0..CLIENTS).zip(&clients) {
            let (wholes, breaks) = (Rc::clone(&wholes), Rc::clone(&breaks));
            world::boot(*host, move || async move {
                for number in 0..LINES {
                    // A machine that lost its power while it owed an answer never says so: whoever waits needs a deadline.
                    match world::timeout(PATIENCE, exchange(server, client, number)).await {
                        Ok(Ok(())) => wholes.set(wholes.get() + 1),
                        Ok(Err(_)) | Err(_) => {
                            breaks.set(breaks.get() + 1);
                            world::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
        }
        // The server crashes, loses its power, and is cut off from a client for longer than anybody waits.
        for (round, cause) in [Cause::Crash, Cause::PowerLoss, Cause::Crash].into_iter().enumerate() {
            world::sleep(Duration::from_secs(2)).await;
            world::kill(server, cause);
            world::sleep(Duration::from_millis(500)).await;
            world::boot(server, serve);
            let cut_off = clients[round % clients.len()];
            network::cut(server, cut_off);
            world::sleep(Duration::from_secs(12)).await;
            network::heal(server, cut_off);
        }
        while clients.iter().any(|client| world::running(*client).is_some()) {
            world::sleep(Duration::from_millis(100)).await;
        }
    });
    outcome.expect("the run comes to its end");
    let (high, low) = world.digest();
    println!(
        "seed {seed}: {} lines came back whole, {} broke, in {:.1} simulated s; digest {high:016x}{low:016x}",
        whole.get(),
        broken.get(),
        Duration::from_nanos(world.now()).as_secs_f64(),
    );
}
