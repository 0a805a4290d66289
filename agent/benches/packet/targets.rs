//! What the figures should be.

use super::cells::{Cell, Packet, Sources, Table};
use super::rig::Program;
use super::rounds::Subject;
use super::samples::Summary;

/// What an established flow may cost, in what reading its packet and looking it up costs.
const ESTABLISHED: f64 = 1.5;
/// Nanoseconds that a new flow may cost.
const NEW: f64 = 600.0;
/// Nanoseconds that a denied packet may cost.
const DENIED: f64 = 150.0;
/// By how much the largest policy set may cost more than the smallest.
pub(super) const GROWTH: f64 = 0.15;

/// The most that a packet should cost; none where it is up to the processor's caches.
pub(super) fn target(cell: Cell, measured: &[(Subject, Summary)]) -> Option<f64> {
    match cell.packet {
        Packet::Established(flows) => {
            let floor = Subject::Floor(Program::Flow, cell.family, flows);
            let floor = measured.iter().find(|(subject, _)| *subject == floor);
            floor.map(|(_, floor)| floor.median * ESTABLISHED)
        }
        // Up to the kernel's memory.
        Packet::New(_, Table::Growing, _) => None,
        Packet::New(_, _, Sources::One) | Packet::NewToService => Some(NEW),
        Packet::DeniedSource(_, Sources::One)
        | Packet::DeniedPort
        | Packet::DeniedSynToClient
        | Packet::DeniedAck
        | Packet::DeniedAckOfPods => Some(DENIED),
        Packet::NotIsolated | Packet::EstablishedToService | Packet::New(..) | Packet::DeniedSource(..) => {
            None
        }
    }
}
