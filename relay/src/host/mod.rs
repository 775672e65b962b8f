//! What is changed on the machine: the device's address and route, `subnet.env`, a word to systemd.

pub mod device;
pub mod guard;
pub mod notify;
pub mod subnet_env;
