//! Recording of every packet at every interface of interest.

pub mod frame;
