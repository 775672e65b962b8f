//! Which work is handed to the kernel in bulk: rungs of a ladder, from all of it down to one packet a system call.

use std::{fmt, str::FromStr};

/// What `--offload` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// The highest rung that the kernel has.
    #[default]
    Auto,
    /// This rung and no other.
    Exactly(Rung),
}

/// A rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Large TCP and UDP packets on the TUN, runs of datagrams on the socket.
    Full,
    /// As full, but no large UDP packets on the TUN (Linux before 6.2).
    NoUso,
    /// Large packets on the TUN, single datagrams on the socket.
    TunOnly,
    /// Single packets on the TUN, runs of datagrams on the socket.
    UdpOnly,
    /// One packet a system call.
    None,
}

impl Rung {
    /// Every rung, from the top.
    pub const ALL: [Self; 5] = [Self::Full, Self::NoUso, Self::TunOnly, Self::UdpOnly, Self::None];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NoUso => "no-uso",
            Self::TunOnly => "tun-only",
            Self::UdpOnly => "udp-only",
            Self::None => "none",
        }
    }
}

/// What the TUN carries in one read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunOffload {
    /// One packet, complete.
    None,
    /// Packets without checksums and TCP packets of up to 64 KiB.
    Tcp,
    /// UDP datagrams in packets of up to 64 KiB too.
    TcpAndUdp,
}

impl Offload {
    /// What to try on the TUN, best first.
    #[must_use]
    pub const fn tun(self) -> &'static [TunOffload] {
        match self {
            Self::Auto => &[TunOffload::TcpAndUdp, TunOffload::Tcp, TunOffload::None],
            Self::Exactly(Rung::Full | Rung::TunOnly) => &[TunOffload::TcpAndUdp],
            Self::Exactly(Rung::NoUso) => &[TunOffload::Tcp],
            Self::Exactly(Rung::UdpOnly | Rung::None) => &[TunOffload::None],
        }
    }

    /// Whether the socket is to send and receive runs of datagrams.
    #[must_use]
    pub const fn udp_runs(self) -> bool {
        !matches!(self, Self::Exactly(Rung::TunOnly | Rung::None))
    }

    /// Whether several packets may share a system call at all.
    #[must_use]
    pub const fn batches(self) -> bool {
        !matches!(self, Self::Exactly(Rung::None))
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Exactly(rung) => rung.name(),
        })
    }
}

impl FromStr for Offload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        Rung::ALL
            .into_iter()
            .find(|rung| rung.name() == text)
            .map(Self::Exactly)
            .ok_or_else(|| format!("one of auto, {} is wanted", Rung::ALL.map(Rung::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_is_named_and_found_by_its_name() {
        for offload in [Offload::Auto].into_iter().chain(Rung::ALL.map(Offload::Exactly)) {
            assert_eq!(offload.to_string().parse(), Ok(offload));
        }
        assert!("best".parse::<Offload>().unwrap_err().contains("no-uso"));
    }

    #[test]
    fn a_rung_asked_for_is_not_left_for_another() {
        for rung in Rung::ALL {
            assert_eq!(Offload::Exactly(rung).tun().len(), 1);
        }
        assert_eq!(Offload::Auto.tun().last(), Some(&TunOffload::None));
    }
}
