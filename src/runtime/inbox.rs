//! What has become ready for a store's driver, and how the driver sleeps until something has.
//!
//! Whatever can become ready (a connection, a neighbour's messages, the disk, a new phase) has a task that does nothing
//! but ring when it is woken. Only the driver looks at what is behind the bell, and it looks at everything that is ready
//! before it decides anything. So there is one place that reads, one place that writes, and no `.await` inside a turn.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::Task;
use glommio::net::TcpStream;

use super::clock::Alarm;
use crate::engine::gateway::ConnectionId;
use crate::ids::StoreId;

/// Something the driver should look at.
#[derive(Debug)]
pub enum Source {
    /// A client has connected.
    Accepted(TcpStream),
    /// A connection can be read or written.
    Connection(ConnectionId),
    /// A store of this node has sent something.
    Neighbour(StoreId),
    /// A disk operation has ended.
    Disk,
    /// Work was put off to another turn.
    Turn,
    /// The server has entered another phase.
    Phase,
}

/// What is ready. Each source is in here about once, so its length is bounded by their number.
#[derive(Debug, Default)]
pub struct Inbox {
    ready: RefCell<VecDeque<Source>>,
    /// What comes after all that is ready.
    patient: RefCell<VecDeque<Source>>,
    driver: RefCell<Option<Waker>>,
}

impl Inbox {
    /// Tells the driver to look at a source.
    pub fn ring(&self, source: Source) {
        self.ready.borrow_mut().push_back(source);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Tells the driver to look at a source once more, after all others: it has had its share.
    pub fn ring_patiently(&self, source: Source) {
        self.patient.borrow_mut().push_back(source);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// The next source to look at, of those that are not patient.
    pub fn next(&self) -> Option<Source> {
        self.ready.borrow_mut().pop_front()
    }

    /// The next of the patient ones.
    pub fn next_patient(&self) -> Option<Source> {
        self.patient.borrow_mut().pop_front()
    }

    /// Whether there is neither.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.borrow().is_empty() && self.patient.borrow().is_empty()
    }

    /// Waits until a source is ready or the alarm rings. Only the driver waits.
    pub async fn wait(&self, alarm: &mut Alarm) {
        poll_fn(|context| {
            if !self.is_empty() || alarm.poll(context).is_ready() {
                return Poll::Ready(());
            }
            self.driver.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// A bell for a source that is polled: it rings whenever its waker is woken, and once at the start.
    #[must_use]
    pub fn bell(self: &Rc<Inbox>, source: impl Fn() -> Source + 'static) -> Bell {
        let waker = Rc::new(OnceCell::new());
        let task = glommio::spawn_local({
            let (inbox, waker) = (self.clone(), waker.clone());
            async move {
                poll_fn(|context| {
                    // A task keeps its waker for life.
                    waker.get_or_init(|| context.waker().clone());
                    inbox.ring(source());
                    Poll::<()>::Pending
                })
                .await;
            }
        });
        Bell { waker, _task: task }
    }
}

/// Rings for one source until it is dropped.
#[derive(Debug)]
pub struct Bell {
    waker: Rc<OnceCell<Waker>>,
    _task: Task<()>,
}

impl Bell {
    /// What is to be woken when the source is ready. Before the bell has rung for the first time: a waker that does
    /// nothing, because that first ring is still to come.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        self.waker.get().unwrap_or(Waker::noop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glommio::{LocalExecutorBuilder, Placement};

    #[test]
    fn a_bell_rings_at_the_start_and_whenever_its_waker_is_woken() {
        let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
        executor.run(async {
            let inbox = Rc::new(Inbox::default());
            let mut alarm = Alarm::default();
            let bell = inbox.bell(|| Source::Connection(ConnectionId(7)));
            for _ in 0..3 {
                inbox.wait(&mut alarm).await;
                assert!(matches!(inbox.next(), Some(Source::Connection(ConnectionId(7)))));
                assert!(inbox.is_empty());
                bell.waker().wake_by_ref();
            }
            drop(bell);
        });
    }
}
