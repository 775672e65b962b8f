//! Steps that change a host, or look at it with its own tools.

use std::time::{Duration, Instant};

use super::{Runner, StepError, indented};
use crate::lab::INTERFACE;
use crate::probe::Listener;
use crate::suite::{Exec, Link, LinkState, Listen, Readdress};
use crate::wait;

/// For a try that begins when the time is all but over.
const SHORTEST_TRY: Duration = Duration::from_millis(100);

impl Runner<'_> {
    pub(super) async fn link(&mut self, link: &Link) -> Result<(), StepError> {
        let up = link.state == LinkState::Up;
        self.down.retain(|host| *host != *link.host);
        if !up {
            self.down.push(link.host.to_string());
        }
        Ok(self.lab.set_link(&link.host, up, &self.down).await?)
    }

    /// Takes the node's address away and gives it another. Both of them stand for the node from then on.
    pub(super) async fn readdress(&mut self, readdress: &Readdress) -> Result<(), StepError> {
        let address = self.address(&readdress.address)?;
        self.lab.readdress(&readdress.node, INTERFACE, address).await?;
        self.map.insert(address, &readdress.node, &readdress.node);
        Ok(())
    }

    pub(super) fn listen(&mut self, listen: &Listen) -> Result<(), StepError> {
        let listener = Listener::open(&self.lab.host(&listen.host)?.namespace, listen.port)?;
        self.listeners.insert((listen.host.to_string(), listen.port), listener.into());
        Ok(())
    }

    pub(super) async fn exec(&mut self, exec: &Exec) -> Result<(), StepError> {
        let words = shell_words::split(&exec.command).unwrap_or_default();
        let host = self.lab.host(&exec.host)?.clone();
        let within = Duration::from_millis(exec.within_ms.into());
        let awaited = format!("`{}` in {} to print what is awaited", exec.command, exec.host);
        let mut printed = String::new();
        let mut failed: Option<crate::lab::Error> = None;
        let start = Instant::now();
        let mut last = None;
        wait::until(&awaited, within, async || {
            let left = within.saturating_sub(start.elapsed()).max(SHORTEST_TRY);
            let output = match (host.exec(&words, left).await, last.clone()) {
                (Ok(output), _) => output,
                // The last of several tries was cut short: what the one before it printed says more.
                (Err(_), Some(said)) if start.elapsed() >= within => return Err(said),
                // What cannot be started, or does not end, is not tried again.
                (Err(error), _) => {
                    failed = Some(error.into());
                    return Ok(());
                }
            };
            printed = output.text;
            let said = match printed.trim_end() {
                "" => "it prints nothing".to_owned(),
                text => format!("it prints:\n{text}"),
            };
            let found = |text: &str| printed.contains(text);
            let right = match (&exec.until, &exec.until_gone) {
                (Some(text), _) => found(text),
                (None, Some(text)) => !found(text),
                (None, None) => true,
            };
            last = Some(said.clone());
            match output.status {
                Some(status) if status == i32::from(exec.exit) && right => Ok(()),
                Some(status) if status == i32::from(exec.exit) => Err(said),
                // Only what is awaited is worth another try.
                status if exec.until.is_none() && exec.until_gone.is_none() => {
                    let what = format!(
                        "`{}` in {}: {}, not {}; {said}",
                        exec.command,
                        exec.host,
                        ended(status),
                        exec.exit
                    );
                    failed = Some(crate::lab::Error::State { what });
                    Ok(())
                }
                status => Err(format!("{}, not {}; {said}", ended(status), exec.exit)),
            }
        })
        .await
        .map_err(|error| self.lab.waited_in_vain(&exec.host, error))?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if exec.show {
            self.block(&indented(&printed));
        }
        Ok(())
    }
}

fn ended(status: Option<i32>) -> String {
    status.map_or("it was ended by a signal".to_owned(), |status| format!("its exit status is {status}"))
}
