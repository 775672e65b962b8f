//! The cluster's configuration: one JSON object in etcd.
//!
//! Source: flannel `pkg/subnet/config.go` and `pkg/backend/udp/udp_amd64.go`.

pub mod json;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;
use thiserror::Error;

/// Port of the tunnel when the configuration names none.
pub const DEFAULT_PORT: u16 = 8285;

/// The overlay network that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// All of the overlay's addresses.
    pub prefix: Ipv4Net,
    /// Bits of each node's subnet.
    pub subnet_len: u8,
    /// The first subnet to lease.
    pub subnet_min: Ipv4Addr,
    /// The last subnet to lease.
    pub subnet_max: Ipv4Addr,
    /// UDP port of every node.
    pub port: u16,
    /// Whether packet filter rules go through nftables instead of iptables.
    pub nftables: bool,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// Not a JSON object.
    #[error("network config is not a JSON object: {0}")]
    Json(String),
    /// A required field is missing.
    #[error("{0} is missing in the network config")]
    Missing(&'static str),
    /// A field's value breaks a rule.
    #[error("{field} is {value} in the network config: {rule}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Its value as written, or as it would default.
        value: String,
        /// What it should be.
        rule: String,
    },
    /// A valid choice for flannel that this daemon does not offer.
    #[error("{field} is {value} in the network config: not supported, {instead}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is supported.
        instead: &'static str,
    },
}

fn invalid(field: &'static str, value: impl ToString, rule: impl Into<String>) -> NetworkError {
    NetworkError::Invalid { field, value: value.to_string(), rule: rule.into() }
}

impl Network {
    /// Parses, fills in defaults and checks.
    ///
    /// # Errors
    /// Names the field, its value and the rule it breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, NetworkError> {
        let object = json::Object::parse(bytes).map_err(|error| NetworkError::Json(error.to_string()))?;
        check_families(&object)?;
        let port = parse_backend(object.get("Backend"))?;

        let prefix = parse_prefix(object.get_set("Network").ok_or(NetworkError::Missing("Network"))?)?;
        let subnet_len = parse_subnet_len(object.get_set("SubnetLen"), prefix)?;
        let size = 1u64 << (32 - u32::from(subnet_len));
        let base = u64::from(prefix.network().to_bits());
        let end = base + (1u64 << (32 - u32::from(prefix.prefix_len())));

        // The first subnet is left out: its base would be the network's own address.
        let subnet_min = parse_bound(object.get_set("SubnetMin"), "SubnetMin", prefix, size, base + size)?;
        let subnet_max = parse_bound(object.get_set("SubnetMax"), "SubnetMax", prefix, size, end - size)?;
        if subnet_min > subnet_max {
            return Err(invalid(
                "SubnetMin",
                subnet_min,
                format!("must not be above SubnetMax ({subnet_max})"),
            ));
        }
        let nftables = parse_flag(&object, "EnableNFTables", false)?;
        Ok(Self { prefix, subnet_len, subnet_min, subnet_max, port, nftables })
    }

    /// Whether a node may lease this subnet under the present configuration.
    #[must_use]
    pub fn allows(&self, subnet: Ipv4Net) -> bool {
        subnet.prefix_len() == self.subnet_len
            && (self.subnet_min..=self.subnet_max).contains(&subnet.network())
            && subnet.trunc() == subnet
    }

    /// Whether traffic for another node's `subnet` may use the tunnel: it must be a proper part of the network.
    ///
    /// A lease as wide as the network or wider would take every address that nobody leased.
    #[must_use]
    pub fn covers(&self, subnet: Ipv4Net) -> bool {
        self.prefix != subnet && self.prefix.contains(&subnet)
    }

    /// How many subnets may be leased.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        ((self.subnet_max.to_bits() - self.subnet_min.to_bits()) >> (32 - self.subnet_len)) + 1
    }

    /// The subnets that may be leased, in ascending order.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv4Net> + use<> {
        let length = self.subnet_len;
        let size = 1usize << (32 - u32::from(length));
        (u64::from(self.subnet_min.to_bits())..=u64::from(self.subnet_max.to_bits()))
            .step_by(size)
            .filter_map(move |base| Ipv4Net::new(Ipv4Addr::from_bits(u32::try_from(base).ok()?), length).ok())
    }
}

fn check_families(object: &json::Object) -> Result<(), NetworkError> {
    for (field, default, wanted, instead) in [
        ("EnableIPv4", true, true, "relay carries IPv4"),
        ("EnableIPv6", false, false, "relay carries IPv4 only"),
    ] {
        let value = parse_flag(object, field, default)?;
        if value != wanted {
            return Err(NetworkError::Unsupported { field, value: value.to_string(), instead });
        }
    }
    Ok(())
}

fn parse_flag(object: &json::Object, field: &'static str, default: bool) -> Result<bool, NetworkError> {
    match object.get_set(field) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(invalid(field, other, "must be true or false")),
    }
}

/// The tunnel's port. No backend at all means udp; one without a type is an error, as it is to flannel.
fn parse_backend(backend: Option<&Value>) -> Result<u16, NetworkError> {
    let Some(backend) = backend else {
        return Ok(DEFAULT_PORT);
    };
    let object = serde_json::from_value::<json::Object>(backend.clone())
        .map_err(|_| invalid("Backend", backend, r#"must be an object such as {"Type":"udp"}"#))?;
    match object.get_set("Type") {
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("udp") => {}
        kind => {
            let value = kind.map_or_else(|| "missing".to_owned(), Value::to_string);
            return Err(NetworkError::Unsupported {
                field: "Backend.Type",
                value,
                instead: "relay speaks udp",
            });
        }
    }
    match object.get_set("Port") {
        None => Ok(DEFAULT_PORT),
        Some(port) => port
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| invalid("Backend.Port", port, "must be a number from 1 to 65535")),
    }
}

fn parse_prefix(value: &Value) -> Result<Ipv4Net, NetworkError> {
    value
        .as_str()
        .and_then(|text| text.parse::<Ipv4Net>().ok())
        .map(|prefix| prefix.trunc())
        .ok_or_else(|| invalid("Network", value, "must be an IPv4 network such as 10.5.0.0/16"))
}

fn parse_subnet_len(value: Option<&Value>, prefix: Ipv4Net) -> Result<u8, NetworkError> {
    let given = match value {
        None => 0,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| invalid("SubnetLen", value, "must be a number of bits, at most 30"))?,
    };
    if given == 0 {
        return match prefix.prefix_len() {
            length @ 29.. => {
                Err(invalid("Network", prefix, format!("/{length} is too small, /28 is the smallest")))
            }
            length @ 23.. => Ok(length + 2),
            _ => Ok(24),
        };
    }
    let least = prefix.prefix_len() + 2;
    match u8::try_from(given) {
        Ok(length @ ..=30) if length >= least => Ok(length),
        Ok(..=30) => Err(invalid(
            "SubnetLen",
            given,
            format!("must be at least {least}, so that {prefix} holds four subnets"),
        )),
        _ => Err(invalid("SubnetLen", given, "must be at most 30")),
    }
}

fn parse_bound(
    value: Option<&Value>,
    field: &'static str,
    prefix: Ipv4Net,
    size: u64,
    default: u64,
) -> Result<Ipv4Addr, NetworkError> {
    let given = match value {
        None => Ipv4Addr::UNSPECIFIED,
        Some(value) => value
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| invalid(field, value, "must be an IPv4 address"))?,
    };
    if given.is_unspecified() {
        return u32::try_from(default)
            .map(Ipv4Addr::from_bits)
            .map_err(|_| invalid("Network", prefix, "leaves no room for a subnet"));
    }
    if !prefix.contains(&given) {
        return Err(invalid(field, given, format!("must lie in Network ({prefix})")));
    }
    if u64::from(given.to_bits()) % size != 0 {
        return Err(invalid(
            field,
            given,
            format!("must be the first address of a subnet of {size} addresses"),
        ));
    }
    Ok(given)
}

#[cfg(test)]
mod tests;
