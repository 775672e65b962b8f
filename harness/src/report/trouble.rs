//! What relays have warned of, and what the case was doing then: some cases provoke just that.

use std::fmt::Write as _;

use crate::overlay::log::{is_error, is_panic, is_trouble};
use crate::run::Runner;
use crate::suite::{Case, ExpectLog, Step};

/// So many lines of a log are shown.
const LINES: usize = 8;

/// From where in a log on, and what is under way then.
#[derive(Debug)]
struct Mark {
    from: usize,
    what: String,
}

/// The warnings and errors in the log of a node, by the step that was under way when they were written; none if there are
/// none.
pub(super) fn of(runner: &Runner<'_>, steps: &[Step], node: &str, log: &str) -> Option<String> {
    let begun = runner.begun().iter();
    let marks: Vec<Mark> =
        begun.map(|begun| Mark { from: begun.logged(node), what: format!("in {begun}") }).collect();
    let mut expected = Vec::new();
    expectations(steps, None, &mut expected);
    let of_node = |(number, expect): (usize, &ExpectLog)| {
        let is_awaited = *expect.node == *node && expect.lines != Some(0);
        is_awaited.then(|| (number, expect.contains.to_string()))
    };
    let expected: Vec<(usize, String)> = expected.into_iter().filter_map(of_node).collect();
    trouble(log, &marks, &expected)
}

/// The errors in the log of a node that the case does not provoke; none if there are none. A panic is never excused.
pub(super) fn unprovoked(case: &Case, node: &str, log: &str) -> Option<String> {
    let is_excused =
        |line: &str| !is_panic(line) && case.provokes.iter().any(|part| line.contains(part.as_str()));
    let lines: Vec<&str> = log.lines().filter(|line| is_error(line) && !is_excused(line)).collect();
    let first = lines.first()?;
    let more = match lines.len() - 1 {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Some(format!("the daemon on {node} logs an error, which the case does not provoke:\n  {first}{more}"))
}

/// Steps that look at a log, with the numbers of the case's steps that they are or are in.
fn expectations<'a>(steps: &'a [Step], number: Option<usize>, all: &mut Vec<(usize, &'a ExpectLog)>) {
    for (step, at) in steps.iter().zip(1..) {
        let number = number.unwrap_or(at);
        if let Step::ExpectLog(expect) = step {
            all.push((number, expect));
        }
        step.inner().iter().for_each(|steps| expectations(steps, Some(number), all));
    }
}

fn trouble(log: &str, marks: &[Mark], expected: &[(usize, String)]) -> Option<String> {
    let mut at = 0;
    let mut lines = Vec::new();
    for line in log.split_inclusive('\n') {
        if is_trouble(line) {
            lines.push((at, line.trim_end()));
        }
        at += line.len();
    }
    if lines.is_empty() {
        return None;
    }
    let mut text = match lines.len() {
        all if all > LINES => format!(", the last {LINES} lines of {all}\n"),
        _ => "\n".to_owned(),
    };
    let mut last = None;
    for (at, line) in lines.split_off(lines.len().saturating_sub(LINES)) {
        let what = marks.iter().rfind(|mark| mark.from <= at);
        let what = what.map_or("while the lab was built", |mark| mark.what.as_str());
        if last.replace(what) != Some(what) {
            let _ = writeln!(text, "  {what}");
        }
        let by = expected.iter().find(|(_, part)| line.contains(part.as_str()));
        let by = by.map_or(String::new(), |(number, _)| format!("  (step {number} looks for it)"));
        let _ = writeln!(text, "    {line}{by}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LOG: &str = "t0  WARN one\nt1  INFO two\nt2 ERROR three\nt3  WARN four\nt4 ERROR five\n";

    fn mark(line: &str, what: &str) -> Mark {
        Mark { from: LOG.find(line).unwrap(), what: what.to_owned() }
    }

    #[test]
    fn what_was_logged_stands_below_the_step_that_was_under_way() {
        let marks = [
            mark("t1", "in step 1, `ping`"),
            mark("t2", "in step 2, `stop-etcd`"),
            mark("t4", "in step 3, `ping`"),
        ];
        let text = trouble(LOG, &marks, &[(4, "four".to_owned())]).unwrap();
        assert_eq!(
            text,
            "\n  while the lab was built\n    t0  WARN one\n  in step 2, `stop-etcd`\n    t2 ERROR three\n    \
             t3  WARN four  (step 4 looks for it)\n  in step 3, `ping`\n    t4 ERROR five\n"
        );
    }

    #[test]
    fn an_error_fails_a_case_that_does_not_provoke_it() {
        let case = |keys: &str, step: &str| {
            let text = format!("about = 'x'\n{keys}\nsteps = [{{ {step} }}]");
            Case::from_octets(Path::new("case.toml"), text.into()).unwrap()
        };
        let ping = "ping = { from = 'c1', to = 'c2' }";
        let found = |keys: &str, step: &str| unprovoked(&case(keys, step), "a", LOG);
        let told = "the daemon on a logs an error, which the case does not provoke:\n  ";
        assert_eq!(found("", ping).unwrap(), format!("{told}t2 ERROR three\n  and 1 more"));
        assert_eq!(found("provokes = ['three']", ping).unwrap(), format!("{told}t4 ERROR five"));
        assert_eq!(found("provokes = ['three', 'five']", ping), None);
        let looks = "expect-log = { node = 'a', contains = 'five' }";
        assert_eq!(found("provokes = ['three']", looks).unwrap(), format!("{told}t4 ERROR five"));
        let panic = "thread 'main' panicked at src/main.rs:3:5:\n";
        assert!(unprovoked(&case("provokes = ['panicked']", ping), "a", panic).is_some());
    }

    #[test]
    fn only_the_last_lines_are_shown_and_that_is_said() {
        let text = trouble(&LOG.repeat(3), &[], &[]).unwrap();
        assert!(
            text.starts_with(", the last 8 lines of 12\n  while the lab was built\n    t0  WARN one\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2 + LINES);
        assert_eq!(trouble("t1  INFO two\n", &[], &[]), None);
    }
}
