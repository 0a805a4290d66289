//! Running an installer with a line of progress: elapsed time and the last thing it said. All of it when it fails.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a sign of life this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Runs `command` to its end.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {shown}"))?;
    let (said, lines) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|pipe| read_lines(pipe, said.clone())),
        child.stderr.take().map(|pipe| read_lines(pipe, said)),
    ];
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("  {spinner} {elapsed} {wide_msg}")?);
    bar.enable_steady_tick(Duration::from_millis(120));
    let quiet = !std::io::stderr().is_terminal();
    let mut output = Vec::new();
    loop {
        match lines.recv_timeout(SIGN_OF_LIFE) {
            Ok(line) => {
                bar.set_message(line.clone());
                output.push(line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if quiet {
                    let last = output.last().map_or("", String::as_str);
                    println!("  {} s: {last}", bar.elapsed().as_secs());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    bar.finish_and_clear();
    for reader in readers.into_iter().flatten() {
        // A reader that panicked has said all it could.
        let _ = reader.join();
    }
    let status = child.wait().with_context(|| format!("wait for {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status}):\n{}", output.join("\n"));
    }
    Ok(())
}

fn read_lines(pipe: impl Read + Send + 'static, said: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                break;
            }
        }
    })
}
