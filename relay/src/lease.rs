//! A lease: which node has which subnet, and how flannel writes it as an etcd key and value.
//!
//! Source: flannel `pkg/subnet/subnet.go` (key), `pkg/lease/lease.go` (value).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::network::json;

/// A subnet and the node that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The subnet, host bits zero.
    pub subnet: Ipv4Net,
    /// The address at which other nodes reach the node.
    pub public_ip: Ipv4Addr,
}

/// A lease's key or value that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// The key is not `ADDRESS-LENGTH`, with or without `&ADDRESS6-LENGTH`.
    #[error("key `{0}` is not of the form 10.5.34.0-24 or 10.5.34.0-24&fd00::-64")]
    Key(String),
    /// The value is no JSON object.
    #[error("value is not a JSON object: {0}")]
    Json(String),
    /// The value names no usable node address.
    #[error("PublicIP is {0}, not the IPv4 address of a node")]
    PublicIp(String),
}

/// The last part of the key under which `subnet` is leased, such as `10.5.34.0-24`.
#[must_use]
pub fn key(subnet: Ipv4Net) -> String {
    format!("{}-{}", subnet.network(), subnet.prefix_len())
}

/// Reads the last part of a lease's key. The IPv6 half of a dual-stack key is checked and left out.
///
/// # Errors
/// The key has another form, a prefix longer than /31, or host bits.
pub fn parse_key(text: &str) -> Result<Ipv4Net, LeaseError> {
    let parse = || {
        let (v4, v6) = text.split_once('&').map_or((text, None), |(v4, v6)| (v4, Some(v6)));
        if let Some(v6) = v6 {
            let (address, length) = v6.rsplit_once('-')?;
            address.parse::<Ipv6Addr>().ok()?;
            decimal(length).filter(|length| *length <= 127)?;
        }
        let (address, length) = v4.split_once('-')?;
        let length = decimal(length).filter(|length| *length <= 31)?;
        let subnet = Ipv4Net::new(address.parse().ok()?, length).ok()?;
        (subnet.trunc() == subnet).then_some(subnet)
    };
    parse().ok_or_else(|| LeaseError::Key(text.to_owned()))
}

fn decimal(text: &str) -> Option<u8> {
    // `parse` alone would take a sign.
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

#[derive(Serialize)]
struct Attributes {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6")]
    public_ipv6: Option<Ipv6Addr>,
}

/// The value of a lease held by the node at `public_ip`, byte for byte what flannel's UDP backend writes.
#[must_use]
pub fn value(public_ip: Ipv4Addr) -> Vec<u8> {
    let attributes = Attributes { public_ip, public_ipv6: None };
    // Two addresses always serialize.
    serde_json::to_vec(&attributes).unwrap_or_default()
}

/// Reads the node's address out of a lease's value. Other fields, backend types among them, are ignored, as is
/// the case of the field's name.
///
/// # Errors
/// The value is no JSON object, or `PublicIP` is missing or no unicast address.
pub fn parse_value(bytes: &[u8]) -> Result<Ipv4Addr, LeaseError> {
    let object = json::Object::parse(bytes).map_err(|error| LeaseError::Json(error.to_string()))?;
    let shown = object.get("PublicIP").cloned().unwrap_or(Value::Null);
    match shown.as_str().map(str::parse) {
        Some(Ok(IpAddr::V4(address))) if is_node_address(address) => Ok(address),
        _ => Err(LeaseError::PublicIp(shown.to_string())),
    }
}

/// Whether other nodes could send to this address: a lease must name such a one.
#[must_use]
pub fn is_node_address(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_values_are_flannels_byte_for_byte() {
        assert_eq!(key("10.5.34.0/24".parse().unwrap()), "10.5.34.0-24");
        assert_eq!(value(Ipv4Addr::new(1, 2, 3, 4)), br#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
    }

    #[test]
    fn a_dual_stack_key_keeps_its_colons_and_yields_its_ipv4_half() {
        assert_eq!(parse_key("10.5.34.0-24&fd00:12:13::-56"), Ok("10.5.34.0/24".parse().unwrap()));
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        for text in [
            "",
            "10.5.34.0",
            "10.5.34.0-",
            "10.5.34.0-32",
            "10.5.34.0-+24",
            "10.5.34.0/24",
            "10.5.34.1-24",
            "config",
            "10.5.34-24",
            "10.5.34.256-24",
            "10.5.34.0-24&",
            "10.5.34.0-24&fd00--56",
            "10.5.34.0-24&fd00::-128",
            "x/10.5.34.0-24",
        ] {
            assert_eq!(parse_key(text), Err(LeaseError::Key(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn values_of_other_backends_and_older_versions_are_understood() {
        let address = Ok(Ipv4Addr::new(1, 2, 3, 4));
        for text in [
            r#"{"PublicIP":"1.2.3.4"}"#,
            r#"{"publicip":"1.2.3.4","PublicIPv6":"fd00::1"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}"#,
        ] {
            assert_eq!(parse_value(text.as_bytes()), address, "{text}");
        }
    }

    #[test]
    fn values_without_a_node_address_are_refused() {
        for text in [
            "",
            "null",
            "[]",
            "{",
            "{}",
            r#"{"PublicIP":null}"#,
            r#"{"PublicIP":7}"#,
            r#"{"PublicIP":"x"}"#,
            r#"{"PublicIP":"fd00::1"}"#,
            r#"{"PublicIP":"0.0.0.0"}"#,
            r#"{"PublicIP":"127.0.0.1"}"#,
            r#"{"PublicIP":"224.0.0.1"}"#,
        ] {
            assert!(parse_value(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_subnet_survives_its_key(address in any::<u32>(), length in 0u8..32) {
            let subnet = Ipv4Net::new(Ipv4Addr::from_bits(address), length).unwrap().trunc();
            prop_assert_eq!(parse_key(&key(subnet)), Ok(subnet));
        }

        #[test]
        fn every_node_address_survives_its_value(address in any::<u32>().prop_map(Ipv4Addr::from_bits)) {
            prop_assume!(is_node_address(address));
            prop_assert_eq!(parse_value(&value(address)), Ok(address));
        }

        #[test]
        fn arbitrary_keys_and_values_never_panic(text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_key(&text);
            let _ = parse_value(&bytes);
        }
    }
}
