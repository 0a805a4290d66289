//! `--timeout STATE=DURATION`

use std::time::Duration;

use clap::ValueEnum;
use jiff::SignedDuration;
use postern_common::conntrack::Lifetimes;

/// Below this, answers would not come in time.
const SHORTEST: Duration = Duration::from_secs(1);
/// Beyond this, a typing error is more likely than a purpose.
const LONGEST: Duration = Duration::from_hours(30 * 24);

/// How long flows live without packets in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout {
    state: State,
    nanoseconds: u64,
}

/// States that have a timeout (see docs/packet-path.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    TcpOpening,
    TcpEstablished,
    TcpClosing,
    Opening,
    Established,
}

/// What is wrong with a timeout.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TimeoutError {
    /// No `=`.
    #[error("a timeout is STATE=DURATION, such as tcp-established=2h30m")]
    Form,
    /// Another state.
    #[error("{0:?} is no state; there are tcp-opening, tcp-established, tcp-closing, opening, established")]
    State(String),
    /// Not a duration.
    #[error("{0:?} is no duration; write 90s, 5m, 6h or 2h30m")]
    Duration(String),
    /// Too short or too long.
    #[error("{0} is out of range; a timeout is between 1s and 30 days (720h)")]
    Range(String),
}

impl std::str::FromStr for Timeout {
    type Err = TimeoutError;

    fn from_str(text: &str) -> Result<Self, TimeoutError> {
        let (state, duration) = text.split_once('=').ok_or(TimeoutError::Form)?;
        let state = State::from_str(state, false).map_err(|_| TimeoutError::State(state.to_owned()))?;
        let parsed: SignedDuration =
            duration.parse().map_err(|_| TimeoutError::Duration(duration.to_owned()))?;
        let range = || TimeoutError::Range(duration.to_owned());
        let parsed = Duration::try_from(parsed).map_err(|_| range())?;
        if !(SHORTEST..=LONGEST).contains(&parsed) {
            return Err(range());
        }
        let nanoseconds = u64::try_from(parsed.as_nanos()).map_err(|_| range())?;
        Ok(Self { state, nanoseconds })
    }
}

/// The default lifetimes with these instead; of several for one state, the last.
pub(super) fn lifetimes(timeouts: &[Timeout]) -> Lifetimes {
    let mut lifetimes = Lifetimes::DEFAULT;
    for Timeout { state, nanoseconds } in timeouts {
        let lifetime = match state {
            State::TcpOpening => &mut lifetimes.tcp_opening,
            State::TcpEstablished => &mut lifetimes.tcp_established,
            State::TcpClosing => &mut lifetimes.tcp_closing,
            State::Opening => &mut lifetimes.opening,
            State::Established => &mut lifetimes.established,
        };
        *lifetime = *nanoseconds;
    }
    lifetimes
}

#[cfg(test)]
mod tests {
    use postern_common::conntrack::SECOND;

    use super::*;

    fn parse(text: &str) -> Result<Timeout, String> {
        text.parse().map_err(|error: TimeoutError| error.to_string())
    }

    #[test]
    fn each_state_has_its_own() {
        let all =
            ["tcp-opening=1s", "tcp-established=2h30m", "tcp-closing=3m", "opening=90s", "established=720h"];
        let timeouts = all.map(|text| parse(text).unwrap());
        let expected = Lifetimes {
            tcp_opening: SECOND,
            tcp_established: 9000 * SECOND,
            tcp_closing: 180 * SECOND,
            opening: 90 * SECOND,
            established: 720 * 3600 * SECOND,
        };
        assert_eq!(lifetimes(&timeouts), expected);
        assert_eq!(lifetimes(&[]), Lifetimes::DEFAULT);
        let twice = ["opening=5s", "opening=6s"].map(|text| parse(text).unwrap());
        assert_eq!(lifetimes(&twice), Lifetimes { opening: 6 * SECOND, ..Lifetimes::DEFAULT });
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, said) in [
            ("", "STATE=DURATION"),
            ("tcp-opening", "STATE=DURATION"),
            ("tcp=5s", "\"tcp\" is no state"),
            ("opening=", "\"\" is no duration"),
            ("opening=soon", "\"soon\" is no duration"),
            ("opening=60", "\"60\" is no duration"),
            ("opening=0s", "0s is out of range"),
            ("opening=999ms", "999ms is out of range"),
            ("opening=-5m", "-5m is out of range"),
            ("opening=721h", "721h is out of range"),
            ("opening=99999999999h", "is"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
