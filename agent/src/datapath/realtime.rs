//! Whether programs of one CPU interrupt each other: on `PREEMPT_RT` kernels, what runs in softirqs is preempted like any other task.

/// Whether this kernel is one.
#[must_use]
pub fn is_realtime() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    says_realtime(&read("/sys/kernel/realtime"), &read("/proc/sys/kernel/version"))
}

/// By the file that such kernels have (`CONFIG_PREEMPT_RT`, `kernel/ksysfs.c`), and by the version, as `uname -v` prints it
/// (`scripts/mkcompile_h`): sysfs may not be there.
fn says_realtime(file: &str, version: &str) -> bool {
    file.trim() == "1" || version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

#[cfg(test)]
mod tests {
    use super::says_realtime;

    #[test]
    fn kernels_say_it_in_two_places() {
        for (file, version, expected) in [
            ("1\n", "", true),
            ("", "#1 SMP PREEMPT_RT Debian 6.12.57-1 (2025-11-05)\n", true),
            ("", "#1 SMP PREEMPT_DYNAMIC @0\n", false),
            ("0\n", "#1 SMP PREEMPT Fri\n", false),
            ("", "", false),
        ] {
            assert_eq!(says_realtime(file, version), expected, "{file:?} {version:?}");
        }
    }
}
