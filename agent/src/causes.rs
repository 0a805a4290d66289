//! Errors in one line.

use std::error::Error;

/// An error and its causes, outermost first. Many errors name their cause already; it is not said twice.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        known if known.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_said_once() {
        let error = anyhow::anyhow!("no route").context("connecting: no route").context("watching Pods");
        assert_eq!(in_one_line(&*error), "watching Pods: connecting: no route");
    }
}
