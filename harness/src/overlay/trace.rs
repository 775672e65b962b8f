//! What a daemon leaves to be judged by when it did not do what was awaited of it.

use super::log;

/// The end of a daemon's log and its `subnet.env`, when a wait for it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The log's last lines of both kinds: what the daemon did, and what went wrong.
    log: String,
    /// What `subnet.env` has, or why it cannot be read; none of an overlay that writes no such file.
    subnet_file: Option<String>,
}

impl Trace {
    /// Of all that a daemon has logged, and its `subnet.env`.
    #[must_use]
    pub fn new(log: &str, subnet_file: Option<String>) -> Self {
        Self { log: log::end(log), subnet_file }
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let block = |text: &str| match text.trim_end() {
            "" => "\n  (nothing)".to_owned(),
            text => text.lines().map(|line| format!("\n  {line}")).collect(),
        };
        write!(f, "the end of its log:{}", block(&self.log))?;
        if let Some(subnet_file) = &self.subnet_file {
            write!(f, "\nits subnet.env:{}", block(subnet_file))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_and_subnet_file_stand_below_their_names() {
        let trace = Trace::new("t  INFO one\nt  WARN two\n", Some("FLANNEL_MTU=1472\n".to_owned()));
        assert_eq!(
            trace.to_string(),
            "the end of its log:\n  t  INFO one\n  t  WARN two\nits subnet.env:\n  FLANNEL_MTU=1472"
        );
        assert_eq!(Trace::default().to_string(), "the end of its log:\n  (nothing)");
    }
}
