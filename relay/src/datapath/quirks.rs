//! Kernels that are known to do some bulk work wrongly and do not say so: by their release, since it shows in no answer
//! of theirs. A distribution that has taken over a fix, or a fault, is not told from the release; `--offload` is for that.

use std::fmt;

/// The number of a Linux release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(u32, u32, u32);

/// What is known against a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Runs of equal datagrams (`UDP_SEGMENT`) leave some interfaces with wrong headers. Since Linux 7.0 (b10b446), until
    /// 7.1.5 (78effd8, 5f17ae0); source: tailscale pull request 19918 and issue 19777.
    pub mangles_runs: bool,
    /// A large UDP packet written to the TUN may reach a socket of a tunnel in the kernel, such as `WireGuard`'s or
    /// VXLAN's, which takes it for one packet. Fixed in 6.6.26, 6.8.5 and 6.9 (3d010c8031e3, CVE-2024-35884); before 6.2
    /// the TUN takes none. See tailscale issue 11026.
    pub misroutes_large_udp: bool,
}

impl Release {
    /// That of the running kernel, if it has a number.
    #[must_use]
    pub fn running() -> Option<Self> {
        Self::parse(&rustix::system::uname().release().to_string_lossy())
    }

    /// The numbers that a text such as `6.8.0-45-generic` begins with. The third may be missing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()?;
        let mut numbers = numbers.split('.');
        let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let patch =
            numbers.next().filter(|text| !text.is_empty()).map_or(Some(0), |text| text.parse().ok())?;
        Some(Self(major, minor, patch))
    }

    /// What is known against it.
    #[must_use]
    pub fn quirks(self) -> Quirks {
        let within = |from: [u32; 3], to: [u32; 3]| {
            let [from, to] = [from, to].map(|[major, minor, patch]| Self(major, minor, patch));
            from <= self && self <= to
        };
        Quirks {
            mangles_runs: within([7, 0, 0], [7, 1, 4]),
            misroutes_large_udp: within([6, 2, 0], [6, 6, 25]) || within([6, 7, 0], [6, 8, 4]),
        }
    }
}

impl Quirks {
    /// Nothing.
    pub const NONE: Self = Self { mangles_runs: false, misroutes_large_udp: false };
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_from_what_distributions_add_to_it() {
        for (text, release) in [
            ("7.1.4", Some(Release(7, 1, 4))),
            ("6.8.0-45-generic", Some(Release(6, 8, 0))),
            ("6.12.9-amd64", Some(Release(6, 12, 9))),
            ("7.0-rc3", Some(Release(7, 0, 0))),
            ("7.0.0-rc3+", Some(Release(7, 0, 0))),
            ("5.14.0-503.11.1.el9_5.x86_64", Some(Release(5, 14, 0))),
            ("6.6.87.2-microsoft-standard-WSL2", Some(Release(6, 6, 87))),
            ("6", None),
            ("6.", None),
            ("generic", None),
            ("", None),
            ("99999999999.1.1", None),
        ] {
            assert_eq!(Release::parse(text), release, "{text}");
        }
        assert!(Release::running().is_some());
    }

    #[test]
    fn releases_with_a_fault_are_known_from_the_first_to_the_last() {
        let quirks = |text: &str| Release::parse(text).unwrap().quirks();
        for (text, mangles) in
            [("6.19.9", false), ("7.0.0", true), ("7.0.99", true), ("7.1.4", true), ("7.1.5", false)]
        {
            assert_eq!(quirks(text), Quirks { mangles_runs: mangles, ..Quirks::NONE }, "{text}");
        }
        for (text, misroutes) in [
            ("6.1.200", false),
            ("6.2.0", true),
            ("6.6.25", true),
            ("6.6.26", false),
            ("6.6.99", false),
            ("6.7.0", true),
            ("6.8.4", true),
            ("6.8.5", false),
            ("6.9.0", false),
        ] {
            assert_eq!(quirks(text), Quirks { misroutes_large_udp: misroutes, ..Quirks::NONE }, "{text}");
        }
    }
}
