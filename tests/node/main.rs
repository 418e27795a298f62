//! A 3scale in pods on a genuine node, backed up and restored by a coordinator in the cluster. Each case has a cluster of its own;
//! two of them take minutes more, and are left to `make prove-kube`.

mod apart;
mod beside;
mod killed;
mod lost;
