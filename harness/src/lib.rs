//! A conformance lab for overlays, made of Linux network namespaces.

pub mod capture;
pub mod flow;
pub mod packet;
pub mod topology;
