//! What a panic comes to: the end of the process.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::Ordering;

use tracing::error;

/// What the runtime of Rust ends with, too.
const CODE: i32 = 101;

pub(super) fn end_the_process() {
    panic::set_hook(Box::new(|panic| {
        if super::ENDING.load(Ordering::Relaxed) {
            return;
        }
        report(panic);
        super::end();
        std::process::exit(CODE);
    }));
}

fn report(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let message = message(panic.payload());
    error!(
        thread = thread.name().unwrap_or_default(),
        "panicked at {location}: {message}; the agent ends, what is enforced stays enforced{backtrace}"
    );
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("for no reason given")
}
