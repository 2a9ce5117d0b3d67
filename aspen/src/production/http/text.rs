//! Keys and values in JSON: a string, or `{"base64": "..."}` for bytes that are no UTF-8.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes;

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
        bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize(deserializer).map(Text)
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
