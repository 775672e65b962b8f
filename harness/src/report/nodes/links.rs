//! A host's interfaces, one a line: what `ip -brief` has, the MTU that it leaves out, and what each has counted.

use serde::Deserialize;

use crate::flow::align;

/// A link as `ip -json -statistics link` has it.
#[derive(Debug, Deserialize)]
struct Link {
    #[serde(rename = "ifname")]
    name: String,
    mtu: u32,
    #[serde(rename = "operstate")]
    state: String,
    #[serde(default)]
    flags: Vec<String>,
    /// Its hardware address; a TUN has none.
    address: Option<String>,
    #[serde(rename = "stats64")]
    counts: Option<Counts>,
}

#[derive(Debug, Deserialize)]
struct Counts {
    rx: Way,
    tx: Way,
}

#[derive(Debug, Deserialize)]
struct Way {
    packets: u64,
    errors: u64,
    dropped: u64,
}

impl Way {
    fn text(&self) -> String {
        let Self { packets, errors, dropped } = self;
        format!("{packets} packets, {errors} errors, {dropped} dropped")
    }
}

/// The links as a table. What is no such JSON, as when the program failed, is left as it is.
pub(super) fn table(json: &str) -> String {
    let Ok(links) = serde_json::from_str::<Vec<Link>>(json) else { return json.to_owned() };
    let heading = ["name", "mtu", "state", "received", "sent", "address", "flags"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(links.into_iter().map(|link| {
        let (received, sent) =
            link.counts.map_or_else(Default::default, |counts| (counts.rx.text(), counts.tx.text()));
        let address = link.address.unwrap_or_else(|| "-".to_owned());
        vec![link.name, link.mtu.to_string(), link.state, received, sent, address, link.flags.join(",")]
    }));
    align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_its_mtu_and_its_counts_in_columns() {
        // iproute2 6.1.
        let json = r#"[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP"],"mtu":65536,"qdisc":"noqueue",
            "operstate":"UNKNOWN","address":"00:00:00:00:00:00","stats64":{
            "rx":{"bytes":84,"packets":1,"errors":0,"dropped":0,"over_errors":0,"multicast":0},
            "tx":{"bytes":84,"packets":1,"errors":0,"dropped":0,"carrier_errors":0,"collisions":0}}},
            {"ifindex":9,"ifname":"flannel0","flags":["UP"],"mtu":1472,"operstate":"DOWN","stats64":{
            "rx":{"packets":0,"errors":0,"dropped":0},"tx":{"packets":120,"errors":1,"dropped":20}}}]"#;
        assert_eq!(
            table(json),
            "name      mtu    state    received                        sent                               address            flags\n\
             lo        65536  UNKNOWN  1 packets, 0 errors, 0 dropped  1 packets, 0 errors, 0 dropped     00:00:00:00:00:00  LOOPBACK,UP\n\
             flannel0  1472   DOWN     0 packets, 0 errors, 0 dropped  120 packets, 1 errors, 20 dropped  -                  UP\n"
        );
    }

    #[test]
    fn what_a_failed_program_says_is_not_lost() {
        assert_eq!(table("there is no program `ip`"), "there is no program `ip`");
    }
}
