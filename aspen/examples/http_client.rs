//! A client over HTTP: writes with a session, compares and swaps, reads what it wrote, scans.
//!
//! ```console
//! $ cargo run -p aspen --features production --bin aspen-node -- --dev
//! $ cargo run -p aspen --features production --example http_client -- http://127.0.0.1:8080
//! ```
use std::process::ExitCode;

use aspen::command::{Command, Expect};
use aspen::error::ErrorOutcome;
use aspen::production::client::{ClientOptions, HttpClient, HttpError};
use aspen::production::http::schema::{ScanRequest, Stale, WriteResult};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints.push("http://127.0.0.1:8080".to_owned());
    }
    // Any nodes of the cluster will do: the client learns who leads. With a session, which is the default, a write is
    // retried until its outcome is known, and has one effect at most.
    let client = HttpClient::new(endpoints, ClientOptions::default());
    match work(&client).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let sure = error.outcome() == ErrorOutcome::Definite;
            eprintln!("{error}; {}", if sure { "nothing happened" } else { "it may have happened" });
            ExitCode::FAILURE
        }
    }
}

async fn work(client: &HttpClient) -> Result<(), HttpError> {
    let key = || b"example/http".to_vec();
    let written = client.execute(Command::Set { key: key(), value: b"one".to_vec() }).await?;
    println!("written at revision {}", written.revision);

    // Only if nobody has changed it since.
    let expect = Expect::ModRevision(written.revision);
    let swapped = client.execute(Command::CompareAndSwap { key: key(), expect, value: b"two".to_vec() }).await?;
    match swapped.result {
        WriteResult::NotMatched { found } => println!("somebody else was faster: {found:?}"),
        _ => println!("swapped at revision {}", swapped.revision),
    }

    // Linearizable: it sees every write that was acknowledged before.
    let read = client.read("example/http".into(), None).await?;
    println!("read {}", read.row.map_or("nothing".to_owned(), |row| row.value.to_string()));

    // From whichever node is asked, as old as it may be, but not older than our own write.
    let stale = Stale { max_age_ms: None, min_revision: Some(swapped.revision) };
    let read = client.read("example/http".into(), Some(stale)).await?;
    println!("a node has revision {}", read.revision);

    let scan = client.scan(&ScanRequest { prefix: Some("example/".into()), ..ScanRequest::default() }).await?;
    println!("{} keys begin with example/", scan.rows.len());
    client.execute(Command::Delete { key: key() }).await?;
    client.close_session().await
}
