//! Real clients: the library's own logic behind applications that ask, give up, die, come back and take each other's sessions.

use std::collections::BTreeMap;

use super::World;
use crate::client::ClientError;
use crate::client::batch::Batch;
use crate::client::core::{Answer, Client, Config, Delivery, Event, Named, Op, OpId, SubmitError};
use crate::client::request_id::RequestId;
use crate::engine::part::PackedKeys;
use crate::engine::prng::Prng;
use crate::error::ErrorCode;
use crate::sim::workload::Ask;
use crate::wire::client::{Reply, Resolution};

/// Operations that an application has under way, at most.
const WAITING_MAX: usize = 8;
/// Time that an operation is given.
const DEADLINES_MICROS: [u64; 4] = [100_000, 2_000_000, 8_000_000, 20_000_000];

/// What an operation was for. Numbers are those of the model.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Op(usize),
    Numbered(usize),
    Open,
    Close,
    Resolve(RequestId, usize),
}

/// An application and its client.
pub(super) struct Application {
    client: Option<Client>,
    /// Which life it is in.
    life: u64,
    waiting: BTreeMap<OpId, Asked>,
    /// The session it works in, if it has a name; several may want the same.
    name: Option<Vec<u8>>,
    opening: bool,
    opened: Option<Named>,
    /// Requests of which nobody knows what became.
    unknown: Vec<(RequestId, usize)>,
}

impl Application {
    pub(super) fn new(prng: &mut Prng) -> Application {
        let name = prng.chance(1, 2).then(|| b"job".to_vec());
        Application {
            client: None,
            life: 0,
            waiting: BTreeMap::new(),
            name,
            opening: false,
            opened: None,
            unknown: Vec::new(),
        }
    }

    /// Whether nothing is under way and nothing unknown.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.unknown.is_empty()
    }

    /// Whether no request of its named session is under way.
    fn is_settled(&self) -> bool {
        !self.waiting.values().any(|asked| matches!(asked, Asked::Numbered(_) | Asked::Close))
    }

    /// Its client, if it is still in that life.
    pub(super) fn client(&self, life: u64) -> Option<&Client> {
        self.client.as_ref().filter(|_| self.life == life)
    }

    pub(super) fn client_mut(&mut self, life: u64) -> Option<&mut Client> {
        self.client.as_mut().filter(|_| self.life == life)
    }
}

impl World {
    /// Some application does something.
    pub(super) fn application_acts(&mut self) -> Result<(), String> {
        let place = self.prng.below(self.applications.len() as u64) as usize;
        if self.applications[place].client.is_none() {
            let endpoints: Vec<String> = (0..self.stores).map(|store| format!("store:{store}")).collect();
            let client = Client::new(Config::new(&endpoints), self.prng.bits());
            let application = &mut self.applications[place];
            application.client = Some(client);
            application.life += 1;
        }
        let application = &self.applications[place];
        if application.waiting.len() >= WAITING_MAX {
            return self.application_ticks(place);
        }
        if !application.unknown.is_empty() && (self.calm || self.prng.chance(1, 3)) {
            return self.resolve(place);
        }
        if self.calm {
            return self.application_ticks(place);
        }
        match (&application.name, application.opened) {
            (Some(_), None) if application.opening => Ok(()),
            (Some(name), None) => {
                let name = name.clone();
                self.applications[place].opening = true;
                self.submit(place, Op::Open { name }, Asked::Open)
            }
            // Possible only once everything is answered, also what a former holder had sent.
            (Some(_), Some(named))
                if application.is_settled() && self.prng.chance(1 + 2 * u64::from(named.resumed), 4) =>
            {
                self.submit(place, Op::Close, Asked::Close)
            }
            (Some(_), Some(_)) if self.prng.chance(2, 3) => self.ask_numbered(place),
            _ => {
                let ask = self.workload.next(&mut self.prng);
                let delivery = if self.prng.chance(1, 10) { Delivery::AtMostOnce } else { Delivery::ExactlyOnce };
                let op = operation(&ask, delivery);
                let number = self.model.ask(ask);
                self.submit(place, op, Asked::Op(number))
            }
        }
    }

    /// Asks the next request of the named session's script; who holds the session next asks the same.
    fn ask_numbered(&mut self, place: usize) -> Result<(), String> {
        let application = &self.applications[place];
        let (Some(name), Some(client)) = (application.name.clone(), &application.client) else { return Ok(()) };
        let Some(number) = client.next_number() else { return Ok(()) };
        let script = self.scripts.entry(name).or_default();
        while script.len() < number.0 as usize {
            let ask = loop {
                match self.workload.next(&mut self.prng) {
                    ask @ Ask::Increment { .. } => break ask,
                    _ => continue,
                }
            };
            script.push(self.model.ask(ask));
        }
        let op = script[number.0 as usize - 1];
        let request = operation(&self.model.ops[op].ask, Delivery::Numbered(number));
        self.submit(place, request, Asked::Numbered(op))
    }

    fn resolve(&mut self, place: usize) -> Result<(), String> {
        let application = &mut self.applications[place];
        let which = self.prng.below(application.unknown.len() as u64) as usize;
        let (id, op) = application.unknown.swap_remove(which);
        let keys = match &self.model.ops[op].ask {
            Ask::Increment { items, .. } if self.prng.chance(1, 2) => Some(packed(items.iter().map(|(key, _)| key))),
            _ => None,
        };
        self.submit(place, Op::Resolve { id, keys }, Asked::Resolve(id, op))
    }

    fn submit(&mut self, place: usize, op: Op, asked: Asked) -> Result<(), String> {
        let now = self.now;
        let patience = DEADLINES_MICROS[self.prng.below(DEADLINES_MICROS.len() as u64) as usize];
        let application = &mut self.applications[place];
        let Some(client) = &mut application.client else { return Ok(()) };
        match client.submit(now, op, now.plus(patience)) {
            Ok(id) => {
                application.waiting.insert(id, asked);
            }
            Err(SubmitError::Full(_) | SubmitError::Refused(_)) => match asked {
                // Nothing was sent.
                Asked::Op(op) => self.model.answer(op, refusal(ErrorCode::Overloaded))?,
                Asked::Numbered(_) | Asked::Close => {}
                Asked::Open => application.opening = false,
                Asked::Resolve(id, op) => application.unknown.push((id, op)),
            },
        }
        self.performs(place)
    }

    /// Time has passed for every client.
    pub(super) fn applications_tick(&mut self) -> Result<(), String> {
        (0..self.applications.len()).try_for_each(|place| self.application_ticks(place))
    }

    fn application_ticks(&mut self, place: usize) -> Result<(), String> {
        let life = self.applications[place].life;
        self.application_hears(place, life, Event::Tick)
    }

    /// Something happened to a client, if it still lives.
    pub(super) fn application_hears(&mut self, place: usize, life: u64, event: Event) -> Result<(), String> {
        let now = self.now;
        let Some(client) = self.applications[place].client_mut(life) else { return Ok(()) };
        client.step(now, event);
        self.performs(place)
    }

    /// Performs what a client wants done.
    fn performs(&mut self, place: usize) -> Result<(), String> {
        let application = &mut self.applications[place];
        let (life, Some(client)) = (application.life, &mut application.client) else { return Ok(()) };
        let output = client.take_output();
        for link in output.closes {
            self.network.close(place, life, link);
        }
        for (link, address) in output.dials {
            self.network.dial(place, life, link, &address, self.stores);
        }
        for (id, result) in output.done {
            // What came with the answer that it died of, it never learned.
            if self.applications[place].client.is_none() {
                break;
            }
            let asked = self.applications[place].waiting.remove(&id).ok_or("an answer to no operation")?;
            self.note(&format!("client {place}: {asked:?} ends: {result:?}"));
            self.ended(place, asked, result)?;
        }
        Ok(())
    }

    fn ended(&mut self, place: usize, asked: Asked, result: Result<Answer, ClientError>) -> Result<(), String> {
        if let Err(ClientError::Protocol { reason }) = &result {
            return Err(format!("a client finds the server breaking the protocol: {reason}"));
        }
        match (asked, result) {
            (Asked::Op(op), Err(ClientError::Unknown { id, .. })) => {
                self.report.unknown += 1;
                self.applications[place].unknown.extend(id.map(|id| (id, op)));
            }
            (Asked::Op(op), result) => {
                self.report.numbered += 1;
                self.model.answer(op, reply_of(result))?;
            }
            (Asked::Numbered(op), Ok(Answer::Incremented(reply))) => {
                self.report.numbered += 1;
                self.model.answer_again(op, Reply::Increment(reply))?;
            }
            // Whoever holds the session goes on with the same request, so what became of it will be known then.
            (Asked::Numbered(_), Ok(Answer::Settled)) => {}
            (Asked::Numbered(_), Err(_)) => self.application_restarts(place),
            (Asked::Open, Ok(Answer::Opened(named))) => {
                self.report.named += 1;
                self.report.taken_over += u64::from(named.resumed);
                let application = &mut self.applications[place];
                (application.opening, application.opened) = (false, Some(named));
            }
            (Asked::Open, Err(error)) => {
                let expired = matches!(error, ClientError::Refused { code: ErrorCode::SessionExpired, .. });
                let application = &mut self.applications[place];
                application.opening = false;
                if expired {
                    // What its holder sent last can no longer be known: the job ends, and another begins.
                    application.name = Some(format!("job{}", 2 + self.prng.below(1 << 40)).into_bytes());
                }
            }
            // Closed or not: opening it again tells.
            (Asked::Close, _) => self.applications[place].opened = None,
            (Asked::Resolve(id, _), Ok(Answer::Resolved(resolved))) => {
                let number = (id.credentials.session, id.sequence);
                let any = |resolution| resolved.parts.iter().any(|part| part.resolution == resolution);
                if any(Resolution::Forgotten) {
                    return Err(format!(
                        "{number:?} is forgotten, although its client never learned what became of it"
                    ));
                }
                if any(Resolution::Applied) {
                    self.report.resolved_applied += 1;
                } else {
                    self.report.resolved_fenced += 1;
                }
                self.model.resolved(number, resolved.parts);
            }
            (Asked::Resolve(id, op), Err(error)) => match error {
                ClientError::Refused { code: ErrorCode::SessionExpired | ErrorCode::SessionTaken, .. } => {
                    self.report.resolved_otherwise += 1;
                }
                _ => self.applications[place].unknown.push((id, op)),
            },
            (asked, Ok(answer)) => return Err(format!("{asked:?} is answered by {answer:?}")),
        }
        Ok(())
    }

    /// An application dies with its client: what it waited for stays unknown, what it had sent may still arrive.
    pub(super) fn application_dies(&mut self) -> Result<(), String> {
        let place = self.prng.below(self.applications.len() as u64) as usize;
        self.note(&format!("client {place} dies"));
        self.application_restarts(place);
        Ok(())
    }

    fn application_restarts(&mut self, place: usize) {
        self.report.client_deaths += 1;
        self.network.client_died(place);
        let application = &mut self.applications[place];
        application.client = None;
        application.waiting.clear();
        application.unknown.clear();
        (application.opening, application.opened) = (false, None);
    }
}

fn packed<'a>(keys: impl Iterator<Item = &'a Vec<u8>>) -> PackedKeys {
    let mut packed = PackedKeys::default();
    keys.for_each(|key| packed.push(key));
    packed
}

fn operation(ask: &Ask, delivery: Delivery) -> Op {
    match ask {
        Ask::Increment { items, want_values } => {
            let mut batch = Batch::new();
            for (key, delta) in items {
                batch.push(key, *delta).expect("a small batch");
            }
            Op::Increment { batch, want_values: *want_values, delivery }
        }
        Ask::Get { keys } => Op::Get { keys: packed(keys.iter()) },
        Ask::TopK { k } => Op::TopK { k: *k },
        Ask::Scan(scan) => Op::Scan(*scan),
        Ask::Status => Op::Status,
    }
}

/// Nothing was applied.
fn refusal(code: ErrorCode) -> Reply {
    Reply::Error { code, text: String::new() }
}

fn reply_of(result: Result<Answer, ClientError>) -> Reply {
    match result {
        Ok(Answer::Incremented(reply)) => Reply::Increment(reply),
        Ok(Answer::Counts(reply)) => Reply::Get(reply),
        Ok(Answer::Top(reply)) => Reply::TopK(reply),
        Ok(Answer::Scanned(reply)) => Reply::Scan(reply),
        Ok(Answer::Status(status)) => Reply::Status(status),
        Ok(_) => refusal(ErrorCode::Unsupported),
        Err(ClientError::Refused { code, .. }) => refusal(code),
        Err(_) => refusal(ErrorCode::Unavailable),
    }
}
