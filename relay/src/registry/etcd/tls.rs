//! TLS to etcd: which files, and what its failures mean.

use std::{fs, io, path::PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

/// PEM files for TLS. A field that is none is left to the system: its certificate authorities, no client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that etcd's certificate may be signed by.
    pub authority: Option<PathBuf>,
    /// This client's certificate, with those between it and the authority, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// What to connect to `url` with; none for `http://`, as in Go. A URL without a scheme is one of `https` as soon
    /// as a file is named.
    ///
    /// # Errors
    /// A file cannot be read; the message names it.
    pub(super) fn options_for(&self, url: &str) -> io::Result<Option<TlsOptions>> {
        let encrypted = url.starts_with("https://") || (!url.contains("://") && *self != Self::default());
        if !encrypted {
            return Ok(None);
        }
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|error| io::Error::other(format!("reading {}: {error}", path.display())))
        };
        let mut options = TlsOptions::new();
        options = match &self.authority {
            Some(path) => options.ca_certificate(Certificate::from_pem(read(path)?)),
            None => options.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(Some(options))
    }
}

/// What to try about a failure, if its text is known.
pub(super) fn hint(cause: &str) -> &'static str {
    let names = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if names(&["UnknownIssuer"]) {
        "; --etcd-cafile must name the authority that signed etcd's certificate"
    } else if names(&["certificate: Expired", "certificate expired"]) {
        "; a certificate has expired, or the clock of this machine is wrong"
    } else if names(&["NotValidForName"]) {
        "; etcd's certificate is for another name or address than the one in --etcd-endpoints"
    } else if names(&[
        "CertificateRequired",
        "BadCertificate",
        "certificate required",
        "bad certificate",
        "UnknownCA",
    ]) {
        "; etcd wants a client certificate that its --trusted-ca-file signed: see --etcd-certfile and --etcd-keyfile"
    } else if names(&["InvalidContentType", "HandshakeFailure", "handshake eof"]) {
        "; does etcd speak TLS there, or is it an http:// endpoint?"
    } else if names(&["invalid user name or password", "authentication failed", "user name is empty"]) {
        "; see --etcd-username and --etcd-password"
    } else if names(&["permission denied"]) {
        "; the etcd user needs read and write permission below --etcd-prefix"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_for_https_and_for_no_scheme_when_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        fs::write(&path, "").unwrap();
        let files = TlsFiles { authority: Some(path), identity: None };
        let uses_tls = |files: &TlsFiles, url| files.options_for(url).unwrap().is_some();
        assert!(uses_tls(&files, "https://127.0.0.1:2379"));
        assert!(uses_tls(&files, "127.0.0.1:2379"));
        assert!(!uses_tls(&files, "http://127.0.0.1:2379"));
        assert!(uses_tls(&TlsFiles::default(), "https://127.0.0.1:2379"));
        assert!(!uses_tls(&TlsFiles::default(), "127.0.0.1:2379"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_only_missed_when_needed() {
        let files = TlsFiles { authority: None, identity: Some(("/nowhere/c".into(), "/nowhere/k".into())) };
        let error = files.options_for("https://127.0.0.1").unwrap_err().to_string();
        assert!(error.starts_with("reading /nowhere/c: "), "{error}");
        assert!(files.options_for("http://127.0.0.1").unwrap().is_none());
    }
}
