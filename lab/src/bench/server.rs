//! The server: a thread on a processor of its own, which does for one site at a time what the client is about to measure.

use std::io::{self, Read, Write};
use std::sync::mpsc::Receiver;

use super::sockets::{Segments, ServerEnd};

/// The last byte of a conversation; all others are different.
pub(super) const LAST: u8 = b'.';
/// Bulk data is written and read in pieces of this size.
pub(super) const PIECE: usize = 256 * 1024;

/// What to do, in which site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// Position of the site.
    pub(super) site: usize,
    /// What.
    pub(super) work: Work,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Send every byte back, until the last one.
    Echo,
    /// Read everything up to the last byte, and send that one back.
    Sink(Segments),
    /// Accept so many connections, and close each at once.
    Accept(u32),
}

/// Works until no more jobs can come.
///
/// # Errors
/// A socket fails.
pub(super) fn serve(ends: &[ServerEnd], jobs: &Receiver<Job>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while let Ok(Job { site, work }) = jobs.recv() {
        let end = &ends[site];
        match work {
            Work::Echo => echo(end)?,
            Work::Sink(segments) => sink(end, segments, &mut piece)?,
            Work::Accept(count) => {
                for _ in 0..count {
                    drop(end.listener.accept()?);
                }
            }
        }
    }
    Ok(())
}

fn echo(end: &ServerEnd) -> io::Result<()> {
    let (mut stream, mut byte) = (&end.requests, [0]);
    while byte != [LAST] {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn sink(end: &ServerEnd, segments: Segments, piece: &mut [u8]) -> io::Result<()> {
    let mut stream = end.stream(segments);
    loop {
        let length = stream.read(piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if piece[length - 1] == LAST {
            return stream.write_all(&[LAST]);
        }
    }
}
