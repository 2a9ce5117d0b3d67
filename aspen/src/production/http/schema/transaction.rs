//! Transactions as JSON. Every part of one may be left out: without comparisons `then` is done.

use serde::{Deserialize, Serialize};

use super::{ExpectJson, Meta, Row, parse};
use crate::command::{self, Command, Compare, TxnOp};
use crate::production::http::text::Text;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TxnJson {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    compare: Vec<CompareJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    then: Vec<TxnOpJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    otherwise: Vec<TxnOpJson>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareJson {
    key: Text,
    expect: ExpectJson,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum TxnOpJson {
    Set { key: Text, value: Text },
    Delete { key: Text },
    Get { key: Text },
}

/// Reads `{"compare": [...], "then": [...], "otherwise": [...]}`.
pub fn parse_transaction(bytes: &[u8]) -> Result<Command, String> {
    parse::<TxnJson>(bytes).map(Command::from)
}

impl TxnJson {
    pub fn new(compare: &[Compare], then: &[TxnOp], otherwise: &[TxnOp]) -> TxnJson {
        let compared =
            |compare: &Compare| CompareJson { key: Text(compare.key.clone()), expect: (&compare.expect).into() };
        let branch = |ops: &[TxnOp]| ops.iter().map(TxnOpJson::from).collect();
        TxnJson { compare: compare.iter().map(compared).collect(), then: branch(then), otherwise: branch(otherwise) }
    }
}

impl From<TxnJson> for Command {
    fn from(txn: TxnJson) -> Self {
        let compared = |compare: CompareJson| Compare { key: compare.key.0, expect: compare.expect.into() };
        let branch = |ops: Vec<TxnOpJson>| ops.into_iter().map(TxnOp::from).collect();
        Command::Transaction {
            compare: txn.compare.into_iter().map(compared).collect(),
            then: branch(txn.then),
            otherwise: branch(txn.otherwise),
        }
    }
}

impl From<&TxnOp> for TxnOpJson {
    fn from(op: &TxnOp) -> Self {
        let text = |bytes: &[u8]| Text(bytes.to_vec());
        match op {
            TxnOp::Set { key, value } => TxnOpJson::Set { key: text(key), value: text(value) },
            TxnOp::Delete { key } => TxnOpJson::Delete { key: text(key) },
            TxnOp::Get { key } => TxnOpJson::Get { key: text(key) },
        }
    }
}

impl From<TxnOpJson> for TxnOp {
    fn from(op: TxnOpJson) -> Self {
        match op {
            TxnOpJson::Set { key, value } => TxnOp::Set { key: key.0, value: value.0 },
            TxnOpJson::Delete { key } => TxnOp::Delete { key: key.0 },
            TxnOpJson::Get { key } => TxnOp::Get { key: key.0 },
        }
    }
}

/// What one operation of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TxnResult {
    Written {
        version: u64,
    },
    Deleted {
        existed: bool,
    },
    /// `row` is null if the key does not exist.
    Got {
        row: Option<Row>,
    },
    /// The row did not fit the reply.
    Omitted {
        meta: Meta,
    },
}

impl From<command::TxnResult> for TxnResult {
    fn from(result: command::TxnResult) -> Self {
        match result {
            command::TxnResult::Written { version } => TxnResult::Written { version },
            command::TxnResult::Deleted { existed } => TxnResult::Deleted { existed },
            command::TxnResult::Got { row } => TxnResult::Got { row: row.map(Row::from) },
            command::TxnResult::Omitted { meta } => TxnResult::Omitted { meta: meta.into() },
        }
    }
}
