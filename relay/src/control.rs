//! The local socket on which a running daemon answers `relay status` and `relay routes`: the pages of [`crate::http`]
//! for whoever may open the file, whether or not `--healthz-port` is set.

use std::{
    fs::{self, Permissions},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::UnixListener;

use crate::http::{Sources, serve_connection};

/// Patience of a question.
const TIMEOUT: Duration = Duration::from_secs(5);

/// No answer from a daemon.
#[derive(Debug, Error)]
#[error(
    "asking the relay at {path}: {source}; is it running, and with this --subnet-file or --control-socket?"
)]
pub struct ControlError {
    path: PathBuf,
    source: io::Error,
}

/// The socket beside a subnet file: `/run/flannel/subnet.sock` for `/run/flannel/subnet.env`.
#[must_use]
pub fn beside(subnet_file: &Path) -> PathBuf {
    subnet_file.with_extension("sock")
}

/// An open socket. Its file disappears when this is dropped.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "control socket not removed");
        }
    }
}

/// Opens the socket, for the daemon's user and group. The file that a killed daemon left is replaced; one that is
/// answered is not.
///
/// # Errors
/// The directory cannot be written to, or another daemon listens.
pub fn listen(path: &Path) -> io::Result<Listening> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    match is_answered(path) {
        Ok(()) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another relay answers there")),
        // The kernel refuses in the same way where there is no socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a file that is no socket is there",
                ));
            }
            fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(Listening { listener, path: path.to_owned() })
}

/// Whether somebody listens at `path`, without waiting for one who is too busy to accept.
fn is_answered(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

/// Answers until the future is dropped.
pub async fn serve(listening: Listening, sources: Arc<Sources>) {
    loop {
        match listening.listener.accept().await {
            Ok((stream, _)) => serve_connection(stream, &sources),
            Err(error) => {
                tracing::warn!(%error, "accepting on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Asks the daemon at `socket` for a page, such as `/status`.
///
/// # Errors
/// There is no daemon, or it answers something else.
pub fn ask(socket: &Path, page: &str) -> Result<String, ControlError> {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {page} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        body(&answer).map(str::to_owned).ok_or_else(|| {
            let line = answer.lines().next().unwrap_or("nothing");
            io::Error::new(io::ErrorKind::InvalidData, format!("it answered {line:?}"))
        })
    };
    ask().map_err(|source| ControlError { path: socket.to_owned(), source })
}

fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Health, status::Status};

    #[tokio::test]
    async fn a_daemon_answers_on_its_socket_and_takes_the_place_of_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = beside(&directory.path().join("new/subnet.env"));
        // A socket whose daemon is gone.
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let listening = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let serving = tokio::spawn(serve(
            listening,
            Arc::new(Sources::new(Arc::new(Health::starting("a test")), std::num::NonZeroUsize::MIN)),
        ));
        let asked = path.clone();
        let ask = tokio::task::spawn_blocking(move || (ask(&asked, "/status"), ask(&asked, "/nothing")));
        let (status, nothing) = ask.await.unwrap();
        let status: Status = serde_json::from_str(&status.unwrap()).unwrap();
        assert_eq!(status.not_ready.as_deref(), Some("a test"));
        assert!(nothing.unwrap_err().to_string().contains("404"));

        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
    }

    #[test]
    fn a_daemon_that_accepts_nothing_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("subnet.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_error_says_where_nobody_answers() {
        let error = ask(Path::new("/nowhere/subnet.sock"), "/status").unwrap_err().to_string();
        assert!(error.starts_with("asking the relay at /nowhere/subnet.sock: "), "{error}");
    }
}
