//! Floods: packets that are not recorded one by one, because no recording could keep up with them.

use std::time::Duration;

use super::kernel::received_is_processed;
use super::{Breach, Error, Lab};
use crate::wait;

/// For everything that a flood has left in queues to be dealt with.
const REST_WITHIN: Duration = Duration::from_secs(10);
/// How often in a row nothing has moved when all is at rest. With the pauses between the looks it is a tenth of a second,
/// which a daemon with work to do is not kept from a processor.
const LOOKS: u32 = 10;

impl Lab {
    /// From now on floods are not recorded.
    ///
    /// # Errors
    /// When a packet socket takes no filter.
    pub fn begin_flood(&mut self) -> Result<(), Error> {
        Ok(self.recorder.record_floods(false)?)
    }

    /// Notes that a packet of a flood was sent, by which the counts of daemons may from now on exceed those of their
    /// interfaces.
    pub fn note_flooded(&mut self) {
        self.unrecorded += 1;
    }

    /// Notes that any number of packets may be sent from now on that are not recorded.
    pub fn note_unrecorded(&mut self) {
        self.unrecorded = u64::from(u32::MAX);
    }

    /// Whether packets may have been sent that are not recorded.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.unrecorded > 0
    }

    /// Waits until all is at rest after floods, and records everything again. Every equation holds exactly from then on.
    ///
    /// # Errors
    /// When a daemon cannot be asked, or packets are still passing after ten seconds. The inner [`Breach`] is a verdict on
    /// the overlay: a daemon has not passed on, dropped or counted all that it took in.
    pub async fn end_floods(&mut self) -> Result<Result<(), Breach>, Error> {
        if self.unrecorded == 0 {
            return Ok(Ok(()));
        }
        let (mut last, mut same) = (None, 0);
        wait::until("the lab to come to rest after a flood", REST_WITHIN, async || {
            received_is_processed();
            let now = match self.counters().await {
                Ok(counters) => counters,
                Err(error) => return Ok(Err(error)),
            };
            let now = Some(now);
            same = if now == last { same + 1 } else { 0 };
            last = now;
            if same >= LOOKS { Ok(Ok(())) } else { Err("packets are still passing".to_owned()) }
        })
        .await??;
        self.recorder.record_floods(true)?;
        self.unrecorded = 0;
        let within = self.conserved_within().await?;
        self.rebase().await?;
        Ok(within)
    }
}
