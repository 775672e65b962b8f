//! Forwarding between TCP in a namespace of the lab and Unix sockets that a container shares with us.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};

use socket2::SockRef;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::client::connect;
use crate::netns::Namespace;

/// A listener with its connections, all of which end with it.
#[derive(Debug)]
pub(super) struct Forward(JoinHandle<()>);

impl Forward {
    /// Takes TCP connections at `port` of `namespace` to the Unix socket `to`.
    ///
    /// # Errors
    /// When the port is taken.
    pub(super) fn tcp_to_unix(namespace: &Namespace, port: u16, to: PathBuf) -> io::Result<Self> {
        let bind = || std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        let listener = namespace.run(bind).map_err(io::Error::other)??;
        listener.set_nonblocking(true)?;
        let listener = Listener(TcpListener::from_std(listener)?);
        Ok(Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((inbound, _)) = listener.0.accept().await {
                connections.spawn(carry_to_unix(inbound, to.clone()));
                while connections.try_join_next().is_some() {}
            }
        })))
    }

    /// Takes connections at the Unix socket `at` to the TCP endpoint `to`, as seen from `namespace`.
    ///
    /// # Errors
    /// When the socket cannot be created.
    pub(super) fn unix_to_tcp(at: &Path, namespace: Namespace, to: SocketAddr) -> io::Result<Self> {
        remove_if_there(at)?;
        let listener = UnixListener::bind(at)?;
        Ok(Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((inbound, _)) = listener.accept().await {
                connections.spawn(carry_to_tcp(inbound, namespace.clone(), to));
                while connections.try_join_next().is_some() {}
            }
        })))
    }

    /// Closes the listener and all connections, and waits until they are.
    pub(super) async fn close(mut self) {
        self.0.abort();
        // Cancelled, which is what was asked for.
        let _ = (&mut self.0).await;
    }
}

/// Frees its port when dropped, even if a child that is about to be executed still has a copy of the
/// descriptor.
struct Listener(TcpListener);

impl Drop for Listener {
    fn drop(&mut self) {
        // It cannot fail for a socket that listens, and is closed in any case.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Removes a socket's file.
pub(super) fn remove_if_there(socket: &Path) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn carry_to_unix(mut inbound: TcpStream, to: PathBuf) -> io::Result<()> {
    inbound.set_nodelay(true)?;
    let Ok(mut outbound) = UnixStream::connect(&to).await else {
        // Nobody listens behind the socket: a reset is the nearest to a closed port.
        return inbound.set_zero_linger();
    };
    copy_bidirectional(&mut inbound, &mut outbound).await.map(drop)
}

/// Where `to` cannot be reached the connection is closed at once, which etcd takes for a failed dial and tries
/// again.
async fn carry_to_tcp(mut inbound: UnixStream, namespace: Namespace, to: SocketAddr) -> io::Result<()> {
    let mut outbound = connect(&namespace, to).await?;
    copy_bidirectional(&mut inbound, &mut outbound).await.map(drop)
}
