//! Runs of UDP datagrams that pass an interface in one piece (`UDP_SEGMENT`), cut as the hardware would cut them.
//!
//! A virtual link hands a run on whole, so that a packet socket sees one packet where a wire would carry many.

use super::frame::Link;

const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;

/// The frames of a run over IPv4 whose datagrams have `segment` octets of payload each, the last perhaps fewer. None
/// when it is no such run. The transport's checksum is left as it was in the run.
pub fn cut(octets: &[u8], link: Link, segment: u16) -> Option<Vec<Vec<u8>>> {
    let ip_at = if link == Link::Ethernet { ETHERNET_LEN } else { 0 };
    let first = octets.get(ip_at).filter(|first| **first >> 4 == 4)?;
    let ip_len = usize::from(first & 0x0f) * 4;
    let (udp_at, payload_at) = (ip_at + ip_len, ip_at + ip_len + UDP_LEN);
    let (header, payload) = octets.split_at_checked(payload_at)?;
    if ip_len < 20 || payload.len() <= usize::from(segment) {
        return None;
    }
    let id = u16::from_be_bytes([header[ip_at + 4], header[ip_at + 5]]);
    let frames = payload.chunks(usize::from(segment).max(1)).zip(0u16..).map(|(part, index)| {
        let mut frame = [header, part].concat();
        let udp_len = u16::try_from(UDP_LEN + part.len()).unwrap_or(u16::MAX);
        let total = u16::try_from(ip_len).unwrap_or(0).saturating_add(udp_len);
        frame[ip_at + 2..ip_at + 4].copy_from_slice(&total.to_be_bytes());
        frame[ip_at + 4..ip_at + 6].copy_from_slice(&id.wrapping_add(index).to_be_bytes());
        frame[ip_at + 10..ip_at + 12].fill(0);
        let sum = !sum(&frame[ip_at..udp_at]);
        frame[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_be_bytes());
        frame[udp_at + 4..udp_at + 6].copy_from_slice(&udp_len.to_be_bytes());
        frame
    });
    Some(frames.collect())
}

/// How many packets a wire would carry in the place of one that `segment` octets of TCP's payload are cut from at a time;
/// 1 when it is none such.
pub fn segments(octets: &[u8], link: Link, segment: u16) -> u64 {
    let count = || {
        let ip_at = if link == Link::Ethernet { ETHERNET_LEN } else { 0 };
        let ip_len = usize::from(octets.get(ip_at)? & 0x0f) * 4;
        let tcp_len = usize::from(octets.get(ip_at + ip_len + 12)? >> 4) * 4;
        // The IP header's length may be 0: the packet may be longer than it can say.
        let payload = octets.len().checked_sub(ip_at + ip_len + tcp_len)?;
        u64::try_from(payload.div_ceil(usize::from(segment).max(1))).ok()
    };
    count().unwrap_or(1).max(1)
}

/// RFC 1071 over a header of even length.
fn sum(header: &[u8]) -> u16 {
    let total: u32 =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0xee; ETHERNET_LEN];
        octets.extend([0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        octets.extend([0x20, 0x5d, 0x20, 0x5d, 0, 0, 0x12, 0x34]);
        octets.extend(payload);
        octets
    }

    #[test]
    fn a_run_comes_apart_into_datagrams_with_headers_of_their_own() {
        let frames = cut(&run(b"aaaabbbbcc"), Link::Ethernet, 4).expect("a run");
        assert_eq!(frames.len(), 3);
        for (frame, (id, part)) in frames.iter().zip([(0xffffu16, &b"aaaa"[..]), (0, b"bbbb"), (1, b"cc")]) {
            assert_eq!(sum(&frame[14..34]), 0xffff);
            assert_eq!(frame[16..18], (28 + part.len() as u16).to_be_bytes());
            assert_eq!(frame[18..20], id.to_be_bytes());
            assert_eq!(frame[38..40], (8 + part.len() as u16).to_be_bytes());
            assert_eq!(&frame[42..], part);
        }
    }

    #[test]
    fn a_large_tcp_packet_counts_for_its_segments() {
        let packet = |payload: usize| {
            let mut octets = vec![0; 20 + 32 + payload];
            (octets[0], octets[32]) = (0x45, 0x80);
            octets
        };
        for (payload, segments_expected) in [(0, 1), (1, 1), (1448, 1), (1449, 2), (14_480, 10)] {
            assert_eq!(segments(&packet(payload), Link::Ip, 1448), segments_expected, "{payload}");
        }
        assert_eq!(segments(&[0x45; 20], Link::Ip, 1448), 1);
        assert_eq!(segments(&[], Link::Ethernet, 0), 1);
    }

    #[test]
    fn what_is_no_run_stays_whole() {
        assert_eq!(cut(&run(b"aaaa"), Link::Ethernet, 4), None);
        assert_eq!(cut(&run(b"")[..30], Link::Ethernet, 4), None);
        assert_eq!(cut(&[0x60; 80], Link::Ip, 4), None);
        assert_eq!(cut(&[], Link::Ip, 4), None);
    }
}
