//! Datagrams from the underlay, merged for the TUN.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::path::inbound);
