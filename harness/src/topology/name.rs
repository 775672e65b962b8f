//! What hosts and bridges can be called.

/// The longest name of an interface, and so of a host, whose veth is called after it: `IFNAMSIZ` less its NUL.
const LONGEST: usize = 15;

/// Names that mean something else in a lab.
const TAKEN: [&str; 6] = ["lo", "eth0", "flannel0", "relay", "kernel", "default"];
/// Names that the kernel has for something else, where it keeps the settings of interfaces.
const SETTINGS: [&str; 2] = ["all", "default"];
/// Names that hosts cannot have beside: that of the lab's own namespace, and words that a suite file or a text has for others.
const WORDS: [&str; 6] = ["underlay", "all", "leader", "other", "nowhere", "none"];

/// Why a host cannot be called this, if it cannot: hosts give their names to veths, network namespaces, columns of
/// snapshots, and files.
pub(super) fn host_problem(name: &str) -> Option<String> {
    let first = name.chars().next();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(problem) = length_problem(name) {
        Some(problem)
    } else if !first.is_some_and(|c| c.is_ascii_lowercase())
        || !name.chars().all(allowed)
        || name.ends_with('-')
    {
        Some(
            "a host's name is made of a-z, 0-9 and -, begins with a letter and does not end with -"
                .to_owned(),
        )
    } else if TAKEN.contains(&name) || WORDS.contains(&name) || is_member(name) {
        Some(format!("`{name}` means something else in a lab"))
    } else {
        None
    }
}

/// Why a bridge cannot be called this, if it cannot.
pub(super) fn bridge_problem(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(problem) = length_problem(name) {
        Some(problem)
    } else if !name.chars().all(allowed) || name.chars().all(|c| c == '.') {
        Some("an interface's name is made of letters, digits, -, _ and .".to_owned())
    } else if TAKEN.contains(&name) || SETTINGS.contains(&name) {
        Some(format!("`{name}` is another interface of a node"))
    } else {
        None
    }
}

fn length_problem(name: &str) -> Option<String> {
    match name.len() {
        0 => Some("a name has at least one letter".to_owned()),
        length if length > LONGEST => {
            Some(format!("it has {length} octets, and the kernel allows an interface {LONGEST}"))
        }
        _ => None,
    }
}

/// Whether a name is, or could be, an etcd member's: `etcd`, `etcd1`, …
fn is_member(name: &str) -> bool {
    name.strip_prefix("etcd").is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
}
