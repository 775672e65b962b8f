//! `subnet.env`: what container runtimes read to set up their bridge, and where the subnet is remembered.
//!
//! Source: flannel `pkg/subnet/subnet.go`, `WriteSubnetFile`.

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use tempfile::NamedTempFile;
use thiserror::Error;

/// `subnet.env` could not be written.
#[derive(Debug, Error)]
#[error("writing {path}: {source}; `--subnet-file` names another place")]
pub struct SubnetEnvError {
    path: PathBuf,
    source: io::Error,
}

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole overlay network.
    pub network: Ipv4Net,
    /// This node's subnet; the file gives the first usable address with its length.
    pub subnet: Ipv4Net,
    /// The largest packet in octets.
    pub mtu: u32,
    /// Whether flannel masquerades, so that the container runtime need not.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let gateway = Ipv4Addr::from_bits(self.subnet.network().to_bits() | 1);
        format!(
            "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={}/{}\nFLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n",
            self.network,
            gateway,
            self.subnet.prefix_len(),
            self.mtu,
            self.ip_masq
        )
    }

    /// Writes the file in one step: readers see the old text or the new.
    ///
    /// # Errors
    /// The directory cannot be made or written to.
    pub fn write(&self, path: &Path) -> Result<(), SubnetEnvError> {
        let write = || {
            let directory =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            let mut file = NamedTempFile::new_in(directory)?;
            file.write_all(self.text().as_bytes())?;
            file.as_file().set_permissions(Permissions::from_mode(0o644))?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| SubnetEnvError { path: path.to_owned(), source })
    }
}

/// The subnet that the file at `path` remembers, if it is there and can be read.
#[must_use]
pub fn previous_subnet(path: &Path) -> Option<Ipv4Net> {
    remembered(&fs::read_to_string(path).ok()?)
}

/// The subnet that such a text remembers.
#[must_use]
pub fn remembered(text: &str) -> Option<Ipv4Net> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("FLANNEL_SUBNET="))?;
    let gateway = value.trim_matches('"').parse::<Ipv4Net>().ok()?;
    // A node's subnet has a first usable address, which is what the file gives.
    (gateway.prefix_len() <= 30).then(|| gateway.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> SubnetEnv {
        SubnetEnv {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.34.0/24".parse().unwrap(),
            mtu: 1472,
            ip_masq: false,
        }
    }

    #[test]
    fn the_text_is_flannels_byte_for_byte() {
        let expected = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";
        assert_eq!(env().text(), expected);
        let other = SubnetEnv { subnet: "10.5.34.16/28".parse().unwrap(), mtu: 8972, ip_masq: true, ..env() };
        let expected = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.17/28\nFLANNEL_MTU=8972\nFLANNEL_IPMASQ=true\n";
        assert_eq!(other.text(), expected);
    }

    #[test]
    fn the_file_is_world_readable_alone_in_its_directory_and_remembers_the_subnet() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flannel/subnet.env");
        env().write(&path).unwrap();
        env().write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), env().text());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(previous_subnet(&path), Some(env().subnet));
    }

    #[test]
    fn no_subnet_is_remembered_by_a_file_that_is_missing_or_says_something_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("subnet.env");
        assert_eq!(previous_subnet(&path), None);
        for text in ["FLANNEL_SUBNET=10.5.34.1/24,10.6.0.1/24\n", "FLANNEL_SUBNET=10.5.34.14/32\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(previous_subnet(&path), None, "{text}");
        }
    }

    #[test]
    fn the_error_names_the_file() {
        let error = env().write(Path::new("/proc/nowhere/subnet.env")).unwrap_err();
        assert!(error.to_string().starts_with("writing /proc/nowhere/subnet.env: "), "{error}");
    }
}
