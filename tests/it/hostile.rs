//! Clients that send nonsense hurt nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;

use dkc::client::blocking::Connection;
use dkc::engine::prng::Prng;
use dkc::wire::frame::{Kind, push_frame};

use super::server::{PATIENCE, Server};

/// Sends bytes and reads until the server closes the connection; says whether it did.
fn is_shut_out(server: &Server, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
}

fn still_serves(connection: &mut Connection) {
    connection.increment(&[("well", 1)]).expect("others are served");
}

#[test]
fn nonsense_closes_its_own_connection_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1"]);
    let mut other = server.connect();
    let mut prng = Prng::new(1);
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..24 + prng.below(300)).map(|_| prng.bits() as u8).collect();
        assert!(is_shut_out(&server, &bytes));
        still_serves(&mut other);
    }
    // Well-formed frames with nonsense in them, and a first frame that is not Hello.
    for kind in [Kind::Hello, Kind::Increment, Kind::Get, Kind::TopK, Kind::Status] {
        let mut frame = Vec::new();
        push_frame(&mut frame, kind, 7, &[0xff; 64]);
        assert!(is_shut_out(&server, &frame), "{kind:?}");
        still_serves(&mut other);
    }
    // A frame that announces more than a frame may have is refused before anything is waited for.
    let mut large = Vec::new();
    push_frame(&mut large, Kind::Increment, 7, &vec![0; (1 << 20) + 1]);
    assert!(is_shut_out(&server, &large[..24]));
    still_serves(&mut other);
}

#[test]
fn half_frames_and_sudden_ends_leak_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2"]);
    let mut other = server.connect();
    for round in 0..200 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let mut frame = Vec::new();
        push_frame(&mut frame, Kind::Status, 1, &[0; 100]);
        stream.write_all(&frame[..round % frame.len()]).unwrap();
    }
    still_serves(&mut other);
    // Closed connections are forgotten as soon as their ends have been read.
    loop {
        let connections: u32 = other.status().unwrap().stores.iter().map(|store| store.connections).sum();
        if connections == 1 {
            break;
        }
    }
}

#[test]
fn requests_past_a_limit_are_refused_by_name_and_the_connection_lives() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1", "--memory-max", "64MiB"]);
    let mut connection = server.connect();
    assert!(connection.top_k(0).is_err());
    assert!(connection.get(&[vec![b'x'; 1_025]]).is_err());
    let mut connection = server.connect();
    still_serves(&mut connection);
}
