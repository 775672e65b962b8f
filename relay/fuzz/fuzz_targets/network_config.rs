//! The network config.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::text::network_config);
