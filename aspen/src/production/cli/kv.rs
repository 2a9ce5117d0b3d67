//! `aspen kv`.

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::to_value;

use crate::command::{Command, Expect};
use crate::production::cli::table::table;
use crate::production::cli::{CliError, Outcome, Output};
use crate::production::client::HttpClient;
use crate::production::http::schema::{ScanRequest, Stale, WriteReply, WriteResult};

#[derive(Debug, Subcommand)]
pub enum Kv {
    /// Print the value of a key; exit 1 if there is none
    Get {
        key: String,
        #[command(flatten)]
        stale: StaleArguments,
    },
    /// Store a value; `-` reads it from standard input
    Set { key: String, value: String },
    /// Remove a key
    Delete { key: String },
    /// Store a value if the key is as expected; exit 1 if it is not
    Cas {
        key: String,
        value: String,
        #[command(flatten)]
        expect: ExpectArguments,
    },
    /// List keys
    Scan {
        #[arg(default_value = "")]
        prefix: String,
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        stale: StaleArguments,
    },
}

#[derive(Debug, Args)]
pub struct StaleArguments {
    /// Whatever the node has, without asking the leader
    #[arg(long)]
    stale: bool,
    /// The same, no older than so many ms
    #[arg(long, value_name = "MS")]
    max_age: Option<u64>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ExpectArguments {
    /// The key does not exist
    #[arg(long)]
    absent: bool,
    /// It has this value
    #[arg(long, value_name = "VALUE")]
    expect: Option<String>,
    /// It was last modified at this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

impl StaleArguments {
    fn bound(&self) -> Option<Stale> {
        let asked = self.stale || self.max_age.is_some();
        asked.then_some(Stale { max_age_ms: self.max_age, min_revision: None })
    }
}

pub(super) async fn run(command: Kv, client: &HttpClient) -> Outcome {
    match command {
        Kv::Get { key, stale } => {
            let reply = client.read(key.as_str().into(), stale.bound()).await?;
            let good = reply.row.is_some();
            let text = reply.row.as_ref().map(|row| row.value.to_string()).unwrap_or_default();
            Ok(Output { json: json(&reply)?, text, good })
        }
        Kv::Set { key, value } => {
            written(client.execute(Command::Set { key: key.into_bytes(), value: value_of(value)? }).await?)
        }
        Kv::Delete { key } => written(client.execute(Command::Delete { key: key.into_bytes() }).await?),
        Kv::Cas { key, value, expect } => {
            let expect = match expect {
                ExpectArguments { expect: Some(value), .. } => Expect::Value(value.into_bytes()),
                ExpectArguments { revision: Some(revision), .. } => Expect::ModRevision(revision),
                _ => Expect::Absent,
            };
            let command = Command::CompareAndSwap { key: key.into_bytes(), expect, value: value_of(value)? };
            written(client.execute(command).await?)
        }
        Kv::Scan { prefix, limit, stale } => {
            let request = ScanRequest {
                prefix: Some(prefix.as_str().into()),
                limit: Some(limit),
                stale: stale.bound(),
                ..ScanRequest::default()
            };
            let reply = client.scan(&request).await?;
            let row = |row: &crate::production::http::schema::Row| {
                vec![row.key.to_string(), row.value.to_string(), row.meta.mod_revision.to_string()]
            };
            let rows: Vec<_> = reply.rows.iter().map(row).collect();
            let mut text = table(&["KEY", "VALUE", "REVISION"], &rows);
            if reply.more {
                text.push_str("... and more\n");
            }
            Ok(Output::good(json(&reply)?, text))
        }
    }
}

fn written(reply: WriteReply) -> Outcome {
    let (good, text) = match &reply.result {
        WriteResult::Written { version } => (true, format!("stored, version {version}")),
        WriteResult::Deleted { existed: true } => (true, "deleted".to_owned()),
        WriteResult::Deleted { existed: false } => (true, "there was no such key".to_owned()),
        WriteResult::NotMatched { found: Some(meta) } => {
            (false, format!("not as expected: modified at revision {}", meta.mod_revision))
        }
        WriteResult::NotMatched { found: None } => (false, "not as expected: there is no such key".to_owned()),
        other => (true, format!("{other:?}")),
    };
    Ok(Output { json: json(&reply)?, text: format!("{text} (revision {})", reply.revision), good })
}

fn value_of(argument: String) -> Result<Vec<u8>, CliError> {
    if argument != "-" {
        return Ok(argument.into_bytes());
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| CliError::Failed(format!("standard input: {error}")))?;
    Ok(bytes)
}

fn json<T: serde::Serialize>(reply: &T) -> Result<serde_json::Value, CliError> {
    to_value(reply).map_err(|error| CliError::Failed(error.to_string()))
}
