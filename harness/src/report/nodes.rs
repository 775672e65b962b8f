//! How every host stands when a case has failed.

use std::fmt::Write as _;

use crate::run::Runner;

mod links;

/// Links, addresses, routes, rules, leases and counters of every host, as far as they can still be had.
pub(super) async fn describe(runner: &Runner<'_>) -> String {
    let mut text = format!("{}\n", runner.lab.topology);
    for host in runner.lab.hosts() {
        let _ = writeln!(text, "{}", host.name());
        let links = host.output(&["ip", "-json", "-statistics", "link", "show"]).await;
        let _ = writeln!(text, "  links\n    {}", links::table(&links).trim().replace('\n', "\n    "));
        for command in [["address", "show"], ["route", "show"], ["neighbour", "show"]] {
            let shown = host.output(&[&["ip", "-4", "-brief"][..], &command[..]].concat()).await;
            let _ =
                writeln!(text, "  ip {}\n    {}", command.join(" "), shown.trim().replace('\n', "\n    "));
        }
    }
    for host in runner.lab.hosts() {
        let rules = host.output(&["nft", "list", "ruleset"]).await;
        let rules = rules.trim();
        if !rules.is_empty() {
            let _ = writeln!(text, "rules of {}\n    {}", host.name(), rules.replace('\n', "\n    "));
        }
    }
    for (node, routes) in runner.lab.routes().await {
        let _ = writeln!(text, "routes of {node}'s daemon");
        match routes {
            Ok(routes) => {
                for (subnet, via) in routes {
                    let _ = writeln!(text, "  {subnet} via {via}");
                }
            }
            Err(error) => {
                let _ = writeln!(text, "  {error}");
            }
        }
    }
    match runner.lab.leases().await {
        Ok(leases) => {
            let _ = writeln!(text, "leases");
            for lease in leases {
                let _ = writeln!(text, "  {}  {}  revision {}", lease.key, lease.value, lease.revision);
            }
        }
        Err(error) => {
            let _ = writeln!(text, "leases: {error}");
        }
    }
    match runner.lab.counters().await {
        Ok(all) => {
            for (node, counters) in all {
                let _ = writeln!(text, "counters of {node}\n{counters}");
            }
        }
        Err(error) => {
            let _ = writeln!(text, "counters: {error}");
        }
    }
    text
}
