//! A judge of packets that shares no code with what it judges.

/// RFC 1071, word by word.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            total = (total & 0xffff) + (total >> 16);
        }
    }
    total as u16
}

/// Why these octets are no IPv4 packet, if they are none. They may go on after its end.
#[must_use]
pub fn malformed(bytes: &[u8]) -> Option<&'static str> {
    let [first, ..] = *bytes else { return Some("short") };
    if first >> 4 != 4 {
        return Some("version");
    }
    let [_, _, high, low, ..] = *bytes else { return Some("short") };
    let (header, total) = (usize::from(first & 15) * 4, usize::from(high) << 8 | usize::from(low));
    if bytes.len() < 20 {
        Some("short")
    } else if header < 20 || header > bytes.len() {
        Some("header length")
    } else if total < header || total > bytes.len() {
        Some("total length")
    } else if sum(&[&bytes[..header]]) != 0xffff {
        Some("header checksum")
    } else {
        None
    }
}

/// Octets of a well-formed packet's header.
#[must_use]
pub fn header(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// Whether it is one of several fragments.
#[must_use]
pub fn is_fragment(packet: &[u8]) -> bool {
    packet[6] & 0x3f != 0 || packet[7] != 0
}

/// The sum over the transport of a well-formed packet with nothing after its end; 0xffff if its checksum is right.
#[must_use]
pub fn transport_sum(packet: &[u8]) -> u16 {
    let transport = &packet[header(packet)..];
    sum(&[&packet[12..20], &[0, packet[9]], &(transport.len() as u16).to_be_bytes(), transport])
}

/// Puts version, lengths and header checksum right, where there is room for a header.
pub fn seal(packet: &mut [u8]) {
    if packet.len() < 20 {
        return;
    }
    let words = (packet[0] & 15).clamp(5, (packet.len() / 4).min(15) as u8);
    packet[0] = 0x40 | words;
    let total = packet.len().min(0xffff) as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[10..12].fill(0);
    let checksum = !sum(&[&packet[..usize::from(words) * 4]]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Puts a TCP or UDP checksum right, and UDP's length, where there is room for them.
pub fn seal_transport(packet: &mut [u8]) {
    let start = header(packet);
    let length = packet.len() - start;
    let field = match packet[9] {
        6 if length >= 20 => start + 16,
        17 if length >= 8 => start + 6,
        _ => return,
    };
    if packet[9] == 17 {
        packet[start + 4..start + 6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    packet[field..field + 2].fill(0);
    let checksum = match (!transport_sum(packet), packet[9]) {
        (0, 17) => 0xffff,
        (checksum, _) => checksum,
    };
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}
