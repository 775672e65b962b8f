//! What relay would not take of a case that is sound in itself: flags, metrics, the network's configuration.

use super::mistake::{Error, Mistake, nearest};
use super::step::{Outcome, Step};
use super::text::Text;
use super::{Case, load};
use crate::overlay::relay::Asked;

impl Case {
    /// Asks the relay program about all that the case says to relay.
    ///
    /// # Errors
    /// When relay would refuse something: every such mistake, each with its place. The inner error is why it could not be
    /// asked.
    pub fn ask(&self, relay: &mut Asked) -> Result<Result<(), Error>, String> {
        let mut mistakes = Vec::new();
        flags(relay, &self.lab.flags, &mut mistakes)?;
        if let Some(config) = &self.lab.config
            && let Some(why) = relay.refuses_config(config)?
        {
            let mistake = Mistake::new(config.span(), format!("relay refuses it: {why}"), "refused");
            mistakes.push(mistake.help("`relay check-config` says what a network config means"));
        }
        steps(relay, &self.steps, &mut mistakes)?;
        Ok(if mistakes.is_empty() { Ok(()) } else { Err(load::mistaken(&self.path, mistakes)) })
    }
}

fn steps(relay: &mut Asked, all: &[Step], mistakes: &mut Vec<Mistake>) -> Result<(), String> {
    for step in all {
        match step {
            // One that is to fail may have a flag that makes it.
            Step::StartRelay(start) if start.outcome != Outcome::Fails => {
                flags(relay, &start.flags, mistakes)?;
            }
            Step::ExpectMetric(expect) => metric(relay, &expect.metric, mistakes),
            Step::Expect(expect) => {
                let metrics = expect.growth.iter().filter_map(|growth| growth.metric.as_ref());
                metrics.for_each(|name| metric(relay, name, mistakes));
            }
            _ => {}
        }
        step.inner().iter().try_for_each(|inner| steps(relay, inner, mistakes))?;
    }
    Ok(())
}

/// Looks at a command line as a whole, as a flag's value may stand by itself, and then for the flag that spoils it.
fn flags(relay: &mut Asked, written: &[Text], mistakes: &mut Vec<Mistake>) -> Result<(), String> {
    let words: Vec<&str> = written.iter().map(Text::as_str).collect();
    let Some(why) = relay.refuses_flags(&words)? else { return Ok(()) };
    let mut sound = 0;
    for count in 1..words.len() {
        if relay.refuses_flags(&words[..count])?.is_none() {
            sound = count;
        }
    }
    let Some(culprit) = written.get(sound) else { return Ok(()) };
    // With others behind it, another may be what relay speaks of. A word that follows may be its value.
    let value = words.get(sound + 1).is_some_and(|word| !word.starts_with('-'));
    let until = sound + 1 + usize::from(value);
    let why = relay.refuses_flags(&words[..until])?.unwrap_or(why);
    let mistake = Mistake::new(culprit.span(), format!("relay refuses the flag: {why}"), "refused");
    mistakes.push(mistake.help("`relay --help` lists the flags that there are"));
    Ok(())
}

fn metric(relay: &Asked, name: &Text, mistakes: &mut Vec<Mistake>) {
    if relay.metrics().contains(name.as_str()) {
        return;
    }
    let help = match nearest(name, relay.metrics().iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`relay list-metrics` lists them, with their labels".to_owned(),
    };
    let message = format!("relay has no metric `{name}`");
    mistakes.push(Mistake::new(name.span(), message, "no such metric").help(help));
}
