//! Values of leases.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::text::lease_value);
