//! What the relay program says without a daemon: which flags and network configs it takes, and which metrics it has.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long it may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A relay program that knows what it takes.
#[derive(Debug)]
pub struct Asked {
    program: PathBuf,
    metrics: BTreeSet<String>,
    /// What was said of command lines so far: cases have the same flags again and again.
    flags: BTreeMap<Vec<String>, Result<(), String>>,
}

impl Asked {
    /// Asks `program` for its metrics, and so whether it can be asked at all.
    ///
    /// # Errors
    /// When it cannot be started, or is no relay, or one of before there was such a question: what it says.
    pub fn new(program: PathBuf) -> Result<Self, String> {
        let mut asked = Self { program, metrics: BTreeSet::new(), flags: BTreeMap::new() };
        let names = asked.ask(&["list-metrics"], "")?;
        let names = names.map_err(|why| format!("{} lists no metrics: {why}", asked.program.display()))?;
        let names = names.lines().filter(|line| !line.starts_with('#'));
        asked.metrics = names.map(str::to_owned).collect();
        Ok(asked)
    }

    /// The names of all metrics, labels included, as `/metrics` writes them.
    pub fn metrics(&self) -> &BTreeSet<String> {
        &self.metrics
    }

    /// Why it would not take a network's configuration, JSON, if it would not.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn refuses_config(&self, json: &str) -> Result<Option<String>, String> {
        Ok(self.ask(&["check-config"], json)?.err())
    }

    /// Why it would not take these flags, or the registry in a file that they name, if it would not.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn refuses_flags(&mut self, flags: &[&str]) -> Result<Option<String>, String> {
        let key: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let said = match self.flags.get(&key) {
            Some(said) => said.clone(),
            None => self.ask(&[&["check-flags"], flags].concat(), "")?.map(drop),
        };
        self.flags.insert(key, said.clone());
        Ok(said.err())
    }

    /// What it prints, or why it refuses what it is asked about.
    fn ask(&self, arguments: &[&str], input: &str) -> Result<Result<String, String>, String> {
        let output = self.run(arguments, input).map_err(|error| {
            format!("asking {} for `{}`: {error}", self.program.display(), arguments.join(" "))
        })?;
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("relay: ").to_owned();
        match output.status.code() {
            Some(0) => Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned())),
            Some(1) => Ok(Err(said)),
            _ => Err(format!(
                "{} does not answer `{}`: {}",
                self.program.display(),
                arguments.first().unwrap_or(&""),
                said.lines().next().unwrap_or("nothing is said of why")
            )),
        }
    }

    /// Runs it to its end, and no longer than [`ANSWERS_WITHIN`].
    fn run(&self, arguments: &[&str], input: &str) -> io::Result<Output> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut child = Command::new(&self.program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let stdin = child.stdin.take();
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A program that does not read its input says why when it ends.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let end = async { tokio::join!(feed, child.wait_with_output()).1 };
            let ended = tokio::time::timeout(ANSWERS_WITHIN, end).await;
            ended.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end")))
        })
    }
}
