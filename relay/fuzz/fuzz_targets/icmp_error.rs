//! ICMP errors about packets.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::path::icmp_error);
