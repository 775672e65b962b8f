//! Many echo requests to one destination from one socket.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Error, LISTENER_BUFFER_LEN, Shot, open, receive, send};
use crate::flow::{Answer, Key, Probe};
use crate::netns::Namespace;
use crate::socket::set_option;

/// Echo requests that one socket sent, and what came of each.
#[derive(Debug)]
pub struct Echoes {
    socket: AsyncFd<Socket>,
    sent: Vec<(Probe, Vec<Answer>)>,
    /// Where in `sent` the request of an identifier and a sequence number is.
    places: HashMap<(u16, u16), usize>,
    answered: usize,
}

impl Echoes {
    /// Opens the socket, for requests like `shot`.
    ///
    /// # Errors
    /// When none can be had.
    pub fn open(namespace: &Namespace, shot: &Shot) -> Result<Self, Error> {
        let socket = namespace.run(|| open(shot))?.map_err(|source| Error::Socket {
            host: shot.from.clone(),
            doing: "opening the stream's socket".to_owned(),
            source,
        })?;
        // For replies that come while a step keeps this thread busy. Without privilege the default has to do.
        let _ = set_option(socket.get_ref(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, LISTENER_BUFFER_LEN);
        Ok(Self { socket, sent: Vec::new(), places: HashMap::new(), answered: 0 })
    }

    /// Sends the next request.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send(&mut self, shot: &Shot) -> Result<(), Error> {
        let (probe, refused) = send(self.socket.get_ref(), shot)?;
        if let Key::Echo { id, seq } = probe.key {
            self.places.insert((id, seq), self.sent.len());
        }
        self.sent.push((probe, Vec::from_iter(refused)));
        Ok(())
    }

    /// Takes the answers that wait at the socket, each to the request that it is about; others are passed over.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn take_answers(&mut self) -> Result<(), Error> {
        while let Some(received) = receive(self.socket.get_ref()).map_err(|source| self.error(source))? {
            let place = received.echo().and_then(|echo| self.places.get(&echo)).copied();
            let Some((probe, answers)) = place.and_then(|place| self.sent.get_mut(place)) else { continue };
            if let Some(answer) = received.answer_to(probe) {
                answers.push(answer);
                self.answered += 1;
            }
        }
        Ok(())
    }

    /// How many answers there were.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Waits until the last request is answered, or it is too late.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn await_last(&mut self, within: Duration) -> Result<(), Error> {
        let wait = async {
            loop {
                self.take_answers()?;
                if self.sent.last().is_none_or(|(_, answers)| !answers.is_empty()) {
                    return Ok(());
                }
                match self.socket.ready(Interest::READABLE | Interest::ERROR).await {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(source) => return Err(self.error(source)),
                }
            }
        };
        tokio::time::timeout(within, wait).await.unwrap_or(Ok(()))
    }

    /// The requests that were sent so far, with what came of each.
    pub fn sent(&self) -> &[(Probe, Vec<Answer>)] {
        &self.sent
    }

    /// The requests in the order they were sent, with what came of each.
    pub fn into_sent(self) -> Vec<(Probe, Vec<Answer>)> {
        self.sent
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Socket {
            host: self.sent.last().map_or_else(String::new, |(probe, _)| probe.from.clone()),
            doing: "receiving at the stream's socket".to_owned(),
            source,
        }
    }
}
