//! The container engine of this machine.

use std::time::Duration;

use testcontainers::bollard::Docker;
use testcontainers::core::client::docker_client_instance;

use super::Error;

/// How long the engine may take to answer before it counts as absent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A container engine that answers, on this machine.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    docker: Docker,
    version: String,
}

impl Engine {
    /// Finds the engine where testcontainers does: `DOCKER_HOST`, the system's socket, the user's.
    ///
    /// # Errors
    /// Why there is none, in a few words.
    pub(super) async fn find() -> Result<Self, String> {
        if let Ok(host) = std::env::var("DOCKER_HOST")
            && !host.starts_with("unix://")
        {
            // Neither its namespaces nor its directories would be ours.
            return Err(format!("the engine at DOCKER_HOST={host} is not on this machine"));
        }
        let docker = docker_client_instance().await.map_err(|error| root_cause(&error))?;
        let version = match tokio::time::timeout(ANSWERS_WITHIN, docker.version()).await {
            Ok(Ok(version)) => version,
            Ok(Err(error)) => return Err(format!("no engine answers: {}", root_cause(&error))),
            Err(_) => return Err(format!("the engine does not answer within {ANSWERS_WITHIN:?}")),
        };
        let version = version.version.unwrap_or_else(|| "unknown version".to_owned());
        Ok(Self { docker, version: format!("engine {version}") })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }
}

/// The innermost of an error's sources, which says what the layers above it do not.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}

/// Names what was being done when the engine refused.
pub(super) fn refused<E>(what: impl Into<String>) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let what = what.into();
    |source| Error::Engine { what, source: Box::new(source) }
}
