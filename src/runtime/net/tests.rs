//! Real sockets against a gateway whose parts are answered by the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use super::{Allowance, Clients, accept_clients, bind};
use crate::engine::cluster::ClusterMap;
use crate::engine::gateway::{Gateway, GatewayConfig};
use crate::engine::part::{PackedKeys, PartAnswer, PartReply, PartRequest};
use crate::engine::sessions::token::SessionSecret;
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, Micros, NodeId, StoreId};
use crate::limits::{CONNECTION_REQUESTS_MAX, REPLY_BYTES_MAX};
use crate::runtime::clock::{Alarm, Clock};
use crate::runtime::config::ClientLimits;
use crate::runtime::inbox::{Inbox, Source};
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::wire::client::{Encoder, Hello, Reply, decode_reply};
use crate::wire::frame::Decoder;

/// How long a test waits for bytes that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time limits that no test reaches.
const PATIENT: ClientLimits = ClientLimits {
    connections: 100,
    hello_micros: 3_600_000_000,
    frame_micros: 3_600_000_000,
    reply_micros: 3_600_000_000,
    idle_micros: None,
};

/// Serves on a thread of its own while `client` runs on this one. `parts` sees everything that is waiting to be answered
/// whenever something has happened, and takes out what it wants answered now.
fn serve(
    limits: ClientLimits,
    parts: impl FnMut(&mut Vec<PartRequest>) -> Vec<PartRequest> + Send + 'static,
    client: impl FnOnce(SocketAddr),
) {
    serve_as(limits, false, parts, client);
}

/// As [`serve`]. With `sole`, whoever was looked at last is taken for the only client.
fn serve_as(
    limits: ClientLimits,
    sole: bool,
    parts: impl FnMut(&mut Vec<PartRequest>) -> Vec<PartRequest> + Send + 'static,
    client: impl FnOnce(SocketAddr),
) {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, 0).expect("a free port").remove(0);
    let address = listener.local_addr().expect("bound");
    let lifecycle = Arc::new(Lifecycle::starting());
    let server = std::thread::spawn({
        let lifecycle = lifecycle.clone();
        move || {
            let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
            executor.run(drive(limits, sole, listener, lifecycle, parts));
        }
    });
    client(address);
    lifecycle.enter(Phase::Stopped);
    server.join().expect("the server ends");
}

async fn drive(
    limits: ClientLimits,
    sole: bool,
    listener: std::net::TcpListener,
    lifecycle: Arc<Lifecycle>,
    mut parts: impl FnMut(&mut Vec<PartRequest>) -> Vec<PartRequest>,
) {
    let config = GatewayConfig {
        cluster: ClusterId(1),
        node: NodeId(1),
        store: StoreId(0),
        map: Arc::new(ClusterMap::even(0, NodeId(1), 1, 1)),
        addresses: Vec::new(),
        session_secret: SessionSecret([0; 16]),
        session_age_micros: 1,
        top_margin: 0,
    };
    let (clock, inbox, mut alarm) = (Clock::start(), Rc::new(Inbox::default()), Alarm::default());
    let mut clients = Clients::new(inbox.clone(), limits);
    let (mut gateway, mut waiting) = (Gateway::new(config, clock.now()), Vec::new());
    let _accepting = glommio::spawn_local(accept_clients(listener, inbox.clone()));
    let _stopping = glommio::spawn_local({
        let inbox = inbox.clone();
        async move {
            lifecycle.left(Phase::Starting).await;
            inbox.ring(Source::Phase);
        }
    });
    loop {
        inbox.wait(&mut alarm).await;
        let now = clock.now();
        let mut allowance = Allowance::of_a_turn();
        let mut looked_at = None;
        while allowance.is_left()
            && let Some(source) = inbox.next().or_else(|| inbox.next_patient())
        {
            match source {
                Source::Accepted(stream) => clients.admit(now, stream),
                Source::Connection(id) => {
                    clients.visit(now, id, &mut gateway, &mut allowance);
                    looked_at = Some(id);
                }
                _ => return,
            }
        }
        clients.end_overdue(now, &mut gateway);
        let output = gateway.take_output();
        waiting.extend(output.parts.into_iter().map(|(_, part)| part));
        clients.queue(&output.bytes, &output.frames);
        for PartRequest { ticket, shard, .. } in parts(&mut waiting) {
            let body = PartAnswer::Counts { index: Index(1), counts: vec![Some(7)] };
            gateway.answer(PartReply { ticket, shard, body });
        }
        let output = gateway.take_output();
        clients.queue(&output.bytes, &output.frames);
        clients.flush(now, false, &mut gateway);
        if let Some(id) = looked_at.filter(|_| sole) {
            clients.await_request(id);
        }
        alarm.set(now, clients.deadline().unwrap_or(Micros(u64::MAX)));
    }
}

fn at_once(waiting: &mut Vec<PartRequest>) -> Vec<PartRequest> {
    std::mem::take(waiting)
}

struct Client {
    stream: TcpStream,
    decoder: Decoder,
}

impl Client {
    /// Connects and says hello.
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut client = Client { stream, decoder: Decoder::new(REPLY_BYTES_MAX) };
        let mut bytes = Vec::new();
        let hello = Hello { protocol_min: 1, protocol_max: 1, cluster_id: None, client_name: "test" };
        Encoder::new().hello(&mut bytes, 0, &hello);
        client.send(&bytes);
        assert!(matches!(client.reply(), Some((0, Reply::Welcome(_)))));
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sends");
    }

    /// The next reply; `None` at the end of the stream.
    fn reply(&mut self) -> Option<(u64, Reply)> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("intact frames") {
                return Some((frame.request_id, decode_reply(frame.kind, frame.payload).expect("an intact reply")));
            }
            let count = self.stream.read(self.decoder.space(4_096)).expect("an answer or an end");
            self.decoder.filled(count);
            if count == 0 {
                return None;
            }
        }
    }

    fn counts(&mut self, id: u64) {
        assert!(matches!(self.reply(), Some((got, Reply::Get(_))) if got == id), "request {id}");
    }
}

fn get(id: u64) -> Vec<u8> {
    let (mut keys, mut bytes) = (PackedKeys::default(), Vec::new());
    keys.push(b"key");
    Encoder::new().get(&mut bytes, id, &keys);
    bytes
}

#[test]
fn a_client_that_speaks_nonsense_ends_its_own_connection_and_no_other() {
    serve(PATIENT, at_once, |address| {
        let mut bystander = Client::connect(address);
        let mut stranger = TcpStream::connect(address).expect("connects");
        stranger.set_read_timeout(Some(PATIENCE)).expect("set");
        stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sends");
        assert_eq!(stranger.read(&mut [0; 10]).map_err(|error| error.kind()), Ok(0));
        bystander.send(&get(1));
        bystander.counts(1);
        Client::connect(address).send(&get(1));
    });
}

#[test]
fn a_damaged_frame_is_refused_and_what_came_before_it_is_answered() {
    serve(PATIENT, at_once, |address| {
        let mut client = Client::connect(address);
        let mut damaged = get(2);
        *damaged.last_mut().expect("not empty") ^= 1;
        client.send(&[get(1), damaged, get(3)].concat());
        let replies = [client.reply(), client.reply()].map(|reply| reply.expect("both are answered"));
        assert!(replies.iter().any(|(id, reply)| *id == 1 && matches!(reply, Reply::Get(_))), "{replies:?}");
        let is_refusal = |reply: &Reply| matches!(reply, Reply::Error { code: ErrorCode::Malformed, .. });
        assert!(replies.iter().any(|(id, reply)| *id == 2 && is_refusal(reply)), "{replies:?}");
        assert_eq!(client.reply(), None, "nothing behind the damage is read");
    });
}

#[test]
fn a_client_may_close_its_side_and_still_gets_its_answers() {
    serve(PATIENT, at_once, |address| {
        let mut client = Client::connect(address);
        for id in 0..100 {
            client.send(&get(id));
        }
        client.stream.shutdown(Shutdown::Write).expect("closes its side");
        (0..100).for_each(|id| client.counts(id));
        assert_eq!(client.reply(), None);
    });
}

// Its requests reach the server past the executor, which learns of the same bytes on its own: none is taken twice or lost.
#[test]
fn a_sole_client_is_served_like_any_other() {
    serve_as(PATIENT, true, at_once, |address| {
        let mut client = Client::connect(address);
        for id in 0..200 {
            client.send(&get(id));
            client.counts(id);
        }
        let request = get(200);
        for byte in &request {
            client.send(&[*byte]);
        }
        client.counts(200);
        let mut second = Client::connect(address);
        for id in 201..230 {
            client.send(&get(id));
            second.send(&get(id));
            second.counts(id);
            client.counts(id);
        }
        client.send(&get(230));
        client.stream.shutdown(Shutdown::Write).expect("closes its side");
        client.counts(230);
        assert_eq!(client.reply(), None);
    });
}

#[test]
fn a_client_with_too_many_requests_under_way_is_not_read_until_some_are_answered() {
    const REQUESTS: usize = 3 * CONNECTION_REQUESTS_MAX;
    let (seen, counts) = std::sync::mpsc::channel();
    let mut let_go = false;
    let withhold = move |waiting: &mut Vec<PartRequest>| {
        assert!(waiting.len() <= CONNECTION_REQUESTS_MAX, "the rest stays in the socket");
        if !let_go && waiting.len() < CONNECTION_REQUESTS_MAX {
            return Vec::new();
        }
        if !std::mem::replace(&mut let_go, true) {
            seen.send(waiting.len()).expect("the test listens");
        }
        std::mem::take(waiting)
    };
    serve(PATIENT, withhold, |address| {
        let mut client = Client::connect(address);
        let mut sender = client.stream.try_clone().expect("a second handle");
        let sending = std::thread::spawn(move || {
            (0..REQUESTS as u64).for_each(|id| sender.write_all(&get(id)).expect("sends"));
        });
        (0..REQUESTS as u64).for_each(|id| client.counts(id));
        sending.join().expect("all is sent");
        assert_eq!(counts.try_recv(), Ok(CONNECTION_REQUESTS_MAX));
    });
}

#[test]
fn a_reply_that_the_client_does_not_read_holds_up_nobody_else() {
    serve(PATIENT, at_once, |address| {
        let mut lazy = Client::connect(address);
        lazy.stream.set_nonblocking(true).expect("set");
        // Until neither side's socket takes any more: the server has stopped reading this client.
        let request = get(1);
        let mut full = 0;
        while full < 20 {
            match lazy.stream.write(&request) {
                Ok(count) if count < request.len() => break,
                Ok(_) => full = 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    full += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
        let mut eager = Client::connect(address);
        for id in 0..10 {
            eager.send(&get(id));
            eager.counts(id);
        }
    });
}
