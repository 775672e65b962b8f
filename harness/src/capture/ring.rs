//! The memory that a packet socket shares with the kernel (`PACKET_RX_RING`, `TPACKET_V2`; packet(7)).
//!
//! The kernel copies each packet into the next slot at the very moment it passes the tap, sets the slot's status to
//! `TP_STATUS_USER`, and goes on to the one after; the reader gives it back with `TP_STATUS_KERNEL`.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::socket::set_option;

/// Octets of a slot: a frame of an Ethernet MTU with some 80 octets of headers before it.
const SLOT_LEN: usize = 2048;
/// Slots of a ring. They take what a namespace sees in a burst, all its interfaces and both directions together.
const SLOTS: usize = 2048;
/// Octets of what the kernel allocates in one piece; a multiple of every page size.
const BLOCK_LEN: usize = 65_536;
/// Octets of a ring.
const RING_LEN: usize = SLOTS * SLOT_LEN;

// A slot begins with its status, which is so aligned; and blocks hold whole slots, so all slots are contiguous.
const _: () = assert!(offset_of!(libc::tpacket2_hdr, tp_status) == 0);
const _: () = assert!(SLOT_LEN.is_multiple_of(libc::TPACKET_ALIGNMENT));
const _: () = assert!(BLOCK_LEN.is_multiple_of(SLOT_LEN) && RING_LEN.is_multiple_of(BLOCK_LEN));

/// One slot's octets.
pub(super) type Octets = [u8; SLOT_LEN];

/// A mapped ring and where its reader is.
#[derive(Debug)]
pub(super) struct Ring {
    /// `RING_LEN` octets, mapped as long as this lives.
    memory: NonNull<u8>,
    /// The slot that the kernel fills next, or has filled.
    next: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and only this value points into it.
unsafe impl Send for Ring {}

impl Ring {
    /// Has the kernel make a ring for a packet socket that is bound to nothing yet, and maps it.
    ///
    /// # Errors
    /// When the kernel refuses, above all for want of memory.
    pub(super) fn open(socket: &(impl AsFd + AsRawFd)) -> io::Result<Self> {
        // linux/if_packet.h, enum tpacket_versions
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set_option(socket, libc::SOL_PACKET, libc::PACKET_VERSION, version)?;
        // Any value but 0 has packets that are longer than a slot queued whole beside the ring.
        set_option(socket, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, 1)?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK_LEN as u32,
            tp_block_nr: (RING_LEN / BLOCK_LEN) as u32,
            tp_frame_size: SLOT_LEN as u32,
            tp_frame_nr: SLOTS as u32,
        };
        let len = size_of_val(&request) as libc::socklen_t;
        // SAFETY: `request` outlives the call, and `len` is its size.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_RX_RING,
                (&raw const request).cast(),
                len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Self::map(socket)
    }

    /// Maps a ring out of whatever holds one.
    fn map(file: &impl AsFd) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel finds room touches no other memory.
        let memory = unsafe { mmap(ptr::null_mut(), RING_LEN, access, MapFlags::SHARED, file.as_fd(), 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let ring = Self { memory, next: 0 };
        // A child has no use for it before it executes another program, and copying the page tables of many rings is most
        // of what a fork would cost.
        // SAFETY: it changes what a fork copies, and nothing in this process.
        unsafe { madvise(ring.memory.as_ptr().cast(), RING_LEN, Advice::LinuxDontFork) }?;
        Ok(ring)
    }

    /// Reads the next slot, if the kernel has filled it, and gives it back to the kernel. A slot whose reading failed
    /// stays the next.
    pub(super) fn take<T>(&mut self, read: impl FnOnce(&Octets) -> io::Result<T>) -> io::Result<Option<T>> {
        // SAFETY: `next` is below SLOTS, so the slot lies in the mapping.
        let slot = unsafe { self.memory.add(self.next * SLOT_LEN) };
        // SAFETY: the slot begins with its status, aligned, mapped and writable as long as `self` lives. Whoever else
        // accesses it is the kernel, with single loads and stores.
        let status = unsafe { AtomicU32::from_ptr(slot.as_ptr().cast()) };
        // Acquire: what the kernel wrote before the status is seen after it.
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return Ok(None);
        }
        // SAFETY: the slot is mapped, and is not written to as long as its status says that it is the user's, which
        // the store below ends, when the reference is no longer in use.
        let octets = unsafe { slot.cast::<Octets>().as_ref() };
        let taken = read(octets)?;
        // Release: the kernel writes to the slot only after it was read.
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % SLOTS;
        Ok(Some(taken))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is `RING_LEN` octets long, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), RING_LEN) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file in the kernel's place.
    fn kernel() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(RING_LEN as u64).unwrap();
        file
    }

    fn fill(kernel: &File, slot: usize, mark: u8) {
        let octets = [&libc::TP_STATUS_USER.to_ne_bytes()[..], &[mark]].concat();
        kernel.write_all_at(&octets, (slot * SLOT_LEN) as u64).unwrap();
    }

    fn status(kernel: &File, slot: usize) -> u32 {
        let mut octets = [0; 4];
        kernel.read_exact_at(&mut octets, (slot * SLOT_LEN) as u64).unwrap();
        u32::from_ne_bytes(octets)
    }

    #[test]
    fn slots_are_read_in_order_round_and_round_and_given_back() {
        let kernel = kernel();
        let mut ring = Ring::map(&kernel).unwrap();
        for turn in 0..3 {
            for slot in 0..SLOTS {
                assert_eq!(ring.take(|octets| Ok(octets[4])).unwrap(), None);
                let mark = (slot + turn) as u8;
                fill(&kernel, slot, mark);
                assert_eq!(ring.take(|octets| Ok(octets[4])).unwrap(), Some(mark), "slot {slot}");
                assert_eq!(status(&kernel, slot), libc::TP_STATUS_KERNEL);
            }
        }
    }

    #[test]
    fn a_slot_whose_reading_failed_is_read_again() {
        let kernel = kernel();
        let mut ring = Ring::map(&kernel).unwrap();
        fill(&kernel, 0, 7);
        let failed = ring.take(|_| Err::<u8, _>(io::ErrorKind::NetworkDown.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NetworkDown);
        assert_eq!(status(&kernel, 0), libc::TP_STATUS_USER);
        assert_eq!(ring.take(|octets| Ok(octets[4])).unwrap(), Some(7));
    }
}
