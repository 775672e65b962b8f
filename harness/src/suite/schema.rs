//! The JSON schema of suite files, and the reference of steps, both out of the types that are read.

use std::fmt::Write;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::file::File;

/// The JSON schema (draft 2020-12) of a suite file, for editors: the file `suites/suite.schema.json`.
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// The schema that every suite file is read against.
pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema =
        SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>().to_value();
    tidy(&mut schema);
    schema
});

/// Takes out of a schema what does not apply to TOML (it has no null) or says nothing (integer formats), and makes
/// each description one line.
fn tidy(schema: &mut Value) {
    if let Value::Object(object) = schema {
        object.remove("format");
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
        if let Some(Value::Object(default)) = object.get_mut("default") {
            default.retain(|_, value| !value.is_null());
        }
        if let Some(Value::String(description)) = object.get_mut("description") {
            *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        if let Some(Value::Array(types)) = object.get("type") {
            let not_null = types.iter().find(|name| *name != "null").cloned();
            object.extend(not_null.map(|not_null| ("type".to_owned(), not_null)));
        }
        if let Some(Value::Array(choices)) = object.get("anyOf")
            && let [Value::Object(choice), null] = choices.as_slice()
            && null["type"] == "null"
        {
            let choice = choice.clone();
            object.remove("anyOf");
            object.extend(choice);
        }
    }
    match schema {
        Value::Object(object) => object.values_mut().for_each(tidy),
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Follows a `$ref` to what it stands for.
pub(super) fn resolve(schema: &Value) -> &Value {
    let pointer = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    pointer.and_then(|pointer| SCHEMA.pointer(pointer)).unwrap_or(schema)
}

/// A variant of an enum of tables with one key each, as [`Step`](super::Step) is: the key, and the schema of its value.
pub(super) fn variant(schema: &Value) -> Option<(&str, &Value)> {
    let (key, value) = schema["properties"].as_object()?.iter().next()?;
    Some((key, value))
}

/// What a value of this schema is, in words that stand after "takes".
pub(super) fn expected(schema: &Value) -> String {
    if is_step(schema) {
        return "a step".to_owned();
    }
    let schema = resolve(schema);
    let alternatives = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(alternatives) = alternatives {
        return alternatives.iter().map(expected).collect::<Vec<_>>().join(" or ");
    }
    if let Some(constant) = schema.get("const") {
        return constant.to_string();
    }
    match schema["type"].as_str() {
        Some("string") if schema.get("pattern").is_some() => "a run of them such as \"1-8\"".to_owned(),
        Some("string") => "a string".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("integer") => match (&schema["minimum"], &schema["maximum"]) {
            (Value::Number(low), Value::Number(high)) => format!("a whole number from {low} to {high}"),
            _ => "a whole number".to_owned(),
        },
        Some("array") if is_step(&schema["items"]) => "a list of steps".to_owned(),
        Some("array") => format!("a list, each item {}", expected(&schema["items"])),
        _ => match schema["properties"].as_object() {
            Some(properties) => {
                format!(
                    "a table with {}",
                    properties.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                )
            }
            None if schema["additionalProperties"].is_object() => "a table of strings".to_owned(),
            None => "an empty table, {}".to_owned(),
        },
    }
}

/// A step is too much to describe in a few words: it is only named.
fn is_step(schema: &Value) -> bool {
    schema["$ref"] == "#/$defs/Step"
}

/// A reference of every step and its keys, as Markdown.
pub fn steps_reference() -> String {
    let mut text = String::new();
    let steps = resolve(&SCHEMA["properties"]["steps"]["items"]);
    for step in steps["oneOf"].as_array().into_iter().flatten() {
        let Some((name, value)) = variant(step) else { continue };
        let value = resolve(value);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "### `{name}`\n\n{}\n", step["description"].as_str().unwrap_or_default());
        match value["properties"].as_object() {
            Some(properties) if !properties.is_empty() => {
                let _ = writeln!(text, "| key | takes | default | |\n|-|-|-|-|");
                for (key, property) in properties {
                    let _ = writeln!(text, "{}", row(key, property, value));
                }
                text.push('\n');
                for (key, table) in properties.iter().filter_map(|(key, value)| Some((key, nested(value)?))) {
                    let _ = writeln!(text, "Keys of `{key}`:\n\n| key | takes | default | |\n|-|-|-|-|");
                    for (key, property) in table["properties"].as_object().into_iter().flatten() {
                        let _ = writeln!(text, "{}", row(key, property, table));
                    }
                    text.push('\n');
                }
            }
            _ if value["type"] == "object" => {
                let _ = writeln!(text, "Takes no keys: `{name} = {{}}`.\n");
            }
            _ => {
                let _ = writeln!(text, "Takes {}.\n", expected(value));
            }
        }
    }
    text
}

/// The schema of the table, or of each of the tables, that a key takes, if it has a place of its own in the reference.
fn nested(property: &Value) -> Option<&Value> {
    let table = resolve(property.get("items").unwrap_or(property));
    let has_keys = table["type"] == "object" && table["properties"].is_object();
    (has_keys && !is_step(property.get("items").unwrap_or(property))).then_some(table)
}

/// A reference of the lab's keys, as a Markdown table.
pub fn lab_reference() -> String {
    let lab = resolve(&SCHEMA["properties"]["lab"]);
    let rows = lab["properties"].as_object().into_iter().flatten();
    let rows = rows.map(|(key, property)| row(key, property, lab) + "\n");
    "| key | takes | default | |\n|-|-|-|-|\n".to_owned() + &rows.collect::<String>()
}

/// A line of the table of a step's keys.
fn row(key: &str, property: &Value, step: &Value) -> String {
    let required =
        step["required"].as_array().is_some_and(|required| required.iter().any(|name| name == key));
    let default = match property.get("default") {
        Some(default) => format!("`{default}`"),
        None if required => "required".to_owned(),
        None => String::new(),
    };
    let description = property["description"].as_str().unwrap_or_default();
    let takes = match nested(property) {
        Some(_) if property["type"] == "array" => "a list of tables".to_owned(),
        Some(_) => "a table".to_owned(),
        None => expected(property),
    };
    format!("| `{key}` | {} | {default} | {} |", takes.replace('|', "\\|"), description.replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::suite::{Case, discover};

    fn suites() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../suites")
    }

    #[test]
    fn the_schema_beside_the_suites_is_current() {
        let path = suites().join("suite.schema.json");
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(stored == schema(), "it is not: run `harness schema > suites/suite.schema.json`");
    }

    #[test]
    fn the_documentation_has_every_key_as_it_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/suites.md");
        let text = std::fs::read_to_string(path).unwrap();
        let lost = |reference: String| reference.lines().find(|line| !text.contains(line)).map(str::to_owned);
        assert_eq!(lost(lab_reference()), None, "paste the output of `harness schema --markdown`");
        assert_eq!(lost(steps_reference()), None, "paste the output of `harness schema --markdown`");
    }

    #[test]
    fn every_suite_file_is_valid() {
        let found = discover(&[suites()]).unwrap();
        let wrong: Vec<_> = found.iter().filter_map(|found| Case::load(&found.path).err()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn everything_that_can_be_written_is_described() {
        fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                if property["description"].as_str().is_none() {
                    found.push(format!("{path}.{key}"));
                }
            }
        }
        let mut found = Vec::new();
        undescribed(&SCHEMA, "", &mut found);
        for (name, definition) in SCHEMA["$defs"].as_object().unwrap() {
            undescribed(definition, name, &mut found);
        }
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn no_schema_allows_a_key_that_it_does_not_name() {
        for (name, definition) in SCHEMA["$defs"].as_object().unwrap() {
            if definition["type"] == "object" {
                assert_eq!(definition["additionalProperties"], false, "{name}");
            }
        }
        assert_eq!(SCHEMA["additionalProperties"], false);
    }

    #[test]
    fn the_reference_has_each_step_with_its_keys() {
        let reference = steps_reference();
        assert!(reference.starts_with("### `say`\n\n"), "{reference}");
        let leases = "### `delete-lease`\n\nDeletes a lease from etcd, and waits until every running relay knows.\n\n\
                      | key | takes | default | |\n|-|-|-|-|\n\
                      | `subnet` | a string | required | The subnet: a node's name for its own, or a prefix such as \
                      `10.5.99.0/24`. |\n";
        assert!(reference.contains(leases), "{reference}");
        assert!(reference.contains("| `count` | a whole number from 1 to 1000 | `1` |"), "{reference}");
        assert!(reference.contains("Takes no keys: `ping-all = {}`."), "{reference}");
        let steps = SCHEMA["$defs"]["Step"]["oneOf"].as_array().unwrap();
        assert_eq!(reference.matches("### `").count(), steps.len());
    }
}
