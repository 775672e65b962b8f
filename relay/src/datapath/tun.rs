//! The TUN device and its queues: one read or write a packet, or a large packet with its offload header.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::io::ReadWriteFlags;
use thiserror::Error;

use super::offload::{Offload, TunOffload};
use crate::wire::virtio;

const CONTROL: &str = "/dev/net/tun";

/// A TUN device could not be made.
#[derive(Debug, Error)]
pub enum TunError {
    /// The control device is not there.
    #[error("{CONTROL} does not exist: load the `tun` module, or pass the device into the container")]
    NoControlDevice,
    /// Its file cannot be opened.
    #[error(
        "may not open {CONTROL} ({0}): look at its mode, which udev sets to 0666, or pass the device into the container with `--device {CONTROL}`"
    )]
    NotOpened(io::Error),
    /// The process may not create devices.
    #[error("may not create a TUN device: run as root or with CAP_NET_ADMIN in this network namespace")]
    NotPermitted,
    /// Anything else, with what was being done.
    #[error("{step}: {source}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl TunError {
    fn from_open(source: io::Error) -> Self {
        match source.raw_os_error() {
            // EPERM: the device rules of a container's cgroup.
            Some(libc::EPERM | libc::EACCES) => Self::NotOpened(source),
            _ => Self::from_io("opening /dev/net/tun", source),
        }
    }

    fn from_io(step: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::NoControlDevice,
            _ => Self::Failed { step, source },
        }
    }
}

/// A TUN device. It disappears, with its addresses and routes, when this is dropped.
#[derive(Debug)]
pub struct Tun {
    /// One for each queue.
    files: Vec<File>,
    name: String,
    offload: TunOffload,
}

/// How many queues a device has, and which packet goes to which.
#[derive(Debug)]
pub struct Queues {
    /// How many.
    pub count: NonZeroUsize,
    /// The program that chooses ([`steering`](super::steering)). Without it there is one queue.
    pub steering: Option<OwnedFd>,
}

impl Queues {
    /// As many as are asked for, or one where the kernel lets nobody choose among them.
    #[must_use]
    pub fn settle(asked: NonZeroUsize) -> Self {
        if asked == NonZeroUsize::MIN {
            return Self::one();
        }
        match super::steering::load() {
            Ok(program) => Self { count: asked, steering: Some(program) },
            Err(error) => {
                tracing::warn!(
                    %error, %asked,
                    "one queue is used: a flow cannot be kept to one of several without CAP_BPF"
                );
                Self::one()
            }
        }
    }

    /// One queue.
    #[must_use]
    pub fn one() -> Self {
        Self { count: NonZeroUsize::MIN, steering: None }
    }

    fn are_many(&self) -> bool {
        self.count > NonZeroUsize::MIN
    }
}

/// One queue of a device.
#[derive(Debug, Clone, Copy)]
pub struct Queue<'a> {
    file: &'a File,
    offload: TunOffload,
}

mod ioctl {
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()));
    nix::ioctl_write_ptr_bad!(
        set_header_length,
        nix::request_code_write!(b'T', 216, size_of::<libc::c_int>()),
        libc::c_int
    );
    // TUNSETIFF is declared with an int and takes a struct ifreq (linux/if_tun.h).
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    // TUNSETSTEERINGEBPF is declared as a read, and takes the descriptor of a program.
    nix::ioctl_write_ptr_bad!(
        set_steering,
        nix::request_code_read!(b'T', 224, size_of::<libc::c_int>()),
        libc::c_int
    );
    // TUNGETIFF is declared with an unsigned int and fills a struct ifreq.
    nix::ioctl_read_bad!(
        get_interface,
        nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()),
        libc::ifreq
    );
}

/// The device's flags: bare packets, with a header before each where the kernel is to say what a large one is.
fn kind(offload: TunOffload, many_queues: bool) -> libc::c_short {
    let header = if offload == TunOffload::None { 0 } else { libc::IFF_VNET_HDR };
    let queues = if many_queues { libc::IFF_MULTI_QUEUE } else { 0 };
    (libc::IFF_TUN | libc::IFF_NO_PI | header | queues) as libc::c_short
}

/// Opens a device, or one more queue of it: with `name`, in which `%d` becomes the first free number, and of this kind.
fn open(name: &str, kind: libc::c_short) -> Result<(File, String), TunError> {
    let file =
        OpenOptions::new().read(true).write(true).open(Path::new(CONTROL)).map_err(TunError::from_open)?;
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last octet stays zero: the kernel wants a terminated name.
    let room = libc::IFNAMSIZ - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = kind;
    // SAFETY: the descriptor is open and `request` is a valid `ifreq` that outlives the call.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }
        .map_err(|errno| TunError::from_io("creating the TUN device", errno.into()))?;
    Ok((file, name_of(&request)))
}

/// Has the program choose the queue of each packet.
fn steer(file: &File, program: &OwnedFd) -> Result<(), TunError> {
    let descriptor: libc::c_int = program.as_raw_fd();
    // SAFETY: the descriptors are open and the number outlives the call.
    unsafe { ioctl::set_steering(file.as_raw_fd(), &raw const descriptor) }
        .map_err(|errno| TunError::from_io("choosing among the queues of the TUN", errno.into()))?;
    Ok(())
}

/// Tells the kernel what may be read from the device in one piece.
fn ask_for(file: &impl AsRawFd, offload: TunOffload) -> Result<(), TunError> {
    if offload != TunOffload::None {
        let length = virtio::LENGTH as libc::c_int;
        // SAFETY: the descriptor is open and `length` outlives the call.
        unsafe { ioctl::set_header_length(file.as_raw_fd(), &raw const length) }
            .map_err(|errno| TunError::from_io("setting the offload header's length", errno.into()))?;
    }
    // Also for none: what an earlier owner of the device asked for would stay.
    // SAFETY: the descriptor is open and the call takes a number.
    unsafe { ioctl::set_offload(file.as_raw_fd(), abilities(offload)) }
        .map_err(|errno| TunError::from_io("asking for large packets on the TUN", errno.into()))?;
    Ok(())
}

impl Tun {
    /// Creates the device with its queues; `%d` in `pattern` becomes the first free number. At most 15 octets. The device
    /// has the first of `offload`'s abilities that the kernel grants.
    ///
    /// # Errors
    /// The control device is missing, the process may not use it, or the kernel refuses the name or each ability.
    pub fn create(pattern: &str, offload: Offload, queues: &Queues) -> Result<Self, TunError> {
        let mut refused = None;
        for ability in offload.tun() {
            match Self::create_with(pattern, *ability, queues) {
                Err(TunError::Failed { step, source }) => {
                    tracing::debug!(?ability, step, %source, "the kernel does not offer this on the TUN");
                    refused = Some(TunError::Failed { step, source });
                }
                result => return result,
            }
        }
        Err(refused.unwrap_or(TunError::NoControlDevice))
    }

    fn create_with(pattern: &str, offload: TunOffload, queues: &Queues) -> Result<Self, TunError> {
        let kind = kind(offload, queues.are_many());
        let (first, name) = open(pattern, kind)?;
        // What follows holds for the device, whichever queue it is asked of.
        ask_for(&first, offload)?;
        if let Some(program) = &queues.steering {
            steer(&first, program)?;
        }
        let mut files = vec![first];
        while files.len() < queues.count.get() {
            files.push(open(&name, kind)?.0);
        }
        Ok(Self { files, name, offload })
    }

    /// Takes over a device of one queue that an earlier process created and left open.
    ///
    /// # Errors
    /// The file is no TUN device of a kind that [`Tun::create`] makes with `offload`, or the device is gone.
    pub fn adopt(file: OwnedFd, offload: Offload) -> Result<Self, TunError> {
        const STEP: &str = "taking over the TUN device of an earlier run";
        // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `request` is a valid `ifreq` that outlives the call.
        unsafe { ioctl::get_interface(file.as_raw_fd(), &raw mut request) }
            .map_err(|errno| TunError::Failed { step: STEP, source: errno.into() })?;
        // SAFETY: the kernel has filled the flags, and any bits are valid for them.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let granted =
            |ability: &&TunOffload| flags == kind(**ability, false) && ask_for(&file, **ability).is_ok();
        let Some(ability) = offload.tun().iter().find(granted) else {
            let source = io::Error::new(io::ErrorKind::InvalidData, "it is of another kind");
            return Err(TunError::Failed { step: STEP, source });
        };
        Ok(Self { files: vec![File::from(file)], name: name_of(&request), offload: *ability })
    }

    /// What the device carries in one read or write.
    #[must_use]
    pub fn offload(&self) -> TunOffload {
        self.offload
    }

    /// The device's name, such as `flannel0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its queues, at least one.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = Queue<'_>> {
        self.files.iter().map(|file| Queue { file, offload: self.offload })
    }

    /// The file that keeps the device for a later process; none if it has several queues.
    #[must_use]
    pub fn keeper(&self) -> Option<BorrowedFd<'_>> {
        match self.files.as_slice() {
            [file] => Some(file.as_fd()),
            _ => None,
        }
    }
}

impl Queue<'_> {
    /// Reads one packet to the start of `packet`; blocks until there is one.
    ///
    /// # Errors
    /// As read(2): `EINTR` when a signal came, `EBADFD` when the device was deleted.
    pub fn receive(&self, packet: &mut [u8]) -> io::Result<(virtio::Header, usize)> {
        self.read(packet, |vectors| rustix::io::readv(self.file, vectors))
    }

    /// As [`Queue::receive`], without waiting (Linux 6.4).
    ///
    /// # Errors
    /// `EAGAIN` when there is no packet, `EOPNOTSUPP` when this kernel would have to wait.
    pub fn try_receive(&self, packet: &mut [u8]) -> io::Result<(virtio::Header, usize)> {
        // An offset of -1 means the file's own position, which a device does not have.
        self.read(packet, |vectors| rustix::io::preadv2(self.file, vectors, u64::MAX, ReadWriteFlags::NOWAIT))
    }

    fn read(
        &self,
        packet: &mut [u8],
        call: impl FnOnce(&mut [IoSliceMut<'_>]) -> rustix::io::Result<usize>,
    ) -> io::Result<(virtio::Header, usize)> {
        if self.offload == TunOffload::None {
            return Ok((virtio::Header::PLAIN, call(&mut [IoSliceMut::new(packet)])?));
        }
        let mut header = [0; virtio::LENGTH];
        let length = call(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(packet)])?;
        Ok((virtio::Header::from_bytes(header), length.saturating_sub(virtio::LENGTH)))
    }

    /// Writes one packet, which the kernel takes as received on the device. `offload` must be plain on a device
    /// without offloads.
    ///
    /// # Errors
    /// As write(2): `EIO` when the device is down, `EBADFD` when it was deleted, `EINVAL` when the kernel does not
    /// take this large packet.
    pub fn send(&self, offload: virtio::Header, packet: &[u8]) -> io::Result<usize> {
        let header = offload.to_bytes();
        let vectors = [IoSlice::new(&header), IoSlice::new(packet)];
        let skipped = usize::from(self.offload == TunOffload::None);
        Ok(rustix::io::writev(self.file, &vectors[skipped..])?)
    }
}

/// The bits of `TUNSETOFFLOAD`. The kernel takes either both kinds of USO or none.
const fn abilities(offload: TunOffload) -> libc::c_int {
    const TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // TUN_F_USO4 and TUN_F_USO6 (linux/if_tun.h, Linux 6.2).
    const USO: libc::c_uint = 0x20 | 0x40;
    (match offload {
        TunOffload::None => 0,
        TunOffload::Tcp => TCP,
        TunOffload::TcpAndUdp => TCP | USO,
    }) as libc::c_int
}

fn name_of(request: &libc::ifreq) -> String {
    let octets = request.ifr_name.iter().take_while(|octet| **octet != 0);
    octets.map(|octet| char::from(octet.cast_unsigned())).collect()
}

/// Whether an error of [`Queue::receive`] or [`Queue::send`] says that the device is gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}
