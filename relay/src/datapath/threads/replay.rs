//! A run that the kernel did not take, sent datagram by datagram: whose fault was it?

use crate::datapath::runs::Run;

/// What became of one datagram sent by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// The kernel took it.
    Sent,
    /// It is longer than its path (`EMSGSIZE`): neither sent nor counted yet.
    TooLong,
    /// The kernel refused it for another reason; it is counted.
    Failed,
}

/// What the datagrams of a run have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Whether it was the segmenting that the kernel refused: a datagram of full length passed alone. The last one of a
    /// run, which may be shorter, says nothing.
    pub(super) segmenting_refused: bool,
    /// What was not sent because it is longer than its path, from its first datagram on.
    pub(super) too_long: Option<Run>,
}

/// Gives the datagrams of `run` to `send` in order, up to the first that is too long.
pub(super) fn one_by_one(run: Run, mut send: impl FnMut(Run) -> Alone) -> Replayed {
    let mut segmenting_refused = false;
    for (index, place) in run.datagrams().enumerate() {
        let length = place.len();
        match send(Run { start: place.start, length, stride: length, count: 1, ..run }) {
            Alone::Sent => segmenting_refused |= length == run.stride,
            Alone::TooLong => return Replayed { segmenting_refused, too_long: Some(run.without(index)) },
            Alone::Failed => {}
        }
    }
    Replayed { segmenting_refused, too_long: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Two datagrams of 100 octets and one of 40.
    const RUN: Run = Run {
        to: crate::datapath::runs::Destination { node: Ipv4Addr::LOCALHOST, traffic_class: 0 },
        start: 7,
        length: 240,
        stride: 100,
        count: 3,
    };

    fn replay(outcome: impl Fn(Run) -> Alone) -> (Replayed, Vec<(usize, usize)>) {
        let mut tried = Vec::new();
        let replayed = one_by_one(RUN, |single| {
            assert_eq!((single.count, single.stride), (1, single.length));
            tried.push((single.start, single.length));
            outcome(single)
        });
        (replayed, tried)
    }

    #[test]
    fn datagrams_that_pass_alone_show_that_the_kernel_does_not_segment() {
        let (replayed, tried) = replay(|_| Alone::Sent);
        assert_eq!(replayed, Replayed { segmenting_refused: true, too_long: None });
        assert_eq!(tried, [(7, 100), (107, 100), (207, 40)]);
    }

    #[test]
    fn a_run_whose_datagrams_are_too_long_is_left_whole_and_blames_no_segmenting() {
        let (replayed, tried) =
            replay(|single| if single.length > 60 { Alone::TooLong } else { Alone::Sent });
        assert_eq!(replayed, Replayed { segmenting_refused: false, too_long: Some(RUN) });
        assert_eq!(tried, [(7, 100)]);
    }

    #[test]
    fn what_is_left_from_the_first_that_is_too_long_is_a_run_as_before() {
        let (replayed, _) = replay(|single| if single.start == 7 { Alone::Sent } else { Alone::TooLong });
        let rest = Run { start: 107, length: 140, count: 2, ..RUN };
        assert_eq!(replayed, Replayed { segmenting_refused: true, too_long: Some(rest) });
        assert_eq!(rest.datagrams().collect::<Vec<_>>(), [107..207, 207..247]);
    }

    #[test]
    fn a_short_tail_that_passes_blames_no_segmenting() {
        let (replayed, tried) =
            replay(|single| if single.length == 40 { Alone::Sent } else { Alone::Failed });
        assert_eq!(replayed, Replayed { segmenting_refused: false, too_long: None });
        assert_eq!(tried.len(), 3);
    }
}
