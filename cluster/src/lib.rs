//! A real Kubernetes in network namespaces of this machine, to try Postern on.
//!
//! [`programs`] builds Kubernetes, etcd, CoreDNS and Helm from their Go modules once; [`control_plane`] is etcd and kube-apiserver
//! alone, up in a few seconds; [`cluster`] adds nodes with containerd, kubelet and kube-proxy, and CoreDNS on them. Nothing listens
//! on the machine's own addresses: the control plane lives in a network namespace, and a [`relay`] takes a process of any other namespace there.
//!
//! Architecture invariant: whatever a run makes carries its name, and goes when the run ends, or when the next one
//! finds that its process is gone ([`run`]).

pub mod api;
pub mod bench;
pub mod cluster;
pub mod control_plane;
pub mod dns;
pub mod e2e;
pub mod fabric;
pub mod faulty;
pub mod files;
pub mod image;
pub mod init;
pub mod kept;
pub mod kubeconfig;
pub mod launcher;
pub mod manifest;
pub mod mirror;
pub mod node;
pub mod pki;
pub mod programs;
pub mod relay;
pub mod run;
pub mod service;
pub mod world;
