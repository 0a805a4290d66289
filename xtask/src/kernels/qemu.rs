//! QEMU without hardware support: slow, and the same everywhere.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::console::{Reader, Results};
use super::image::Image;

/// Megabytes of a guest. Maps, programs and their verification take about half of it.
const MEMORY: &str = "3072";
/// So many processors: tests of what happens at once need two.
const PROCESSORS: &str = "2";

/// A guest that runs; it is ended with this value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel, and passes on each line of the guest's work until it powers off, dies or its time is over. What the
/// kernel itself says goes to a file.
pub(super) fn run(
    image: &Image,
    initramfs: &Path,
    console: &Path,
    limit: Duration,
    mut each_line: impl FnMut(&str),
) -> Result<Results> {
    let started = Instant::now();
    let mut guest = start(image, initramfs, console)?;
    let lines = lines(&mut guest)?;
    let mut reader = Reader::new(started);
    loop {
        match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => {
                reader.line(&line, Instant::now());
                each_line(line.trim_end());
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                reader.timed_out();
                each_line(&format!("not done after {} seconds; --timeout gives it more", limit.as_secs()));
                break;
            }
        }
    }
    Ok(reader.finish(Instant::now()))
}

fn start(image: &Image, initramfs: &Path, console: &Path) -> Result<Guest> {
    let architecture = image.architecture;
    // A guest does not outlive this process, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", architecture.qemu()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-accel", "tcg,thread=multi", "-smp", PROCESSORS, "-m", MEMORY]);
    command.args(architecture.machine());
    command.arg("-kernel").arg(image.vmlinuz()).arg("-initrd").arg(initramfs);
    // Mitigations guard nobody here, and cost time.
    let arguments = format!("console={} loglevel=5 panic=1 mitigations=off", architecture.console());
    command.args(["-append", &arguments]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
    command.args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=results"]);
    command.args(["-device", "virtserialport,chardev=results"]);
    // At the end of its input QEMU would tell the guest that nobody listens: the pipe stays open as long as the guest.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(Guest(command.spawn().with_context(|| format!("run {}", architecture.qemu()))?))
}

/// Lines as they come, on a channel: reading them has no time limit.
fn lines(guest: &mut Guest) -> Result<Receiver<String>> {
    let output = guest.0.stdout.take().context("QEMU has no output")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    Ok(receiver)
}
