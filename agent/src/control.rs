//! The agent's control socket: one JSON request a line, one JSON answer a line.
//!
//! A Unix socket that its owner alone may open; nothing here changes anything.

mod client;
mod server;

use serde::{Deserialize, Serialize};

use crate::controller::Antispoof;
use crate::datapath::counters::Counted;
use crate::datapath::readback::Foreign;
use crate::kube::KindStatus;

pub use self::client::{ClientError, ask};
pub use self::server::{Asking, Question, Server};

/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/postern/postern.sock";

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How the agent is.
    Status,
}

/// How an agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of a document that others read")]
pub struct Status {
    /// The node whose pods it looks after.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// `tcx` or `clsact`.
    pub attach: String,
    /// Whose senders are checked.
    pub antispoof: Antispoof,
    /// Fingerprint of the manifests that are enforced (see [`crate::manifests::digest`]); empty beside an API server.
    pub digest: String,
    /// How the watches of the API server are; empty beside a folder of manifests.
    #[serde(default)]
    pub watches: Vec<KindStatus>,
    /// The first picture of the cluster is complete: nothing new is enforced before.
    #[serde(default)]
    pub synced: bool,
    /// How packets to Services are judged: by the backend that each goes to, in netfilter's hooks (`behind-nat`) or on the devices that
    /// they leave by (`egress`), or by all backends of a frontend (`together`).
    #[serde(default)]
    pub services: String,
    /// How the agent came by its programs: `loaded`, or `reused`, as an earlier agent left them.
    #[serde(default)]
    pub programs: String,
    /// Milliseconds that this took.
    #[serde(default)]
    pub programs_in_ms: f64,
    /// Policy generation in the kernel.
    pub generation: u32,
    /// Everything known is enforced: the last change was carried out, and every isolated pod of this node that has an
    /// address has its veth guarded. Half a minute after it was noticed, a pod without a veth no longer counts here.
    pub ready: bool,
    /// A folder of manifests holds what nobody can read (`errors` says what): that keeps the agent from being ready.
    #[serde(default)]
    pub unread: bool,
    /// Everything that could be read is enforced.
    #[serde(default)]
    pub settled: bool,
    /// Milliseconds from when the last change of the cluster was there for the running agent to see, to the last write that
    /// enforced it.
    pub enforced_in_ms: f64,
    /// Isolated pods of this node whose veth has not been found yet.
    pub pending: Vec<String>,
    /// Isolated pods of this node whose veth was waited for in vain: they are not enforced, and listed under `errors`.
    #[serde(default)]
    pub pods_without_veth: usize,
    /// Veths that carry programs.
    pub endpoints: Vec<Endpoint>,
    /// What others have on these veths: programs and filters, before ours or after.
    #[serde(default)]
    pub foreign: Vec<Foreign>,
    /// The kernel is `PREEMPT_RT`, and the programs have memory for packets that interrupt each other.
    #[serde(default)]
    pub realtime: bool,
    /// What packets were counted under, since the maps were made.
    pub packets: Vec<Counted>,
    /// Lines of the log that standard error did not take, since the agent started.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// What is wrong now, with objects, with the kernel, with the API server.
    /// Of very many the first ones, and how many more there are.
    pub errors: Vec<String>,
    /// How many that are.
    #[serde(default)]
    pub errors_total: usize,
}

impl Status {
    /// What it has not heard enough of yet to begin, one line each.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        let waiting = self.watches.iter().filter(|watch| !watch.synced);
        waiting.map(|watch| format!("waiting for the first list of {}s", watch.kind))
    }
}

/// A veth that carries programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// `namespace/name`; none where it is not known.
    pub pod: Option<String>,
    /// Class of what it gets; 0: not isolated.
    pub ingress_class: u32,
    /// Class of what it sends; 0: not isolated.
    pub egress_class: u32,
    /// The pod's object is gone, or says that the pod has finished: its last policy holds until the veth goes.
    #[serde(default)]
    pub departed: bool,
    /// Nobody knows whose veth this is: nothing new passes.
    pub quarantined: bool,
    /// The pod may send from its own addresses alone.
    pub guarded: bool,
}
