//! `cargo xtask bench packet`: nanoseconds per packet. See `bench.rs`.

#[path = "bench.rs"]
mod bench;

use std::process::ExitCode;

fn main() -> ExitCode {
    match bench::run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench packet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
