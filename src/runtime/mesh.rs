//! The mesh: parts and answers between the stores of one node, core to core, in memory.
//!
//! Every ordered pair of stores has a bounded channel with one producer and one consumer. A driver never waits for a
//! full channel, or two busy stores could wait for each other for ever. What does not fit stays on the sender's side, in
//! a backlog that a small task empties as the neighbour makes room:
//!
//! - *Requests* are refused once the backlog has [`MESH_QUEUE_MAX`] messages; the gateway answers `Overloaded`.
//! - *Answers* are always taken: each is the end of a part that a neighbour's gateway waits for, so there are never more
//!   than those gateways admit ([`STORE_REQUESTS_MAX`](crate::limits::STORE_REQUESTS_MAX) requests and
//!   [`STORE_REQUEST_BYTES_MAX`](crate::limits::STORE_REQUEST_BYTES_MAX) bytes each).
//!
//! A node with one store has no mesh.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::Stream;
use futures_lite::future::zip;
use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};
use glommio::{GlommioError, ResourceType};

use super::inbox::{Bell, Inbox, Source};
use crate::engine::part::{PartReply, PartRequest};
use crate::ids::{SessionId, StoreId};
use crate::limits::MESH_QUEUE_MAX;

/// What travels between stores.
#[derive(Debug)]
pub enum Message {
    /// A part for a shard of the receiving store.
    Request(PartRequest),
    /// The answer to a part of the receiving store's gateway.
    Reply(PartReply),
    /// Sessions up to this one have expired.
    SessionMark(SessionId),
}

/// One store's ends of all its channels, to be carried to the thread of that store.
#[derive(Debug)]
pub struct MeshEnds {
    /// By neighbour; `None` for the store itself.
    channels: Vec<Option<(SharedSender<Message>, SharedReceiver<Message>)>>,
}

/// The channels between so many stores: the ends of each, in the order of their ids.
#[must_use]
pub fn channels(stores: u16) -> Vec<MeshEnds> {
    let stores = usize::from(stores);
    let mut senders: Vec<Vec<_>> = (0..stores).map(|_| (0..stores).map(|_| None).collect()).collect();
    let mut receivers: Vec<Vec<_>> = (0..stores).map(|_| (0..stores).map(|_| None).collect()).collect();
    for from in 0..stores {
        for to in (0..stores).filter(|&to| to != from) {
            let (sender, receiver) = new_bounded(MESH_QUEUE_MAX);
            senders[from][to] = Some(sender);
            receivers[to][from] = Some(receiver);
        }
    }
    let ends = senders.into_iter().zip(receivers);
    ends.map(|(senders, receivers)| MeshEnds {
        channels: senders.into_iter().zip(receivers).map(|(sender, receiver)| sender.zip(receiver)).collect(),
    })
    .collect()
}

/// A store's connections to its neighbours.
pub struct Mesh {
    /// By store id; `None` for the store itself.
    neighbours: Vec<Option<Neighbour>>,
}

struct Neighbour {
    sender: Rc<ConnectedSender<Message>>,
    backlog: Rc<RefCell<Backlog>>,
    receiver: ConnectedReceiver<Message>,
    bell: Bell,
}

/// Messages that found the channel full, in the order they were sent.
#[derive(Default)]
struct Backlog {
    messages: VecDeque<Message>,
    /// Whether a task is emptying it. Meanwhile nothing may overtake it.
    emptying: bool,
}

impl Mesh {
    /// Connects a store with its neighbours, which must be connecting at the same time.
    pub async fn connect(ends: MeshEnds, inbox: &Rc<Inbox>) -> Mesh {
        // All at once: each end waits for its counterpart, which the neighbour may connect in another order.
        let connecting: Vec<_> = ends
            .channels
            .into_iter()
            .map(|ends| ends.map(|(sender, receiver)| glommio::spawn_local(zip(sender.connect(), receiver.connect()))))
            .collect();
        let mut neighbours = Vec::with_capacity(connecting.len());
        for (store, connecting) in connecting.into_iter().enumerate() {
            let Some(connecting) = connecting else {
                neighbours.push(None);
                continue;
            };
            let (sender, receiver) = connecting.await;
            let bell = inbox.bell(move || Source::Neighbour(StoreId(store as u16)));
            neighbours.push(Some(Neighbour { sender: Rc::new(sender), backlog: Rc::default(), receiver, bell }));
        }
        Mesh { neighbours }
    }

    /// Sends a part to a neighbour, or gives it back if too much waits already, or if there is no such neighbour.
    #[allow(clippy::result_large_err)] // The part itself comes back.
    pub fn request(&mut self, to: StoreId, part: PartRequest) -> Result<(), PartRequest> {
        let Some(neighbour) = self.neighbour(to) else { return Err(part) };
        let waiting = neighbour.backlog.borrow().messages.len();
        if waiting >= MESH_QUEUE_MAX {
            return Err(part);
        }
        neighbour.send(Message::Request(part));
        Ok(())
    }

    /// Sends an answer to the neighbour whose gateway asked.
    pub fn reply(&mut self, reply: PartReply) {
        let origin = reply.ticket.origin;
        let neighbour = self.neighbour(origin).expect("an answer goes back to the store its request came from");
        neighbour.send(Message::Reply(reply));
    }

    /// Tells every neighbour which sessions have expired. There are few of these: the mark moves with the age of sessions.
    pub fn session_mark(&mut self, mark: SessionId) {
        for neighbour in self.neighbours.iter().flatten() {
            neighbour.send(Message::SessionMark(mark));
        }
    }

    /// The next message of a neighbour whose bell rang. `None` if there is none now; then the bell rings when there is.
    /// To ask again and again before it rings is not possible: each time leaves a further waker behind, and glommio allows a task 32,767.
    pub fn receive(&mut self, from: StoreId) -> Option<Message> {
        let neighbour = self.neighbours.get_mut(usize::from(from.0))?.as_mut()?;
        let context = &mut Context::from_waker(neighbour.bell.waker());
        match Pin::new(&mut neighbour.receiver).poll_next(context) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        }
    }

    /// Whether everything sent is in the channels.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.neighbours.iter().flatten().all(|neighbour| !neighbour.backlog.borrow().emptying)
    }

    fn neighbour(&self, store: StoreId) -> Option<&Neighbour> {
        self.neighbours.get(usize::from(store.0))?.as_ref()
    }
}

impl Neighbour {
    fn send(&self, message: Message) {
        if self.backlog.borrow().emptying {
            self.backlog.borrow_mut().messages.push_back(message);
            return;
        }
        // A closed channel means that the neighbour has stopped, and so do we.
        let Err(GlommioError::WouldBlock(ResourceType::Channel(message))) = self.sender.try_send(message) else {
            return;
        };
        *self.backlog.borrow_mut() = Backlog { messages: VecDeque::from([message]), emptying: true };
        let done = self.bell.waker().clone();
        // The task runs at once until it has to wait.
        glommio::spawn_local(empty(self.backlog.clone(), self.sender.clone(), done)).detach();
    }
}

/// Sends the backlog as the neighbour makes room, and rings when that is done: a draining store waits for it.
async fn empty(backlog: Rc<RefCell<Backlog>>, sender: Rc<ConnectedSender<Message>>, done: Waker) {
    loop {
        let next = backlog.borrow_mut().messages.pop_front();
        let Some(message) = next else { break };
        if sender.send(message).await.is_err() {
            break;
        }
    }
    *backlog.borrow_mut() = Backlog::default();
    done.wake();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::part::{PartAnswer, PartBody, Ticket};
    use crate::error::ErrorCode;
    use crate::ids::ShardId;
    use crate::runtime::clock::Alarm;
    use glommio::{LocalExecutorBuilder, Placement};

    fn ticket(origin: StoreId, slot: u32) -> Ticket {
        Ticket { origin, slot, generation: 0, part: 0 }
    }

    fn request(origin: StoreId, slot: u32) -> PartRequest {
        PartRequest { ticket: ticket(origin, slot), shard: ShardId(1), body: PartBody::TopK { k: 1 } }
    }

    fn on_executor(test: impl AsyncFnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
        std::thread::spawn(|| {
            let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
            executor.run(test());
        })
    }

    // Store 1 does not look at its messages until it is told to: store 0 must get an answer to each attempt at once.
    #[test]
    fn a_full_channel_refuses_requests_and_never_answers_and_keeps_the_order() {
        let mut ends = channels(2);
        let (second, first) = (ends.pop().expect("two"), ends.pop().expect("two"));
        let (start, started) = std::sync::mpsc::channel::<u32>();
        let answers = MESH_QUEUE_MAX as u32 * 3;
        let sender = on_executor(move || async move {
            let inbox = Rc::new(Inbox::default());
            let mut mesh = Mesh::connect(first, &inbox).await;
            let mut taken = 0;
            while mesh.request(StoreId(1), request(StoreId(0), taken)).is_ok() {
                taken += 1;
            }
            assert!(taken as usize >= 2 * MESH_QUEUE_MAX, "the channel and the backlog were filled");
            for slot in 0..answers {
                let body = PartAnswer::Refused { code: ErrorCode::Unavailable };
                mesh.reply(PartReply { ticket: ticket(StoreId(1), slot), shard: ShardId(1), body });
            }
            assert!(!mesh.is_flushed());
            start.send(taken).expect("the receiver listens");
            while !mesh.is_flushed() {
                yield_to_others().await;
            }
        });
        let receiver = on_executor(move || async move {
            let inbox = Rc::new(Inbox::default());
            let mut mesh = Mesh::connect(second, &inbox).await;
            let taken = started.recv().expect("the sender fills the channel");
            let mut alarm = Alarm::default();
            let (mut requests, mut replies) = (0, 0);
            while replies < answers {
                while let Some(message) = mesh.receive(StoreId(0)) {
                    match message {
                        Message::Request(part) => {
                            assert_eq!(part, request(StoreId(0), requests));
                            requests += 1;
                        }
                        Message::Reply(reply) => {
                            assert_eq!((requests, reply.ticket.slot), (taken, replies));
                            replies += 1;
                        }
                        Message::SessionMark(_) => unreachable!("no session has expired"),
                    }
                }
                if replies < answers {
                    inbox.wait(&mut alarm).await;
                    while inbox.next().is_some() {}
                }
            }
        });
        sender.join().expect("the sender ends");
        receiver.join().expect("the receiver ends");
    }

    async fn yield_to_others() {
        glommio::timer::sleep(std::time::Duration::from_micros(50)).await;
    }

    #[test]
    fn a_single_store_has_no_mesh() {
        on_executor(|| async {
            let inbox = Rc::new(Inbox::default());
            let ends = channels(1).pop().expect("one");
            let mut mesh = Mesh::connect(ends, &inbox).await;
            assert!(mesh.is_flushed());
            assert!(mesh.request(StoreId(0), request(StoreId(0), 0)).is_err());
            assert!(mesh.request(StoreId(9), request(StoreId(0), 0)).is_err());
            assert!(mesh.receive(StoreId(0)).is_none());
        })
        .join()
        .expect("it ends");
    }
}
