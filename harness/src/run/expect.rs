//! Steps that have to keep within bounds.

use std::time::{Duration, Instant};

use super::{Runner, StepError};
use crate::lab;
use crate::suite::{Expect, Growth};
use crate::wait;

/// How long a count may be out of bounds that has yet to come to rest: a daemon has files open for a moment now and then.
const AT_REST_WITHIN: Duration = Duration::from_secs(5);

/// What a counter stands at.
struct Stand {
    count: f64,
    /// How many daemons have had a part in it that is not known.
    unasked: u32,
}

impl Runner<'_> {
    /// Does the steps, and compares what they took and what grew with the bounds.
    pub(super) async fn expect(&mut self, expect: &Expect) -> Result<(), StepError> {
        let mut before = Vec::new();
        for growth in &expect.growth {
            before.push(self.stand(growth).await?);
        }
        let start = Instant::now();
        self.inner(&expect.steps).await?;
        let took = start.elapsed();
        if let Some(most) = expect.within_ms
            && took.as_millis() > u128::from(most)
        {
            self.problem(format!("the steps took {} ms; the case allows {most}", took.as_millis()));
        }
        if !self.streaming && !expect.growth.is_empty() {
            // What is still under way has yet to be counted.
            self.settle().await?;
        }
        for (growth, before) in expect.growth.iter().zip(before) {
            let (name, host, bounds) = (growth.name(), &growth.host, growth.bounds());
            let looked = wait::until("growth within its bounds", AT_REST_WITHIN, async || {
                match self.stand(growth).await {
                    Ok(now) if now.unasked > before.unasked => Ok(Ok(false)),
                    Ok(now) if growth.allows(now.count - before.count) => Ok(Ok(true)),
                    Ok(now) => Err((now.count - before.count).to_string()),
                    Err(error) => Ok(Err(error)),
                }
            });
            match looked.await {
                Ok(known) => {
                    if !known? {
                        self.problem(format!(
                            "nobody knows by how much {name} of {host} grew, which was to grow {bounds}: a relay ended \
                             there that could not be asked"
                        ));
                    }
                }
                Err(vain) => {
                    let grown = vain.last.unwrap_or_default();
                    self.problem(format!("{name} of {host} grew by {grown}; it was to grow {bounds}"));
                }
            }
        }
        Ok(())
    }

    /// What a counter stands at. What a daemon counts goes on from what those before it had.
    async fn stand(&self, growth: &Growth) -> Result<Stand, StepError> {
        let Growth { host, metric, .. } = growth;
        let found = match metric {
            Some(metric) => {
                let daemon = self.lab.daemon(host)?;
                let totals = daemon.totals().await.map_err(lab::Error::from)?;
                if let Some(count) = totals.get(metric.as_str()) {
                    let past = self.past.get(host.as_str());
                    let (before, unasked) = past.map_or((0.0, 0), |past| (past.total(metric), past.unasked));
                    return Ok(Stand { count: count + before, unasked });
                }
                daemon.metric(metric).await.map_err(lab::Error::from)?
            }
            // Exact up to 2^53.
            #[expect(clippy::cast_precision_loss)]
            None => self.lab.kernel_counter(host, growth.name())?.map(|count| count as f64),
        };
        let found = found.map(|count| Stand { count, unasked: 0 });
        found.ok_or_else(|| {
            let what = format!("{host} has no counter `{}`", growth.name());
            lab::Error::State { what }.into()
        })
    }
}
