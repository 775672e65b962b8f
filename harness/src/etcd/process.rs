//! A member as a child process.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::disk::Disk;
use super::options::Listen;
use super::{Body, Error, MemberSpec, Options, STOP_WITHIN, program, system};
use crate::netns::Namespace;

/// A child process, or what is needed to start it.
#[derive(Debug)]
pub(super) struct Process {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    namespace: Namespace,
    log: PathBuf,
    data: PathBuf,
    child: Option<Child>,
    /// Dropped after the child.
    _disk: Arc<Disk>,
}

/// Makes the members ready to be launched, with data in `dir/etcd/NAME` and logs in `dir/NAME.log`.
pub(super) fn prepare(members: &[MemberSpec], dir: &Path) -> Result<Vec<Body>, Error> {
    let program = program().ok_or(Error::NoProgram)?;
    let data = dir.join("etcd");
    let disk = Disk::create(data.clone()).map_err(system(format!("creating {}", data.display())))?;
    let disk = Arc::new(disk);
    let prepare = |spec: &MemberSpec| {
        // etcd creates its directory itself, with the permissions that it wants.
        let data = disk.path().join(&spec.name);
        let options = Options {
            name: &spec.name,
            address: spec.address,
            members,
            data: &data.to_string_lossy(),
            listen: Listen::Tcp,
        };
        Ok(Body::Process(Box::new(Process {
            program: program.clone(),
            environment: options.environment(),
            namespace: spec.namespace.clone(),
            log: dir.join(format!("{}.log", spec.name)),
            data,
            child: None,
            _disk: disk.clone(),
        })))
    };
    members.iter().map(prepare).collect()
}

impl Process {
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where its data are.
    pub(super) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(super) fn launch(&mut self) -> Result<(), Error> {
        if let Some(child) = &mut self.child
            && child.try_wait().map_err(system("looking after etcd"))?.is_none()
        {
            return Ok(());
        }
        let opening = || system(format!("opening etcd's log {}", self.log.display()));
        let out = OpenOptions::new().create(true).append(true).open(&self.log).map_err(opening())?;
        let err = File::try_clone(&out).map_err(opening())?;
        let mut command = Command::from(self.namespace.command(&self.program));
        command.env_clear().envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true);
        let child = command.spawn().map_err(system(format!("starting {}", self.program.display())))?;
        self.child = Some(child);
        Ok(())
    }

    pub(super) async fn stop(&mut self) -> Result<(), Error> {
        self.signal(Signal::SIGTERM, "stopping etcd")?;
        if let Some(child) = &mut self.child
            && let Ok(status) = tokio::time::timeout(STOP_WITHIN, child.wait()).await
        {
            status.map_err(system("waiting for etcd to end"))?;
            self.child = None;
        }
        self.kill().await
    }

    /// Sends a signal to the child, if it has not been seen to end.
    pub(super) fn signal(&self, signal: Signal, what: &str) -> Result<(), Error> {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
        match pid {
            Some(pid) => kill(Pid::from_raw(pid), signal).map_err(|errno| system(what)(errno.into())),
            None => Ok(()),
        }
    }

    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(system("killing etcd"))?;
        }
        Ok(())
    }

    pub(super) async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            None => "it was never started".to_owned(),
        }
    }

    pub(super) fn log(&self) -> String {
        fs::read(&self.log)
            .map_or_else(|error| error.to_string(), |log| String::from_utf8_lossy(&log).into_owned())
    }
}
