//! The service manager: telling it how things are (sd_notify(3)), and leaving open files with it over a restart
//! (`FDSTORE=1`, sd_listen_fds(3)).
//!
//! The TUN device and the tunnel's socket are left there, where the unit has a `FileDescriptorStoreMax`: what arrives
//! while the daemon is replaced waits in their queues.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IoSlice},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    process,
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socket,
        sockopt::SendTimeout,
    },
    time::{TimeVal, TimeValLike},
};

/// The first descriptor that a service manager passes.
const FIRST_PASSED: i32 = 3;

/// Patience with a service manager that does not read.
const PATIENCE_MS: i64 = 200;

/// Sends `message`, such as `READY=1`, if a service manager listens.
///
/// # Errors
/// Its socket cannot be reached.
pub fn tell(message: &str) -> io::Result<()> {
    manager().map_or(Ok(()), |path| send(&path, message, None))
}

/// Leaves a file, or none, with the service manager, in place of an earlier one of this name, if one listens.
///
/// # Errors
/// Its socket cannot be reached.
pub fn store(name: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(path) = manager() else { return Ok(()) };
    send(&path, &format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)?;
    file.map_or(Ok(()), |file| send(&path, &format!("FDSTORE=1\nFDNAME={name}"), Some(file)))
}

/// How often the service manager wants `WATCHDOG=1`, at least: half of the time after which it gives up.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    watchdog(number("WATCHDOG_USEC"), number("WATCHDOG_PID"), process::id())
}

fn watchdog(usec: Option<u64>, pid: Option<u64>, own: u32) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid == u64::from(own));
    usec.filter(|usec| meant && *usec > 0).map(|usec| Duration::from_micros(usec) / 2)
}

fn manager() -> Option<OsString> {
    env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

fn send(path: &OsStr, message: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(path),
    }?;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
    let files: Vec<i32> = file.iter().map(AsRawFd::as_raw_fd).collect();
    let passed = [ControlMessage::ScmRights(&files)];
    let passed = if files.is_empty() { &[][..] } else { &passed };
    let text = [IoSlice::new(message.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, passed, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
    Ok(())
}

/// Files that an earlier run left with the service manager.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes what the service manager passed to this process. Call it once, before any other file is opened.
    #[must_use]
    pub fn take() -> Self {
        let text = |name| env::var(name).unwrap_or_default();
        let names = passed(&text("LISTEN_PID"), &text("LISTEN_FDS"), &text("LISTEN_FDNAMES"), process::id());
        let own = |(number, name)| {
            // SAFETY: the service manager passed this descriptor to this process, and nothing else has taken it.
            let file = unsafe { OwnedFd::from_raw_fd(number) };
            // The copy is closed when a tool is run; the passed one is not.
            Some((name, file.as_fd().try_clone_to_owned().ok()?))
        };
        Self((FIRST_PASSED..).zip(names).filter_map(own).collect())
    }

    /// The file of this name, if there is one.
    pub fn remove(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Names of the descriptors passed to process `own`, in their order.
fn passed(pid: &str, count: &str, names: &str, own: u32) -> Vec<String> {
    // systemd passes a handful; a wild number must not close what is not there.
    const MOST: usize = 16;
    if pid.parse() != Ok(own) {
        return Vec::new();
    }
    let count = count.parse::<usize>().unwrap_or(0).min(MOST);
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    names.take(count).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_message_reaches_a_socket_in_the_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1", None).unwrap();
        send(path.as_os_str(), "FDSTORE=1\nFDNAME=tun", Some(socket.as_fd())).unwrap();
        let mut buffer = [0; 64];
        for expected in [&b"READY=1"[..], b"FDSTORE=1\nFDNAME=tun"] {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
    }

    #[test]
    fn a_service_manager_that_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let full = (0..10_000).find_map(|_| send(path.as_os_str(), "WATCHDOG=1", None).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn only_what_was_passed_to_this_process_is_taken() {
        assert_eq!(passed("7", "2", "tun:udp", 7), ["tun", "udp"]);
        assert_eq!(passed("7", "2", "", 7), ["", ""]);
        assert!(passed("8", "2", "tun:udp", 7).is_empty());
        assert!(passed("", "", "", 7).is_empty());
        assert!(passed("7", "many", "tun", 7).is_empty());
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_if_it_is_meant_for_this_process() {
        assert_eq!(watchdog(Some(30_000_000), None, 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog(Some(30_000_000), Some(7), 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog(Some(30_000_000), Some(8), 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
