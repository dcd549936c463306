//! A server's life, as the main thread sees it: check, open, serve, drain, stop.
//!
//! ```text
//! lock ─► node file ─► checks ─► ports ─► stores open ─► all ready ─► serve ─► signal ─► drain ─► stop
//!                                          (recovery)        │
//!                                                    node file: opened
//! ```
//!
//! Until the stores serve, any failure ends the process with one message and code 1, and a signal ends it with code 0:
//! nothing was accepted. The stores run on threads of their own and tell the main thread what it waits for, as
//! [`Event`]s; the main thread tells them the [`Phase`].

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::checkpoint_dir::StoreDirectory;
use super::checks::{self, CheckError};
use super::clock::Clock;
use super::config::{Advertise, ClientLimits, Config, LogFormat};
use super::disk::Disk;
use super::driver::Driver;
use super::inbox::Inbox;
use super::lifecycle::{Lifecycle, Phase};
use super::lock::{DirectoryLock, LockError};
use super::mesh::{self, Mesh, MeshEnds};
use super::net::{self, Clients, ListenError};
use super::node::{Node, NodeError};
use super::opening_log::OpeningLog;
use super::{executors, logs, memory};
use crate::engine::cluster::{ClusterMap, StoreAddress};
use crate::engine::counters::Secret;
use crate::engine::gateway::{Gateway, GatewayConfig};
use crate::engine::sessions::token::SessionSecret;
use crate::engine::store::{Store, StoreConfig};
use crate::engine::wal::WalConfig;
use crate::ids::{Micros, StoreId};
use crate::limits::{LISTEN_WAIT_MICROS_MAX, PAGE_KEYS_MAX, SHUTDOWN_MICROS_MAX, STOP_MICROS_MAX, TOP_FIRST_MARGIN};

/// What the main thread is told.
#[derive(Debug)]
pub enum Event {
    /// All shards of a store can be written and read; its log exists durably.
    Ready(StoreId),
    /// A draining store has finished what it had accepted.
    Quiet(StoreId),
    /// A store cannot open, or its executor cannot start.
    Failed(StoreId, String),
    /// Somebody wants the server to end.
    Signal(i32),
}

/// Why a server did not serve.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ServeError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("no random numbers for this process's secret: {0}")]
    Random(#[from] getrandom::Error),
    #[error("store {0}: {1}")]
    Store(StoreId, String),
    #[error("cannot {0}: {1}")]
    Process(&'static str, io::Error),
    #[error("{damaged} of {stores} stores are damaged; nothing was changed", stores = .stores, damaged = .damaged)]
    Damaged { damaged: usize, stores: usize },
}

/// Serves until a signal says otherwise, and returns when everything accepted is finished.
///
/// # Errors
/// If the server could not start.
pub fn run(config: &Config) -> Result<(), ServeError> {
    let _logs = logs::start(config.log_format, &config.log_level);
    let (events, heard) = mpsc::channel();
    hear_signals(events.clone()).map_err(|error| ServeError::Process("listen for signals", error))?;
    let _lock = DirectoryLock::acquire(&config.data_dir)?;
    let (mut node, is_new) = Node::open_or_format(&config.data_dir, config.shape)?;
    let connections = checks::run(node.shape.stores, config.clients.connections)?;
    let limits = ClientLimits { connections, ..config.clients };
    let listeners = net::bind(config.listen, node.shape.stores, LISTEN_WAIT_MICROS_MAX)?;
    let addresses = bound_addresses(&listeners)?;

    let mut server = Server {
        clock: Clock::start(),
        lifecycle: Arc::new(Lifecycle::starting()),
        heard,
        threads: Vec::with_capacity(listeners.len()),
    };
    server.start_stores(config, limits, &node, listeners, &addresses, &events)?;
    if !server.wait_until_ready()? {
        return Ok(());
    }
    if !node.opened {
        // Before the first client: a count that was acknowledged must be missed if its log disappears.
        node.opened = true;
        node.save(&config.data_dir)?;
    }
    server.lifecycle.enter(Phase::Serving);
    greet(config, &node, is_new, &addresses);
    server.serve()?;
    server.drain()
}

/// The main thread's side of the stores.
struct Server {
    clock: Clock,
    lifecycle: Arc<Lifecycle>,
    heard: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start_stores(
        &mut self,
        config: &Config,
        clients: ClientLimits,
        node: &Node,
        listeners: Vec<TcpListener>,
        addresses: &[SocketAddr],
        events: &Sender<Event>,
    ) -> Result<(), ServeError> {
        let shape = node.shape;
        let cores = executors::allowed_cores();
        let map = cluster_map(node);
        let advertised = advertised_addresses(config.advertise.as_ref(), node, addresses);
        let ends = mesh::channels(shape.stores);
        let secret = Secret([getrandom::u64()?, getrandom::u64()?]);
        for ((number, listener), ends) in listeners.into_iter().enumerate().zip(ends) {
            let id = StoreId(number as u16);
            let opening = Opening {
                store: store_config(config, node, &map, id, secret),
                session_secret: node.session_secret.clone(),
                addresses: advertised.clone(),
                data_dir: config.data_dir.clone(),
                opened_before: node.opened,
                clock: self.clock,
                lifecycle: self.lifecycle.clone(),
                events: events.clone(),
                log_format: config.log_format,
                huge_pages: config.huge_pages,
                clients,
                ends,
                listener,
            };
            let failed = events.clone();
            let thread = executors::spawn(
                id,
                &cores,
                async move || opening.open_and_run().await,
                move |text| {
                    // Without a main thread there is no process.
                    let _ = failed.send(Event::Failed(id, text));
                },
            );
            self.threads.push(thread.map_err(|error| ServeError::Process("start a thread", error))?);
        }
        Ok(())
    }

    /// Waits for every store; false if a signal came first.
    fn wait_until_ready(&self) -> Result<bool, ServeError> {
        let mut missing = self.threads.len();
        while missing > 0 {
            match self.next_event(None)? {
                Some(Event::Ready(_)) => missing -= 1,
                Some(Event::Signal(signal)) => {
                    tracing::info!(signal, "stopped before serving");
                    return Ok(false);
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// Waits for a signal.
    fn serve(&self) -> Result<(), ServeError> {
        loop {
            if let Some(Event::Signal(signal)) = self.next_event(None)? {
                tracing::info!(signal, "finishing what was accepted; a second signal stops at once");
                return Ok(());
            }
        }
    }

    /// Lets the stores finish, within bounds.
    fn drain(self) -> Result<(), ServeError> {
        self.lifecycle.enter(Phase::Draining);
        let deadline = self.clock.now().plus(SHUTDOWN_MICROS_MAX);
        let mut busy = self.threads.len();
        while busy > 0 {
            match self.next_event(Some(deadline))? {
                Some(Event::Quiet(_)) => busy -= 1,
                Some(_) => {}
                None => {
                    tracing::warn!(stores = busy, "stopped although not everything was finished in time");
                    break;
                }
            }
        }
        self.lifecycle.enter(Phase::Stopped);
        let deadline = self.clock.now().plus(STOP_MICROS_MAX);
        while self.threads.iter().any(|thread| !thread.is_finished()) && self.clock.now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// The next event, or `None` once the deadline has passed. A store's failure is an error whenever it comes.
    fn next_event(&self, deadline: Option<Micros>) -> Result<Option<Event>, ServeError> {
        let event = match deadline {
            None => self.heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => {
                let left = deadline.0.saturating_sub(self.clock.now().0);
                self.heard.recv_timeout(Duration::from_micros(left))
            }
        };
        match event {
            Ok(Event::Failed(store, text)) => Err(ServeError::Store(store, text)),
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => unreachable!("the signal thread holds a sender and never ends"),
        }
    }
}

/// What a store's thread needs to open the store and run it.
struct Opening {
    store: StoreConfig,
    session_secret: SessionSecret,
    addresses: Vec<StoreAddress>,
    data_dir: PathBuf,
    opened_before: bool,
    clock: Clock,
    lifecycle: Arc<Lifecycle>,
    events: Sender<Event>,
    log_format: LogFormat,
    huge_pages: bool,
    clients: ClientLimits,
    ends: MeshEnds,
    listener: TcpListener,
}

impl Opening {
    async fn open_and_run(self) -> Result<(), String> {
        let id = self.store.store;
        let mut directory = StoreDirectory::open(&self.data_dir, id).map_err(|error| error.to_string())?;
        if !directory.log.direct_io() {
            let path = directory.log.path().display();
            tracing::warn!(store = id.0, %path, "this file system refuses O_DIRECT: the log is as durable, but slower");
        }
        let gateway = GatewayConfig {
            cluster: self.store.cluster,
            node: self.store.node,
            store: id,
            map: self.store.map.clone(),
            addresses: self.addresses,
            session_secret: self.session_secret,
            session_age_micros: self.store.session_age_micros,
            top_margin: TOP_FIRST_MARGIN,
        };
        let started = self.clock.now();
        let mut progress = OpeningLog::new(id, self.clock);
        let opened = Store::open(
            self.store,
            memory::pool(self.huge_pages),
            &mut directory,
            self.opened_before,
            started,
            &mut |at| progress.hear(at),
        );
        let (store, found) = opened.map_err(|error| format!("{error} (log: {})", directory.log.path().display()))?;
        progress.tell(&found);
        let mut disk = Disk::open(&directory.log).map_err(|error| error.to_string())?;
        disk.attach(&directory.checkpoints)
            .map_err(|error| format!("cannot duplicate a directory's handle: {error}"))?;
        let inbox = Rc::new(Inbox::default());
        let mesh = Mesh::connect(self.ends, &inbox).await;
        let driver = Driver {
            id,
            clock: self.clock,
            lifecycle: self.lifecycle,
            events: self.events,
            log_format: self.log_format,
            store,
            gateway: Gateway::new(gateway, self.clock.now()),
            disk,
            mesh,
            clients: Clients::new(inbox.clone(), self.clients),
            inbox,
            listener: Some(self.listener),
        };
        driver.run().await;
        Ok(())
    }
}

/// SIGTERM and SIGINT become events; a second one ends the process at once, from within the handler, whatever the
/// threads are doing. (SIGPIPE is ignored by Rust's start-up code.)
fn hear_signals(events: Sender<Event>) -> io::Result<()> {
    let heard_before = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, heard_before.clone())?;
    }
    // Handlers run in the order they were registered: the first signal must not see its own mark.
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, heard_before.clone())?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // Without a main thread there is no process.
            let _ = events.send(Event::Signal(signal));
        }
    })?;
    Ok(())
}

fn bound_addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, ServeError> {
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>();
    addresses.map_err(|error| ServeError::Process("read back a port", error))
}

/// The map of a cluster that is this one node.
pub(super) fn cluster_map(node: &Node) -> Arc<ClusterMap> {
    let shape = node.shape;
    Arc::new(ClusterMap::even(node.routing_seed, node.node, shape.stores, shape.shards))
}

/// What a store of a node is told about itself.
pub(super) fn store_config(
    config: &Config,
    node: &Node,
    map: &Arc<ClusterMap>,
    store: StoreId,
    secret: Secret,
) -> StoreConfig {
    let shape = node.shape;
    StoreConfig {
        cluster: node.cluster,
        node: node.node,
        store,
        map: map.clone(),
        wal: WalConfig::with_segments_of(shape.segment_bytes),
        checkpoints: config.checkpoints,
        page_keys_max: PAGE_KEYS_MAX,
        memory_bytes_max: config.memory_bytes_max / u64::from(shape.stores),
        secret,
        session_age_micros: config.session_age_micros,
    }
}

/// Where clients are told to reach each store.
fn advertised_addresses(advertise: Option<&Advertise>, node: &Node, bound: &[SocketAddr]) -> Vec<StoreAddress> {
    let address = |store: u16, bound: &SocketAddr| match advertise {
        None => bound.to_string(),
        Some(Advertise { host, port: None }) => format!("{host}:{}", bound.port()),
        Some(Advertise { host, port: Some(port) }) => format!("{host}:{}", port.saturating_add(store)),
    };
    (0..)
        .zip(bound)
        .map(|(store, bound)| StoreAddress { node: node.node, store: StoreId(store), address: address(store, bound) })
        .collect()
}

/// Tells people and scripts on standard output that the server serves. The last line starts with `ready`.
fn greet(config: &Config, node: &Node, is_new: bool, addresses: &[SocketAddr]) {
    let first = addresses[0];
    let endpoints =
        if first.port() == 7_400 && first.ip().is_loopback() { String::new() } else { format!(" --endpoints {first}") };
    let others = match &addresses[1..] {
        [] => String::new(),
        others => format!(" (and {})", others.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")),
    };
    let data_dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let text = format!(
        "dkc-server {version}\n  address  {first}{others}\n  data     {data} ({state})\n  stores   {stores}, shards {shards}\n  \
         try      cargo run --release -p dkc -- incr hello{endpoints}\nready {first}\n",
        version = env!("CARGO_PKG_VERSION"),
        data = Path::display(&data_dir),
        state = if is_new { "new" } else { "opened" },
        stores = node.shape.stores,
        shards = node.shape.shards,
    );
    // Nobody may be listening any more; the server serves all the same.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    tracing::info!(address = %first, stores = node.shape.stores, shards = node.shape.shards, "serving");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, NodeId};
    use crate::runtime::config::Shape;

    #[test]
    fn clients_are_told_what_they_can_reach() {
        let shape = Shape { stores: 2, shards: 2, segment_bytes: 1 << 20 };
        let node = Node {
            cluster: ClusterId(1),
            node: NodeId(9),
            incarnation: 1,
            routing_seed: 0,
            session_secret: SessionSecret([0; 16]),
            shape,
            opened: true,
        };
        let bound: Vec<SocketAddr> = ["[::1]:7400", "[::1]:7401"].map(|a| a.parse().expect("an address")).into();
        let told = |advertise: Option<Advertise>| {
            let addresses = advertised_addresses(advertise.as_ref(), &node, &bound);
            assert!(addresses.iter().all(|address| address.node == NodeId(9)));
            assert_eq!(addresses.iter().map(|address| address.store.0).collect::<Vec<_>>(), [0, 1]);
            addresses.into_iter().map(|address| address.address).collect::<Vec<_>>()
        };
        assert_eq!(told(None), ["[::1]:7400", "[::1]:7401"]);
        assert_eq!(told(Some(Advertise { host: "db1".into(), port: None })), ["db1:7400", "db1:7401"]);
        assert_eq!(told(Some(Advertise { host: "db1".into(), port: Some(80) })), ["db1:80", "db1:81"]);
    }
}
