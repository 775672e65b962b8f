//! An overlay daemon: flannel's UDP backend with etcd v3.
