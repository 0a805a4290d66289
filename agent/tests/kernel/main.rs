//! The programs in the running kernel, packet by packet (`BPF_PROG_TEST_RUN`): real maps, real frames, no network.
//!
//! Needs root. Without it these tests fail; they are not skipped.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[macro_use]
mod worlds;

mod agents;
mod agreement;
mod allowed_again;
mod any_order;
mod astray;
mod bench;
mod budget;
mod churn;
mod connections;
mod control_flow;
mod expiry;
mod features;
mod fences;
mod floods;
mod frames;
mod fuzz;
mod hairpins;
mod link;
mod log;
mod node;
mod older;
mod overload;
mod parsing;
mod pinned_programs;
mod pins;
mod pod_netns;
mod ports;
mod post_nat;
mod privileges;
mod programs;
mod qdiscs;
mod realtime;
mod reasons;
mod recall;
mod refused;
mod related;
mod removal;
mod replacing;
mod reuse;
mod rig;
mod room;
mod services;
mod simultaneous;
mod spoofing;
mod swap;
mod tags;
mod tenants;
mod traffic;
mod tunnels;
mod wire;
mod wire_fuzz;
