//! A conformance lab for overlays, made of Linux network namespaces.

pub mod capture;
pub mod etcd;
pub mod netns;
pub mod sandbox;
pub mod topology;
