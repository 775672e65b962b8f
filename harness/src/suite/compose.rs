//! A suite file's text out of the words of a command line: `ping c1 c2 --ttl 3 then leases`.

use serde_json::Value;

use super::mistake::suggest;
use super::schema::{SCHEMA, resolve, variant};

/// What stands between two steps.
const THEN: &str = "then";

/// The text of a suite file with these steps, each a step's name, the values of its required keys, and `--key value` for
/// others; `then` stands between two. `lab` has lines `key = value` for the lab.
///
/// # Errors
/// What cannot be a step, in words for whoever wrote it. That the file as a whole is right is for reading it to tell.
pub fn compose(about: &str, lab: &[String], words: &[String]) -> Result<String, String> {
    let mut text = format!("about = {}\n", quoted(about));
    if !lab.is_empty() {
        text += "\n[lab]\n";
        for line in lab {
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("`{line}` is no `key = value` for the lab"))?;
            text += &format!("{} = {}\n", key.trim(), literal(value.trim()));
        }
    }
    for words in words.split(|word| word == THEN) {
        let (name, table) = step(words)?;
        text += &format!("\n[[steps]]\n{name} = {table}\n");
    }
    Ok(text)
}

/// One step: its name, and the TOML of its value.
fn step(words: &[String]) -> Result<(&str, String), String> {
    let steps = resolve(&SCHEMA["properties"]["steps"]["items"]);
    let known = || steps["oneOf"].as_array().into_iter().flatten().filter_map(variant);
    let (name, words) =
        words.split_first().ok_or_else(|| format!("a step is missing before or after `{THEN}`"))?;
    let Some((_, value)) = known().find(|(known, _)| known == name) else {
        let names: Vec<&str> = known().map(|(name, _)| name).collect();
        return Err(format!("`{name}` is no step; {}", suggest(name, names, "the steps are")));
    };
    let schema = resolve(value);
    if schema["type"] != "object" {
        // A step that takes text alone.
        return Ok((name, quoted(&words.join(" "))));
    }
    let none = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut required = properties.keys().filter(|key| required.clone().any(|name| name == key.as_str()));
    let mut pairs = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let (key, given) = match word.strip_prefix("--") {
            Some(flag) => {
                let (key, given) =
                    flag.split_once('=').map_or((flag, None), |(key, value)| (key, Some(value)));
                if !properties.contains_key(key) {
                    let keys = properties.keys().map(String::as_str);
                    return Err(format!(
                        "`{name}` has no key `{key}`; {}",
                        suggest(key, keys, "its keys are")
                    ));
                }
                (key, given)
            }
            None => {
                let key = required.next().ok_or_else(|| {
                    format!(
                        "`{word}` is one word too many for `{name}`: other keys are written `--key value`"
                    )
                })?;
                (key.as_str(), Some(word.as_str()))
            }
        };
        let property = &properties[key];
        let is_switch = resolve(property)["type"] == "boolean";
        let value = match given {
            Some(value) => value,
            // A word of its own for it is allowed, and none needed.
            None if is_switch => {
                words.next_if(|word| matches!(word.as_str(), "true" | "false")).map_or("true", String::as_str)
            }
            None => words.next().ok_or_else(|| format!("`--{key}` of `{name}` wants a value"))?,
        };
        let is_text = resolve(property)["type"] == "string";
        pairs.push(format!("{key} = {}", if is_text { quoted(value) } else { literal(value) }));
    }
    Ok((name, if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }))
}

/// A value as it is, if it is one of TOML's, else as a string.
fn literal(value: &str) -> String {
    let is_value = toml::from_str::<toml::Table>(&format!("value = {value}")).is_ok();
    if is_value { value.to_owned() } else { quoted(value) }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Case;

    fn composed(line: &str) -> Result<String, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        compose("A try.", &[], &words).map(|text| text.replace("about = \"A try.\"\n\n", ""))
    }

    #[test]
    fn words_are_the_required_keys_and_flags_the_others() {
        let text =
            composed("ping c1 c2 --ttl 3 --df true then leases then delete-lease b --seen-by=[]").unwrap();
        let expected = "[[steps]]\nping = { from = \"c1\", to = \"c2\", ttl = 3, df = true }\n\n[[steps]]\nleases = {}\n\n\
                        [[steps]]\ndelete-lease = { subnet = \"b\", seen-by = [] }\n";
        assert_eq!(text, expected);
        assert_eq!(composed("say Two words.").unwrap(), "[[steps]]\nsay = \"Two words.\"\n");
    }

    #[test]
    fn a_value_that_looks_like_a_number_stays_text_where_text_is_meant() {
        let text = composed("put-key subnets/x 5").unwrap();
        assert!(text.contains("value = \"5\""), "{text}");
    }

    #[test]
    fn what_is_no_step_is_told() {
        assert!(composed("pong c1").unwrap_err().contains("did you mean `ping`?"));
        assert!(composed("ping c1 c2 --tll 3").unwrap_err().contains("did you mean `ttl`?"));
        assert!(composed("ping c1 c2 c3").unwrap_err().starts_with("`c3` is one word too many"));
        assert!(composed("ping c1 c2 --ttl").unwrap_err().contains("wants a value"));
        assert!(composed("ping c1 c2 then").unwrap_err().contains("a step is missing"));
        assert!(compose("x", &["nodes".to_owned()], &["leases".to_owned()]).is_err());
    }

    #[test]
    fn the_text_is_a_suite_file() {
        let words: Vec<String> = "ping c1 c3 --ttl 3".split(' ').map(str::to_owned).collect();
        let text =
            compose("It has \"quotes\".", &["nodes = [\"a\", \"b\", \"c\"]".to_owned()], &words).unwrap();
        let case = Case::from_octets(std::path::Path::new("case.toml"), text.into()).unwrap();
        assert_eq!(case.about, "It has \"quotes\".");
        assert_eq!(case.steps.len(), 1);
    }
}
