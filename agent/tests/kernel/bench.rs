//! The packet benchmark runs, and every packet in it ends as it says. Its figures are not looked at.

#[path = "../../benches/packet/bench.rs"]
mod packet;

use std::process::ExitCode;

#[test]
fn packet_benchmark_measures_what_it_says() {
    let arguments = ["packet", "--quick"].map(Into::into);
    assert_eq!(packet::run(arguments.into_iter()).unwrap(), ExitCode::SUCCESS);
}
