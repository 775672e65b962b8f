//! JSON objects as Go's `encoding/json` reads them into a struct: field names in any case, the last of several wins,
//! unknown ones ignored.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// An object's fields in the order in which they were written.
#[derive(Debug, Clone, PartialEq)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    /// Parses one object, with nothing but white space around it.
    ///
    /// # Errors
    /// The bytes are no JSON, or another kind of value.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The field of that name, `null` included.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The last field of that name that is not `null`: Go leaves a field as it was for a `null`.
    #[must_use]
    pub fn get_set(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .rev()
            .find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null())
            .map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_field_wins_whatever_its_case() {
        let object = Object::parse(br#" {"a": 1, "A": 2, "b": 3, "B": null} "#).unwrap();
        assert_eq!(object.get("a"), Some(&Value::from(2)));
        assert_eq!(object.get("b"), Some(&Value::Null));
        assert_eq!(object.get_set("b"), Some(&Value::from(3)));
        assert_eq!(object.get("c"), None);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "1", "[]", "null", "{} {}"] {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
