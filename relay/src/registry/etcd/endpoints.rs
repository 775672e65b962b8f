//! One client for each member of etcd, used one at a time.
//!
//! The client library's own balancer spreads calls over all members, and a dead one, which fails fastest, gets more
//! than its share. Here a member is used until it fails, then the next one is; the first is chosen at random, so
//! that a cluster's nodes spread over the members.

use std::{
    error::Error,
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use tokio::time::timeout;

use super::{
    super::RegistryError,
    tls::{TlsFiles, hint},
};

/// Patience with one member for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// On top of that for the first call of a client, which connects: TCP and TLS take three times the way there and back,
/// and a token one more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// etcd ends a connection that pings more often than every 5 s (`--grpc-keepalive-min-time`).
const PING_INTERVAL: Duration = Duration::from_secs(7);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// gRPC's code for a server that cannot be reached or has no leader.
const UNAVAILABLE: i32 = 14;
/// gRPC's code for what a user has no right to.
const PERMISSION_DENIED: i32 = 7;
/// gRPC's code for a token that is missing or not known.
const UNAUTHENTICATED: i32 = 16;

/// The members of etcd.
pub(super) struct Endpoints {
    members: Vec<Member>,
    user: Option<(String, String)>,
    tls: TlsFiles,
    current: AtomicUsize,
}

struct Member {
    url: String,
    /// None before the first call and after a failure: the next client reads the TLS files anew.
    client: Mutex<Option<Client>>,
}

impl Endpoints {
    /// Nothing is sent until the first call. `urls` must not be empty.
    pub(super) fn new(urls: Vec<String>, user: Option<(String, String)>, tls: TlsFiles) -> Self {
        let current = AtomicUsize::new(fastrand::usize(..urls.len().max(1)));
        let members = urls.into_iter().map(|url| Member { url, client: Mutex::default() }).collect();
        Self { members, user, tls, current }
    }

    /// Goes on with another member, as the present one failed.
    pub(super) fn rotate(&self) {
        self.current.fetch_add(1, Relaxed);
    }

    /// Connects anew with the next call.
    pub(super) fn forget(&self) {
        self.members.iter().for_each(Member::forget);
    }

    /// Calls the present member, and each other one in turn while the member cannot be reached. A call refused for its
    /// token is made once more with a new one.
    ///
    /// A call whose answer was lost is made again, so it must bear being made twice.
    pub(super) async fn call<T, F>(
        &self,
        doing: &'static str,
        operation: impl Fn(Client) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut failure = RegistryError::Unavailable { doing, cause: "no endpoints".into() };
        for _ in 0..self.members.len() {
            let Some(member) = self.members.get(self.current.load(Relaxed) % self.members.len()) else {
                break;
            };
            let mut outcome = self.attempt(member, &operation).await;
            if self.user.is_some() && matches!(&outcome, Ok(Err(error)) if is_stale_token(error)) {
                member.forget();
                outcome = self.attempt(member, &operation).await;
            }
            match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    let cause = cause(&error);
                    let cause = format!("{}: {cause}{}", member.url, hint(&cause));
                    if is_denied(&error) {
                        return Err(RegistryError::Denied { doing, cause });
                    }
                    failure = RegistryError::Unavailable { doing, cause };
                    if !is_unreachable(&error) {
                        return Err(failure);
                    }
                    member.forget();
                }
                Err(after) => {
                    failure = RegistryError::Timeout { doing, after };
                    member.forget();
                }
            }
            tracing::debug!(error = %failure, "trying another etcd member");
            self.rotate();
        }
        Err(failure)
    }

    /// The answer, or how long was waited for one.
    async fn attempt<T, F>(
        &self,
        member: &Member,
        operation: impl Fn(Client) -> F,
    ) -> Result<Result<T, etcd_client::Error>, Duration>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let patience = if member.present().is_some() { CALL_TIMEOUT } else { CONNECT_TIMEOUT + CALL_TIMEOUT };
        let answer = async { operation(self.client(member).await?).await };
        timeout(patience, answer).await.map_err(|_| patience)
    }

    async fn client(&self, member: &Member) -> Result<Client, etcd_client::Error> {
        if let Some(client) = member.present() {
            return Ok(client);
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password).with_auto_token_refresh(true);
        }
        // The library refuses TLS options for an http:// endpoint.
        if let Some(tls) = self.tls.options_for(&member.url)? {
            options = options.with_tls(tls);
        }
        let client = Client::connect([&member.url], Some(options)).await?;
        *member.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

impl Member {
    fn present(&self) -> Option<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn is_denied(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() as i32 == PERMISSION_DENIED)
}

fn is_unreachable(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        etcd_client::Error::GRpcStatus(status) => {
            status.code() as i32 == UNAVAILABLE || status.source().is_some()
        }
        _ => false,
    }
}

/// Whether only a new token helps. The client library asks for one when a token has expired, but not when a JWT is from
/// before a change of users or roles.
fn is_stale_token(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    status.code() as i32 == UNAUTHENTICATED
        || ["invalid auth token", "revision of auth store is old"]
            .iter()
            .any(|words| status.message().contains(words))
}

/// What went wrong, with the last of its causes: "connection refused" rather than "transport error".
pub(super) fn cause(error: &etcd_client::Error) -> String {
    let (what, mut source): (String, Option<&dyn Error>) = match error {
        etcd_client::Error::GRpcStatus(status) => {
            (format!("{} ({:?})", status.message(), status.code()), status.source())
        }
        etcd_client::Error::TransportError(transport) => (transport.to_string(), transport.source()),
        other => (other.to_string(), None),
    };
    let mut last = None;
    while let Some(next) = source {
        last = Some(next);
        source = next.source();
    }
    last.map_or_else(|| what.clone(), |last| format!("{what}: {last}"))
}
