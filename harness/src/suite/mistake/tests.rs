//! What people read whose suite file is no suite file at all, and how reports are shown to them.

use std::path::Path;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use super::nearest;
use crate::suite::Case;

/// How a report reads on a terminal without colour, 110 columns wide.
fn rendered(report: &dyn Diagnostic) -> String {
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::none()).with_width(110);
    handler.without_syntax_highlighting().render_report(&mut text, report).expect("a String takes any text");
    text.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// What is said about the text of a suite file.
pub(in crate::suite) fn told(text: &str) -> String {
    rendered(&Case::from_octets(Path::new("suites/case.toml"), text.into()).expect_err("it has a mistake"))
}

#[test]
fn what_is_no_toml_is_shown_where_it_ceases_to_be() {
    let text = r#"about = "A ping
steps = [{ leases = {} }]
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x not TOML: invalid basic string, expected `"`
       ,-[suites/case.toml:1:16]
     1 | about = "A ping
       :                ^
       :                `-- here
     2 | steps = [{ leases = {} }]
       `----
      help: strings stand in double quotes, lists in [ ], tables in { } on one line or under a [header]
    "#);
}

#[test]
fn an_empty_file_is_answered_with_the_shortest() {
    let text = "";
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x the suite file is empty
       ,-[suites/case.toml:1:1]
       `----
      help: the shortest suite file is
                about = "A ping crosses from one node to another."
                steps = [{ ping = { from = "c1", to = "c2" } }]
    "#);
}

#[test]
fn text_that_is_not_utf_8_is_shown_where_it_is_not() {
    let latin = b"about = \"caf\xe9\"\nsteps = [{ leases = {} }]\n";
    let error = Case::from_octets(Path::new("suites/case.toml"), latin.to_vec()).expect_err("it is Latin-1");
    insta::assert_snapshot!(rendered(&error), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x the file is not UTF-8 text
       ,-[suites/case.toml:1:13]
     1 | about = "caf�"
       :             |
       :             `-- not UTF-8
     2 | steps = [{ leases = {} }]
       `----
      help: TOML is UTF-8: save the file with that encoding
    "#);
}

#[test]
fn ten_thousand_nodes_are_refused_in_a_few_lines() {
    let nodes: Vec<_> = (0..10_000).map(|n| format!("n{n}")).collect();
    let text = format!("about = 'Nodes.'\nlab = {{ nodes = {nodes:?} }}\nsteps = [{{ leases = {{}} }}]");
    insta::assert_snapshot!(told(&text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x line 2, column 932: 10000 nodes are more than a lab has, which is 128
      help: each is a daemon of its own with every interface recorded, all on one machine; how one daemon copes
            with thousands of leases is measured with leases put into etcd
    "#);
}

#[test]
fn a_file_that_is_a_directory_is_told_so() {
    let error = Case::load(Path::new("/")).expect_err("it is a directory");
    insta::assert_snapshot!(rendered(&error), @r#"
      x cannot read the suite file /
      `-> is a directory
      help: name a file in it, or let all suite files in it be found
    "#);
}

#[test]
fn a_name_is_suggested_only_if_it_is_near() {
    let known = ["c1", "c2", "database"];
    assert_eq!(nearest("databse", known), Some("database"));
    assert_eq!(nearest("C2", known), Some("c2"));
    assert_eq!(nearest("c3", known), Some("c1"));
    assert_eq!(nearest("web", known), None);
    assert_eq!(nearest("", known), None);
    assert_eq!(nearest("c1", []), None);
}
