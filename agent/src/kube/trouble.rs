//! What can be wrong with a watch, and what to do about it.

use std::fmt;

use kube::core::Status;
use kube::runtime::watcher::Error;

use crate::causes::in_one_line;
use crate::convert::object::Kind;

/// The causes that call for different answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cause {
    /// No connection, or it broke.
    Unreachable,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 429
    Busy,
    /// 410: what the watch was to go on from is no longer there. Listing anew mends it.
    Expired,
    /// 5xx
    Failing,
    /// 4xx otherwise: the request itself.
    Refused,
    /// An answer that is not one.
    Garbled,
}

impl Cause {
    /// For metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Busy => "busy",
            Self::Expired => "expired",
            Self::Failing => "failing",
            Self::Refused => "refused",
            Self::Garbled => "garbled",
        }
    }

    const fn way_out(self) -> &'static str {
        match self {
            Self::Unreachable => "is it running, and reachable from this node?",
            Self::Unauthorized => {
                "its token or certificate is not accepted: does the ServiceAccount still exist?"
            }
            Self::Forbidden => "apply the ClusterRole and its binding from deploy/",
            Self::Busy => "it is overloaded",
            Self::Expired => "listing anew",
            Self::Failing => "look at its own log",
            Self::Refused => "is it older than this agent knows?",
            Self::Garbled => "is something else answering in its place?",
        }
    }
}

/// Something wrong with a watch.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    pub(super) cause: Cause,
    message: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watching {}s: {}; {}", self.kind, self.message, self.cause.way_out())
    }
}

impl Trouble {
    pub(super) fn new(kind: Kind, error: &Error) -> Self {
        let (cause, message) = match error {
            Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
                client(error)
            }
            Error::WatchError(status) => answered(status),
            Error::NoResourceVersion => (Cause::Garbled, "an object without a resourceVersion".to_owned()),
        };
        Self { kind, cause, message }
    }

    /// A list that does not come to its end.
    pub(super) fn stalled(kind: Kind) -> Self {
        Self { kind, cause: Cause::Garbled, message: "the streamed list does not come to an end".to_owned() }
    }
}

fn client(error: &kube::Error) -> (Cause, String) {
    match error {
        kube::Error::Api(status) => answered(status),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => (Cause::Garbled, in_one_line(error)),
        _ => (Cause::Unreachable, in_one_line(error)),
    }
}

fn answered(status: &Status) -> (Cause, String) {
    let cause = match status.code {
        401 => Cause::Unauthorized,
        403 => Cause::Forbidden,
        410 => Cause::Expired,
        429 => Cause::Busy,
        400..=499 => Cause::Refused,
        _ => Cause::Failing,
    };
    let message = if status.message.is_empty() { &status.reason } else { &status.message };
    (cause, format!("the API server answers {}: {}", status.code, message.trim()))
}
