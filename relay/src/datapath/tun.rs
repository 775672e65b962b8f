//! The TUN device: one read or write a packet, no packet information header.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use thiserror::Error;

const CONTROL: &str = "/dev/net/tun";

/// One read or write a packet, nothing before it.
const KIND: libc::c_short = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;

/// A TUN device could not be made.
#[derive(Debug, Error)]
pub enum TunError {
    /// The control device is not there.
    #[error("{CONTROL} does not exist: load the `tun` module, or pass the device into the container")]
    NoControlDevice,
    /// The process may not use it.
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
    file: File,
    name: String,
}

mod ioctl {
    // TUNSETIFF is declared with an int and takes a struct ifreq (linux/if_tun.h).
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    // TUNGETIFF is declared with an unsigned int and fills a struct ifreq.
    nix::ioctl_read_bad!(
        get_interface,
        nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()),
        libc::ifreq
    );
}

impl Tun {
    /// Creates the device; `%d` in `pattern` becomes the first free number. At most 15 octets.
    ///
    /// # Errors
    /// The control device is missing, the process may not use it, or the kernel refuses the name.
    pub fn create(pattern: &str) -> Result<Self, TunError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(CONTROL))
            .map_err(|source| TunError::from_io("opening /dev/net/tun", source))?;

        // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last octet stays zero: the kernel wants a terminated name.
        let room = libc::IFNAMSIZ - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(pattern.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = KIND;
        // SAFETY: the descriptor is open and `request` is a valid `ifreq` that outlives the call.
        unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }
            .map_err(|errno| TunError::from_io("creating the TUN device", errno.into()))?;

        Ok(Self { file, name: name_of(&request) })
    }

    /// Takes over a device that an earlier process created and left open.
    ///
    /// # Errors
    /// The file is no TUN device of the kind that [`Tun::create`] makes, or the device is gone.
    pub fn adopt(file: OwnedFd) -> Result<Self, TunError> {
        const STEP: &str = "taking over the TUN device of an earlier run";
        // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `request` is a valid `ifreq` that outlives the call.
        unsafe { ioctl::get_interface(file.as_raw_fd(), &raw mut request) }
            .map_err(|errno| TunError::Failed { step: STEP, source: errno.into() })?;
        // SAFETY: the kernel has filled the flags, and any bits are valid for them.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if flags != KIND {
            let source = io::Error::new(io::ErrorKind::InvalidData, "it is of another kind");
            return Err(TunError::Failed { step: STEP, source });
        }
        Ok(Self { file: File::from(file), name: name_of(&request) })
    }

    /// The device's name, such as `flannel0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet; blocks until there is one.
    ///
    /// # Errors
    /// As read(2): `EINTR` when a signal came, `EBADFD` when the device was deleted.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet, which the kernel takes as received on the device.
    ///
    /// # Errors
    /// As write(2): `EIO` when the device is down, `EBADFD` when it was deleted.
    pub fn send(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.file).write(packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn name_of(request: &libc::ifreq) -> String {
    let octets = request.ifr_name.iter().take_while(|octet| **octet != 0);
    octets.map(|octet| char::from(octet.cast_unsigned())).collect()
}

/// Whether an error of [`Tun::receive`] or [`Tun::send`] says that the device is gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}
