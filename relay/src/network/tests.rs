use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Network, NetworkError> {
    Network::parse(text.as_bytes())
}

fn field_of(text: &str) -> &'static str {
    match parse(text).expect_err(text) {
        NetworkError::Json(_) => "json",
        NetworkError::Missing(field)
        | NetworkError::Invalid { field, .. }
        | NetworkError::Unsupported { field, .. } => field,
    }
}

#[test]
fn the_shortest_config_gets_flannels_defaults() {
    let network = parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    assert_eq!(
        network,
        Network {
            prefix: "10.5.0.0/16".parse().unwrap(),
            subnet_len: 24,
            subnet_min: Ipv4Addr::new(10, 5, 1, 0),
            subnet_max: Ipv4Addr::new(10, 5, 255, 0),
            port: 8285,
            nftables: false,
        }
    );
}

#[test]
fn nftables_is_chosen_by_a_boolean() {
    assert!(parse(r#"{"Network":"10.5.0.0/16","EnableNFTables":true}"#).unwrap().nftables);
    assert_eq!(field_of(r#"{"Network":"10.5.0.0/16","enablenftables":"yes"}"#), "EnableNFTables");
}

#[test]
fn field_names_are_read_in_any_case_unknown_ones_ignored_and_host_bits_masked() {
    let network = parse(r#"{"network":"10.5.1.3/16","SUBNETLEN":26,"Colour":"red"}"#).unwrap();
    assert_eq!(network.prefix, "10.5.0.0/16".parse().unwrap());
    assert_eq!(network.subnet_len, 26);
    assert_eq!(network.subnet_min, Ipv4Addr::new(10, 5, 0, 64));
}

#[test]
fn a_small_network_is_split_in_four() {
    for (prefix, length) in
        [("10.5.0.0/22", 24), ("10.5.0.0/23", 25), ("10.5.0.0/24", 26), ("10.5.0.0/28", 30)]
    {
        assert_eq!(parse(&format!(r#"{{"Network":"{prefix}"}}"#)).unwrap().subnet_len, length);
    }
    assert_eq!(field_of(r#"{"Network":"10.5.0.0/29"}"#), "Network");
}

#[test]
fn subnet_lengths_must_leave_room_for_four_subnets_and_four_addresses() {
    assert_eq!(field_of(r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#), "SubnetLen");
    assert_eq!(field_of(r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#), "SubnetLen");
    assert_eq!(field_of(r#"{"Network":"10.5.0.0/16","SubnetLen":"24"}"#), "SubnetLen");
    assert!(parse(r#"{"Network":"10.5.0.0/16","SubnetLen":18}"#).is_ok());
    assert!(parse(r#"{"Network":"10.5.0.0/16","SubnetLen":30}"#).is_ok());
}

#[test]
fn bounds_must_lie_in_the_network_on_a_subnet_boundary_in_order() {
    let with = |more: &str| format!(r#"{{"Network":"10.5.0.0/16",{more}}}"#);
    assert_eq!(field_of(&with(r#""SubnetMin":"10.6.0.0""#)), "SubnetMin");
    assert_eq!(field_of(&with(r#""SubnetMin":"10.5.1.1""#)), "SubnetMin");
    assert_eq!(field_of(&with(r#""SubnetMax":"10.4.0.0""#)), "SubnetMax");
    assert_eq!(field_of(&with(r#""SubnetMax":"10.5.9.128""#)), "SubnetMax");
    assert_eq!(field_of(&with(r#""SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0""#)), "SubnetMin");
    let network = parse(&with(r#""SubnetMin":"0.0.0.0","SubnetMax":"10.5.9.0""#)).unwrap();
    assert_eq!((network.subnet_min, network.subnet_max), ([10, 5, 1, 0].into(), [10, 5, 9, 0].into()));
}

#[test]
fn an_absent_backend_is_udp_and_an_empty_one_is_refused() {
    let with = |backend: &str| format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#);
    assert_eq!(parse(&with(r#"{"type":"UDP","port":7890}"#)).unwrap().port, 7890);
    assert_eq!(field_of(&with("{}")), "Backend.Type");
    assert_eq!(field_of(&with("null")), "Backend");
    assert_eq!(field_of(&with(r#"{"Type":"vxlan"}"#)), "Backend.Type");
    for port in ["0", "65536", "-1", r#""8285""#, "1.5"] {
        assert_eq!(field_of(&with(&format!(r#"{{"Type":"udp","Port":{port}}}"#))), "Backend.Port");
    }
}

#[test]
fn errors_name_the_field_and_the_value() {
    let message = parse(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#).unwrap_err().to_string();
    assert_eq!(message, "SubnetMin is 10.6.0.0 in the network config: must lie in Network (10.5.0.0/16)");
    assert_eq!(parse("{}").unwrap_err().to_string(), "Network is missing in the network config");
}

#[test]
fn ipv6_is_declined_rather_than_ignored() {
    assert_eq!(field_of(r#"{"Network":"10.5.0.0/16","EnableIPv6":true}"#), "EnableIPv6");
    assert_eq!(field_of(r#"{"EnableIPv4":false,"IPv6Network":"fd00::/48"}"#), "EnableIPv4");
}

#[test]
fn a_lease_as_wide_as_the_network_is_not_covered() {
    let network = parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    for (subnet, covered) in [
        ("10.5.9.0/24", true),
        ("10.5.9.0/28", true),
        ("10.5.0.0/16", false),
        ("10.0.0.0/8", false),
        ("10.6.9.0/24", false),
    ] {
        assert_eq!(network.covers(subnet.parse().unwrap()), covered, "{subnet}");
    }
}

#[test]
fn the_last_subnet_of_the_address_space_is_listed() {
    let network = parse(r#"{"Network":"255.255.0.0/16"}"#).unwrap();
    assert_eq!(network.subnets().last(), Some("255.255.255.0/24".parse().unwrap()));
    assert_eq!(network.subnets().count(), 255);
}

proptest! {
    #[test]
    fn an_accepted_config_lists_only_subnets_it_allows(
        address in any::<u32>(), length in 0u8..=32, subnet_len in prop::option::of(0u8..=32)
    ) {
        let mut text = format!(r#"{{"Network":"{}/{length}""#, Ipv4Addr::from_bits(address));
        if let Some(subnet_len) = subnet_len {
            text += &format!(r#","SubnetLen":{subnet_len}"#);
        }
        text.push('}');
        if let Ok(network) = parse(&text) {
            for subnet in network.subnets().take(300) {
                prop_assert!(network.allows(subnet) && network.covers(subnet), "{subnet}");
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".*") {
        let _ = parse(&text);
    }
}
