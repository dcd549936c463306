//! The loop of one thread: many connections, and one place to wait for all of them.
//!
//! A connection a thread would spend the machine on switching between them, and on a small one it is the server that
//! would pay. Here a thread waits with epoll, reads what has come, sends what that makes room for or what has come due,
//! and prepares what will be next. In the steady state it allocates nothing but what decoding a reply takes.
//!
//! Small requests that leave at the same time on the same connection leave with one system call; a large one leaves at
//! once.

use crate::distribution::Share;
use crate::lane::{Lane, Record, Scratch};
use crate::plan::{Pace, Plan, Until};
use crate::protocol::Protocol;
use crate::schedule::Schedule;
use crate::socket::{TOO_LATE, timespec};
use crate::tally::{Tallies, histogram, record};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Bytes past which what was handed to a socket is sent at once: the system call is then small beside the request.
const SEND_AT_ONCE_BYTES: usize = 4 << 10;
/// How often it is looked whether a connection has waited too long.
const TICK: Duration = Duration::from_millis(100);
/// Connections that one wait may report.
const EVENTS_MAX: usize = 256;
/// Requests of an open loop that are sent before it is looked for answers. A generator that cannot keep up must not
/// fill all connections and then take its own unread answers for a server without room.
const DUE_AT_ONCE_MAX: usize = 64;
/// Random streams of the connections are numbered from 0, those of the schedules from here.
const SCHEDULE_STREAM: u64 = 1 << 32;

/// How late requests of an open loop were.
#[derive(Clone, Debug)]
pub(crate) struct Lateness {
    /// By the generator's own doing: a connection had room, and the request left so long after its moment.
    pub(crate) own: Histogram<u64>,
    /// Whosever doing it was. A request's latency has it in it.
    pub(crate) all: Histogram<u64>,
}

impl Lateness {
    fn new() -> Lateness {
        Lateness { own: histogram(), all: histogram() }
    }

    /// Adds that of another thread.
    pub(crate) fn merge(&mut self, other: &Lateness) {
        for (sum, other) in [(&mut self.own, &other.own), (&mut self.all, &other.all)] {
            sum.add(other).expect("all histograms have the same bounds");
        }
    }
}

/// What came of one thread's loop.
pub(crate) struct Driven {
    /// By the number of the connection.
    pub(crate) records: Vec<(usize, Record)>,
    pub(crate) tallies: Tallies,
    /// When the last answer came.
    pub(crate) last_answer: Option<Instant>,
    /// In an open loop.
    pub(crate) lateness: Option<Lateness>,
    /// Of the processor, by this thread.
    pub(crate) busy: Duration,
}

/// An open loop: what is due, and what became of it.
struct Open {
    schedule: Schedule,
    lateness: Lateness,
    /// Where the search for a connection with room goes on.
    turn: usize,
    /// Whether something is due that no connection has room for.
    is_blocked: bool,
    /// Since when one had.
    room_since: Instant,
    /// Connections that were handed something.
    touched: Vec<usize>,
}

/// One thread's connections and all that its loop needs.
pub(crate) struct Generator<'a, P: Protocol> {
    plan: &'a Plan,
    /// Of the threads.
    share: Share,
    lanes: Vec<Lane<P>>,
    scratch: Scratch<P::Writer>,
    epoll: OwnedFd,
    start: Instant,
    measure_from: Instant,
    /// Requests this thread still has to measure, if their number is what ends the run.
    requests_left: u64,
    is_over: bool,
    tallies: Tallies,
    last_answer: Option<Instant>,
    next_tick: Instant,
}

impl<'a, P: Protocol> Generator<'a, P> {
    /// The generator with this share of the load.
    ///
    /// # Errors
    /// The kernel has nothing to wait with.
    pub(crate) fn new(plan: &'a Plan, share: Share, lanes: Vec<Lane<P>>, start: Instant) -> std::io::Result<Self> {
        let requests = if let Until::Requests(requests) = plan.until { requests } else { 0 };
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (place, lane) in lanes.iter().enumerate() {
            epoll::add(&epoll, &lane.socket, EventData::new_u64(place as u64), EventFlags::IN)?;
        }
        Ok(Generator {
            plan,
            share,
            lanes,
            scratch: Scratch::new(plan),
            epoll,
            start,
            measure_from: start + plan.warmup,
            requests_left: requests / share.of + u64::from(share.number < requests % share.of),
            is_over: false,
            tallies: Tallies::new(),
            last_answer: None,
            next_tick: start,
        })
    }

    /// Sends until the run is over, and waits for all answers.
    pub(crate) fn run(mut self) -> Driven {
        let lateness = match self.plan.pace {
            Pace::Closed => {
                self.run_closed();
                None
            }
            Pace::Open { rate, arrivals } => {
                let seed = self.plan.seed_of(SCHEDULE_STREAM + self.share.number);
                Some(self.run_open(Schedule::new(rate, arrivals, self.share, seed)))
            }
        };
        let busy = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Driven {
            records: self.lanes.into_iter().map(|lane| (lane.number, lane.record)).collect(),
            tallies: self.tallies,
            last_answer: self.last_answer,
            lateness,
            busy: Duration::try_from(busy).unwrap_or_default(),
        }
    }

    fn run_closed(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        (0..self.lanes.len()).for_each(|place| self.fill(place));
        // Only an answer makes room for a request, so with nothing in flight there will be none.
        while self.is_waiting() {
            self.wait(&mut events, TICK);
            for event in events.drain(..) {
                let place = event.data.u64() as usize;
                self.serve(place);
                self.fill(place);
            }
        }
    }

    /// Whether any request is in flight. Until the end, the first connection or one soon after it has one.
    fn is_waiting(&self) -> bool {
        self.lanes.iter().any(|lane| lane.in_flight() > 0)
    }

    /// Sends what a connection has room for.
    fn fill(&mut self, place: usize) {
        while self.lanes[place].has_room(self.plan) && self.lanes[place].prepare(self.plan, &mut self.scratch) {
            let now = Instant::now();
            let Some(measured) = self.admit(now) else { break };
            let lane = &mut self.lanes[place];
            lane.commit(now, now, measured);
            if !lane.has_room(self.plan) || lane.socket.unsent() >= SEND_AT_ONCE_BYTES {
                self.flush(place);
            }
            // While it is under way.
            self.lanes[place].prepare(self.plan, &mut self.scratch);
        }
        self.flush(place);
    }

    fn run_open(&mut self, schedule: Schedule) -> Lateness {
        // Without it the kernel wakes sleepers up to 50 microseconds late, to save power. It is no harm if it refuses.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut open = Open {
            schedule,
            lateness: Lateness::new(),
            turn: 0,
            is_blocked: false,
            room_since: self.start,
            touched: Vec::with_capacity(DUE_AT_ONCE_MAX),
        };
        for lane in &mut self.lanes {
            lane.prepare(self.plan, &mut self.scratch);
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.send_due(&mut open);
            if self.is_over && !self.is_waiting() {
                break;
            }
            let next = self.start + open.schedule.next();
            let idle = if self.is_over || open.is_blocked {
                TICK
            } else {
                next.saturating_duration_since(Instant::now()).min(TICK)
            };
            self.wait(&mut events, idle);
            for event in events.drain(..) {
                let place = event.data.u64() as usize;
                self.serve(place);
                self.flush(place);
                if open.is_blocked && self.lanes[place].has_room(self.plan) {
                    open.is_blocked = false;
                    open.room_since = Instant::now();
                }
            }
        }
        open.lateness
    }

    /// Hands what is due to connections with room, and sends it. What was due before the end leaves even after it: to
    /// leave it out would be to leave out those that waited longest.
    fn send_due(&mut self, open: &mut Open) {
        while !self.is_over && open.touched.len() < DUE_AT_ONCE_MAX {
            let (due, now) = (self.start + open.schedule.next(), Instant::now());
            if due > now {
                break;
            }
            let Some(place) = self.lane_with_room(open) else { break };
            let Some(measured) = self.admit(due) else { break };
            open.schedule.advance();
            let lane = &mut self.lanes[place];
            lane.commit(due, now, measured);
            if lane.socket.unsent() >= SEND_AT_ONCE_BYTES {
                self.flush(place);
            }
            open.touched.push(place);
            if measured {
                record(&mut open.lateness.own, now - due.max(open.room_since).min(now));
                record(&mut open.lateness.all, now - due);
            }
        }
        for place in open.touched.drain(..) {
            self.flush(place);
            self.lanes[place].prepare(self.plan, &mut self.scratch);
        }
    }

    /// A connection that has room and a request for it, in turn.
    fn lane_with_room(&mut self, open: &mut Open) -> Option<usize> {
        let count = self.lanes.len();
        let mut may_have_later = false;
        for step in 0..count {
            let place = (open.turn + step) % count;
            let lane = &mut self.lanes[place];
            if lane.record.failure.is_some() {
                continue;
            }
            if !lane.has_room(self.plan) {
                may_have_later = true;
            } else if lane.prepare(self.plan, &mut self.scratch) {
                open.turn = place + 1;
                return Some(place);
            }
        }
        open.is_blocked = may_have_later;
        self.is_over |= !may_have_later;
        None
    }

    /// Whether a request of this moment is part of the run, and if so, whether it is measured.
    fn admit(&mut self, moment: Instant) -> Option<bool> {
        let measured = moment >= self.measure_from;
        self.is_over |= measured
            && match self.plan.until {
                Until::Elapsed(duration) => moment >= self.measure_from + duration,
                Until::Requests(_) => self.requests_left == 0,
                Until::Exhausted => false,
            };
        if self.is_over {
            return None;
        }
        self.requests_left = self.requests_left.saturating_sub(u64::from(measured));
        Some(measured)
    }

    /// Waits until connections can be read from or written to, or the time is over.
    fn wait(&mut self, events: &mut Vec<Event>, time: Duration) {
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timespec(time))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => (0..self.lanes.len()).for_each(|place| self.fail(place, error.to_string())),
        }
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        for place in 0..self.lanes.len() {
            let lane = &self.lanes[place];
            if lane.in_flight() > 0 && now.saturating_duration_since(lane.last_progress) > self.plan.timeout {
                self.fail(place, TOO_LATE.to_owned());
            }
        }
    }

    /// Reads from a connection.
    fn serve(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        if lane.record.failure.is_some() {
            return;
        }
        match lane.receive(self.plan, &mut self.tallies) {
            Ok(()) => self.last_answer = self.last_answer.max(Some(lane.last_progress)),
            Err(reason) => self.fail(place, reason),
        }
    }

    /// Sends what a connection takes, and has the rest wait until it takes more.
    fn flush(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        if lane.record.failure.is_some() || (lane.socket.unsent() == 0 && !lane.is_clogged) {
            return;
        }
        let sent = lane.socket.flush();
        let is_clogged = lane.socket.unsent() > 0;
        let result = sent.and_then(|()| {
            if std::mem::replace(&mut lane.is_clogged, is_clogged) == is_clogged {
                return Ok(());
            }
            let flags = if is_clogged { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(place as u64);
            epoll::modify(&self.epoll, &lane.socket, data, flags).map_err(|error| error.to_string())
        });
        if let Err(reason) = result {
            // What has arrived may have answers in it, and the reason.
            self.serve(place);
            self.fail(place, reason);
        }
    }

    fn fail(&mut self, place: usize, reason: String) {
        let lane = &mut self.lanes[place];
        if lane.record.failure.is_none() {
            // A socket that is not waited for any longer; one that cannot be removed will be closed soon.
            let _ = epoll::delete(&self.epoll, &lane.socket);
            lane.fail(self.plan, &mut self.tallies, reason);
        }
    }
}
