//! What is changed on the machine: the device's address and route, packet filter rules, `subnet.env`, a word to systemd.

pub mod blackhole;
pub mod device;
pub mod filter;
pub mod guard;
pub mod notify;
pub mod subnet_env;
