//! A kernel that refuses what a test wants refused, by seccomp(2).
//!
//! A filter holds for the thread that installs it and for those that it starts.

use std::{
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::mpsc,
    thread,
};

/// From now on the system call fails with `EPERM`.
pub(crate) fn forbid(call: libc::c_long) {
    install(&mut program(call, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32), 0);
}

/// From now on writev(2) fails with `EINVAL` where the octets of the first of two vectors are such as `refuse` picks.
/// The others are the kernel's to do.
pub(crate) fn refuse_writes(refuse: impl Fn(&[u8]) -> bool + Send + 'static) {
    let (sender, listener) = mpsc::channel();
    // A thread without the filter, for it must not ask itself.
    thread::spawn(move || {
        let listener: OwnedFd = listener.recv().unwrap();
        while answer(listener.as_raw_fd(), &refuse) {}
    });
    let listener = install(
        &mut program(libc::SYS_writev, libc::SECCOMP_RET_USER_NOTIF),
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    );
    // SAFETY: seccomp(2) has made the descriptor, and nobody else has it.
    sender.send(unsafe { OwnedFd::from_raw_fd(listener as RawFd) }).unwrap();
}

/// Answers the next call that waits for its answer; false once no thread has the filter.
fn answer(listener: RawFd, refuse: &impl Fn(&[u8]) -> bool) -> bool {
    // SAFETY: it is plain data for which all zeros is a valid value, as the call below wants it.
    let mut call: libc::seccomp_notif = unsafe { zeroed() };
    // SAFETY: it is plain data for which all zeros is a valid value.
    let mut answer: libc::seccomp_notif_resp = unsafe { zeroed() };
    // SAFETY: the descriptor is open, and the structure outlives the call.
    if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } != 0 {
        return false;
    }
    let [_, vectors, count, ..] = call.data.args;
    answer.id = call.id;
    let refused = count == 2 && {
        // SAFETY: the thread that calls is one of this process and waits for the answer, so that its vectors stay.
        let header = unsafe { *(vectors as *const libc::iovec) };
        // SAFETY: as above, for what the first of them points to.
        refuse(unsafe { std::slice::from_raw_parts(header.iov_base.cast::<u8>(), header.iov_len) })
    };
    if refused {
        answer.error = -libc::EINVAL;
    } else {
        answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    }
    // SAFETY: as above.
    let sent = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    // A signal may have ended the call meanwhile.
    sent == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
}

/// What has `verdict` on `call`, and nothing against others.
fn program(call: libc::c_long, verdict: u32) -> [libc::sock_filter; 4] {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, verdict),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Installs the filter: what seccomp(2) gives, which is no error.
fn install(program: &mut [libc::sock_filter], flags: libc::c_ulong) -> libc::c_long {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the call takes numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is valid and outlives the call, in which the kernel copies it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}
