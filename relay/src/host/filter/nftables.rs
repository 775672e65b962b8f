//! flannel's rules as text for `nft -f`.
//!
//! Source: flannel `pkg/trafficmngr/nftables/nftables.go`; expected listings in `e2e/rules.go`. The order of the
//! rules is flannel's too: the fourth one keeps the last from ever masquerading what a host sends to the overlay,
//! unlike with iptables.

use super::Rules;

/// The table, and all that flannel has in it.
pub(super) const TABLE: &str = "flannel-ipv4";

/// What nft is to do so that the table holds exactly the rules wanted, in one transaction.
pub(super) fn replace(rules: &Rules) -> String {
    let (n, s) = (rules.network, rules.subnet);
    let mut text = delete();
    text += &format!("add table ip {TABLE} {{ comment \"rules for {TABLE}\" ; }}\n");
    if rules.masquerade {
        let masquerade = if rules.fully_random { "masquerade fully-random" } else { "masquerade" };
        text += &chain(
            "postrtg",
            "type nat hook postrouting priority 100",
            "chain to manage traffic masquerading by flannel",
        );
        for rule in [
            "meta mark 0x4000 return".to_owned(),
            format!("ip saddr {s} ip daddr {n} return"),
            format!("ip saddr {n} ip daddr {s} return"),
            format!("ip saddr != {s} ip daddr {n} return"),
            format!("ip saddr {n} ip daddr != 224.0.0.0/4 {masquerade}"),
            format!("ip saddr != {n} ip daddr {n} {masquerade}"),
        ] {
            text += &format!("add rule ip {TABLE} postrtg {rule}\n");
        }
    }
    if rules.forward {
        text += &chain("forward", "type filter hook forward priority 0", "chain to accept flannel traffic");
        for side in ["saddr", "daddr"] {
            text += &format!("add rule ip {TABLE} forward ip {side} {n} accept\n");
        }
    }
    text
}

/// Whether a listing of the table has as many rules as it should.
pub(super) fn is_whole(rules: &Rules, listing: &str) -> bool {
    let is_rule = |line: &&str| {
        [" return", " accept"].iter().any(|end| line.ends_with(end)) || line.contains(" masquerade")
    };
    listing.lines().map(str::trim).filter(is_rule).count() == replace(rules).matches("add rule ").count()
}

fn chain(name: &str, hook: &str, comment: &str) -> String {
    format!("add chain ip {TABLE} {name} {{ {hook} ; comment \"{comment}\" ; }}\n")
}

/// What nft is to do so that the table is gone; adding it first makes that work when it is not there.
pub(super) fn delete() -> String {
    format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"add table ip flannel-ipv4
delete table ip flannel-ipv4
add table ip flannel-ipv4 { comment "rules for flannel-ipv4" ; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100 ; comment "chain to manage traffic masquerading by flannel" ; }
add rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.42.1.0/24 ip daddr 10.42.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.42.0.0/16 ip daddr 10.42.1.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.42.1.0/24 ip daddr 10.42.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random
add chain ip flannel-ipv4 forward { type filter hook forward priority 0 ; comment "chain to accept flannel traffic" ; }
add rule ip flannel-ipv4 forward ip saddr 10.42.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.42.0.0/16 accept
"#;

    fn rules(masquerade: bool, fully_random: bool, forward: bool) -> Rules {
        let (network, subnet) = ("10.42.0.0/16".parse().unwrap(), "10.42.1.0/24".parse().unwrap());
        Rules { network, subnet, masquerade, fully_random, forward }
    }

    #[test]
    fn the_rules_are_flannels_line_by_line() {
        assert_eq!(replace(&rules(true, true, true)), ALL);
        assert_eq!(replace(&rules(true, false, true)), ALL.replace(" fully-random", ""));
    }

    #[test]
    fn only_what_is_wanted_is_there() {
        let forward = replace(&rules(false, true, true));
        assert!(forward.contains("forward") && !forward.contains("postrtg"), "{forward}");
        let masquerade = replace(&rules(true, true, false));
        assert!(masquerade.contains("postrtg") && !masquerade.contains("forward"), "{masquerade}");
    }
}
