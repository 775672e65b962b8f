//! Giving up what the daemon does not need, before anything from the network is read.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Device, routes, packet filter and large socket queues; raw ICMP; ports below 1024; files of other users that hold
/// keys for TLS. The tools that set packet filter rules inherit them.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Gives up all other capabilities, for this thread, those it starts and the programs it runs. Call it before any
/// thread is started.
///
/// # Errors
/// The kernel refuses, as it does for no process that has them.
pub fn drop_unneeded() -> std::io::Result<()> {
    set_no_new_privs(true)?;
    let held = capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(NEEDED).iter() {
            // One that this kernel does not know is not there to be removed.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    set_capabilities(None, reduced(held))?;
    Ok(())
}

fn reduced(held: CapabilitySets) -> CapabilitySets {
    let CapabilitySets { effective, permitted, inheritable } = held;
    CapabilitySets {
        effective: effective.intersection(NEEDED),
        permitted: permitted.intersection(NEEDED),
        inheritable: inheritable.intersection(NEEDED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_kept_and_nothing_is_gained() {
        let (all, none) = (CapabilitySet::all(), CapabilitySet::empty());
        let sets = reduced(CapabilitySets { effective: all, permitted: all, inheritable: none });
        assert_eq!((sets.effective, sets.permitted, sets.inheritable), (NEEDED, NEEDED, none));
    }

    #[test]
    fn a_thread_keeps_no_other_capability() {
        let dropped = std::thread::spawn(|| {
            drop_unneeded().unwrap();
            let sets = capabilities(None).unwrap();
            sets.effective.union(sets.permitted).difference(NEEDED)
        });
        assert_eq!(dropped.join().unwrap(), CapabilitySet::empty());
    }
}
