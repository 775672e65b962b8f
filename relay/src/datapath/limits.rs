//! How long a packet may be on the way to a node, remembered for a moment: the kernel is asked by four system calls,
//! and where packets are too long for their path many are.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// How long an answer holds. A path that has become wider is noticed after this; one that has become narrower, by the
/// next datagram that is refused: see [`PathLimits::get`].
const VALID: Duration = Duration::from_secs(1);

/// Nodes remembered at once.
const NODES: usize = 16;

/// What was learnt about one node.
#[derive(Debug, Clone, Copy)]
struct Limit {
    node: Ipv4Addr,
    octets: u16,
    asked: Instant,
}

/// The limits of the nodes asked about last.
#[derive(Debug, Default)]
pub struct PathLimits {
    limits: [Option<Limit>; NODES],
}

impl PathLimits {
    /// The longest packet that `node` is reached with, remembered, or else as `ask` has it.
    ///
    /// It is called about a packet of `refused` octets that was too long for the path. What is remembered must agree
    /// that it was: else the path has become narrower since, and a packet that is neither sent nor told of would be lost.
    ///
    /// # Errors
    /// Those of `ask`, which are not remembered.
    pub fn get<E>(
        &mut self,
        node: Ipv4Addr,
        refused: usize,
        now: Instant,
        ask: impl FnOnce() -> Result<u16, E>,
    ) -> Result<u16, E> {
        let place = &mut self.limits[usize::from(node.octets()[3]) % NODES];
        let known = place.filter(|limit| {
            limit.node == node
                && now.duration_since(limit.asked) < VALID
                && usize::from(limit.octets) < refused
        });
        if let Some(limit) = known {
            return Ok(limit.octets);
        }
        let octets = ask()?;
        *place = Some(Limit { node, octets, asked: now });
        Ok(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
    /// One that has the same place.
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 18);

    /// The limit, and whether the kernel, which would say `answer`, was asked.
    fn get(
        limits: &mut PathLimits,
        node: Ipv4Addr,
        refused: usize,
        now: Instant,
        answer: u16,
    ) -> (u16, bool) {
        let mut asked = false;
        let ask = || {
            asked = true;
            Ok::<_, ()>(answer)
        };
        let limit = limits.get(node, refused, now, ask).unwrap();
        (limit, asked)
    }

    #[test]
    fn the_kernel_is_asked_once_a_second_for_each_node() {
        let (mut limits, start) = (PathLimits::default(), Instant::now());
        assert_eq!(get(&mut limits, NODE, 1472, start, 1372), (1372, true));
        let soon = start + Duration::from_millis(999);
        assert_eq!(get(&mut limits, NODE, 1472, soon, 1300), (1372, false));
        let later = start + Duration::from_secs(1);
        assert_eq!(get(&mut limits, NODE, 1472, later, 1300), (1300, true));
        assert_eq!(get(&mut limits, OTHER, 1472, later, 1200), (1200, true));
        assert_eq!(get(&mut limits, NODE, 1472, later, 1300), (1300, true));
    }

    #[test]
    fn a_packet_refused_that_should_have_passed_has_the_kernel_asked_again() {
        let (mut limits, start) = (PathLimits::default(), Instant::now());
        get(&mut limits, NODE, 1472, start, 1372);
        assert_eq!(get(&mut limits, NODE, 1372, start, 1200), (1200, true));
        assert_eq!(get(&mut limits, NODE, 1201, start, 1000), (1200, false));
    }

    #[test]
    fn no_answer_is_not_remembered() {
        let (mut limits, start) = (PathLimits::default(), Instant::now());
        assert_eq!(limits.get(NODE, 1472, start, || Err("no route")), Err("no route"));
        assert_eq!(get(&mut limits, NODE, 1472, start, 1372), (1372, true));
    }
}
