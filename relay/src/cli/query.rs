//! `relay status` and `relay routes`.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, ValueEnum};

use crate::{
    control,
    http::status::{Route, Status},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
    /// The daemon's state
    Status,
    /// Which node has which subnet
    Routes,
}

/// Asks a running relay.
#[derive(Debug, Parser)]
#[command(name = "relay", max_term_width = 100)]
struct Query {
    question: Question,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The running relay's --subnet-file, beside which its socket is
    #[arg(long, env = "FLANNELD_SUBNET_FILE", default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
    /// The running relay's --control-socket
    #[arg(long, env = "RELAY_CONTROL_SOCKET")]
    control_socket: Option<PathBuf>,
}

/// Whether the command line asks a running daemon instead of being one.
pub(super) fn is_query(first: Option<&OsString>) -> bool {
    first.and_then(|first| first.to_str()).is_some_and(|first| matches!(first, "status" | "routes"))
}

/// Prints the answer. Exit codes: 0, 1 without an answer, 2 for usage.
pub(super) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let query = match Query::try_parse_from(arguments) {
        Ok(query) => query,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    print(query.answer())
}

/// Prints an answer, or why there is none.
pub(super) fn print(answer: Result<String, impl Display>) -> ExitCode {
    match answer {
        // A reader that has seen enough is no failure.
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Query {
    fn answer(self) -> Result<String, Box<dyn std::error::Error>> {
        let socket = self.control_socket.unwrap_or_else(|| control::beside(&self.subnet_file));
        let page = match self.question {
            Question::Status => "/status",
            Question::Routes => "/routes",
        };
        let json = control::ask(&socket, page)?;
        Ok(match self.question {
            _ if self.json => json.trim_end().to_owned() + "\n",
            Question::Status => serde_json::from_str::<Status>(&json)?.to_string(),
            Question::Routes => {
                let routes: Vec<Route> = serde_json::from_str(&json)?;
                routes.iter().map(|route| format!("{route}\n")).collect()
            }
        })
    }
}
