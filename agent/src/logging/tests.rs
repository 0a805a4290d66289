//! Filters, and panics in a process of their own.

use std::process::Command;
use std::time::Duration;

use super::*;

#[test]
fn filters_are_levels_and_lists_of_these() {
    for (text, read) in [
        ("error", "error"),
        ("info", "info"),
        ("WARN", "warn"),
        ("warning", "warn"),
        ("off", "off"),
        ("info,kube_client=debug", "info,kube_client=debug"),
        ("info, postern::kube=Warning", "info,postern::kube=warn"),
        ("warn,postern[look{pod=a}]=trace", "warn,postern[look{pod=a}]=trace"),
    ] {
        assert_eq!(check_filter(text).as_deref(), Ok(read), "{text}");
    }
}

#[test]
fn what_is_no_level_is_refused() {
    for (text, message) in [
        (
            "loud",
            "\"loud\" is no level; it may be error, warn, info, debug, trace, off or, by module, MODULE=LEVEL",
        ),
        ("", "\"\" is no level"),
        ("info,", "\"\" is no level"),
        ("3", "\"3\" is no level"),
        ("postern", "\"postern\" is no level"),
        ("info,postern=loud", "\"loud\" is no level"),
        ("postern=", "\"\" is no level"),
        ("postern[look{pod=a}]", "names no level"),
    ] {
        let refused = check_filter(text).unwrap_err();
        assert!(refused.contains(message), "{text:?}: {refused}");
    }
}

/// Set in the process that is to panic.
const CHILD: &str = "POSTERN_TEST_PANIC";

#[test]
fn a_panic_in_a_task_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        begin("info", Format::Text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::spawn(async { panic!("a bug") });
            tokio::time::sleep(Duration::from_mins(1)).await;
        });
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "logging::tests::a_panic_in_a_task_ends_the_process"]);
    let output = command.env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(101), "{said}");
    assert!(said.contains("a bug; the agent ends, what is enforced stays enforced"), "{said}");
}
