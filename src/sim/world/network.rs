//! Connections of real clients: bytes in both directions, in pieces and late, until one side or both have lost the other.
//!
//! As with TCP, nothing on one connection is lost, repeated or out of order while it lasts; but what was sent last may arrive after
//! the client has given the connection up, while a newer one is in use. Copies that arrive later still, after
//! everything about their session is over perhaps, are *ghosts*: a request that was kept by something in between.

use std::collections::VecDeque;
use std::sync::Arc;

use super::World;
use super::node::{Event, OwnedFrame};
use crate::client::core::{Event as ClientEvent, LinkId};
use crate::engine::gateway::ConnectionId;
use crate::engine::prng::Prng;
use crate::limits::REQUEST_BYTES_MAX;
use crate::wire::frame::Decoder;

/// Requests that are kept to be delivered again, at most.
const GHOSTS_MAX: usize = 32;

/// One connection, or an attempt at one.
struct Line {
    application: usize,
    /// Which life of the application.
    life: u64,
    link: LinkId,
    /// Where it leads; `None`: nowhere.
    store: Option<usize>,
    /// Once it is accepted.
    connection: Option<ConnectionId>,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// What has reached the server.
    decoder: Decoder,
    client_is_there: bool,
    server_is_there: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Network {
    lines: Vec<Line>,
    ghosts: VecDeque<(usize, OwnedFrame)>,
}

impl Network {
    /// A client wants a connection to `store:N`.
    pub(super) fn dial(&mut self, application: usize, life: u64, link: LinkId, address: &Arc<str>, stores: usize) {
        let store = address.strip_prefix("store:").and_then(|store| store.parse().ok()).filter(|&store| store < stores);
        self.lines.push(Line {
            application,
            life,
            link,
            store,
            connection: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            decoder: Decoder::new(REQUEST_BYTES_MAX),
            client_is_there: true,
            server_is_there: true,
        });
    }

    /// A client ends its side.
    pub(super) fn close(&mut self, application: usize, life: u64, link: LinkId) {
        for line in &mut self.lines {
            if (line.application, line.life, line.link) == (application, life, link) {
                line.client_is_there = false;
            }
        }
    }

    /// A client has died, and all its sides with it.
    pub(super) fn client_died(&mut self, application: usize) {
        for line in self.lines.iter_mut().filter(|line| line.application == application) {
            line.client_is_there = false;
        }
    }

    /// The server has died: what it had sent may still arrive, unless the power went.
    pub(super) fn server_died(&mut self, power: bool, prng: &mut Prng) {
        for line in self.lines.iter_mut().filter(|line| line.connection.is_some()) {
            line.server_is_there = false;
            line.to_server.clear();
            if power || prng.chance(1, 2) {
                line.to_client.clear();
            }
        }
    }

    /// The server answers on a connection; false if it is none of these.
    pub(super) fn reply(&mut self, connection: ConnectionId, bytes: &[u8], close: bool) -> bool {
        let Some(line) = self.lines.iter_mut().find(|line| line.connection == Some(connection)) else { return false };
        if line.server_is_there {
            line.to_client.extend(bytes);
            line.server_is_there = !close;
        }
        true
    }
}

impl World {
    /// Something happens on some connection.
    pub(super) fn network_moves(&mut self) -> Result<(), String> {
        if self.network.lines.is_empty() {
            return Ok(());
        }
        let place = self.prng.below(self.network.lines.len() as u64) as usize;
        let line = &self.network.lines[place];
        if !line.client_is_there {
            return self.abandoned(place);
        }
        if line.connection.is_none() {
            return self.answer_dial(place);
        }
        match self.prng.below(if self.calm { 6 } else { 7 }) {
            0 | 1 => self.client_sends(place),
            2 | 3 => {
                self.reaches_server(place);
                Ok(())
            }
            4 | 5 => self.reaches_client(place),
            _ if self.prng.chance(1, 12) => {
                self.report.links_broken += 1;
                self.network.lines[place].client_is_there = false;
                self.tell(place, "the connection broke")
            }
            _ => Ok(()),
        }
    }

    /// The client is gone: what it had sent arrives all the same, or never.
    fn abandoned(&mut self, place: usize) -> Result<(), String> {
        if !self.network.lines[place].to_server.is_empty() && self.prng.chance(9, 10) {
            self.reaches_server(place);
            return Ok(());
        }
        let line = self.network.lines.swap_remove(place);
        if let (Some(connection), Some(store), Some(process)) = (line.connection, line.store, &mut self.process)
            && line.server_is_there
        {
            process.stores[store].inbox.push_back(Event::Gone(connection));
        }
        Ok(())
    }

    fn answer_dial(&mut self, place: usize) -> Result<(), String> {
        let accepted = self.network.lines[place].store.is_some() && self.process.is_some();
        if !accepted || (!self.calm && self.prng.chance(1, 16)) {
            self.network.lines[place].client_is_there = false;
            return self.tell(place, "nobody answers");
        }
        self.next_connection += 1;
        self.report.links_made += 1;
        let line = &mut self.network.lines[place];
        line.connection = Some(ConnectionId(self.next_connection));
        let (application, life, event) = (line.application, line.life, ClientEvent::Connected(line.link));
        self.application_hears(application, life, event)
    }

    fn client_sends(&mut self, place: usize) -> Result<(), String> {
        let Line { application, life, link, .. } = self.network.lines[place];
        let Some(client) = self.applications[application].client(life) else { return Ok(()) };
        let unsent = client.unsent(link);
        if unsent.is_empty() {
            return Ok(());
        }
        let count =
            if self.prng.chance(3, 4) { unsent.len() } else { 1 + self.prng.below(unsent.len() as u64) as usize };
        self.network.lines[place].to_server.extend(&unsent[..count]);
        self.application_hears(application, life, ClientEvent::Sent(link, count))
    }

    fn reaches_server(&mut self, place: usize) {
        let line = &mut self.network.lines[place];
        let count = piece(&mut self.prng, line.to_server.len());
        let (Some(connection), Some(store), Some(process)) = (line.connection, line.store, &mut self.process) else {
            line.to_server.clear();
            return;
        };
        if !line.server_is_there {
            line.to_server.clear();
            return;
        }
        fill(&mut line.decoder.space(count.max(1))[..count], &mut line.to_server);
        line.decoder.filled(count);
        while let Some(frame) = line.decoder.next_frame().expect("clients send whole frames") {
            let frame = OwnedFrame::new(frame);
            if frame.number().is_some() && self.prng.chance(1, 3) {
                if self.network.ghosts.len() == GHOSTS_MAX {
                    self.network.ghosts.pop_front();
                }
                self.network.ghosts.push_back((store, frame.clone()));
            }
            process.stores[store].inbox.push_back(Event::Frame(connection, frame));
        }
    }

    fn reaches_client(&mut self, place: usize) -> Result<(), String> {
        let line = &mut self.network.lines[place];
        let Line { application, life, link, .. } = *line;
        let count = piece(&mut self.prng, line.to_client.len());
        if count == 0 {
            if line.server_is_there {
                return Ok(());
            }
            line.client_is_there = false;
            return self.tell(place, "the server closed the connection");
        }
        let Some(client) = self.applications[application].client_mut(life) else { return Ok(()) };
        let space = client.space(link);
        let count = count.min(space.len());
        fill(&mut space[..count], &mut self.network.lines[place].to_client);
        self.application_hears(application, life, ClientEvent::Received(link, count))
    }

    fn tell(&mut self, place: usize, what: &str) -> Result<(), String> {
        let Line { application, life, link, .. } = self.network.lines[place];
        self.application_hears(application, life, ClientEvent::Disconnected(link, what.to_owned()))
    }

    /// A copy of a request arrives that nobody waits for any more.
    pub(super) fn ghost_arrives(&mut self) {
        let Some(process) = &mut self.process else { return };
        if self.network.ghosts.is_empty() {
            return;
        }
        let place = self.prng.below(self.network.ghosts.len() as u64) as usize;
        if !self.network.ghosts[place].1.number().is_some_and(|number| self.model.is_decided(number)) {
            return;
        }
        // It may come again and again.
        let (store, frame) = self.network.ghosts[place].clone();
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        let frame = match self.prng.chance(1, 4) {
            true => {
                process.forgers.insert(connection);
                self.report.forgeries += 1;
                frame.altered(&mut self.encoder).expect("ghosts are numbered increments")
            }
            false => frame,
        };
        let inbox = &mut process.stores[store].inbox;
        inbox.push_back(Event::Frame(connection, OwnedFrame::of_bytes(&super::raw_clients::hello(&mut self.encoder))));
        inbox.push_back(Event::Frame(connection, frame));
        self.report.ghosts += 1;
        self.note("a late copy of a request arrives");
    }
}

/// How many of so many bytes move now.
fn piece(prng: &mut Prng, bytes: usize) -> usize {
    match bytes {
        0 => 0,
        _ if prng.chance(3, 4) => bytes,
        _ => 1 + prng.below(bytes as u64) as usize,
    }
}

fn fill(space: &mut [u8], from: &mut VecDeque<u8>) {
    let count = space.len();
    for (to, byte) in space.iter_mut().zip(from.drain(..count)) {
        *to = byte;
    }
}
