//! What people read who wrote a key, a value or a step that there is not.

use crate::suite::mistake::tests::told;

#[test]
fn a_misspelt_key_is_answered_with_the_nearest_one() {
    let text = r#"about = "A ping crosses."

[[steps]]
ping = { form = "c1", to = "c2" }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x unknown key `form` in `ping`
       ,-[suites/case.toml:4:10]
     3 | [[steps]]
     4 | ping = { form = "c1", to = "c2" }
       :          ^^|^
       :            `-- not a key here
       `----
      help: did you mean `from`? (its keys: from, to, count, ttl, size, tos, id, df, ttls, sizes, toses)
    "#);
}

#[test]
fn a_misspelt_key_deep_in_a_stream_is_found() {
    let text = r#"about = "A stream."

[[steps]]
stream = { from = "c1", to = "c2", during = [{ ping = { from = "c1", to = "c2", tll = 3 } }] }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x unknown key `tll` in `ping`
       ,-[suites/case.toml:4:81]
     3 | [[steps]]
     4 | stream = { from = "c1", to = "c2", during = [{ ping = { from = "c1", to = "c2", tll = 3 } }] }
       :                                                                                 ^|^
       :                                                                                  `-- not a key here
       `----
      help: did you mean `ttl`? (its keys: from, to, count, ttl, size, tos, id, df, ttls, sizes, toses)
    "#);
}

#[test]
fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
    let text = r#"about = "A lab."
nodes = ["a"]

[lab]
source = "RFC 791"

[[steps]]
leases = {}
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 2 mistakes in the suite file suites/case.toml

    Error:
      x unknown key `nodes` in a suite file
       ,-[suites/case.toml:2:1]
     1 | about = "A lab."
     2 | nodes = ["a"]
       : ^^|^^
       :   `-- not a key here
     3 |
       `----
      help: `nodes` belongs to the lab: write it under [lab]

    Error:
      x unknown key `source` in `lab`
       ,-[suites/case.toml:5:1]
     4 | [lab]
     5 | source = "RFC 791"
       : ^^^|^^
       :    `-- not a key here
     6 |
       `----
      help: `source` belongs to the file itself: write it above the first [header]
    "#);
}

#[test]
fn a_value_of_the_wrong_type_is_told_what_its_key_takes() {
    let text = r#"about = "A ping."

[[steps]]
ping = { from = "c1", to = "c2", count = "three", sizes = [1, true] }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 2 mistakes in the suite file suites/case.toml

    Error:
      x `count` is a string
       ,-[suites/case.toml:4:42]
     3 | [[steps]]
     4 | ping = { from = "c1", to = "c2", count = "three", sizes = [1, true] }
       :                                          ^^^|^^^
       :                                             `-- not a whole number
       `----
      help: `count` takes a whole number from 1 to 1000. How many requests, one after the other.

    Error:
      x an item of `sizes` is true
       ,-[suites/case.toml:4:63]
     3 | [[steps]]
     4 | ping = { from = "c1", to = "c2", count = "three", sizes = [1, true] }
       :                                                               ^^|^
       :                                                                 `-- not a whole number from 0 to 65507 or a run of them such as "1-8"
       `----
      help: an item of `sizes` takes a whole number from 0 to 65507 or a run of them such as "1-8"
    "#);
}

#[test]
fn a_value_out_of_range_is_told_the_range() {
    let text = r#"about = "A ping."
lab = { mtu = 100 }

[[steps]]
ping = { from = "c1", to = "c2", ttl = 0, size = 65508 }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 3 mistakes in the suite file suites/case.toml

    Error:
      x `mtu` is too low
       ,-[suites/case.toml:2:15]
     1 | about = "A ping."
     2 | lab = { mtu = 100 }
       :               ^|^
       :                `-- a whole number from 576 to 65535
     3 |
       `----
      help: `mtu` takes a whole number from 576 to 65535. MTU of the underlay, in octets. The overlay's is 28
            less.

    Error:
      x `ttl` is too low
       ,-[suites/case.toml:5:40]
     4 | [[steps]]
     5 | ping = { from = "c1", to = "c2", ttl = 0, size = 65508 }
       :                                        |
       :                                        `-- a whole number from 1 to 255
       `----
      help: `ttl` takes a whole number from 1 to 255. TTL of the requests. There is no 0: no socket sends it.

    Error:
      x `size` is too high
       ,-[suites/case.toml:5:50]
     4 | [[steps]]
     5 | ping = { from = "c1", to = "c2", ttl = 0, size = 65508 }
       :                                                  ^^|^^
       :                                                    `-- a whole number from 0 to 65507
       `----
      help: `size` takes a whole number from 0 to 65507. Octets of payload, after the ICMP header.
    "#);
}

#[test]
fn an_unknown_step_is_answered_with_the_nearest_one() {
    let text = r#"about = "A ping."

[[steps]]
pnig = { from = "c1", to = "c2" }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x unknown step `pnig`
       ,-[suites/case.toml:4:1]
     3 | [[steps]]
     4 | pnig = { from = "c1", to = "c2" }
       : ^^|^
       :   `-- not a step
       `----
      help: did you mean `ping`?
    "#);
}

#[test]
fn two_steps_in_one_are_told_apart() {
    let text = r#"about = "Two steps."

[[steps]]
leases = {}
subnet-file = { node = "a" }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x `subnet-file` stands in the same step as another
       ,-[suites/case.toml:5:1]
     4 | leases = {}
     5 | subnet-file = { node = "a" }
       : ^^^^^|^^^^^
       :      `-- a step has one key
       `----
      help: begin another step for it, with a [[steps]] of its own
    "#);
}

#[test]
fn a_key_that_is_missing_is_explained() {
    let text = r#"[[steps]]
ping = { from = "c1" }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x 2 mistakes in the suite file suites/case.toml

    Error:
      x a suite file has no `about`
       ,-[suites/case.toml:1:1]
     1 | [[steps]]
       : ^
       : `-- needs `about`
     2 | ping = { from = "c1" }
       `----
      help: `about`: What the case shows, in a sentence or two: the first thing that a reader of the snapshot
            reads.

    Error:
      x `ping` has no `to`
       ,-[suites/case.toml:2:8]
     1 | [[steps]]
     2 | ping = { from = "c1" }
       :        ^^^^^^^|^^^^^^^
       :               `-- needs `to`
       `----
      help: `to`: The container, node or address that is pinged.
    "#);
}

#[test]
fn a_run_of_values_that_goes_backwards_is_turned_round() {
    let text = r#"about = "Sweeps."

[[steps]]
ping = { from = "c1", to = "c2", ttls = ["8-1"] }
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x "8-1" runs backwards: write "1-8"
       ,-[suites/case.toml:4:42]
     3 | [[steps]]
     4 | ping = { from = "c1", to = "c2", ttls = ["8-1"] }
       :                                          ^^|^^
       :                                            `-- not understood
       `----
    "#);
}

#[test]
fn a_file_without_steps_is_told_so() {
    let text = r#"about = "Nothing."
steps = []
"#;
    insta::assert_snapshot!(told(text), @r#"
      x a mistake in the suite file suites/case.toml

    Error:
      x `steps` is empty
       ,-[suites/case.toml:2:9]
     1 | about = "Nothing."
     2 | steps = []
       :         ^|
       :          `-- nothing in it
       `----
      help: `steps` takes a list of steps. What is done, in this order.
    "#);
}
