//! The programs in the running kernel, packet by packet (`BPF_PROG_TEST_RUN`): real maps, real frames, no network.
//!
//! Needs root. Without it these tests fail; they are not skipped.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod agreement;
mod connections;
mod expiry;
mod frames;
mod node;
mod parsing;
mod ports;
mod programs;
mod reasons;
mod related;
mod replacing;
mod rig;
mod traffic;
