//! Route netlink (rtnetlink(7)), each socket on a thread of its own.
//!
//! The kernel serves a request inside the `send` that brings it, and most of them only once it has `rtnl_mutex`, which
//! others on the machine may hold for seconds, as by taking many devices away. On the event loop that `send` would hold up
//! renewals and answers as well.

use std::{io, thread, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{Interval, interval, sleep},
};

/// Between a change and the look at its outcome: what is replaced is often replaced in two steps. It also keeps a quarrel with
/// another program slow.
const SETTLE: Duration = Duration::from_millis(100);
/// Between two looks without a change, should a notice be lost that nothing tells of.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What the kernel tells of a change.
pub type Notice = NetlinkMessage<RouteNetlinkMessage>;

/// Tells when something may have changed.
pub struct Watch {
    // Before the handle, so that it is dropped before it.
    notices: BoxStream<'static, Notice>,
    /// For the looks. A socket of their own: while one listing is under way on a socket the kernel refuses another (EBUSY).
    pub handle: Handle,
    looks: Interval,
}

impl Watch {
    /// # Errors
    /// Those of [`connect`].
    pub async fn open(groups: &'static [MulticastGroup]) -> io::Result<Self> {
        let (handle, notices) = connect(groups).await?;
        Ok(Self { handle, notices, looks: interval(LOOK_EVERY) })
    }

    /// Waits until there is reason to look: at first at once, for what was changed before the socket was there; then after a
    /// notice that `concerns` those who look, and now and then without any.
    ///
    /// # Errors
    /// The socket is lost.
    pub async fn changed(&mut self, concerns: impl Fn(&Notice) -> bool) -> io::Result<()> {
        loop {
            tokio::select! {
                notice = self.notices.next() => match notice {
                    Some(notice) if is_overrun(&notice) || concerns(&notice) => {
                        sleep(SETTLE).await;
                        break;
                    }
                    Some(_) => {}
                    None => return Err(io::Error::other("the netlink socket was closed")),
                },
                _ = self.looks.tick() => break,
            }
        }
        while let Some(Some(_)) = self.notices.next().now_or_never() {}
        Ok(())
    }

    /// Has the next look, if nothing else does, follow soon: one has failed.
    pub fn look_again(&mut self) {
        self.looks.reset_after(SETTLE);
    }
}

/// Opens a socket in the calling thread's network namespace; the stream is what the kernel tells `groups`. The socket goes
/// once the stream and then the last handle are dropped.
///
/// # Errors
/// The socket or its thread cannot be made.
pub async fn connect(groups: &'static [MulticastGroup]) -> io::Result<(Handle, BoxStream<'static, Notice>)> {
    let (opened, connected) = oneshot::channel();
    thread::Builder::new().name("relay-netlink".into()).spawn(move || {
        let socket = runtime().and_then(|runtime| {
            let entered = runtime.enter();
            let (connection, handle, notices) = rtnetlink::new_multicast_connection(groups)?;
            drop(entered);
            Ok((runtime, connection, handle, notices))
        });
        match socket {
            Ok((runtime, connection, handle, notices)) => {
                if opened.send(Ok((handle, notices))).is_ok() {
                    runtime.block_on(connection);
                }
            }
            Err(error) => {
                // Whoever asked may have ended.
                let _ = opened.send(Err(error));
            }
        }
    })?;
    let (handle, notices) =
        connected.await.unwrap_or_else(|_| Err(io::Error::other("the thread for netlink has ended")))?;
    Ok((handle, notices.map(|(notice, _)| notice).boxed()))
}

/// Whether notices were lost, the socket having had no room for more.
fn is_overrun(notice: &Notice) -> bool {
    matches!(notice.payload, NetlinkPayload::Overrun(_))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().build()
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use futures_util::TryStreamExt;
    use tokio::time::{sleep, timeout};

    use super::{super::namespace, *};

    fn threads() -> usize {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let name = |task: io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
        tasks.filter_map(name).filter(|name| name.trim_end() == "relay-netlink").count()
    }

    #[test]
    fn notices_come_and_the_thread_goes_with_the_last_handle() {
        namespace::run(
            "host::netlink::tests::notices_come_and_the_thread_goes_with_the_last_handle",
            async {
                let (handle, mut notices) = connect(&[MulticastGroup::Link]).await.unwrap();
                assert_eq!(threads(), 1);
                let lo: Vec<_> = handle.link().get().match_index(1).execute().try_collect().await.unwrap();
                assert_eq!(lo.len(), 1, "the new namespace, which has nothing else");
                handle
                    .link()
                    .set(rtnetlink::LinkUnspec::new_with_index(1).up().build())
                    .execute()
                    .await
                    .unwrap();
                let notice = timeout(Duration::from_secs(5), notices.next()).await.unwrap().unwrap();
                assert_eq!(notice.header.message_type, libc::RTM_NEWLINK);
                drop(notices);
                drop(handle);
                let gone = async {
                    while threads() > 0 {
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                timeout(Duration::from_secs(5), gone).await.unwrap();
            },
        );
    }
}
