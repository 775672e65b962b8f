//! Why the daemon ended, and with which exit code.

use std::process::ExitCode;

use thiserror::Error;

use crate::{
    datapath::{threads::DataPathError, tun::TunError, udp::SocketError},
    host::{device::DeviceError, filter::FilterError, subnet_env::SubnetEnvError},
    http::ListenError,
    network::NetworkError,
    registry::acquire::AcquireError,
    underlay::UnderlayError,
};

/// Why the daemon ended.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each wraps the error that explains itself")]
pub enum DaemonError {
    #[error("starting the event loop: {0}")]
    Runtime(std::io::Error),
    #[error("waiting for signals: {0}")]
    Signals(std::io::Error),
    #[error("opening a netlink socket: {0}")]
    Netlink(std::io::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("interface {interface} has an MTU of {mtu}, too small for a tunnel")]
    Mtu { interface: String, mtu: u32 },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    SubnetEnv(#[from] SubnetEnvError),
    #[error(transparent)]
    DataPath(#[from] DataPathError),
}

impl DaemonError {
    /// 3 when this machine stands in the way, 4 when the cluster's configuration does, 5 when the device was taken
    /// away while running, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Listen(_)
            | Self::Underlay(_)
            | Self::Mtu { .. }
            | Self::Socket(_)
            | Self::Tun(_)
            | Self::Device(_)
            | Self::Filter(_)
            | Self::SubnetEnv(_)
            | Self::DataPath(DataPathError::Unsupported(_)) => 3,
            Self::Network(_) | Self::Acquire(_) => 4,
            Self::DataPath(DataPathError::DeviceGone(_)) => 5,
            Self::Runtime(_)
            | Self::Signals(_)
            | Self::Netlink(_)
            | Self::DataPath(
                DataPathError::Start(_) | DataPathError::Uneven { .. } | DataPathError::Panicked(_),
            ) => 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::offload::Offload;

    #[test]
    fn the_exit_code_says_what_stands_in_the_way() {
        // An `ExitCode` shows its number to Debug alone.
        let code = |error: DaemonError| format!("{:?}", error.exit_code());
        let of = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(DataPathError::Unsupported(Offload::Auto).into()), of(3));
        assert_eq!(code(TunError::NoControlDevice.into()), of(3));
        assert_eq!(code(NetworkError::Missing("Network").into()), of(4));
        assert_eq!(code(DataPathError::DeviceGone("flannel0".into()).into()), of(5));
        assert_eq!(code(DaemonError::Netlink(std::io::Error::other("no"))), of(1));
    }
}
