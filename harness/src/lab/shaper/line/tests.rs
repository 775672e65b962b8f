use proptest::prelude::*;

use super::*;

const UDP: Option<u8> = Some(17);
const TCP: Option<u8> = Some(6);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Everything that comes out, with when, if each is taken as soon as it is due.
fn all<T: Clone>(line: &mut Line<T>) -> Vec<(Duration, T)> {
    let mut out = Vec::new();
    while let Some(due) = line.next_due() {
        out.extend(line.release(due).map(|frame| (due, frame)));
    }
    out
}

#[test]
fn what_is_not_impaired_passes_at_once_and_in_order() {
    let mut line = Line::new(Impairment::default(), 1);
    for frame in 0..3 {
        assert_eq!(line.offer(ms(5), UDP, 100, frame), None);
    }
    assert_eq!(line.release(ms(4)), None);
    assert_eq!(all(&mut line), [(ms(5), 0), (ms(5), 1), (ms(5), 2)]);
}

#[test]
fn a_delay_holds_each_frame_for_as_long() {
    let mut line = Line::new(Impairment { delay: ms(1000), ..Impairment::default() }, 1);
    line.offer(ms(1), UDP, 100, 'a');
    line.offer(ms(7), UDP, 100, 'b');
    assert_eq!(line.release(ms(1000)), None);
    assert_eq!(all(&mut line), [(ms(1001), 'a'), (ms(1007), 'b')]);
}

#[test]
fn what_is_not_ip_passes_at_once_whatever_is_done_to_others() {
    let mut line = Line::new(Impairment { delay: ms(9), loss: 100, ..Impairment::default() }, 1);
    assert_eq!(line.offer(ms(1), None, 42, 'a'), None);
    assert_eq!(all(&mut line), [(ms(1), 'a')]);
}

#[test]
fn a_rate_lets_one_frame_pass_after_the_other_and_drops_what_its_queue_cannot_take() {
    // 1000 bits a millisecond: a frame of 125 octets takes one.
    let rate = Some(Rate { bits: 1_000_000, queue: 2 });
    let mut line = Line::new(Impairment { rate, ..Impairment::default() }, 1);
    let mut offer = |now, frame| line.offer(now, UDP, 125, frame);
    assert_eq!([offer(ms(10), 'a'), offer(ms(10), 'b'), offer(ms(10), 'c')], [None; 3]);
    assert_eq!(offer(ms(10), 'd'), Some((Cause::QueueFull, 'd')));
    // One has passed: there is room for one.
    assert_eq!(offer(ms(11), 'e'), None);
    assert_eq!(offer(ms(11), 'f'), Some((Cause::QueueFull, 'f')));
    assert_eq!(all(&mut line), [(ms(11), 'a'), (ms(12), 'b'), (ms(13), 'c'), (ms(14), 'e')]);
    assert_eq!(line.offer(ms(50), UDP, 125, 'g'), None);
    assert_eq!(all(&mut line), [(ms(51), 'g')]);
}

#[test]
fn a_duplicate_follows_right_after() {
    let mut line = Line::new(Impairment { duplicate: 100, delay: ms(1), ..Impairment::default() }, 1);
    line.offer(ms(0), UDP, 100, 'a');
    line.offer(ms(0), UDP, 100, 'b');
    assert_eq!(all(&mut line).iter().map(|(_, frame)| *frame).collect::<String>(), "aabb");
}

#[test]
fn what_is_reordered_overtakes_what_is_delayed() {
    let mut line = Line::new(Impairment { reorder: 20, delay: ms(50), ..Impairment::default() }, 1);
    for at in 0..100 {
        line.offer(ms(at * 10), UDP, 100, at);
    }
    let out = all(&mut line);
    let early = out.iter().filter(|(due, at)| *due == ms(at * 10)).count();
    let late = out.iter().filter(|(due, at)| *due == ms(at * 10 + 50)).count();
    assert_eq!((early, late), (20, 80));
}

#[test]
fn protocols_do_not_disturb_each_others_decisions() {
    let impairment = Impairment { loss: 30, ..Impairment::default() };
    let lost = |between: bool| {
        let mut line = Line::new(impairment, 7);
        let mut lost = Vec::new();
        for at in 0..200u32 {
            if between && at.is_multiple_of(3) {
                line.offer(ms(0), TCP, 100, u32::MAX);
            }
            lost.extend(line.offer(ms(0), UDP, 100, at).map(|(_, at)| at));
        }
        lost
    };
    assert_eq!(lost(false).len(), 60);
    assert_eq!(lost(false), lost(true));
}

#[test]
fn only_datagrams_from_before_keep_a_line_from_being_empty() {
    let mut line = Line::new(Impairment { delay: ms(10), ..Impairment::default() }, 1);
    line.offer(ms(0), TCP, 100, 'a');
    let start = line.next_number();
    assert!(!line.holds_before(start));
    line.offer(ms(1), UDP, 100, 'b');
    let after = line.next_number();
    assert!(!line.holds_before(start) && line.holds_before(after));
    while line.release(ms(11)).is_some() {}
    assert!(!line.holds_before(after));
}

proptest! {
    /// Every frame comes out as often as it is to, or is given back; and without reordering in the order that it went in.
    #[test]
    fn frames_are_conserved_and_keep_their_order(
        delay in 0u64..50,
        jitter in 0u64..50,
        loss in 0u8..=100,
        duplicate in 0u8..=100,
        reorder in prop::option::of(1u8..=100),
        rate in prop::option::of((1_000u64..10_000_000, 0usize..20)),
        gaps in prop::collection::vec(0u64..20, 1..150),
        seed: u64,
    ) {
        let impairment = Impairment {
            delay: ms(delay),
            jitter: ms(jitter),
            loss,
            duplicate,
            reorder: reorder.unwrap_or(0),
            rate: rate.map(|(bits, queue)| Rate { bits, queue }),
        };
        let mut line = Line::new(impairment, seed);
        let (mut now, mut dropped, mut out) = (Duration::ZERO, 0, Vec::new());
        for (at, gap) in gaps.iter().enumerate() {
            now += ms(*gap);
            while let Some(frame) = line.release(now) {
                out.push(frame);
            }
            dropped += usize::from(line.offer(now, UDP, 100, at).is_some());
        }
        out.extend(all(&mut line).into_iter().map(|(_, frame)| frame));
        let mut distinct = out.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len() + dropped, gaps.len());
        prop_assert!(out.len() <= 2 * distinct.len());
        if reorder.is_none() {
            prop_assert!(out.is_sorted());
        }
        if let Some(rate) = impairment.rate {
            prop_assert!(line.passing.len() <= rate.queue + 1);
        }
    }
}
