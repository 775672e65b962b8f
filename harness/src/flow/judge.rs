//! What is to be said of a flow, once all flows of its probe are known.

use super::{Answer, End, FaultPlace, Flow, Hop, Map, Observation, Origin, Part, Verdict};
use crate::packet::{Icmp, Payload};

/// The verdict, by the sockets' word first, then by what was recorded.
pub(super) fn judge(map: &Map, observation: &Observation, flows: &[Flow], flow: &Flow) -> Verdict {
    match flow.part {
        Part::Request => judge_request(map, observation, flows, flow),
        Part::Reply => {
            let times = replies(observation);
            if times > 0 {
                Verdict::Delivered { times, answer: None }
            } else if let (true, End::Reached { host }) = (observation.probe.is_crafted(), &flow.end) {
                Verdict::Received { host: host.clone() }
            } else {
                rejection(observation, flows, flow).unwrap_or_else(|| by_end(observation, flow))
            }
        }
        Part::Error { kind, .. } => {
            let to_sender = |answer: &&Answer| matches!(answer, Answer::Error { kind: seen, from } if *seen == kind && is_from(flow, *from));
            let times = observation.answers.iter().filter(to_sender).count();
            let target =
                flow.hops.first().and_then(Hop::inner).and_then(|packet| map.host_of(packet.destination));
            match &flow.end {
                _ if times > 0 => {
                    Verdict::Delivered { times: u32::try_from(times).unwrap_or(u32::MAX), answer: None }
                }
                End::Reached { host }
                    if (observation.probe.is_crafted() || *host != observation.probe.from)
                        && target == Some(host.as_str()) =>
                {
                    Verdict::Received { host: host.clone() }
                }
                _ => by_end(observation, flow),
            }
        }
    }
}

fn judge_request(map: &Map, observation: &Observation, flows: &[Flow], flow: &Flow) -> Verdict {
    let refusal = observation.answers.iter().find_map(|answer| match answer {
        Answer::NotSent { why } => Some(why.clone()),
        _ => None,
    });
    if let (Some(why), []) = (refusal, &flow.hops[..]) {
        return Verdict::NotSent { why };
    }
    let answer = flows.iter().find(|flow| flow.part == Part::Reply).map(|flow| flow.number);
    match observation.received {
        Some(times @ 1..) => return Verdict::Delivered { times, answer },
        None if answer.is_some() || replies(observation) > 0 => {
            return Verdict::Delivered { times: 1, answer };
        }
        _ => {}
    }
    if observation.probe.is_crafted() {
        return rejection(observation, flows, flow).unwrap_or_else(|| judge_arrival(observation, flow));
    }
    let told = || {
        observation.answers.iter().find_map(|answer| match answer {
            Answer::Error { kind, from } => {
                Some(Verdict::Failed { error: format!("{kind} from {}", map.label(*from)) })
            }
            _ => None,
        })
    };
    rejection(observation, flows, flow).or_else(told).unwrap_or_else(|| by_end(observation, flow))
}

/// The verdict on a packet that was built field by field, and neither answered nor rejected: the interface of the host
/// that it is for is witness enough, unless a socket or that host's kernel would have had a word to say.
fn judge_arrival(observation: &Observation, flow: &Flow) -> Verdict {
    let whole = flow.hops.last().and_then(Hop::first).is_some_and(|packet| packet.fragment.is_none());
    let awaited = observation.received.is_some() || observation.probe.is_answerable();
    match &flow.end {
        End::Reached { host } if !(whole && awaited) => Verdict::Received { host: host.clone() },
        _ => by_end(observation, flow),
    }
}

/// How often the sender's socket received a reply.
fn replies(observation: &Observation) -> u32 {
    let replies = observation.answers.iter().filter(|answer| matches!(answer, Answer::Reply { .. })).count();
    u32::try_from(replies).unwrap_or(u32::MAX)
}

/// Whether an error comes from an address, at the last point that it was seen at.
fn is_from(flow: &Flow, address: std::net::Ipv4Addr) -> bool {
    flow.hops.last().and_then(Hop::inner).is_some_and(|packet| packet.source == address)
}

/// The errors about a flow that were meant for its sender, if any.
fn rejection(observation: &Observation, flows: &[Flow], flow: &Flow) -> Option<Verdict> {
    let errors: Vec<&Flow> =
        flows.iter().filter(|error| error.about == Some(flow.number) && !is_about_tunnel(error)).collect();
    let arrived = errors.iter().any(|error| {
        let Part::Error { kind, .. } = error.part else { return false };
        if observation.probe.is_crafted() && matches!(error.end, End::Reached { .. }) {
            return true;
        }
        observation.answers.iter().any(
            |answer| matches!(answer, Answer::Error { kind: seen, from } if *seen == kind && is_from(error, *from)),
        )
    });
    (!errors.is_empty())
        .then(|| Verdict::Rejected { by: errors.iter().map(|error| error.number).collect(), arrived })
}

/// Whether an error is about the tunnel datagram that the flow was in, and so is for the node that sent that.
fn is_about_tunnel(error: &Flow) -> bool {
    let packet = error.hops.first().and_then(Hop::inner);
    packet.is_some_and(|packet| match &packet.payload {
        Payload::Icmp(Icmp::Error { quote: Some(quote), .. }) => quote.tunnelled().is_some(),
        _ => false,
    })
}

/// The end of a flow, or of a copy of it, at the host that made an error about it, where no drop was counted.
pub(super) fn refusal(flows: &[Flow], number: u32, last: Option<&Hop>, end: &End) -> Option<End> {
    let last = last?;
    let made_there = |error: &&Flow| {
        error.about == Some(number)
            && error.origin.as_ref().is_some_and(|origin| origin.host == last.point.host)
    };
    match (flows.iter().find(made_there)?, end) {
        (_, End::Dropped { .. }) => None,
        (Flow { part: Part::Error { kind, .. }, origin: Some(Origin { host, place }), .. }, _) => {
            Some(End::Refused { host: host.clone(), place: *place, kind: *kind })
        }
        _ => None,
    }
}

fn by_end(observation: &Observation, flow: &Flow) -> Verdict {
    let after = flow.hops.last().map(Hop::place);
    // A host that has no way to answer yet receives all the same.
    let fault_of = |host: &str| {
        let mut faults = observation.faults.iter();
        let found = faults.find(|fault| fault.host == host && fault.place == FaultPlace::Host);
        found.map(|fault| fault.what.clone())
    };
    match &flow.end {
        End::Dropped { host, place, reason } => {
            Verdict::Dropped { host: host.clone(), place: *place, reason: reason.clone() }
        }
        End::Refused { host, place, kind } => {
            Verdict::Dropped { host: host.clone(), place: *place, reason: kind.to_string() }
        }
        End::Reached { host } => Verdict::Lost { after, fault: fault_of(host) },
        End::Astray { .. } => Verdict::Lost { after, fault: None },
        End::Open { fault } => Verdict::Lost { after, fault: fault.clone() },
    }
}
