//! Which queue of a TUN device with several a packet goes to: always the same one for a flow.
//!
//! Left to itself the kernel sends a flow to the queue that the flow's other direction was last written to
//! (`tun_flow_update`), so a flow moves, and its packets overtake each other. A program that chooses by the packet alone
//! (`TUNSETSTEERINGEBPF`, Linux 4.16) ends that.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower four bits, source in the upper: on little-endian machines, the ones that have them here.
    registers: u8,
    offset: i16,
    value: i32,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs; what is left out counts as zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// `BPF_PROG_LOAD`, and `BPF_PROG_TYPE_SOCKET_FILTER`.
const PROG_LOAD: libc::c_int = 5;
const SOCKET_FILTER: u32 = 1;

/// What is computed goes to R0, and packet loads (`BPF_LD | BPF_ABS`) put it there; they need the context in R6.
const R0: u8 = 0;
const R1: u8 = 1;
const R6: u8 = 6;
const R7: u8 = 7;

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Instruction {
    let registers =
        if cfg!(target_endian = "little") { destination | source << 4 } else { destination << 4 | source };
    Instruction { code, registers, offset, value }
}

const fn copy(destination: u8, source: u8) -> Instruction {
    instruction(0xbf, destination, source, 0, 0)
}
const fn load_word(at: i32) -> Instruction {
    instruction(0x20, 0, 0, 0, at)
}
const fn load_half(at: i32) -> Instruction {
    instruction(0x28, 0, 0, 0, at)
}
const fn load_octet(at: i32) -> Instruction {
    instruction(0x30, 0, 0, 0, at)
}
const fn xor(destination: u8, source: u8) -> Instruction {
    instruction(0xaf, destination, source, 0, 0)
}
const fn skip_unless(register: u8, value: i32, instructions: i16) -> Instruction {
    instruction(0x55, register, 0, instructions, value)
}
const fn and(register: u8, value: i32) -> Instruction {
    instruction(0x57, register, 0, 0, value)
}
const fn multiply(register: u8, value: i32) -> Instruction {
    instruction(0x24, register, 0, 0, value)
}
const fn shift_right(register: u8, bits: i32) -> Instruction {
    instruction(0x74, register, 0, 0, bits)
}
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// A hash of both addresses, and of both ports of a TCP segment that is no fragment. UDP goes by the addresses alone, as
/// its datagrams may be fragmented or not, and fragments have no ports. A load past the end of the packet ends the
/// program with 0.
static PROGRAM: [Instruction; 18] = [
    copy(R6, R1),
    load_word(12),
    copy(R7, R0),
    load_word(16),
    xor(R7, R0),
    // A header without options, so that the ports are where they are looked for.
    load_octet(0),
    skip_unless(R0, 0x45, 7),
    load_octet(9),
    skip_unless(R0, 6, 5),
    // More fragments, or not the first.
    load_half(6),
    and(R0, 0x3fff),
    skip_unless(R0, 0, 2),
    load_word(20),
    xor(R7, R0),
    // Fibonacci hashing; the kernel takes it modulo the number of queues.
    multiply(R7, 0x9e37_79b1_u32 as i32),
    shift_right(R7, 16),
    copy(R0, R7),
    EXIT,
];

/// Loads the program.
///
/// # Errors
/// As bpf(2): `EPERM` without `CAP_BPF` (Linux 5.8, before that `CAP_SYS_ADMIN`) in the initial user namespace.
pub fn load() -> io::Result<OwnedFd> {
    let attributes = ProgLoad {
        kind: SOCKET_FILTER,
        count: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes, and the program and license that they point to, outlive the call, which only reads them.
    let loaded = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<ProgLoad>() as libc::c_uint)
    };
    let descriptor = libc::c_int::try_from(loaded).ok().filter(|number| *number >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just opened this descriptor for the program, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_kernel_takes_the_program_or_forbids_it() {
        let forbidden = [libc::EPERM, libc::EACCES, libc::ENOSYS];
        if let Err(error) = load() {
            assert!(error.raw_os_error().is_some_and(|number| forbidden.contains(&number)), "{error}");
        }
    }

    /// What the program gives for a packet: its few instructions, interpreted.
    fn run(packet: &[u8]) -> u32 {
        let (mut registers, mut at) = ([0u64; 11], 0);
        loop {
            let Instruction { code, registers: pair, offset, value } = PROGRAM[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let load = |length: usize| {
                let octets = packet.get(value as usize..value as usize + length)?;
                Some(octets.iter().fold(0u64, |number, octet| number << 8 | u64::from(*octet)))
            };
            let loaded = match code {
                0x20 => Some(load(4)),
                0x28 => Some(load(2)),
                0x30 => Some(load(1)),
                _ => None,
            };
            at += 1;
            match (code, loaded) {
                (_, Some(None)) => return 0,
                (_, Some(Some(number))) => registers[0] = number,
                (0xbf, _) => registers[to] = registers[from],
                (0xaf, _) => registers[to] ^= registers[from],
                (0x55, _) if registers[to] != value as u64 => at += offset as usize,
                (0x55, _) => {}
                (0x57, _) => registers[to] &= value as u64,
                (0x24, _) => registers[to] = u64::from((registers[to] as u32).wrapping_mul(value as u32)),
                (0x74, _) => registers[to] = u64::from(registers[to] as u32 >> value),
                (0x95, _) => return registers[0] as u32,
                _ => panic!("no such instruction: {code:#x}"),
            }
        }
    }

    fn packet(protocol: u8, source: [u8; 4], ports: [u8; 4], fragment: u16, options: bool) -> Vec<u8> {
        let mut packet = crate::wire::ipv4::test_packet(
            Ipv4Addr::from(source),
            Ipv4Addr::new(10, 5, 17, 2),
            64,
            protocol,
            &ports,
        );
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        if options {
            packet[0] = 0x46;
        }
        packet
    }

    const C1: [u8; 4] = [10, 5, 56, 2];
    const SOME: [u8; 4] = [0x80, 1, 0, 80];
    const OTHER: [u8; 4] = [0x80, 2, 0, 80];

    #[test]
    fn connections_between_two_hosts_go_to_several_queues() {
        let queues = |count: u32| {
            let queue = |port: u16| {
                let [high, low] = port.to_be_bytes();
                run(&packet(6, C1, [high, low, 0, 80], 0x4000, false)) % count
            };
            let mut load = vec![0u32; count as usize];
            (32_768..33_768).for_each(|port| load[queue(port) as usize] += 1);
            load
        };
        for count in [2, 3, 4, 8] {
            let load = queues(count);
            assert!(load.iter().all(|packets| *packets > 1000 / count / 2), "{load:?}");
        }
    }

    #[test]
    fn what_may_be_fragmented_goes_by_its_addresses() {
        assert_ne!(run(&packet(6, C1, SOME, 0x4000, false)), run(&packet(6, C1, OTHER, 0x4000, false)));
        for (protocol, fragment, options) in
            [(17, 0, false), (1, 0, false), (6, 0x2000, false), (6, 185, false), (6, 0, true)]
        {
            assert_eq!(
                run(&packet(protocol, C1, SOME, fragment, options)),
                run(&packet(protocol, C1, OTHER, fragment, options)),
                "{protocol} {fragment} {options}"
            );
        }
        assert_ne!(run(&packet(17, C1, SOME, 0, false)), run(&packet(17, [10, 5, 56, 3], SOME, 0, false)));
    }

    #[test]
    fn a_short_packet_goes_to_the_first_queue() {
        assert_eq!(run(&[0x45; 10]), 0);
        assert_eq!(run(&[]), 0);
    }
}
