//! The IPv4 header.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::path::ipv4_header);
