//! `cargo xtask`: the repository's commands.
//!
//! Thin: it installs what is missing, calls cargo, and hands over to the binaries that cargo built.

mod architecture;
mod bench;
mod build;
mod cluster;
mod fuzz;
mod image;
mod kernels;
mod setup;
mod static_binary;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::architecture::Architecture;

/// The repository's commands. Each sets up first what is missing.
///
/// Examples:
///   cargo xtask demo          a policy story on two nodes, with real sockets
///   cargo xtask test          every test
///   cargo xtask lab --help    a cluster in network namespaces to play with
///
/// Exit status: 0 when done, not 0 when anything failed; `lab`, `demo`, `bench traffic` and `cluster` give
/// that of the binary that they run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building and testing need, and is not there yet.
    ///
    /// rust-src for the pinned toolchain, Debian packages, bpf-linker. Needs root for the packages; where it cannot do
    /// something itself, it prints the commands to run.
    ///
    /// Example:
    ///   cargo xtask setup
    #[command(verbatim_doc_comment)]
    Setup,
    /// Build the eBPF programs and all binaries, and say where they are.
    ///
    /// Examples:
    ///   cargo xtask build              what the lab, the demo and the tests use
    ///   cargo xtask build --release    the same, optimised
    ///   cargo xtask build --target aarch64    the one static binary of the image, as shipped
    #[command(verbatim_doc_comment)]
    Build {
        /// Optimised. The default profile builds faster and shares its objects with the lab and the tests.
        #[arg(long)]
        release: bool,
        /// Only `postern`, for this processor, optimised and without shared libraries: what an image holds. May be given more than
        /// once.
        #[arg(long, value_name = "ARCH")]
        target: Vec<Architecture>,
    },
    /// Make a container image without a daemon: an archive that `ctr images import`, `podman load` and `docker load` read.
    ///
    /// One static binary and its licence texts, for both processors. The same sources make the same digest.
    ///
    /// Examples:
    ///   cargo xtask image
    ///   cargo xtask image --target aarch64
    ///   cargo xtask image --tag registry.example/postern:0.1.0 -o postern.tar
    #[command(verbatim_doc_comment)]
    Image(image::Image),
    /// Build, load every eBPF program into the running kernel, print what the verifier says.
    ///
    /// Examples:
    ///   cargo xtask load
    ///   cargo xtask load --iface veth0
    ///   cargo xtask load --detach
    #[command(verbatim_doc_comment)]
    Load {
        /// Attach to this interface too, and leave the programs there.
        #[arg(long)]
        iface: Option<String>,
        /// Take off again what an earlier --iface attached.
        #[arg(long, conflicts_with = "iface")]
        detach: bool,
    },
    /// A cluster in network namespaces: run scenarios, or keep one alive to play with.
    ///
    /// Examples:
    ///   cargo xtask lab run -f lab/scenarios/demo/base
    ///   cargo xtask lab up -f lab/scenarios/demo/base
    ///   cargo xtask lab --help
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    Lab {
        /// Arguments of `postern-lab`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// A real Kubernetes in network namespaces: kube-apiserver, kubelets, containerd. Builds it first, once.
    ///
    /// Examples:
    ///   cargo xtask cluster up
    ///   cargo xtask cluster kubectl get nodes
    ///   cargo xtask cluster --help
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    Cluster {
        /// Arguments of `postern-cluster`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Try policies on a real cluster, with real probes: the one that is up, or another's kubeconfig.
    ///
    /// Examples:
    ///   cargo xtask e2e
    ///   cargo xtask e2e --kubeconfig ~/.kube/config
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    E2e {
        /// Arguments of `postern-cluster e2e`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// The policy story: two nodes, real agents, real TCP and UDP connections, from all open to just what is needed.
    ///
    /// Examples:
    ///   cargo xtask demo
    ///   cargo xtask demo -o json
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    Demo {
        /// Arguments of `postern-lab demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run every test, as root: formatting, lints, unit, property, kernel and lab tests.
    ///
    /// Examples:
    ///   cargo xtask test
    ///   cargo xtask test --long
    ///   cargo xtask test policy    only tests whose name holds this; no formatting, no lints
    ///   cargo xtask test --cluster those that need a real Kubernetes, and no others
    #[command(verbatim_doc_comment)]
    Test {
        /// More random cases (`POSTERN_CASES=10000`), ten minutes of fuzzing (`POSTERN_FUZZ_SECONDS=600`), and everything
        /// else that takes long (`POSTERN_LONG=1`).
        #[arg(long)]
        long: bool,
        /// The tests with a real Kubernetes instead. Builds it first, once: about 20 minutes on two processors.
        #[arg(long, conflicts_with = "long")]
        cluster: bool,
        /// Only tests whose name holds this.
        filter: Option<String>,
    },
    /// Show malformed and adversarial frames to the programs, send others between pods and their node, and compare with independent models.
    ///
    /// The seed is printed; what disagrees is made small and printed as hex frames.
    ///
    /// Examples:
    ///   cargo xtask fuzz --seconds 3600
    ///   cargo xtask fuzz --seconds 60 --seed 4711
    #[command(verbatim_doc_comment)]
    Fuzz {
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Repeat the run that printed this seed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Load the programs and run their tests on other kernels, in QEMU.
    ///
    /// Kernels come as Debian's packages, and stay in `~/.cache/postern/kernels`. Nothing is installed but QEMU.
    ///
    /// Examples:
    ///   cargo xtask kernels                       6.1 and the newest, with the tests that fit into a few minutes
    ///   cargo xtask kernels --kernel 6.1 --load   only what the verifier of 6.1 says
    ///   cargo xtask kernels --kernel 6.12-rt services
    ///   cargo xtask kernels --kernel 6.12-arm64 --load
    ///   cargo xtask kernels --all                 every kernel: half an hour
    ///   cargo xtask kernels --all --every-test --timeout 14400
    #[command(verbatim_doc_comment)]
    Kernels(kernels::Kernels),
    /// Measure.
    ///
    /// Examples:
    ///   cargo xtask bench engine     what an event costs the policy engine
    ///   cargo xtask bench packet     what a packet costs in the kernel
    ///   cargo xtask bench traffic    what policy costs packets and connections
    ///   cargo xtask bench scale      what an agent costs in a large cluster
    #[command(verbatim_doc_comment)]
    Bench {
        /// What to measure.
        #[command(subcommand)]
        what: bench::Bench,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    setup::run()?;
    match command {
        Command::Setup => {
            println!("setup: everything is there");
            Ok(())
        }
        Command::Build { release, target } if target.is_empty() => build::report(release),
        Command::Build { target, .. } => static_binary::report(&target),
        Command::Image(image) => image::run(image),
        Command::Load { iface, detach } => {
            let mut arguments = vec![OsString::from("load")];
            arguments.extend(iface.into_iter().flat_map(|iface| ["--iface".into(), iface.into()]));
            arguments.extend(detach.then(|| "--detach".into()));
            build::become_binary("postern", &arguments)
        }
        Command::Lab { arguments } => build::become_binary("postern-lab", &arguments),
        Command::Demo { arguments } => {
            let arguments: Vec<OsString> = [OsString::from("demo")].into_iter().chain(arguments).collect();
            build::become_binary("postern-lab", &arguments)
        }
        Command::Cluster { arguments } => cluster::become_it(&arguments),
        Command::E2e { arguments } => {
            let arguments: Vec<OsString> = [OsString::from("e2e")].into_iter().chain(arguments).collect();
            cluster::become_it(&arguments)
        }
        Command::Test { cluster: true, filter, .. } => {
            setup::cluster()?;
            test::cluster(filter.as_deref())
        }
        Command::Test { long, filter, .. } => test::run(long, filter.as_deref()),
        Command::Fuzz { seconds, seed } => fuzz::run(seconds, seed),
        Command::Kernels(arguments) => kernels::run(&arguments),
        Command::Bench { what } => bench::run(what),
    }
}
