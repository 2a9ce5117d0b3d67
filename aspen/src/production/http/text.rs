//! Keys and values in JSON: a string, or `{"base64": "..."}` for bytes that are no UTF-8.

use std::fmt;

use data_encoding::BASE64;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A key or a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(text.as_bytes().to_vec())
    }
}

impl fmt::Display for Text {
    /// For people: bytes that are no text are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &BASE64.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or {\"base64\": \"...\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.as_bytes().to_vec()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Text, E> {
        Ok(Text(text.into_bytes()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let (Some((name, encoded)), None) = (map.next_entry::<String, String>()?, map.next_key::<String>()?) else {
            return Err(de::Error::custom("an object for a key or a value has one field, base64"));
        };
        if name != "base64" {
            return Err(de::Error::unknown_field(&name, &["base64"]));
        }
        let bytes = BASE64.decode(encoded.as_bytes());
        bytes.map(Text).map_err(|error| de::Error::custom(format!("base64: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_a_string_and_bytes_are_base64() {
        assert_eq!(serde_json::to_string(&Text::from("a\"b")).unwrap(), r#""a\"b""#);
        assert_eq!(serde_json::to_string(&Text(vec![0xff])).unwrap(), r#"{"base64":"/w=="}"#);
        assert_eq!(serde_json::from_str::<Text>(r#"{"base64":"/w=="}"#).unwrap(), Text(vec![0xff]));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["1", "null", "[]", "{}", r#"{"base64":"!"}"#, r#"{"hex":"00"}"#, r#"{"base64":"","x":""}"#] {
            assert!(serde_json::from_str::<Text>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_the_way_there_and_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let json = serde_json::to_string(&Text(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), Text(bytes));
        }
    }
}
