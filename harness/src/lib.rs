//! A conformance lab for overlays, made of Linux network namespaces.

pub mod capture;
pub mod suite;
pub mod topology;
