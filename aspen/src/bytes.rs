//! Keys and values in serialised form: bytes where machines read, and what people can read elsewhere: a string, or
//! `{"base64": "..."}` for bytes that are no UTF-8.

use std::fmt;

use data_encoding::BASE64;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if !serializer.is_human_readable() {
        return serializer.serialize_bytes(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("base64", &BASE64.encode(bytes))?;
            map.end()
        }
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match deserializer.is_human_readable() {
        true => deserializer.deserialize_any(TextVisitor),
        false => serde_bytes::deserialize(deserializer),
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or {\"base64\": \"...\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Vec<u8>, E> {
        Ok(text.into_bytes())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u8>, A::Error> {
        let (Some((name, encoded)), None) = (map.next_entry::<String, String>()?, map.next_key::<String>()?) else {
            return Err(de::Error::custom("an object for a key or a value has one field, base64"));
        };
        if name != "base64" {
            return Err(de::Error::unknown_field(&name, &["base64"]));
        }
        BASE64.decode(encoded.as_bytes()).map_err(|error| de::Error::custom(format!("base64: {error}")))
    }
}

/// The same for bytes that may be missing.
pub(crate) mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_bytes::ByteBuf;

    #[derive(Serialize, Deserialize)]
    struct Bytes(#[serde(with = "super")] Vec<u8>);

    #[allow(clippy::ref_option, reason = "as serde calls it")]
    pub(crate) fn serialize<S: Serializer>(bytes: &Option<ByteBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| Bytes(bytes.to_vec())).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteBuf>, D::Error> {
        Ok(Option::<Bytes>::deserialize(deserializer)?.map(|Bytes(bytes)| ByteBuf::from(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{Command, Query};

    #[test]
    fn machines_read_bytes_and_people_text() {
        let command = Command::Set { key: b"a key".to_vec(), value: vec![0xff, 0] };
        let json = serde_json::to_value(&command).unwrap();
        assert_eq!(json, serde_json::json!({ "Set": { "key": "a key", "value": { "base64": "/wA=" } } }));
        assert_eq!(serde_json::from_value::<Command>(json).unwrap(), command);
        let bytes = postcard::to_stdvec(&command).unwrap();
        assert_eq!(bytes, [&[0, 5][..], b"a key", &[2, 0xff, 0]].concat());
        assert_eq!(postcard::from_bytes::<Command>(&bytes).unwrap(), command);
        let scan = Query::Scan { start: Vec::new(), end: Some(b"b".to_vec().into()), limit: 9 };
        let json = serde_json::to_value(&scan).unwrap();
        assert_eq!(json, serde_json::json!({ "Scan": { "start": "", "end": "b", "limit": 9 } }));
        assert_eq!(serde_json::from_value::<Query>(json).unwrap(), scan);
        let bytes = postcard::to_stdvec(&scan).unwrap();
        assert_eq!(bytes, [1, 0, 1, 1, b'b', 9]);
        assert_eq!(postcard::from_bytes::<Query>(&bytes).unwrap(), scan);
    }
}
