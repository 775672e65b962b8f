//! What a flanneld tells of itself: its log is all that there is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Where it sends what is for each subnet, by the changes that it has logged since its start: it writes each down before it
/// follows it (flannel pkg/subnet/subnet.go, `WatchLeases`).
pub(super) fn routes(log: &str) -> BTreeMap<Ipv4Net, Ipv4Addr> {
    let mut routes = BTreeMap::new();
    for (subnet, owner) in log.lines().filter(|line| line.contains("] Batch elem [")).filter_map(change) {
        match owner {
            Some(owner) => routes.insert(subnet, owner),
            None => routes.remove(&subnet),
        };
    }
    routes
}

/// A subnet, and whose it is from then on; none if it is nobody's.
fn change(line: &str) -> Option<(Ipv4Net, Option<Ipv4Addr>)> {
    let number = |field: &str| {
        let digits = line.split_once(field)?.1;
        let end = digits.find(|digit: char| !digit.is_ascii_hexdigit())?;
        u32::from_str_radix(&digits[..end], 16).ok()
    };
    let prefix_len = u8::try_from(number("PrefixLen:0x")?).ok()?;
    let subnet = Ipv4Net::new(number("Subnet:ip.IP4Net{IP:0x")?.into(), prefix_len).ok()?;
    let is_added = line.contains("Event{Type:0,");
    Some((subnet, if is_added { Some(number("{PublicIP:0x")?.into()) } else { None }))
}

/// The flag that it has ended for, by the end of its log: all of its usage follows, and its exit status is 0.
pub(super) fn unknown_flag(log: &str) -> Option<&str> {
    let told = log.lines().rev().find_map(|line| line.strip_prefix("flag provided but not defined: "));
    told.map(|flag| flag.trim_start_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(kind: u8, subnet: &str, owner: &str) -> String {
        format!(
            "I1128 08:27:30.355613    5616 subnet.go:138] Batch elem [0] is {{ lease.Event{{Type:{kind}, Lease:lease.Lease{{\
             EnableIPv4:true, EnableIPv6:false, Subnet:ip.IP4Net{{{subnet}}}, IPv6Subnet:ip.IP6Net{{IP:(*ip.IP6)(nil), \
             PrefixLen:0x0}}, Attrs:lease.LeaseAttrs{{PublicIP:{owner}, PublicIPv6:(*ip.IP6)(nil)}}}}}} }}\n"
        )
    }

    #[test]
    fn routes_are_what_the_logged_changes_add_up_to() {
        let (first, second) = ("IP:0xa050200, PrefixLen:0x18", "IP:0xa056300, PrefixLen:0x1c");
        let log = batch(0, first, "0xac140002") + "I1128 subnet added\n" + &batch(0, second, "0xac140002");
        let at = |last| Ipv4Addr::new(172, 20, 0, last);
        let subnets: [Ipv4Net; 2] = ["10.5.2.0/24".parse().unwrap(), "10.5.99.0/28".parse().unwrap()];
        assert_eq!(routes(&log), BTreeMap::from([(subnets[0], at(2)), (subnets[1], at(2))]));
        let log = log + &batch(0, first, "0xac140003") + &batch(1, second, "0x0");
        assert_eq!(routes(&log), BTreeMap::from([(subnets[0], at(3))]));
        assert_eq!(routes("I1128 x] Batch elem [0] is { other }\n"), BTreeMap::new());
    }

    #[test]
    fn a_flag_that_it_does_not_know_is_told() {
        let usage = "flag provided but not defined: -dscp\nUsage: flanneld [OPTION]...\n  -v value\n";
        assert_eq!(unknown_flag(usage), Some("dscp"));
        assert_eq!(unknown_flag("I1128 08:21:08.945595    8746 main.go:222] CLI flags config: {}\n"), None);
    }
}
