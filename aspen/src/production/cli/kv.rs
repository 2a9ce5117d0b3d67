//! `aspen kv`.

use std::io::{IsTerminal, Read};

use clap::{Args, Subcommand};
use serde_json::to_value;

use crate::command::{Command, Expect};
use crate::production::cli::table::{in_a_cell, on_one_line, table};
use crate::production::cli::{CliError, Outcome, Output, Verdict};
use crate::production::client::HttpClient;
use crate::production::http::schema::{ScanRequest, Stale, TxnResult, WriteReply, WriteResult, parse_transaction};

pub(super) const EXAMPLES: &str = "\
Examples:
  aspen kv set greeting hello
  aspen kv get greeting
  aspen kv set picture - < picture.png
  aspen kv get picture > copy.png
  aspen kv cas greeting bye --expect hello
  aspen kv scan gree --limit 10
  aspen kv txn - < transaction.json";

#[derive(Debug, Subcommand)]
pub enum Kv {
    /// Print the value of a key, as it is unless to a terminal; exit 3 if there is none
    Get {
        key: String,
        #[command(flatten)]
        stale: StaleArguments,
    },
    /// Store a value; `-` reads it from standard input
    Set { key: String, value: String },
    /// Remove a key
    Delete { key: String },
    /// Store a value if the key is as expected; exit 3 if it is not
    Cas {
        key: String,
        value: String,
        #[command(flatten)]
        expect: ExpectArguments,
    },
    /// Change and read several keys at once, if all comparisons hold; exit 3 if one does not
    ///
    /// The transaction is JSON, as in docs/http.md:
    /// {"compare": [{"key": "a", "expect": "absent"}], "then": [{"set": {"key": "a", "value": "1"}}], "otherwise": [{"get": {"key": "a"}}]}
    Txn {
        /// `-` reads it from standard input
        transaction: String,
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
            let Some(row) = &reply.row else {
                let absent = Output::new(json(&reply)?, "", Verdict::No);
                return Ok(Output { bytes: Some(Vec::new()), note: Some("there is no such key"), ..absent });
            };
            let mut output = Output::good(json(&reply)?, on_one_line(&row.value));
            // A program gets every byte and no other.
            if !std::io::stdout().is_terminal() {
                output.bytes = Some(row.value.0.clone());
            }
            Ok(output)
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
        Kv::Txn { transaction } => {
            let malformed = |error| CliError::Usage(format!("the transaction: {error}"));
            let command = parse_transaction(&value_of(transaction)?).map_err(malformed)?;
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
                vec![in_a_cell(&row.key), in_a_cell(&row.value), row.meta.mod_revision.to_string()]
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
    let (held, text) = match &reply.result {
        WriteResult::Written { version } => (true, format!("stored, version {version}")),
        WriteResult::Deleted { existed: true } => (true, "deleted".to_owned()),
        WriteResult::Deleted { existed: false } => (true, "there was no such key".to_owned()),
        WriteResult::NotMatched { found: Some(meta) } => {
            (false, format!("not as expected: modified at revision {}", meta.mod_revision))
        }
        WriteResult::NotMatched { found: None } => (false, "not as expected: there is no such key".to_owned()),
        WriteResult::Transacted { matched, results } => {
            let mut text = if *matched { "every comparison held" } else { "a comparison did not hold" }.to_owned();
            results.iter().for_each(|result| text.push_str(&format!("\n  {}", transacted(result))));
            (*matched, text + "\n")
        }
        other => (true, format!("{other:?}")),
    };
    let text = format!("{text} (revision {})", reply.revision);
    Ok(Output::new(json(&reply)?, text, if held { Verdict::Good } else { Verdict::No }))
}

/// What one operation of a transaction did.
fn transacted(result: &TxnResult) -> String {
    match result {
        TxnResult::Written { version } => format!("stored, version {version}"),
        TxnResult::Deleted { existed: true } => "deleted".to_owned(),
        TxnResult::Deleted { existed: false } => "there was no such key to delete".to_owned(),
        TxnResult::Got { row: Some(row) } => format!("{} = {}", on_one_line(&row.key), on_one_line(&row.value)),
        TxnResult::Got { row: None } => "there is no such key".to_owned(),
        TxnResult::Omitted { meta } => {
            format!("modified at revision {}, but too large for one reply with the others", meta.mod_revision)
        }
    }
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
