//! `subnet.env`.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::text::subnet_env);
