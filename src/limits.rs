//! Every limit of the product, in one place, related to one another by compile-time asserts.
//!
//! Naming: the thing, the unit, then `_MAX`. A limit that is a default of a setting says so.

/// Bytes of a key, at most. A key has at least one byte.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Keys of one request (increments or gets), at most.
pub const BATCH_KEYS_MAX: usize = 16_384;
/// Keys a TopK may ask for, at most.
pub const TOP_KEYS_MAX: usize = 10_000;

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 24;
/// Payload bytes of a frame sent to a server, at most.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Payload bytes of a frame sent by a server, at most.
pub const REPLY_BYTES_MAX: usize = 16 << 20;
/// Tables a verified flatbuffer may hold, at most (a status reply has one per store and shard).
pub const FLATBUFFER_TABLES_MAX: usize = 8_192;
/// Depth of tables in a verified flatbuffer, at most.
pub const FLATBUFFER_DEPTH_MAX: usize = 8;
/// Bytes, for each table, by which a verified flatbuffer may seem larger than it is: the verifier counts a vtable
/// for every table that shares it, and looks at its entries twice.
pub const FLATBUFFER_TABLE_OVERHEAD_BYTES: usize = 256;
/// Bytes of the name a client gives itself, at most.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Bytes of the text in an error reply, at most.
pub const ERROR_TEXT_BYTES_MAX: usize = 512;

/// Requests of one connection that may wait for an answer; past it the server stops reading from that connection.
pub const CONNECTION_REQUESTS_MAX: usize = 1_024;
/// Bytes of one connection's requests that wait for an answer, and of what their answers may take; from there on the server
/// stops reading from that connection. One request may exceed it, or a large one could never be taken.
pub const CONNECTION_REQUEST_BYTES_MAX: usize = 32 << 20;
/// Bytes of replies queued to one connection; from there on the server stops reading from that connection. What it has taken
/// before is answered all the same.
pub const CONNECTION_REPLY_BYTES_MAX: usize = 1 << 20;
/// Part of a frame of at most so many bytes is copied away until the rest arrives; a larger part keeps its buffer.
pub const HALF_FRAME_BYTES_COPIED: usize = 4 << 10;
/// Memory of a store for frames of which only a part has come; past it the connections that have sent the oldest of them get
/// `Overloaded` and are closed.
pub const STORE_HALF_FRAME_BYTES_MAX: usize = 128 << 20;
/// How long after a connection was found to be too slow it is looked at once more, before it is ended.
pub const OVERDUE_GRACE_MICROS: u64 = 20_000;
/// Connections that are looked at for being too slow in one turn of a store.
pub const TURN_OVERDUE_MAX: usize = 512;
/// Bytes received from a connection by one system call, at most.
pub const CONNECTION_RECEIVE_BYTES: usize = 64 << 10;
/// Bytes of replies sent to a connection before others have their turn.
pub const CONNECTION_SEND_BYTES_MAX: usize = 256 << 10;
/// Bytes of replies that are sent at the end of a turn even if somebody else waits for the next one.
pub const REPLY_BYTES_AT_ONCE: usize = 32 << 10;
/// Capacity of a connection's reply queue that is kept while the queue is empty.
pub const CONNECTION_REPLY_BYTES_KEPT: usize = 4 << 10;
/// Bytes of replies queued to all connections of a store; the connection whose reply exceeds it is cut off.
pub const STORE_REPLY_BYTES_MAX: usize = 512 << 20;
/// How long a starting server waits for a port that is in use: the kernel frees the sockets of a killed server late, when it has
/// wound up its io_uring.
pub const LISTEN_WAIT_MICROS_MAX: u64 = 5_000_000;
/// Connections that wait to be accepted, in the kernel.
pub const LISTEN_BACKLOG: i32 = 1_024;
/// How long to wait before accepting again after accepting failed (no file descriptors, no memory).
pub const ACCEPT_RETRY_MICROS: u64 = 100_000;
/// Closed connections of a store that still wait for the peer to read their last reply; past it they are cut off.
pub const LINGERING_CONNECTIONS_MAX: usize = 256;
/// How long a closed connection waits for the peer to read its last reply.
pub const LINGER_MICROS_MAX: u64 = 1_000_000;
/// Silence after which the kernel asks whether a peer is still there.
pub const KEEPALIVE_IDLE_SECONDS: u64 = 60;
/// How often it asks then.
pub const KEEPALIVE_INTERVAL_SECONDS: u64 = 10;
/// How long sent bytes may stay unacknowledged, or a peer's window closed, before the kernel ends the connection.
pub const SEND_STALL_SECONDS_MAX: u64 = 30;
/// Bytes a client offers to one read from its socket.
pub const CLIENT_READ_BYTES: usize = 64 << 10;
/// Bytes of requests a client gathers before it sends without being told to.
pub const CLIENT_FLUSH_BYTES: usize = 256 << 10;
/// Requests that a client has accepted and not yet answered, when nothing else is configured.
pub const CLIENT_REQUESTS_DEFAULT: usize = 1_024;
/// Bytes of such requests, when nothing else is configured.
pub const CLIENT_REQUEST_BYTES_DEFAULT: usize = 64 << 20;
/// Connections of one client, at most.
pub const CLIENT_LINKS_MAX: usize = 64;
/// Bytes that wait to be sent on one connection of a client; past it requests take another, or wait.
pub const CLIENT_LINK_BYTES_MAX: usize = 4 << 20;
/// Endpoints that a client is given to begin with, at most.
pub const CLIENT_SEEDS_MAX: usize = 64;
/// Bytes of a server's address, at most; a client does not dial a longer one.
pub const CLIENT_ADDRESS_BYTES_MAX: usize = 300;
/// Requests for a store that a client sends by another before it connects to that store itself.
pub const CLIENT_DIAL_AFTER: u32 = 4;
/// How long a client waits for a connection and its welcome before it hangs up.
pub const CLIENT_DIAL_MICROS_MAX: u64 = 4_000_000;
/// How long a client without any connection waits for one server before it tries the next as well.
pub const CLIENT_DIAL_STAGGER_MICROS: u64 = 250_000;
/// How long a client waits before it dials a server again that did not serve it; doubled from one time to the next.
pub const CLIENT_DIAL_BACK_OFF_MICROS_MIN: u64 = 25_000;
/// How long it waits for that at most.
pub const CLIENT_DIAL_BACK_OFF_MICROS_MAX: u64 = 2_000_000;
/// How long a client waits for the answer to the first copy of a request before it sends another, at least, and at most
/// (an eighth of the time the request has, between the two); doubled from copy to copy.
pub const CLIENT_ANSWER_MICROS_MIN: u64 = 20_000;
/// See [`CLIENT_ANSWER_MICROS_MIN`].
pub const CLIENT_ANSWER_MICROS_MAX: u64 = 1_000_000;
/// How often that is doubled.
pub const CLIENT_ANSWER_DOUBLINGS_MAX: u32 = 3;
/// Copies of one request that may wait for an answer; past it the connection of the oldest is given up.
pub const CLIENT_COPIES_MAX: usize = 4;
/// How long a client waits before it sends a request again that was refused for the moment; doubled from one time to the next.
pub const CLIENT_BACK_OFF_MICROS_MIN: u64 = 5_000;
/// How long it waits for that at most.
pub const CLIENT_BACK_OFF_MICROS_MAX: u64 = 500_000;
/// How long a client uses a session at least, whatever a server says of its age.
pub const CLIENT_SESSION_MICROS_MIN: u64 = 1_000_000;
/// Keys by which a client tells where most of a batch belongs.
pub const CLIENT_ROUTE_KEYS: usize = 32;
/// Bytes of outcomes that a client lets a shard keep of one session, by its own reckoning: less than what the shard allows.
pub const CLIENT_WINDOW_BYTES_MAX: usize = SESSION_WINDOW_BYTES_MAX / 2;
/// Connections a store accepts, at most and if nothing else is configured; a further one gets an `Overloaded` error and is
/// closed.
pub const STORE_CONNECTIONS_MAX: usize = 16_384;
/// Any of the times that a connection may take for something, at least and at most.
pub const CONNECTION_TIMEOUT_MICROS_MIN: u64 = 1_000;
/// See [`CONNECTION_TIMEOUT_MICROS_MIN`].
pub const CONNECTION_TIMEOUT_MICROS_MAX: u64 = 30 * 24 * 3_600_000_000;
/// How long a client's session may be configured to live, at least and at most.
pub const SESSION_AGE_MICROS_MIN: u64 = 1_000_000;
/// See [`SESSION_AGE_MICROS_MIN`].
pub const SESSION_AGE_MICROS_MAX: u64 = 366 * 24 * 3_600_000_000;
/// Requests waiting in one store's gateway for their parts, over all connections.
pub const STORE_REQUESTS_MAX: usize = 65_536;
/// Bytes of requests waiting in one store's gateway for their parts, and of what their answers may take, over all connections.
pub const STORE_REQUEST_BYTES_MAX: usize = 256 << 20;
/// How long a request may wait in a gateway before it is answered with `Unknown`.
pub const REQUEST_WAIT_MICROS_MAX: u64 = 10_000_000;
/// Inputs a store takes in one turn, so that no kind of input starves another.
pub const TURN_INPUTS_MAX: usize = 512;
/// Bytes of requests a store takes in one turn, give or take one receive: the disk must not wait long for a turn's end.
pub const TURN_BYTES_MAX: usize = 1 << 20;
/// What one connection may take of that at a time, before the others have their turn: with a thousand requests waiting on each of a
/// hundred connections, another one waits for a few turns and not for a hundred.
pub const VISIT_INPUTS_MAX: usize = 16;
/// The same in bytes, give or take one request.
pub const VISIT_BYTES_MAX: usize = 256 << 10;
/// How long a turn lasts, give or take one visit, before connections that have had their share wait for the next one.
pub const TURN_MICROS_MAX: u64 = 200;
/// A turn with reads is a long one from here on.
pub const LONG_READ_MICROS: u64 = 2_000;
/// After a turn with long reads, for how many times as long a store does other things before the next.
pub const LONG_READ_PAUSE: u64 = 9;
/// For how long after a client asked for little others give way to it.
pub const MODEST_MICROS: u64 = 20_000;
/// Keys that TopK reads ask of a store in one turn, give or take one read: others must not wait long behind them.
pub const TURN_LONG_READ_KEYS_MAX: usize = 4_096;
/// Table pages that a TopK read visits in one turn, if it has to walk the table.
pub const TURN_TOP_PAGES_MAX: usize = 8;
/// Parts and answers under way from one store to another; past it the sender keeps them in its own queue.
pub const MESH_QUEUE_MAX: usize = 1_024;
/// Time a stopping server gives the requests it has accepted.
pub const SHUTDOWN_MICROS_MAX: u64 = 5_000_000;

/// How long a stopping server waits for its stores to end once they have nothing left to do.
pub const STOP_MICROS_MAX: u64 = 1_000_000;
/// The longest log write that may be made durable by a flag of its own, where that is faster than a sync behind it.
pub const APPEND_SYNCED_BYTES_MAX: usize = 64 << 10;
/// Appends from one trial of the other way to the next: at first, and when it has lost again and again.
pub const APPEND_TRIAL_EVERY_MIN: u32 = 256;
/// At most.
pub const APPEND_TRIAL_EVERY_MAX: u32 = 1 << 16;
/// Appends of a trial.
pub const APPEND_TRIAL_LENGTH: u32 = 16;
/// How long a store that only one client uses waits for the end of a log write and sees nothing else.
pub const APPEND_WAIT_MICROS_MAX: u64 = 1_000;
/// The longest log write that is waited for so.
pub const APPEND_WAIT_BYTES_MAX: usize = 4_096;
/// How long of that it looks again and again, giving way to others each time, before it sleeps: to be woken takes a virtual
/// machine longer than a fast disk takes to write. Disks that mostly take longer are waited for asleep.
pub const APPEND_SPIN_MICROS_MAX: u64 = 250;
/// A store that gives way for longer than this (an interrupt takes less, a time slice more) shares its core with others, and sleeps instead of looking.
pub const SPIN_GIVE_WAY_MICROS_MAX: u64 = 1_000;
/// For so long at first, and longer each time that is found again.
pub const SPIN_PAUSE_MICROS_MIN: u64 = 50_000;
/// At most.
pub const SPIN_PAUSE_MICROS_MAX: u64 = 3_000_000;
/// How long such a store waits for that client's next request at most, and sees nothing else.
pub const SOLE_CLIENT_WAIT_MICROS_MAX: u64 = 200;
/// How long of that it looks again and again.
pub const SOLE_CLIENT_SPIN_MICROS_MAX: u64 = 100;
/// After how long of this the store looks for others while it writes, and after twice that in any case.
pub const SOLE_CLIENT_TURNS_MICROS: u64 = 500;
/// How long nobody else must have asked a store for anything before it is taken to have only one client. Whoever asks less
/// often than that may wait for the others' sake up to about a millisecond.
pub const SOLE_CLIENT_MICROS: u64 = 100_000;
/// How soon after it did something a driver looks again whether something is ready, although nothing rang.
pub const HEARTBEAT_MICROS_MIN: u64 = 1_000;
/// How long it waits for that at most, after it has found nothing again and again.
pub const HEARTBEAT_MICROS_MAX: u64 = 256_000;
/// Memory each store registers with io_uring for the executor's own use, three times. The executor asks for no less.
pub const EXECUTOR_IO_BYTES: usize = 64 << 10;
/// Locked memory an executor demands to be allowed.
pub const EXECUTOR_MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// File descriptors a store needs beside its connections: rings, events, the log.
pub const STORE_FILES: usize = 64;

/// Stores of a node, at most.
pub const STORES_MAX: usize = 256;
/// Shards of a cluster, at most.
pub const SHARDS_MAX: usize = 4_096;

/// An entry stops gathering further requests once its payload has this many bytes.
pub const ENTRY_BYTES_TARGET: usize = 256 << 10;
/// Bytes of a session's name, at most.
pub const SESSION_NAME_BYTES_MAX: usize = 255;
/// Requests of one session between the oldest without an answer and the newest, at most: by so much may a sequence exceed
/// its low-water mark. It bounds the outcomes that a shard keeps of a session.
pub const SESSION_SPAN_MAX: u64 = 4_096;
/// Bytes of outcomes that a shard keeps of one session; past it only the request that holds up the low-water mark is taken.
pub const SESSION_WINDOW_BYTES_MAX: usize = 4 << 20;
/// Sessions that are open at a time, at most; past it: `Overloaded` until the oldest expire.
pub const SESSIONS_MAX: usize = 1 << 20;
/// Names of sessions that are remembered, at most; past it new ones are refused with `Overloaded`.
pub const SESSION_NAMES_MAX: usize = 1 << 16;
/// Age at which sessions expire when nothing else is configured. Clients open the next one at half of it.
pub const SESSION_AGE_MICROS_DEFAULT: u64 = 24 * 3_600 * 1_000_000;
/// Microseconds by which one entry may advance the meta shard's clock, at most: so a leader whose clock jumps ages sessions
/// by no more.
pub const LOG_TIME_STEP_MICROS_MAX: u64 = 300_000_000;

/// Increments that are hashed and handed to the table together.
pub const APPLY_CHUNK_KEYS: usize = 32;
/// Bytes of an entry's payload, at most: a whole request, re-encoded, fits.
pub const ENTRY_BYTES_MAX: usize = 3 << 19;
/// Bytes proposed by one shard and not yet committed, at most; past it: `Overloaded`.
pub const SHARD_UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// Payload bytes of a group's entries that are not committed, or at its leader committed and not durable there, at most; past it the
/// leader refuses to propose. Parts that wait are counted before, so this is met only through what a leader has inherited.
pub const GROUP_UNCOMMITTED_BYTES_MAX: usize = 2 * SHARD_UNCOMMITTED_BYTES_MAX;

/// Replicas of a group that vote, in each half of a joint configuration, at most.
pub const GROUP_VOTERS_MAX: usize = 7;
/// Replicas of a group, at most: voters, outgoing voters and learners.
pub const GROUP_MEMBERS_MAX: usize = 16;
/// How often a leader lets its followers know that it leads, when nothing else is configured.
pub const RAFT_HEARTBEAT_MICROS: u64 = 50_000;
/// How long without word from a leader a follower waits before it campaigns, at least, and at most just under twice that. Also: how long
/// a leader leads without word from a quorum, and how long a transfer may take.
pub const RAFT_ELECTION_MICROS: u64 = 150_000;
/// Bytes of entries in one message, give or take one entry.
pub const APPEND_BYTES_TARGET: usize = 256 << 10;
/// Entries in one message, at most.
pub const APPEND_ENTRIES_MAX: usize = 1_024;
/// Messages with entries on their way to one replica, at most. On a local network more of them only lengthen the queues.
pub const APPEND_WINDOW_MESSAGES_MAX: usize = 8;
/// Bytes of entries on their way to one replica, give or take one message.
pub const APPEND_WINDOW_BYTES_MAX: usize = 4 << 20;
/// Bytes of applied entries that a replica keeps in memory for followers that lag; a follower further behind gets a checkpoint.
pub const RAFT_CACHE_BYTES_MAX: usize = 8 << 20;
/// Bytes up to which that grows while a checkpoint is on its way to a follower, who needs what comes after it.
pub const RAFT_CACHE_PINNED_BYTES_MAX: usize = 32 << 20;
/// What an entry takes in memory beside its payload, about.
pub const RAFT_ENTRY_OVERHEAD_BYTES: usize = 128;
/// Reads of a group that wait to be confirmed, at most; past it they are refused.
pub const GROUP_READS_MAX: usize = 4_096;
/// Bytes of a checkpoint in one message, at most.
pub const CHECKPOINT_CHUNK_BYTES_MAX: usize = 256 << 10;
/// Heartbeats of groups in one frame, at most.
pub const HEARTBEATS_FRAME_MAX: usize = 1_024;

/// The unit of log writes: a write starts and ends on such a boundary.
pub const WAL_BLOCK_BYTES: usize = 4_096;
/// The unit that a disk writes whole or not at all. Each carries a stamp.
pub const WAL_SECTOR_BYTES: usize = 512;
/// Bytes of one log write on disk, at most.
pub const WAL_WRITE_BYTES_MAX: usize = 2 << 20;
/// Bytes of a log segment file when nothing else is configured.
pub const WAL_SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Bytes of a log segment file, at least.
pub const WAL_SEGMENT_BYTES_MIN: u64 = 16 << 20;
/// Bytes of a log segment file, at most. Recovery reads a segment into memory.
pub const WAL_SEGMENT_BYTES_MAX: u64 = 256 << 20;
/// Segments prepared (zeroed, synced, named) ahead of use. The last of them is the reserve for what must be
/// logged when the disk is full (terms, votes, no-ops, configuration): increments are refused (`DiskFull`) before
/// they would open it.
pub const WAL_SEGMENTS_AHEAD: usize = 2;
/// How long to wait before a segment that could not be prepared (disk full) is tried again.
pub const WAL_PREPARE_RETRY_MICROS: u64 = 1_000_000;
/// Bytes of zeros written at a time while a segment is prepared, so that a log write never waits behind much more.
pub const WAL_ZERO_BYTES_MAX: usize = 1 << 20;
/// Disk operations of a store that may be under way. A log asks for at most two: one write, one step of preparing a segment; for
/// checkpoints there is one.
pub const DISK_OPERATIONS_MAX: usize = 4;
/// How long a disk that is being closed waits for the kernel to finish with its buffers; those still in use then are leaked.
pub const DISK_CLOSE_MICROS_MAX: u64 = 2_000_000;

/// Bytes that a shard's scan remembers of keys that change before it has come to them, at most; past it the scan is lost.
pub const SCAN_CHANGES_BYTES_MAX: usize = 64 << 20;
/// Pages of one piece of a scan, at most.
pub const SCAN_PAGES_MAX: usize = 4;
/// Keys of a piece, at most.
pub const SCAN_PIECE_KEYS_MAX: usize = SCAN_PAGES_MAX * PAGE_KEYS_MAX;
/// Bytes of keys and counts with which a piece of a scan is large enough; it may exceed them by a page.
pub const SCAN_PIECE_BYTES: usize = 256 << 10;
/// Bytes of the answer with a piece, at most.
pub const SCAN_REPLY_BYTES_MAX: usize = SCAN_PIECE_BYTES + PAGE_KEYS_MAX * (KEY_BYTES_MAX + 12) + 4_096;
/// How long a scan is kept for a client that does not ask for its next piece.
pub const SCAN_IDLE_MICROS_MAX: u64 = 30_000_000;
/// Bytes of one archive of a checkpoint, at most: a page of the longest keys fits.
pub const ARCHIVE_BYTES_MAX: usize = 8 << 20;
/// Bytes of sessions or names that are put into one archive of a checkpoint, give or take one record.
pub const ARCHIVE_PIECE_BYTES: usize = 1 << 20;
/// Bytes of one write to a checkpoint's file.
pub const CHECKPOINT_WRITE_BYTES: usize = 256 << 10;
/// Bytes of a checkpoint that wait to be written, from which on no more are made.
pub const CHECKPOINT_PENDING_BYTES: usize = 1 << 20;
/// Bytes of a checkpoint that are read at a time.
pub const CHECKPOINT_READ_BYTES: usize = 1 << 20;
/// Turns of a store whose disk is only pretended, until it serves; a handful suffices.
pub const VERIFY_TURNS_MAX: usize = 10_000;
/// Log records read between two words on how far a start has come.
pub const REPLAY_PROGRESS_RECORDS: u64 = 1_024;
/// Bytes of a store's log from one checkpoint of a shard to the next, if nothing else is configured and the last one was not larger.
pub const CHECKPOINT_LOG_BYTES_DEFAULT: u64 = 256 << 20;
/// Bytes of log between checkpoints, at least.
pub const CHECKPOINT_LOG_BYTES_MIN: u64 = 16 << 20;
/// Bytes that a store writes to checkpoints in a second, at most, when nothing else is configured.
pub const CHECKPOINT_RATE_DEFAULT: u64 = 64 << 20;
/// The lowest such rate that can be configured.
pub const CHECKPOINT_RATE_MIN: u64 = 1 << 20;
/// Share of a second by which checkpoints may run ahead of their rate.
pub const CHECKPOINT_BURST_DIVISOR: u64 = 64;
/// How long to wait before a checkpoint that failed is tried again; doubled from one time to the next.
pub const CHECKPOINT_RETRY_MICROS_MIN: u64 = 1_000_000;
/// How long to wait for that at most.
pub const CHECKPOINT_RETRY_MICROS_MAX: u64 = 64_000_000;
/// Bytes that are kept free for a checkpoint beside a quarter more than the last one took.
pub const CHECKPOINT_RESERVE_BYTES_MIN: u64 = 64 << 10;
/// Bits by which the depth of a directory made of images may exceed that of a table with so many pages: the table may have
/// grown so many times over while they were taken.
pub const IMAGE_DEPTH_SLACK: u32 = 8;

/// Bytes of a block, the unit in which a pool hands out memory for counters.
pub const BLOCK_BYTES: usize = 1_024;
/// Blocks of one table page, at most: an offset into them has 16 bits.
pub const PAGE_BLOCKS_MAX: usize = 64;
/// Bytes of a key that lies in its page's blocks, at most; a longer one has memory of its own.
pub const KEY_INLINE_BYTES_MAX: usize = 126;
/// Counters of one table page, at most; a page that fills splits in two.
/// It is what an index of 4,096 buckets holds at hashbrown's load limit of 7/8; one more would double the index.
pub const PAGE_KEYS_MAX: usize = 3_584;
/// Bits by which the depth of a table's directory may exceed log2(keys / `PAGE_KEYS_MAX`), at most: so the directory
/// has at most 64 slots for every full page's worth of keys, whatever hashes the keys were chosen for.
pub const DIRECTORY_DEPTH_SLACK: u32 = 6;
/// How many keys more than its even share of a TopK a shard is asked for at first, in standard deviations of what it may have. If it
/// has more, it is asked again.
pub const TOP_FIRST_MARGIN: usize = 4;
/// Candidates the top-k set of a cluster's only shard certifies; with more shards each certifies fewer. A set
/// holds up to twice as many before it is compacted.
pub const TOP_CANDIDATES: usize = 2_048;
/// Candidates the set of one of many shards certifies, at least.
pub const TOP_CANDIDATES_MIN: usize = 128;
/// Candidates that a read of the top looks at, at least: the best of the set, half as many more as were last asked for.
pub const TOP_HEAD_MIN: usize = 16;
/// How many these may become until the next read, at least, before they are looked for anew.
pub const TOP_HEAD_GROWN_MIN: usize = 256;
/// Members of the set that one slice of background work looks at. A set of up to four times as many is compacted at once.
pub const TOP_SLICE_MEMBERS: usize = TOP_CANDIDATES / 2;
/// Candidates of a shard, at most, however often counts that fall make it walk its table.
pub const TOP_CANDIDATES_MAX: usize = 1 << 16;
/// Increments of a shard for which the set stays enlarged after a read of more keys than it certifies.
pub const TOP_LARGER_INCREMENTS: u64 = 1 << 20;

const _: () = {
    assert!(WAL_BLOCK_BYTES.is_multiple_of(WAL_SECTOR_BYTES));
    assert!(WAL_WRITE_BYTES_MAX.is_multiple_of(WAL_BLOCK_BYTES));
    // Even after sector stamps and headers an entry fits in one log write.
    assert!(ENTRY_BYTES_MAX + ENTRY_BYTES_MAX / 64 + 2 * WAL_BLOCK_BYTES <= WAL_WRITE_BYTES_MAX);
    // A whole request fits in one entry: keys, key lengths and deltas as varints.
    assert!(REQUEST_BYTES_MAX + BATCH_KEYS_MAX * 12 + 64 <= ENTRY_BYTES_MAX);
    assert!(ENTRY_BYTES_TARGET <= ENTRY_BYTES_MAX);
    // An entry of any size can be proposed and sent, and a follower's window holds the messages it is counted in.
    assert!(GROUP_UNCOMMITTED_BYTES_MAX >= SHARD_UNCOMMITTED_BYTES_MAX + ENTRY_BYTES_MAX);
    assert!(APPEND_BYTES_TARGET * APPEND_WINDOW_MESSAGES_MAX <= APPEND_WINDOW_BYTES_MAX);
    assert!(2 * GROUP_VOTERS_MAX <= GROUP_MEMBERS_MAX);
    // A heartbeat may be lost, and another, before anybody campaigns.
    assert!(3 * RAFT_HEARTBEAT_MICROS <= RAFT_ELECTION_MICROS);
    assert!(RAFT_CACHE_BYTES_MAX < RAFT_CACHE_PINNED_BYTES_MAX);
    // A few connections alone cannot use up what all of a store's may have under way, queue, or leave unfinished.
    assert!(4 * (CONNECTION_REQUEST_BYTES_MAX + REQUEST_BYTES_MAX + REPLY_BYTES_MAX) <= STORE_REQUEST_BYTES_MAX);
    assert!(
        4 * (CONNECTION_REQUEST_BYTES_MAX + CONNECTION_REPLY_BYTES_MAX + REQUEST_BYTES_MAX + REPLY_BYTES_MAX)
            <= STORE_REPLY_BYTES_MAX
    );
    // A half frame takes twice what has come of it, at most.
    assert!(16 * 2 * (REQUEST_BYTES_MAX + FRAME_HEADER_BYTES + CONNECTION_RECEIVE_BYTES) <= STORE_HALF_FRAME_BYTES_MAX);
    assert!(HALF_FRAME_BYTES_COPIED <= CONNECTION_RECEIVE_BYTES);
    assert!(CONNECTION_TIMEOUT_MICROS_MIN < CONNECTION_TIMEOUT_MICROS_MAX);
    assert!(SESSION_AGE_MICROS_MIN < SESSION_AGE_MICROS_MAX);
    // The largest answers fit in a frame.
    assert!(TOP_KEYS_MAX * (KEY_BYTES_MAX + 12) + 4_096 <= REPLY_BYTES_MAX);
    assert!(SCAN_REPLY_BYTES_MAX <= REPLY_BYTES_MAX);
    assert!(PAGE_BLOCKS_MAX * BLOCK_BYTES == 1 << 16);
    // A set of the usual size is compacted at once.
    assert!(2 * TOP_CANDIDATES <= 4 * TOP_SLICE_MEMBERS);
    assert!(
        TOP_CANDIDATES_MIN <= TOP_CANDIDATES
            && TOP_CANDIDATES <= TOP_CANDIDATES_MAX
            && TOP_KEYS_MAX + TOP_KEYS_MAX / 4 <= TOP_CANDIDATES_MAX
    );
    assert!(BATCH_KEYS_MAX * 32 + SHARDS_MAX * 32 + 4_096 <= REPLY_BYTES_MAX);
    assert!(SHARDS_MAX + STORES_MAX + 16 <= FLATBUFFER_TABLES_MAX);
    assert!(WAL_SEGMENT_BYTES_MIN <= WAL_SEGMENT_BYTES_DEFAULT && WAL_SEGMENT_BYTES_DEFAULT <= WAL_SEGMENT_BYTES_MAX);
    // The group table of a segment header fits in one write.
    assert!(SHARDS_MAX * 192 + WAL_BLOCK_BYTES <= WAL_WRITE_BYTES_MAX);
    // Room is counted with two writes of waste at a segment's end; some must remain.
    assert!(8 * WAL_WRITE_BYTES_MAX as u64 <= WAL_SEGMENT_BYTES_MIN);
    assert!(WAL_SEGMENTS_AHEAD >= 2);
    assert!(WAL_ZERO_BYTES_MAX.is_multiple_of(WAL_BLOCK_BYTES));
    // A page's keys, lengths and counts fit in an archive; so do a piece of sessions and its last record, which may name a place, an
    // overflow and a count for each increment of a request.
    assert!(PAGE_KEYS_MAX * (KEY_BYTES_MAX + 2 + 8) + 1_024 <= ARCHIVE_BYTES_MAX);
    assert!(ARCHIVE_PIECE_BYTES + BATCH_KEYS_MAX * (4 + 4 + 8) + 1_024 <= ARCHIVE_BYTES_MAX);
    assert!(CHECKPOINT_WRITE_BYTES.is_multiple_of(WAL_BLOCK_BYTES) && CHECKPOINT_WRITE_BYTES <= WAL_WRITE_BYTES_MAX);
    assert!(CHECKPOINT_READ_BYTES.is_multiple_of(WAL_BLOCK_BYTES));
    assert!(
        CHECKPOINT_LOG_BYTES_MIN >= WAL_SEGMENT_BYTES_MIN && CHECKPOINT_LOG_BYTES_MIN <= CHECKPOINT_LOG_BYTES_DEFAULT
    );
};
