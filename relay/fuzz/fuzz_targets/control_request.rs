//! Requests on the control socket, which are those of `--healthz-port`.
#![cfg_attr(fuzzing, no_main)]

relay_fuzz::target!(relay_fuzz::text::control_request);
