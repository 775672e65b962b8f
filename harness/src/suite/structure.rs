//! Whether a suite file has the keys and types of its schema: every place where it has not, and not just the first,
//! where serde would stop.

use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, nearest, suggest};
use super::schema::{SCHEMA, expected, resolve, variant};

/// Every place of the document that is not as the schema says.
pub(super) fn check(document: &Spanned<DeTable<'_>>) -> Vec<Mistake> {
    let mut walk = Walk { mistakes: Vec::new() };
    walk.table(document.get_ref(), 0..0, &SCHEMA, "a suite file");
    walk.mistakes
}

struct Walk {
    mistakes: Vec<Mistake>,
}

impl Walk {
    /// Checks a value. `name` says in a sentence which it is.
    fn value(&mut self, value: &Spanned<DeValue<'_>>, schema: &Value, name: &str) {
        let (span, found) = (value.span(), value.get_ref());
        let described = schema;
        let schema = resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            return match choices.iter().all(|choice| choice.get("const").is_some()) {
                true => self.choice(found, span, choices, name),
                false => self.variant(found, span, choices, name),
            };
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let of_its_type = |choice: &&Value| has_type(found, choice["type"].as_str());
            return match choices.iter().find(of_its_type) {
                Some(choice) => self.value(value, choice, name),
                None => self.wrong_type(found, span, described, name),
            };
        }
        if !has_type(found, schema["type"].as_str()) {
            return self.wrong_type(found, span, described, name);
        }
        match found {
            DeValue::Integer(_) => self.integer(found, span, described, name),
            DeValue::Array(items) => {
                if items.len() < schema["minItems"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0) {
                    let mistake = Mistake::new(span, format!("{name} is empty"), "nothing in it");
                    self.mistakes.push(mistake.help(takes(described, name)));
                }
                let item_name = format!("an item of {name}");
                for item in items {
                    self.value(item, &schema["items"], &item_name);
                }
            }
            DeValue::Table(table) => self.table(table, span, schema, name),
            _ => {}
        }
    }

    /// Checks the keys of a table, and the values at them. `what` names the table in a sentence.
    fn table(&mut self, table: &DeTable<'_>, span: Range<usize>, schema: &Value, what: &str) {
        if schema["additionalProperties"].is_object() {
            for (key, value) in table {
                self.value(value, &schema["additionalProperties"], &quoted(key.get_ref()));
            }
            return;
        }
        let Some(properties) = schema["properties"].as_object() else { return };
        let mut meant = Vec::new();
        for (key, value) in table {
            match properties.get(key.get_ref().as_ref()) {
                Some(property) => self.value(value, property, &quoted(key.get_ref())),
                None => {
                    let known = || properties.keys().map(String::as_str);
                    let near = nearest(key.get_ref(), known());
                    meant.extend(near);
                    let elsewhere = near.is_none().then(|| place(key.get_ref())).flatten();
                    let help = elsewhere.unwrap_or_else(|| suggest(key.get_ref(), known(), "its keys"));
                    let message = format!("unknown key `{}` in {what}", key.get_ref());
                    self.mistakes.push(Mistake::new(key.span(), message, "not a key here").help(help));
                }
            }
        }
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for key in required.filter(|key| !table.contains_key(*key) && !meant.contains(key)) {
            let message = format!("{what} has no `{key}`");
            let mistake = Mistake::new(span.clone(), message, format!("needs `{key}`"));
            self.mistakes.push(mistake.help(describe(&properties[key], &quoted(key))));
        }
    }

    /// Checks a string that must be one of a few.
    fn choice(&mut self, found: &DeValue<'_>, span: Range<usize>, choices: &[Value], name: &str) {
        let known = || choices.iter().filter_map(|choice| choice["const"].as_str());
        match found.as_str() {
            Some(text) if known().any(|constant| constant == text) => {}
            Some(text) => {
                let message = format!("{name} cannot be {text:?}");
                let mistake = Mistake::new(span, message, "not one of its values");
                self.mistakes.push(mistake.help(suggest(text, known(), "its values")));
            }
            None => {
                let message = format!("{name} is {}", kind(found));
                let known = known().map(|constant| format!("{constant:?}")).collect::<Vec<_>>().join(" or ");
                self.mistakes.push(Mistake::new(span, message, format!("not {known}")));
            }
        }
    }

    /// Checks a table whose only key says which of several kinds it is: a step.
    fn variant(&mut self, found: &DeValue<'_>, span: Range<usize>, choices: &[Value], name: &str) {
        let Some(table) = found.as_table() else {
            let mistake = Mistake::new(span, format!("{name} is {}", kind(found)), "not a step");
            let help = "a step is a table with one key, such as { ping = { from = \"c1\", to = \"c2\" } }";
            return self.mistakes.push(mistake.help(help));
        };
        let variants: Vec<_> = choices.iter().filter_map(variant).collect();
        let known = || variants.iter().map(|(key, _)| *key);
        if table.is_empty() {
            let mistake = Mistake::new(span, "a step says nothing", "empty");
            return self.mistakes.push(mistake.help(suggest("", known(), "steps")));
        }
        for (n, (key, value)) in table.iter().enumerate() {
            match variants.iter().find(|(known, _)| known == key.get_ref()) {
                None => {
                    let message = format!("unknown step `{}`", key.get_ref());
                    let mistake = Mistake::new(key.span(), message, "not a step");
                    self.mistakes.push(mistake.help(suggest(key.get_ref(), known(), "steps")));
                }
                Some((name, schema)) => {
                    if n > 0 {
                        let message = format!("`{name}` stands in the same step as another");
                        let mistake = Mistake::new(key.span(), message, "a step has one key");
                        self.mistakes
                            .push(mistake.help("begin another step for it, with a [[steps]] of its own"));
                    }
                    self.value(value, schema, &quoted(name));
                }
            }
        }
    }

    fn integer(&mut self, found: &DeValue<'_>, span: Range<usize>, schema: &Value, name: &str) {
        let value = found
            .as_integer()
            .and_then(|integer| i128::from_str_radix(integer.as_str(), integer.radix()).ok());
        let schema_of = resolve(schema);
        let low = schema_of["minimum"].as_i64().map_or(i128::MIN, i128::from);
        let high = schema_of["maximum"].as_i64().map_or(i128::MAX, i128::from);
        if !value.is_some_and(|value| (low..=high).contains(&value)) {
            let end = if value.is_some_and(|value| value < low) { "low" } else { "high" };
            let mistake = Mistake::new(span, format!("{name} is too {end}"), expected(schema));
            self.mistakes.push(mistake.help(takes(schema, name)));
        }
    }

    fn wrong_type(&mut self, found: &DeValue<'_>, span: Range<usize>, schema: &Value, name: &str) {
        let mistake =
            Mistake::new(span, format!("{name} is {}", kind(found)), format!("not {}", brief(schema)));
        self.mistakes.push(mistake.help(takes(schema, name)));
    }
}

/// Where a key belongs that stands in the wrong table, if it is one of the file's own or of the lab's.
fn place(key: &str) -> Option<String> {
    let file = &SCHEMA["properties"];
    if file.get(key).is_some() {
        Some(format!("`{key}` belongs to the file itself: write it above the first [header]"))
    } else if resolve(&file["lab"])["properties"].get(key).is_some() {
        Some(format!("`{key}` belongs to the lab: write it under [lab]"))
    } else {
        None
    }
}

/// A key in a sentence.
fn quoted(key: &str) -> String {
    format!("`{key}`")
}

/// A type in a few words.
fn brief(schema: &Value) -> String {
    let of_one_type = match resolve(schema)["type"].as_str() {
        Some("integer") => "a whole number",
        Some("boolean") => "true or false",
        Some("string") => "a string",
        Some("array") => "a list",
        Some("object") => "a table",
        _ => return expected(schema),
    };
    of_one_type.to_owned()
}

/// What a key takes, and what that means.
fn takes(schema: &Value, name: &str) -> String {
    let meaning = schema["description"].as_str().map(|meaning| format!(". {meaning}")).unwrap_or_default();
    format!("{name} takes {}{meaning}", expected(schema))
}

/// What a key means.
fn describe(schema: &Value, name: &str) -> String {
    match schema["description"].as_str() {
        Some(meaning) => format!("{name}: {meaning}"),
        None => takes(schema, name),
    }
}

fn has_type(value: &DeValue<'_>, name: Option<&str>) -> bool {
    match value {
        DeValue::String(_) => name == Some("string"),
        DeValue::Integer(_) => name == Some("integer"),
        DeValue::Boolean(_) => name == Some("boolean"),
        DeValue::Array(_) => name == Some("array"),
        DeValue::Table(_) => name == Some("object"),
        DeValue::Float(_) | DeValue::Datetime(_) => false,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests;
