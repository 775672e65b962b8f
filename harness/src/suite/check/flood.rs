//! Whether a `flood` is one that ends, and a `transfer` one that arrives.

use std::ops::Range;

use super::Check;
use crate::suite::mistake::Mistake;
use crate::suite::step::{Flood, MAX_SECONDS, Transfer, Transport};

impl Check<'_> {
    /// Checks a `flood` whose name stands at `at`.
    pub(super) fn flood(&mut self, flood: &Flood, at: Range<usize>) {
        self.way(&flood.from, &flood.to);
        if flood.packets > flood.rate.saturating_mul(MAX_SECONDS) {
            let message = format!("{} packets take more than {MAX_SECONDS} s at that rate", flood.packets);
            let mistake = Mistake::new(at.clone(), message, "too long");
            self.mistakes.push(mistake.help("send fewer, or faster"));
        }
        if flood.max_lost.is_some() && self.topology.address_of(&flood.to).is_none_or(|to| !self.is_host(to))
        {
            let mistake = Mistake::new(at, "nobody counts what arrives there", "`max-lost` has no receiver");
            self.mistakes.push(mistake.help("flood a host of the lab, or take `max-lost` out"));
        }
    }

    /// Checks a `transfer` whose name stands at `at`.
    pub(super) fn transfer(&mut self, transfer: &Transfer, at: Range<usize>) {
        self.way(&transfer.from, &transfer.to);
        let has = |to| {
            let nodes = &mut self.topology.nodes.iter();
            self.is_host(to) || nodes.any(|node| [node.bridge_address(), node.tunnel_address()].contains(&to))
        };
        if !self.topology.address_of(&transfer.to).is_some_and(has) {
            let mistake = Mistake::new(at.clone(), "nobody receives what is sent there", "no receiver");
            self.mistakes.push(mistake.help("transfer to a host of the lab"));
        }
        let refused = match transfer.by {
            _ if !transfer.throughout => None,
            _ if !self.in_branch => Some(("no other branch is there to end it", "put it in a `parallel`")),
            Transport::Udp => Some(("only TCP goes on `throughout`", "take `by` out")),
            Transport::Tcp => None,
        };
        if let Some((message, help)) = refused {
            self.mistakes.push(Mistake::new(at, message, "not `throughout`").help(help));
        }
    }

    fn is_host(&self, address: std::net::Ipv4Addr) -> bool {
        self.topology.hosts().any(|host| host.address() == address)
    }
}
