//! Requests to the kernel's route netlink, with what tells whether an answer is whole.
//!
//! A dump that links or addresses changed under has `NLM_F_DUMP_INTR` in one of its messages, which may be the one that ends it: it
//! may lack what was there all along. rtnetlink's own requests pass neither that on nor how a dump ended.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::AsyncSocket as _;
use rtnetlink::Handle;

/// The kernel answers at once. An answer that is not understood is dropped on its way here, and never comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The kernel refused, or broke off.
    #[error("{0}")]
    Kernel(std::io::Error),
    /// The socket was closed.
    #[error("the netlink socket was closed in the middle of an answer")]
    Ended,
    /// Nothing comes.
    #[error("there was no answer within {} seconds", PATIENCE.as_secs())]
    Silent,
}

impl DumpError {
    pub(super) fn errno(&self) -> Option<i32> {
        if let Self::Kernel(error) = self { error.raw_os_error() } else { None }
    }
}

/// What a dump gave.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) messages: Vec<RouteNetlinkMessage>,
    /// Something changed meanwhile: what was there all along may be missing.
    pub(super) interrupted: bool,
}

/// Whoever answers: the kernel, or a test.
pub(super) trait Ask {
    /// Lists everything.
    async fn dump(&self, request: RouteNetlinkMessage) -> Result<Dump, DumpError>;

    /// One link; none where the kernel has none of this index.
    async fn link(&self, ifindex: u32) -> Result<Option<LinkMessage>, DumpError>;
}

/// A connection to the kernel.
#[derive(Debug)]
pub(super) struct Connection {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Opens one in this thread's network namespace.
    pub(super) fn open() -> std::io::Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        // Without strict checking the kernel passes IFA_TARGET_NETNSID over and answers for this namespace.
        connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
        connection.set_forward_done(true);
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// Whether it cannot be used any more.
    pub(super) fn is_closed(&self) -> bool {
        self.task.is_finished()
    }

    fn request(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, DumpError> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        self.handle.clone().request(message).map_err(|_| DumpError::Ended)
    }
}

impl Ask for Connection {
    async fn dump(&self, request: RouteNetlinkMessage) -> Result<Dump, DumpError> {
        let messages = self.request(request, NLM_F_DUMP)?;
        tokio::time::timeout(PATIENCE, read(messages)).await.unwrap_or(Err(DumpError::Silent))
    }

    async fn link(&self, ifindex: u32) -> Result<Option<LinkMessage>, DumpError> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        let mut messages = std::pin::pin!(self.request(RouteNetlinkMessage::GetLink(link), 0)?);
        let answer = tokio::time::timeout(PATIENCE, messages.next()).await.map_err(|_| DumpError::Silent)?;
        match answer.ok_or(DumpError::Ended)?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            NetlinkPayload::Error(error) if error.raw_code() == -libc::ENODEV => Ok(None),
            NetlinkPayload::Error(error) => Err(DumpError::Kernel(error.to_io())),
            _ => Err(DumpError::Ended),
        }
    }
}

/// Reads a dump to its end.
async fn read(messages: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>) -> Result<Dump, DumpError> {
    let mut messages = std::pin::pin!(messages);
    let mut dump = Dump::default();
    while let Some(message) = messages.next().await {
        dump.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(message) => dump.messages.push(message),
            NetlinkPayload::Done(done) => match -done.code {
                0 => return Ok(dump),
                libc::EINTR | libc::EAGAIN => return Ok(Dump { interrupted: true, ..dump }),
                errno => return Err(DumpError::Kernel(std::io::Error::from_raw_os_error(errno))),
            },
            NetlinkPayload::Error(error) => return Err(DumpError::Kernel(error.to_io())),
            // Messages were lost.
            NetlinkPayload::Overrun(_) => dump.interrupted = true,
            _ => {}
        }
    }
    Err(DumpError::Ended)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::stream;

    use super::*;

    /// A message as the kernel sends it in a dump: `RTM_NEWLINK` of index 7, without attributes.
    fn link(flags: u8) -> Vec<u8> {
        let mut bytes = vec![32, 0, 0, 0, 16, 0, 2 | flags, 0, 1, 0, 0, 0, 9, 0, 0, 0];
        bytes.extend([0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// `NLMSG_DONE` with an error.
    fn done(flags: u8, code: i32) -> Vec<u8> {
        let mut bytes = vec![20, 0, 0, 0, 3, 0, 2 | flags, 0, 1, 0, 0, 0, 9, 0, 0, 0];
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    fn dump(messages: &[Vec<u8>]) -> Result<Dump, DumpError> {
        let messages: Vec<_> = messages.iter().map(|it| NetlinkMessage::deserialize(it).unwrap()).collect();
        block_on(read(stream::iter(messages)))
    }

    #[test]
    fn an_interruption_is_seen_in_any_message() {
        for (messages, interrupted) in [
            ([link(0), done(0, 0)], false),
            ([link(16), done(0, 0)], true),
            ([link(0), done(16, 0)], true),
            ([link(0), done(0, -libc::EINTR)], true),
        ] {
            let dump = dump(&messages).unwrap();
            assert_eq!((dump.messages.len(), dump.interrupted), (1, interrupted), "{messages:?}");
        }
    }

    #[test]
    fn what_ends_otherwise_is_no_list() {
        assert!(matches!(dump(&[link(0)]), Err(DumpError::Ended)), "the socket went");
        let error = dump(&[link(0), done(0, -libc::ENODEV)]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
    }
}
