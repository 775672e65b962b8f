//! Whether a network's configuration is one of the lab that it is for.

use ipnet::Ipv4Net;
use serde_json::Value;

use super::Check;
use crate::suite::text::Text;

impl Check<'_> {
    /// Checks a configuration written in the place of the lab's own. Whether it is sound in itself is for relay to say.
    pub(super) fn config(&mut self, config: &Text) {
        let Ok(document) = serde_json::from_str::<Value>(config) else { return };
        let network = document.get("Network").and_then(Value::as_str);
        let network = network.and_then(|network| network.parse::<Ipv4Net>().ok());
        if let Some(network) = network.filter(|network| network.trunc() != self.topology.network) {
            let message = format!("its Network is {network}, and the lab's is {}", self.topology.network);
            let help = "the lab's subnets are out of its `network`: give both the same";
            self.mistake(config, message, "another network", help);
        }
        let port = document.pointer("/Backend/Port").and_then(Value::as_u64);
        if let Some(port) = port.filter(|port| *port != u64::from(self.topology.port)) {
            let message = format!("its Port is {port}, and the lab knows tunnels by {}", self.topology.port);
            self.mistake(config, message, "another port", "take `Port` out");
        }
    }
}
