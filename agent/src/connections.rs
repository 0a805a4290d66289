//! Connections of a server, of which there are never more than so many: whoever comes takes the place of the one that has
//! been silent longest. So neither those that say nothing take the descriptors that enforcement needs, nor does anybody
//! have to wait for them.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

/// How long a server waits after it could not accept: what is missing may come back.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a connection waits for the agent. The agent's own slowness is not held against it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Waits for the agent's work.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        let done = work.await;
        self.0.store(false, Ordering::Relaxed);
        done
    }
}

/// What connections come from.
pub(crate) trait Listener: Send {
    /// A connection.
    type Connection: Send;

    /// Waits for the next one.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Accepts connections for ever, at the most `limit` at once, and serves each in a task of its own. Dropping the future ends
/// them all.
pub(crate) async fn serve<L: Listener, S: Future<Output = ()> + Send + 'static>(
    what: &'static str,
    limit: usize,
    mut listener: L,
    serve: impl Fn(L::Connection, Busy) -> S,
) {
    let mut open = Open::default();
    let mut failing = false;
    loop {
        open.make_room(limit).await;
        match listener.accept().await {
            Ok(connection) => {
                if std::mem::take(&mut failing) {
                    info!("accepting {what} connections again");
                }
                let busy = Busy::default();
                open.add(serve(connection, busy.clone()), busy);
            }
            // Whoever came has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "accepting {what} connections failed; trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Those that are open, oldest first.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    order: VecDeque<(AbortHandle, Busy)>,
}

impl Open {
    fn add(&mut self, task: impl Future<Output = ()> + Send + 'static, busy: Busy) {
        self.order.push_back((self.tasks.spawn(task), busy));
    }

    /// Waits until there is room for one more; ends the oldest that does not wait for the agent.
    async fn make_room(&mut self, limit: usize) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.order.retain(|(task, _)| !task.is_finished());
            if self.tasks.len() < limit {
                return;
            }
            if let Some(silent) = self.order.iter().position(|(_, busy)| !busy.0.load(Ordering::Relaxed))
                && let Some((task, _)) = self.order.remove(silent)
            {
                task.abort();
            }
            // The descriptor is free once the task has ended.
            self.tasks.join_next().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    /// A server of numbers: each is served until it is dropped, and busy if even. Tells which are served and which ended.
    struct Served {
        connections: mpsc::UnboundedSender<io::Result<u32>>,
        ended: mpsc::UnboundedReceiver<u32>,
        begun: mpsc::UnboundedReceiver<u32>,
        server: tokio::task::JoinHandle<()>,
    }

    struct Accepted(mpsc::UnboundedReceiver<io::Result<u32>>);

    impl Listener for Accepted {
        type Connection = u32;

        async fn accept(&mut self) -> io::Result<u32> {
            match self.0.recv().await {
                Some(connection) => connection,
                None => std::future::pending().await,
            }
        }
    }

    struct Ends(u32, mpsc::UnboundedSender<u32>);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.1.send(self.0);
        }
    }

    fn served(limit: usize) -> Served {
        let (connections, accepted) = mpsc::unbounded_channel();
        let (end, ended) = mpsc::unbounded_channel();
        let (starts, begun) = mpsc::unbounded_channel();
        let server = tokio::spawn(async move {
            let one = move |number: u32, busy: Busy| {
                let (ends, starts) = (Ends(number, end.clone()), starts.clone());
                async move {
                    let _ends = ends;
                    let _ = starts.send(number);
                    if number.is_multiple_of(2) {
                        busy.during(std::future::pending::<()>()).await;
                    }
                    std::future::pending::<()>().await;
                }
            };
            serve("test", limit, Accepted(accepted), one).await;
        });
        Served { connections, ended, begun, server }
    }

    #[tokio::test]
    async fn the_oldest_silent_connection_makes_room() {
        let mut served = served(3);
        for number in [2, 1, 3, 5] {
            served.connections.send(Ok(number)).unwrap();
            assert_eq!(timeout(SHORT, served.begun.recv()).await, Ok(Some(number)));
        }
        assert_eq!(timeout(SHORT, served.ended.recv()).await, Ok(Some(1)), "2 waits for the agent");
        served.connections.send(Ok(4)).unwrap();
        assert_eq!(timeout(SHORT, served.ended.recv()).await, Ok(Some(3)));
    }

    #[tokio::test]
    async fn all_end_with_the_server() {
        let mut served = served(3);
        served.connections.send(Ok(1)).unwrap();
        assert_eq!(served.begun.recv().await, Some(1));
        served.server.abort();
        assert_eq!(served.ended.recv().await, Some(1));
    }

    #[tokio::test]
    async fn errors_do_not_end_the_server() {
        let mut served = served(3);
        for code in [libc::EMFILE, libc::ENFILE, libc::ECONNABORTED, libc::ENOBUFS] {
            served.connections.send(Err(io::Error::from_raw_os_error(code))).unwrap();
        }
        served.connections.send(Ok(1)).unwrap();
        assert_eq!(timeout(20 * SHORT, served.begun.recv()).await, Ok(Some(1)));
    }
}
