//! The registry in a file.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::text::registry_file);
