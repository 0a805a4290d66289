//! The agent, fed by a real API server: what it enforces between a lab's real pods.

mod credentials;
mod faults;
mod garbled;
mod http;
mod objects;
mod scenarios;
mod world;
