//! What is changed on the machine: the device's address and route, packet filter rules, `subnet.env`, a word to systemd.

pub mod blackhole;
pub mod device;
pub mod filter;
pub mod guard;
#[cfg(test)]
mod namespace;
pub mod netlink;
pub mod notify;
pub mod port;
pub mod privileges;
pub mod subnet_env;
