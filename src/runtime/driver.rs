//! The driver of one store: the loop in which everything happens.
//!
//! A turn takes in whatever is ready, up to a limit; steps the engine, which decides; and performs what was decided.
//! Nothing inside a turn waits. The order in which effects are performed is written once, in `Driver::settle`.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use glommio::Task;

use super::clock::{Alarm, Clock};
use super::config::LogFormat;
use super::disk::Disk;
use super::executors::cede;
use super::inbox::{Inbox, Source};
use super::lifecycle::{Lifecycle, Phase};
use super::logs;
use super::mesh::{Mesh, Message};
use super::net::{Allowance, Clients, accept_clients};
use super::pace::Pace;
use super::server::Event;
use crate::engine::checkpoint::{FileDone, Notice};
use crate::engine::gateway::{ConnectionId, Gateway};
use crate::engine::input::{DiskDone, Input};
use crate::engine::output::Output;
use crate::engine::part::{PartAnswer, PartBody, PartReply, PartRequest};
use crate::engine::store::Store;
use crate::error::ErrorCode;
use crate::ids::{Micros, StoreId};
use crate::limits::{HEARTBEAT_MICROS_MAX, HEARTBEAT_MICROS_MIN, SOLE_CLIENT_MICROS, SOLE_CLIENT_TURNS_MICROS};

/// Everything a store has, on the thread that owns it.
pub struct Driver {
    /// The store's number in its node.
    pub id: StoreId,
    /// The time of all stores.
    pub clock: Clock,
    /// What the server as a whole is doing.
    pub lifecycle: Arc<Lifecycle>,
    /// Where the main thread hears of this store.
    pub events: Sender<Event>,
    /// Form of a last message.
    pub log_format: LogFormat,
    /// The engine: shards and their log.
    pub store: Store,
    /// The engine: requests and their parts.
    pub gateway: Gateway,
    /// Performs the log's operations.
    pub disk: Disk,
    /// The other stores of the node.
    pub mesh: Mesh,
    /// The connections.
    pub clients: Clients,
    /// What is ready.
    pub inbox: Rc<Inbox>,
    /// Bound and listening; served from the phase `Serving` on.
    pub listener: Option<TcpListener>,
}

/// What a driver knows while it runs.
#[derive(Default)]
struct Progress {
    phase: Option<Phase>,
    alarm: Alarm,
    store_deadline: Option<Micros>,
    gateway_deadline: Option<Micros>,
    /// Time until the driver looks again although nothing rang; see `executors`.
    heartbeat_micros: u64,
    disk_done: Vec<DiskDone>,
    askers: Askers,
    pace: Pace,
    files_done: Vec<FileDone>,
    accepting: Option<Task<()>>,
    reported_ready: bool,
    reported_full: bool,
    reported_quiet: bool,
}

/// Who has asked the store for something lately, as far as it matters here: whether it was one alone.
#[derive(Default)]
struct Askers {
    last: Option<Asker>,
    sole_since: Micros,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Client(ConnectionId),
    Neighbour(StoreId),
}

impl Askers {
    fn note(&mut self, now: Micros, asker: Asker) {
        if self.last.replace(asker) != Some(asker) {
            self.sole_since = now;
        }
    }

    /// Who has had the store to itself for some time.
    fn sole(&self, now: Micros) -> Option<Asker> {
        self.last.filter(|_| now >= self.sole_since.plus(SOLE_CLIENT_MICROS))
    }
}

impl Driver {
    /// Runs until the phase [`Phase::Stopped`].
    pub async fn run(mut self) {
        let mut progress = Progress::default();
        let _phase_bell = self.ring_with_phases();
        let _disk_bell = self.ring_with_disk();
        while progress.phase != Some(Phase::Stopped) {
            if self.inbox.is_empty() && self.disk.arm() {
                self.inbox.wait(&mut progress.alarm).await;
                self.disk.disarm();
            }
            self.turn(&mut progress);
            self.serve_sole_client(&mut progress).await;
            if !self.inbox.is_empty() {
                cede().await;
            }
        }
    }

    /// While one client has the store to itself, waits for its next request and for the write that it causes without the
    /// executor, and at first without sleeping. To go to sleep by the executor and to be woken takes as long as such a write, or longer.
    ///
    /// Nobody else is seen meanwhile. So each wait is short, and now and then the executor looks around: while a write is
    /// under way, if there is one, for then that takes nobody's time.
    async fn serve_sole_client(&mut self, progress: &mut Progress) {
        let mut looked = self.clock.now();
        loop {
            let now = self.clock.now();
            let due = if self.disk.is_appending() { SOLE_CLIENT_TURNS_MICROS } else { 2 * SOLE_CLIENT_TURNS_MICROS };
            if now >= looked.plus(due) {
                cede().await;
                looked = self.clock.now();
            }
            if !self.inbox.is_empty() {
                return;
            }
            match (progress.askers.sole(now), self.gateway.in_flight()) {
                (Some(Asker::Client(id)), 0) => self.clients.await_request(id),
                (Some(_), 0 | 1) => self.disk.wait(&mut progress.disk_done),
                _ => return,
            }
            if self.inbox.is_empty() && progress.disk_done.is_empty() {
                return;
            }
            self.turn(progress);
        }
    }

    fn turn(&mut self, progress: &mut Progress) {
        let now = self.clock.now();
        let mut allowance = Allowance::of_a_turn();
        // Before clients: a finished write is what most of them wait for, and its successor can leave this turn.
        self.disk.reap(&mut progress.disk_done);
        self.disk.reap_files(&mut progress.files_done);
        let nothing_ended = progress.disk_done.is_empty() && progress.files_done.is_empty();
        let found_something = !(nothing_ended && self.inbox.is_empty());
        for done in progress.disk_done.drain(..) {
            self.store.step(now, Input::Disk(done));
        }
        for done in progress.files_done.drain(..) {
            self.store.step(now, Input::Checkpoint(done));
        }
        while allowance.is_left() {
            let Some(source) = self.inbox.next() else { break };
            match source {
                Source::Connection(id) if self.clients.put_off(now, id) => {}
                source => self.look_at(now, source, &mut allowance, progress),
            }
        }
        // Never none of them, whatever the others want.
        allowance = allowance.or_a_share();
        let turn_ends = progress.pace.turn_ends(now);
        while let Some(source) = self.inbox.next_patient() {
            self.look_at(now, source, &mut allowance, progress);
            if !allowance.is_left() || turn_ends.is_some_and(|end| self.clock.now() >= end) {
                break;
            }
        }
        if progress.store_deadline.is_some_and(|deadline| deadline <= now) {
            self.store.step(now, Input::Tick);
        }
        if progress.gateway_deadline.is_some_and(|deadline| deadline <= now) {
            self.gateway.tick(now);
        }
        if self.clients.deadline().is_some_and(|deadline| deadline <= now) {
            self.clients.end_overdue(now, &mut self.gateway);
        }
        let has_read = self.settle(now, progress);
        self.clients.flush(now, turn_ends.is_some(), &mut self.gateway);
        self.use_spare_time(now, progress);
        let reads_from = self.when_to_read(now, has_read, progress);
        progress.heartbeat_micros = match found_something {
            true => HEARTBEAT_MICROS_MIN,
            false => (progress.heartbeat_micros * 2).min(HEARTBEAT_MICROS_MAX),
        };
        let heartbeat = now.plus(progress.heartbeat_micros);
        let deadlines = [progress.store_deadline, progress.gateway_deadline, self.clients.deadline(), reads_from];
        progress.alarm.set(now, deadlines.into_iter().flatten().fold(heartbeat, Micros::min));
        self.report(progress);
    }

    /// Takes in what a source has.
    fn look_at(&mut self, now: Micros, source: Source, allowance: &mut Allowance, progress: &mut Progress) {
        match source {
            Source::Accepted(stream) => self.clients.admit(now, stream),
            Source::Connection(id) => {
                let visit = self.clients.visit(now, id, &mut self.gateway, allowance);
                if visit.asked {
                    progress.askers.note(now, Asker::Client(id));
                }
                if visit.is_modest {
                    progress.pace.note_modest(now);
                }
            }
            Source::Neighbour(from) => {
                while allowance.is_left() {
                    let Some(message) = self.mesh.receive(from) else { return };
                    // Large answers cost their bytes several times over before they are sent.
                    allowance.spend(if let Message::Reply(reply) = &message { reply.bytes() } else { 0 });
                    match message {
                        Message::Request(part) => {
                            progress.askers.note(now, Asker::Neighbour(from));
                            if !matches!(part.body, PartBody::TopK { .. } | PartBody::Scan(_)) {
                                progress.pace.note_modest(now);
                            }
                            self.store.step(now, Input::Part(part));
                        }
                        Message::Reply(reply) => self.gateway.answer(reply),
                        Message::SessionMark(mark) => self.store.step(now, Input::SessionMark(mark)),
                    }
                }
                self.inbox.ring(Source::Neighbour(from));
            }
            // Every turn reaps, and lets what was put off go on.
            Source::Disk | Source::Turn => {}
            Source::Phase => self.follow_phase(now, progress),
        }
    }

    /// Performs what the gateway and the store want done, until neither wants anything more at this moment.
    ///
    /// In one round: the disk first, because it is what acknowledgements wait for and works on its own from then on,
    /// while each message sent costs a system call; then the neighbours, whose cores may be idle; clients last, and
    /// their sockets only once, at the end of the turn. A round ends with answers for the gateway, whose replies (and
    /// further parts) are the next round's work; each round finishes parts of requests that are in flight, so there
    /// are not many.
    ///
    /// Long reads go on once a turn, as soon as the parts are with the store. Returns whether there were any.
    fn settle(&mut self, now: Micros, progress: &mut Progress) -> bool {
        let may_read = now >= progress.pace.reads_from();
        let (mut begins, mut has_read) = (true, false);
        loop {
            let mut asked = self.gateway.take_output();
            progress.gateway_deadline = asked.deadline;
            let idle = asked.parts.is_empty() && asked.frames.is_empty();
            let mut for_neighbours = Vec::new();
            for (store, part) in asked.parts.drain(..) {
                if store == self.id {
                    self.store.step(now, Input::Part(part));
                } else {
                    for_neighbours.push((store, part));
                }
            }
            if std::mem::take(&mut begins) && may_read {
                has_read = self.store.has_reads_waiting();
                self.store.step(now, Input::Turn);
            }
            let output = self.store.take_output();
            if idle && output.is_empty() {
                progress.store_deadline = output.deadline;
                if output.turn_wanted {
                    self.inbox.ring(Source::Turn);
                }
                return has_read;
            }
            self.perform(now, output, for_neighbours, progress);
            self.clients.queue(&asked.bytes, &asked.frames);
            self.gateway.recycle(asked);
        }
    }

    /// Performs what the store wants done, in order.
    fn perform(
        &mut self,
        now: Micros,
        output: Output,
        for_neighbours: Vec<(StoreId, PartRequest)>,
        progress: &mut Progress,
    ) {
        let Output {
            send_now,
            send_after,
            disk,
            checkpoint,
            notices,
            replies,
            session_mark,
            turn_wanted: _,
            deadline,
            latched,
        } = output;
        if let Some(reason) = latched {
            logs::fatal(self.log_format, self.id.0, &reason);
        }
        debug_assert!(send_now.is_empty() && send_after.is_empty(), "a group of one replica has nobody to send to");
        disk.into_iter().for_each(|op| self.disk.submit(op));
        checkpoint.into_iter().for_each(|op| self.disk.submit_file(op));
        for (store, part) in for_neighbours {
            self.ask_neighbour(store, part);
        }
        if let Some(mark) = session_mark {
            self.mesh.session_mark(mark);
            self.store.step(now, Input::SessionMark(mark));
        }
        for reply in replies {
            self.answer(reply);
        }
        notices.iter().for_each(|notice| self.tell_of_checkpoint(notice));
        progress.store_deadline = deadline;
    }

    /// Lets work go on that nobody waits for, now that everything of this turn is on its way.
    fn use_spare_time(&mut self, now: Micros, progress: &mut Progress) {
        self.store.step(now, Input::Spare);
        let output = self.store.take_output();
        // An answer to a part would be the gateway's work, which is the next turn's.
        if output.turn_wanted || !output.replies.is_empty() {
            self.inbox.ring(Source::Turn);
        }
        self.perform(now, output, Vec::new(), progress);
    }

    /// At the end of a turn: when those of the long reads that still wait go on.
    fn when_to_read(&self, began: Micros, has_read: bool, progress: &mut Progress) -> Option<Micros> {
        let now = self.clock.now();
        if has_read {
            progress.pace.has_read(began, now);
        }
        let reads_from = progress.pace.reads_from();
        if !self.store.has_reads_waiting() {
            return None;
        }
        if reads_from <= now {
            self.inbox.ring(Source::Turn);
        }
        Some(reads_from)
    }

    fn tell_of_checkpoint(&self, notice: &Notice) {
        let store = self.id.0;
        match notice {
            Notice::Completed { shard, reference } => {
                let (from, to, bytes) = (reference.from.index.0, reference.to.index.0, reference.bytes);
                tracing::info!(store, shard = shard.0, from, to, bytes, "a checkpoint is in force");
            }
            Notice::Failed { shard, why } => {
                tracing::warn!(store, shard = shard.0, why, "a checkpoint failed; the store serves, and tries again");
            }
        }
    }

    fn ask_neighbour(&mut self, store: StoreId, part: PartRequest) {
        if let Err(PartRequest { ticket, shard, .. }) = self.mesh.request(store, part) {
            let body = PartAnswer::Refused { code: ErrorCode::Overloaded };
            self.gateway.answer(PartReply { ticket, shard, body });
        }
    }

    fn answer(&mut self, mut reply: PartReply) {
        if let PartAnswer::Status(status) = &mut reply.body {
            status.connections = self.clients.count() as u32;
            status.direct_io = self.disk.direct_io();
        }
        if reply.ticket.origin == self.id {
            self.gateway.answer(reply);
        } else {
            self.mesh.reply(reply);
        }
    }

    fn follow_phase(&mut self, now: Micros, progress: &mut Progress) {
        let phase = self.lifecycle.phase();
        let before = progress.phase.replace(phase);
        if before == Some(phase) {
            return;
        }
        if phase >= Phase::Serving && before.is_none_or(|before| before < Phase::Serving) {
            let accept = self.listener.take().map(|listener| accept_clients(listener, self.inbox.clone()));
            progress.accepting = accept.map(glommio::spawn_local);
        }
        if phase >= Phase::Draining {
            progress.accepting = None;
            self.clients.stop_receiving();
            self.store.step(now, Input::Drain);
        }
    }

    /// Tells the main thread, once each, that this store can serve and that it has finished.
    fn report(&self, progress: &mut Progress) {
        // A store without shards is ready at once, but until its log is durable a restart would find none.
        if !progress.reported_ready && self.store.is_ready() && self.store.has_durable_log() {
            progress.reported_ready = true;
            self.tell(Event::Ready(self.id));
        }
        if !progress.reported_full && self.store.is_disk_full() {
            progress.reported_full = true;
            tracing::warn!(
                store = self.id.0,
                "no room on the disk for a log segment; increments are refused until there is"
            );
        }
        let draining = progress.phase.is_some_and(|phase| phase >= Phase::Draining);
        if draining && !progress.reported_quiet && self.is_quiet() {
            progress.reported_quiet = true;
            self.tell(Event::Quiet(self.id));
        }
    }

    /// Whether everything accepted is finished and told. A neighbour may still ask this store something; it is quiet
    /// itself only once that is answered.
    fn is_quiet(&self) -> bool {
        self.gateway.in_flight() == 0
            && self.store.is_quiet()
            && self.mesh.is_flushed()
            && self.clients.is_flushed()
            && self.inbox.is_empty()
    }

    fn tell(&self, event: Event) {
        // Without a main thread there is no process.
        let _ = self.events.send(event);
    }

    fn ring_with_phases(&self) -> Task<()> {
        let (inbox, lifecycle) = (self.inbox.clone(), self.lifecycle.clone());
        glommio::spawn_local(async move {
            loop {
                let phase = lifecycle.phase();
                inbox.ring(Source::Phase);
                lifecycle.left(phase).await;
            }
        })
    }

    fn ring_with_disk(&self) -> Task<()> {
        let inbox = self.inbox.clone();
        let alarm = self.disk.alarm();
        let (format, id) = (self.log_format, self.id.0);
        glommio::spawn_local(async move {
            let error = match alarm {
                Ok(alarm) => loop {
                    match alarm.wait().await {
                        Ok(()) => inbox.ring(Source::Disk),
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            logs::fatal(format, id, &format!("cannot wait for the disk: {error}"));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_sole_once_nobody_else_has_asked_for_some_time() {
        let (client, other) = (Asker::Client(ConnectionId(1)), Asker::Neighbour(StoreId(1)));
        let mut askers = Askers::default();
        let at = |micros| Micros(1_000_000 + micros);
        assert!(askers.sole(at(0)).is_none());
        askers.note(at(0), client);
        assert!(askers.sole(at(SOLE_CLIENT_MICROS - 1)).is_none());
        askers.note(at(SOLE_CLIENT_MICROS), client);
        assert!(askers.sole(at(SOLE_CLIENT_MICROS)) == Some(client));
        askers.note(at(SOLE_CLIENT_MICROS + 1), other);
        askers.note(at(SOLE_CLIENT_MICROS + 2), client);
        assert!(askers.sole(at(2 * SOLE_CLIENT_MICROS + 1)).is_none());
        assert!(askers.sole(at(2 * SOLE_CLIENT_MICROS + 2)) == Some(client));
    }
}
