//! The configuration file: the agent's flags by their names, for those that neither the command line nor the
//! environment gives.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};
use serde_yaml_ng::{Mapping, Value};

/// Reads a configuration file into flags of `command`, without those whose environment variable is set.
///
/// # Errors
///
/// The file cannot be read, or holds anything but flags: each error names the file and the key.
pub(super) fn flags(path: &Path, command: &Command) -> Result<Vec<OsString>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("configuration file {shown}"))?;
    // An empty file is an empty mapping, as everywhere in YAML.
    let entries: Option<Mapping> =
        serde_yaml_ng::from_str(&text).with_context(|| format!("configuration file {shown}"))?;
    let mut flags = Vec::new();
    for (key, value) in entries.unwrap_or_default() {
        let Value::String(key) = key else {
            bail!("configuration file {shown}: {key:?} is not the name of a flag")
        };
        let arg = known(command, &key).with_context(|| {
            format!(
                "configuration file {shown}: no flag is called {key:?}; see postern {} --help",
                command.get_name()
            )
        })?;
        let given = arg.get_env().is_some_and(|name| std::env::var_os(name).is_some());
        let rendered =
            render(arg, &key, value).with_context(|| format!("configuration file {shown}: {key}"))?;
        if !given {
            flags.extend(rendered);
        }
    }
    // A value that its flag does not take is the file's fault: say so here, before it stands beside those of others.
    // What is missing may stand elsewhere.
    let checked = command.clone().no_binary_name(true).mut_args(|arg| arg.required(false));
    if let Err(error) = checked.try_get_matches_from(&flags) {
        // The rest of the message is about how to type it.
        let text = error.to_string();
        let cause = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) if !values.is_empty() => {
                bail!("configuration file {shown}: {cause}; it may be {}", values.join(", "))
            }
            _ => bail!("configuration file {shown}: {cause}"),
        }
    }
    Ok(flags)
}

fn known<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let named = |arg: &&Arg| arg.get_long() == Some(key) && !matches!(key, "config" | "help" | "version");
    command.get_arguments().find(named)
}

/// `key: value` as `--key=value`; a mapping or list for a flag that may be repeated.
fn render(arg: &Arg, key: &str, value: Value) -> Result<Vec<OsString>> {
    Ok(match value {
        Value::Null => Vec::new(),
        Value::Bool(on) if !arg.get_action().takes_values() => {
            if on {
                vec![format!("--{key}").into()]
            } else {
                Vec::new()
            }
        }
        Value::Mapping(entries) => {
            let entries = entries
                .into_iter()
                .map(|(name, value)| Ok(format!("--{key}={}={}", scalar(name)?, scalar(value)?).into()));
            entries.collect::<Result<_>>()?
        }
        Value::Sequence(values) => {
            let values = values.into_iter().map(|value| Ok(format!("--{key}={}", scalar(value)?).into()));
            values.collect::<Result<_>>()?
        }
        value => vec![format!("--{key}={}", scalar(value)?).into()],
    })
}

fn scalar(value: Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(on) => on.to_string(),
        _ => bail!("must be a text, a number or a list of these"),
    })
}

#[cfg(test)]
mod tests {
    use clap::{ArgAction, value_parser};

    use super::*;

    fn command() -> Command {
        Command::new("agent")
            .arg(Arg::new("node").long("node").required(true))
            .arg(Arg::new("attach").long("attach").value_parser(["auto", "tcx"]).env("POSTERN_TEST_ATTACH"))
            .arg(Arg::new("debug").long("debug-programs").action(ArgAction::SetTrue))
            .arg(Arg::new("timeout").long("timeout").action(ArgAction::Append))
            .arg(Arg::new("number").long("number").value_parser(value_parser!(u16)))
            .arg(Arg::new("config").long("config"))
    }

    fn read(text: &str) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = flags(file.path(), &command())
            .map_err(|error| format!("{error:#}").replace(&file.path().display().to_string(), "FILE"))?;
        Ok(flags.into_iter().map(|flag| flag.into_string().unwrap()).collect())
    }

    #[test]
    fn keys_are_flags() {
        let text =
            "attach: tcx\ndebug-programs: true\ntimeout: {opening: 30s, established: 5m}\nnumber: 7\nnode:\n";
        let flags = [
            "--attach=tcx",
            "--debug-programs",
            "--timeout=opening=30s",
            "--timeout=established=5m",
            "--number=7",
        ];
        assert_eq!(read(text).unwrap(), flags);
        assert_eq!(read("timeout: [a=1s, b=2s]").unwrap(), ["--timeout=a=1s", "--timeout=b=2s"]);
        assert_eq!(read("debug-programs: false").unwrap(), [""; 0]);
        assert_eq!(read("").unwrap(), [""; 0]);
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        for (text, message) in [
            ("atach: tcx", "configuration file FILE: no flag is called \"atach\"; see postern agent --help"),
            (
                "config: other.yaml",
                "configuration file FILE: no flag is called \"config\"; see postern agent --help",
            ),
            (
                "attach: {a: [b]}",
                "configuration file FILE: attach: must be a text, a number or a list of these",
            ),
            ("7: tcx", "configuration file FILE: Number(7) is not the name of a flag"),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
        let error = read("attach: tc").unwrap_err();
        let expected =
            "configuration file FILE: invalid value 'tc' for '--attach <attach>'; it may be auto, tcx";
        assert_eq!(error, expected);
        assert!(read("- a\n- b").unwrap_err().starts_with("configuration file FILE: invalid type: sequence"));
    }
}
