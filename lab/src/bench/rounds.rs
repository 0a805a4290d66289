//! Rounds: in each, every workload visits every site once, in random order, so that whatever else the machine does meets
//! all of them alike.

use std::io;
use std::sync::mpsc;
use std::thread;

use super::checks::{self, Received};
use super::processor::Processors;
use super::site::Site;
use super::sockets;
use super::workload::{Client, Workload};
use super::{Options, processor, server};

/// Measuring failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sockets could not be opened.
    #[error(transparent)]
    Sockets(#[from] sockets::Error),
    /// A scenario is not what it is taken for.
    #[error(transparent)]
    Checks(#[from] checks::Error),
    /// The threads have no processor.
    #[error(transparent)]
    Processors(#[from] processor::Error),
    /// A slice failed.
    #[error("{scenario}: measure {workload:?}: {error}")]
    Slice {
        /// The scenario.
        scenario: String,
        /// What was measured.
        workload: Workload,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

/// Figures by workload, site and round.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// One list of rounds per site, for each of [`Workload::ALL`].
    pub(super) of: [Vec<Vec<f64>>; Workload::ALL.len()],
    /// The processors of client and server.
    pub(super) processors: Processors,
}

/// Measures everything on this thread, with a server on another.
pub(super) fn run(sites: &[Site], options: &Options, mut done: impl FnMut(u32)) -> Result<Samples, Error> {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for site in sites {
        let (client, server) = sockets::open(site)?;
        near.push(client);
        far.push(server);
    }
    let mut processors = Processors::choose(options.apart)?;
    processors.real_time = processor::occupy(processors.client)?;
    let (jobs, to_do) = mpsc::channel();
    // Not joined: when a slice fails, it may wait for the client for some seconds more.
    thread::spawn(move || {
        let occupied = processor::occupy(processors.server).map_err(|error| error.error);
        // The client notices that nobody answers any more.
        if let Err(error) = occupied.and_then(|_| server::serve(&far, &to_do)) {
            eprintln!("postern-lab: the server: {error}");
        }
    });
    let client = Client { ends: near, jobs };
    let mut samples = Samples { processors, ..Samples::default() };
    warm_up(sites, &client)?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    for of in &mut samples.of {
        of.resize(sites.len(), Vec::new());
    }
    for round in 0..options.rounds {
        for (workload, of) in Workload::ALL.into_iter().zip(&mut samples.of) {
            let mut order: Vec<usize> = (0..sites.len()).collect();
            random.shuffle(&mut order);
            for site in order {
                of[site].push(slice(sites, &client, workload, site)?);
            }
        }
        done(round + 1);
    }
    check_streams(sites, &client)?;
    Ok(samples)
}

/// Every slice once, so that caches are warm and neighbours known; streams with an eye on their packets.
fn warm_up(sites: &[Site], client: &Client) -> Result<(), Error> {
    for workload in [Workload::TcpLatency, Workload::UdpCpu, Workload::Connection] {
        for site in 0..sites.len() {
            slice(sites, client, workload, site)?;
        }
    }
    check_streams(sites, client)
}

fn check_streams(sites: &[Site], client: &Client) -> Result<(), Error> {
    for (number, site) in sites.iter().enumerate() {
        for (workload, many) in [(Workload::Throughput, true), (Workload::ThroughputWithoutGso, false)] {
            let before = Received::by(site)?;
            slice(sites, client, workload, number)?;
            before.check(site, many)?;
        }
    }
    Ok(())
}

fn slice(sites: &[Site], client: &Client, workload: Workload, site: usize) -> Result<f64, Error> {
    let scenario = || sites[site].enforcer.to_string();
    client.slice(workload, site).map_err(|error| Error::Slice { scenario: scenario(), workload, error })
}
