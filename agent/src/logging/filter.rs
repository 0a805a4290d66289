//! What `--log-level` may be.

use tracing_subscriber::EnvFilter;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Checks a filter while there is still somebody to tell, and gives it as the library reads it.
///
/// The library takes any word that is no level for the name of a module, of which it then logs everything, and nothing of
/// all others.
pub(crate) fn check(text: &str) -> Result<String, String> {
    let words = split(text).into_iter().map(|word| directive(word.trim()));
    let text = words.collect::<Result<Vec<_>, _>>()?.join(",");
    EnvFilter::try_new(&text).map(|_| text).map_err(|error| error.to_string())
}

fn directive(word: &str) -> Result<String, String> {
    match word.rsplit_once('=') {
        None => level(word),
        // `=` within a span's fields.
        Some((_, value)) if value.contains(']') => Err(without_level(word)),
        Some((module, value)) => Ok(format!("{module}={}", level(value)?)),
    }
}

fn level(word: &str) -> Result<String, String> {
    if word.contains('[') {
        return Err(without_level(word));
    }
    let lower = word.to_ascii_lowercase();
    match lower.as_str() {
        // What other programs call it.
        "warning" => Ok("warn".to_owned()),
        known if LEVELS.contains(&known) => Ok(lower),
        _ => Err(format!(
            "{word:?} is no level; it may be {} or, by module, MODULE=LEVEL, with commas in between",
            LEVELS.join(", ")
        )),
    }
}

fn without_level(word: &str) -> String {
    format!("{word:?} names no level; write {word}=LEVEL")
}

/// At commas, but for those within a span's fields.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let split = text.split(move |character| {
        match character {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    });
    split.collect()
}
