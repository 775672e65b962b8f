//! A recording as one pcapng file: every interface by name, with nanoseconds and directions, for Wireshark.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;

use super::frame::{Direction, Frame, Link, Point};
use crate::flow::Note;

/// Why a recording could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing {path}: {why}")]
pub struct Error {
    path: String,
    why: String,
}

/// Writes `frames` in order of time to a new file, those that a note is about with its text as a comment.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, frames: &[Frame], notes: &[Note]) -> Result<(), Error> {
    let error = |why: String| Error { path: path.display().to_string(), why };
    let file = File::create(path).map_err(|cause| error(cause.to_string()))?;
    let mut writer = PcapNgWriter::new(BufWriter::new(file)).map_err(|cause| error(cause.to_string()))?;
    let mut frames: Vec<&Frame> = frames.iter().collect();
    frames.sort_by_key(|frame| frame.at);
    let mut points: Vec<&Point> = Vec::new();
    let mut comments: HashMap<(&Point, Direction, Duration), &str> = HashMap::new();
    for note in notes {
        // Of several that are about one packet the first is nearest: what a later probe claims is a copy of it.
        comments.entry((&note.point, note.direction, note.at)).or_insert(&note.text);
    }
    for frame in frames {
        let known = points.iter().position(|point| **point == *frame.point);
        let interface = match known {
            Some(interface) => interface,
            None => {
                writer
                    .write_pcapng_block(interface_block(frame))
                    .map_err(|cause| error(cause.to_string()))?;
                points.push(&frame.point);
                points.len() - 1
            }
        };
        let flags = EnhancedPacketOption::Flags(match frame.direction {
            Direction::In => 1,
            Direction::Out => 2,
        });
        let comment = comments.get(&(&*frame.point, frame.direction, frame.at));
        let comment =
            comment.map(|text| EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(*text))));
        let block = EnhancedPacketBlock {
            interface_id: u32::try_from(interface).unwrap_or(u32::MAX),
            timestamp: frame.at,
            original_len: frame.wire_len + added_len(frame),
            data: ethernet(frame),
            options: comment.into_iter().chain([flags]).collect(),
        };
        writer.write_pcapng_block(block).map_err(|cause| error(cause.to_string()))?;
    }
    // Dropped, the buffer would not tell what it could not write.
    writer.into_inner().flush().map_err(|cause| error(cause.to_string()))
}

/// Length of the header that a frame gets in the file, in octets.
fn added_len(frame: &Frame) -> u32 {
    if frame.link == Link::Ip { 14 } else { 0 }
}

/// A frame with an Ethernet header, of zero addresses where it has none: tcpdump(8) reads only files of one link type.
fn ethernet(frame: &Frame) -> Cow<'_, [u8]> {
    let ether_type: [u8; 2] = match (frame.link, frame.octets.first().map(|first| first >> 4)) {
        (Link::Ethernet, _) => return Cow::Borrowed(&frame.octets),
        (Link::Ip, Some(6)) => [0x86, 0xdd],
        (Link::Ip, _) => [0x08, 0x00],
    };
    Cow::Owned([&[0; 12][..], &ether_type, &frame.octets].concat())
}

fn interface_block(frame: &Frame) -> InterfaceDescriptionBlock<'static> {
    let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
    if frame.link == Link::Ip {
        let note = "a TUN device: the Ethernet header is the recording's, not the wire's";
        block.options.push(InterfaceDescriptionOption::IfDescription(Cow::Borrowed(note)));
    }
    let name = format!("{}/{}", frame.point.host, frame.point.interface);
    block.options.push(InterfaceDescriptionOption::IfName(Cow::Owned(name)));
    block.options.push(InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO));
    block
}
