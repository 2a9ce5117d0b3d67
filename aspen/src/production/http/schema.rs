//! What `/write`, `/read` and `/scan` take and give, as JSON. Described for people in `docs/http.md`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod transaction;

use crate::command::{Answer, Command, Expect, KeyMeta, KeyValue, Outcome, Pair, Query, Reply, SessionSeq};
use crate::production::http::text::Text;

use transaction::TxnJson;
pub use transaction::{TxnResult, parse_transaction};

/// A command with what goes beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    pub command: Command,
    pub session: Option<SessionSeq>,
    pub timeout_ms: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum CommandJson {
    Set { key: Text, value: Text },
    Delete { key: Text },
    Cas { key: Text, expect: ExpectJson, value: Text },
    SetMulti { pairs: Vec<PairJson> },
    OpenSession { ttl_ms: u64 },
    RefreshSession { session: u64 },
    CloseSession { session: u64 },
    Txn(TxnJson),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PairJson {
    key: Text,
    value: Text,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ExpectJson {
    Absent,
    Value(Text),
    ModRevision(u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionJson {
    session: u64,
    seq: u64,
}

impl WriteRequest {
    /// Reads `{"set": {...}, "session": {"session": 1, "seq": 2}, "timeout_ms": 3}`.
    pub fn parse(bytes: &[u8]) -> Result<WriteRequest, String> {
        let mut fields: Map<String, Value> = parse(bytes)?;
        let session = take::<SessionJson>(&mut fields, "session")?;
        let timeout_ms = take(&mut fields, "timeout_ms")?;
        if fields.len() != 1 {
            return Err(format!("a write has exactly one command, this one has {}", fields.len()));
        }
        let command: CommandJson = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        let session = session.map(|SessionJson { session, seq }| SessionSeq { session, seq });
        Ok(WriteRequest { command: command.into(), session, timeout_ms })
    }

    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(CommandJson::from(&self.command)).expect("a command is JSON");
        let fields = json.as_object_mut().expect("a command is an object");
        if let Some(SessionSeq { session, seq }) = self.session {
            fields.insert("session".to_owned(), serde_json::json!({ "session": session, "seq": seq }));
        }
        if let Some(timeout_ms) = self.timeout_ms {
            fields.insert("timeout_ms".to_owned(), timeout_ms.into());
        }
        json
    }
}

impl From<ExpectJson> for Expect {
    fn from(expect: ExpectJson) -> Self {
        match expect {
            ExpectJson::Absent => Expect::Absent,
            ExpectJson::Value(value) => Expect::Value(value.0),
            ExpectJson::ModRevision(revision) => Expect::ModRevision(revision),
        }
    }
}

impl From<&Expect> for ExpectJson {
    fn from(expect: &Expect) -> Self {
        match expect {
            Expect::Absent => ExpectJson::Absent,
            Expect::Value(value) => ExpectJson::Value(Text(value.clone())),
            Expect::ModRevision(revision) => ExpectJson::ModRevision(*revision),
        }
    }
}

impl From<CommandJson> for Command {
    fn from(command: CommandJson) -> Self {
        match command {
            CommandJson::Set { key, value } => Command::Set { key: key.0, value: value.0 },
            CommandJson::Delete { key } => Command::Delete { key: key.0 },
            CommandJson::Cas { key, expect, value } => {
                Command::CompareAndSwap { key: key.0, expect: expect.into(), value: value.0 }
            }
            CommandJson::SetMulti { pairs } => {
                let pairs = pairs.into_iter().map(|pair| Pair { key: pair.key.0, value: pair.value.0 }).collect();
                Command::SetMulti { pairs }
            }
            CommandJson::OpenSession { ttl_ms } => Command::OpenSession { ttl_ms },
            CommandJson::RefreshSession { session } => Command::RefreshSession { session },
            CommandJson::CloseSession { session } => Command::CloseSession { session },
            CommandJson::Txn(txn) => txn.into(),
        }
    }
}

impl From<&Command> for CommandJson {
    fn from(command: &Command) -> Self {
        let text = |bytes: &[u8]| Text(bytes.to_vec());
        match command {
            Command::Set { key, value } => CommandJson::Set { key: text(key), value: text(value) },
            Command::Delete { key } => CommandJson::Delete { key: text(key) },
            Command::CompareAndSwap { key, expect, value } => {
                CommandJson::Cas { key: text(key), expect: expect.into(), value: text(value) }
            }
            Command::SetMulti { pairs } => {
                let pair = |pair: &Pair| PairJson { key: text(&pair.key), value: text(&pair.value) };
                CommandJson::SetMulti { pairs: pairs.iter().map(pair).collect() }
            }
            Command::OpenSession { ttl_ms } => CommandJson::OpenSession { ttl_ms: *ttl_ms },
            Command::RefreshSession { session } => CommandJson::RefreshSession { session: *session },
            Command::CloseSession { session } => CommandJson::CloseSession { session: *session },
            Command::Transaction { compare, then, otherwise } => {
                CommandJson::Txn(TxnJson::new(compare, then, otherwise))
            }
        }
    }
}

/// What the state machine said to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReply {
    pub revision: u64,
    #[serde(flatten)]
    pub result: WriteResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum WriteResult {
    Nothing,
    Written { version: u64 },
    Deleted { existed: bool },
    NotMatched { found: Option<Meta> },
    SessionOpened { session: u64 },
    SessionRefreshed,
    SessionClosed,
    SessionUnknown,
    SessionStale,
    Transacted { matched: bool, results: Vec<TxnResult> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

impl From<KeyMeta> for Meta {
    fn from(meta: KeyMeta) -> Self {
        Meta { create_revision: meta.create_revision, mod_revision: meta.mod_revision, version: meta.version }
    }
}

impl From<Reply> for WriteReply {
    fn from(reply: Reply) -> Self {
        let result = match reply.outcome {
            Outcome::Nothing => WriteResult::Nothing,
            Outcome::Written { version } => WriteResult::Written { version },
            Outcome::Deleted { existed } => WriteResult::Deleted { existed },
            Outcome::NotMatched { found } => WriteResult::NotMatched { found: found.map(Meta::from) },
            Outcome::SessionOpened { session } => WriteResult::SessionOpened { session },
            Outcome::SessionRefreshed => WriteResult::SessionRefreshed,
            Outcome::SessionClosed => WriteResult::SessionClosed,
            Outcome::SessionUnknown => WriteResult::SessionUnknown,
            Outcome::SessionStale => WriteResult::SessionStale,
            Outcome::Transacted { matched, results } => {
                WriteResult::Transacted { matched, results: results.into_iter().map(TxnResult::from).collect() }
            }
        };
        WriteReply { revision: reply.revision, result }
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadRequest {
    pub key: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

/// Reads the state of the node that is asked, however old within these bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stale {
    /// The state contains every write that was acknowledged so long before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    /// The state contains this revision; the node waits for it until the timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_revision: Option<u64>,
}

/// Rows with `start <= key < end`, or with a prefix, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScanRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

/// Rows of a scan that names no limit.
pub const SCAN_LIMIT_DEFAULT: u32 = 1000;

impl ReadRequest {
    pub fn query(&self) -> Query {
        Query::Get { key: self.key.0.clone() }
    }
}

impl ScanRequest {
    pub fn query(&self) -> Result<Query, String> {
        let limit = self.limit.unwrap_or(SCAN_LIMIT_DEFAULT);
        let (start, end) = match &self.prefix {
            Some(_) if self.start.is_some() || self.end.is_some() => {
                return Err("a scan has a prefix, or a start and an end".to_owned());
            }
            Some(Text(prefix)) => (prefix.clone(), after_prefix(prefix)),
            None => (self.start.clone().unwrap_or_default().0, self.end.clone().map(|end| end.0)),
        };
        Ok(Query::Scan { start, end: end.map(Into::into), limit })
    }
}

/// The first key after all that begin with `prefix`, if there is one.
pub(super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub key: Text,
    pub value: Text,
    #[serde(flatten)]
    pub meta: Meta,
}

impl From<KeyValue> for Row {
    fn from(row: KeyValue) -> Self {
        Row { key: Text(row.key), value: Text(row.value), meta: row.meta.into() }
    }
}

/// The answer to a read. `row` is null if the key does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReply {
    pub revision: u64,
    pub row: Option<Row>,
}

impl From<Answer> for ReadReply {
    fn from(answer: Answer) -> Self {
        ReadReply { revision: answer.revision, row: answer.rows.into_iter().next().map(Row::from) }
    }
}

/// The answer to a scan. `more`: it stopped before its end, at its limit or because the answer grew too large; go on
/// with the key after the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanReply {
    pub revision: u64,
    pub rows: Vec<Row>,
    pub more: bool,
}

impl From<Answer> for ScanReply {
    fn from(answer: Answer) -> Self {
        ScanReply {
            revision: answer.revision,
            rows: answer.rows.into_iter().map(Row::from).collect(),
            more: answer.more,
        }
    }
}

/// Reads a request; the error is for the client.
pub fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn take<T: serde::de::DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<T>, String> {
    let Some(value) = fields.remove(name) else { return Ok(None) };
    serde_json::from_value(value).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Compare, TxnOp};

    #[test]
    fn every_command_is_read_as_it_is_written() {
        let key = || b"k".to_vec();
        let commands = [
            Command::Set { key: key(), value: vec![0xff] },
            Command::Delete { key: key() },
            Command::CompareAndSwap { key: key(), expect: Expect::Absent, value: key() },
            Command::CompareAndSwap { key: key(), expect: Expect::Value(key()), value: key() },
            Command::CompareAndSwap { key: key(), expect: Expect::ModRevision(3), value: key() },
            Command::SetMulti { pairs: vec![Pair { key: key(), value: key() }] },
            Command::OpenSession { ttl_ms: 5 },
            Command::RefreshSession { session: 5 },
            Command::CloseSession { session: 5 },
            Command::Transaction {
                compare: vec![Compare { key: key(), expect: Expect::Value(key()) }],
                then: vec![TxnOp::Set { key: key(), value: vec![0xff] }, TxnOp::Get { key: key() }],
                otherwise: vec![TxnOp::Delete { key: key() }],
            },
        ];
        for command in commands {
            let session = Some(SessionSeq { session: 7, seq: 1 });
            let request = WriteRequest { command, session, timeout_ms: Some(5) };
            let bytes = serde_json::to_vec(&request.to_json()).unwrap();
            assert_eq!(WriteRequest::parse(&bytes), Ok(request));
        }
    }

    #[test]
    fn what_is_no_write_is_refused_with_a_reason() {
        let cases = [
            ("{}", "exactly one command"),
            (r#"{"set":{"key":"a","value":"b"},"delete":{"key":"a"}}"#, "exactly one command"),
            (r#"{"set":{"key":"a"}}"#, "missing field `value`"),
            (r#"{"set":{"key":"a","value":"b","x":1}}"#, "unknown field `x`"),
            (r#"{"put":{"key":"a","value":"b"}}"#, "unknown variant `put`"),
            (r#"{"set":{"key":1,"value":"b"}}"#, "a string, or {\"base64\""),
            (r#"{"set":{"key":"a","value":"b"},"session":{"session":1}}"#, "session: missing field `seq`"),
            ("[", "expected a map"),
        ];
        for (text, expected) in cases {
            let error = WriteRequest::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_prefix_is_a_range() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
        let both = ScanRequest { prefix: Some("a".into()), start: Some("a".into()), ..ScanRequest::default() };
        assert!(both.query().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":a-z0-9, ]{0,80}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = (WriteRequest::parse(bytes), parse::<ReadRequest>(bytes), parse::<ScanRequest>(bytes));
            }
        }
    }
}
