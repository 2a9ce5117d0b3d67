//! Replies that sessions keep for a retry.

use super::{CodecError, Kind, open_postcard, seal_postcard};
use crate::command::Reply;

pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    seal_postcard(Kind::Reply, reply)
}

pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    open_postcard(Kind::Reply, bytes)
}
