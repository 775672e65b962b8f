//! Two printed texts beside each other.

use std::fmt::Write;

use similar::{ChangeTag, TextDiff};

/// The expected text on the left and the actual one on the right, with the same lines beside each other. Lines that
/// differ are marked by `|`, those that only one has by `<` and `>`.
#[must_use]
pub fn side_by_side(expected: &str, actual: &str) -> String {
    let width = expected.lines().map(|line| line.chars().count()).max().unwrap_or(0).max("expected".len());
    let mut text = format!("{:<width$}    actual\n", "expected");
    let mut row = |left: Option<&str>, right: Option<&str>| {
        let mark = match (left, right) {
            (Some(left), Some(right)) if left == right => ' ',
            (Some(_), Some(_)) => '|',
            (Some(_), None) => '<',
            (None, _) => '>',
        };
        let line = format!("{:<width$}  {mark} {}", left.unwrap_or(""), right.unwrap_or(""));
        let _ = writeln!(text, "{}", line.trim_end());
    };
    let diff = TextDiff::from_lines(expected, actual);
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let mut flush = |gone: &mut Vec<&str>, come: &mut Vec<&str>, same: Option<&str>| {
        for at in 0..gone.len().max(come.len()) {
            row(gone.get(at).copied(), come.get(at).copied());
        }
        gone.clear();
        come.clear();
        if same.is_some() {
            row(same, same);
        }
    };
    for change in diff.iter_all_changes() {
        let line = change.value().trim_end_matches(['\n', '\r']);
        match change.tag() {
            ChangeTag::Delete => gone.push(line),
            ChangeTag::Insert => come.push(line),
            ChangeTag::Equal => flush(&mut gone, &mut come, Some(line)),
        }
    }
    flush(&mut gone, &mut come, None);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_lines_stand_beside_each_other() {
        let text = side_by_side("one\ntwo\nthree\n", "one\n2\nthree\nfour\n");
        assert_eq!(
            text,
            "expected    actual\none         one\ntwo       | 2\nthree       three\n          > four\n"
        );
    }

    #[test]
    fn what_is_missing_leaves_a_gap() {
        assert_eq!(side_by_side("a\nb\n", "b\n"), "expected    actual\na         <\nb           b\n");
    }
}
