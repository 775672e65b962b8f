//! Packets from the TUN, cut and packed for the underlay.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::path::outbound);
