//! What this machine itself can do: one durable append, and one round trip over TCP, with nothing of ours around them.
//!
//! `cargo bench --bench raw [-- --seconds N] [--dir PATH] [--json]`
//!
//! It answers the question on which the log's disk path rests. A store writes its log through a ring of its own
//! ([`dkc::runtime::disk`]), **unless** glommio's `DmaFile` has a p99 under load that is better by more than
//! [`ADVANTAGE_NEEDED`]. The last line says which way this machine points.
//!
//! - Three paths append to files of durable zeros, one append at a time: `disk` (the product's), `ring` (the same linked
//!   write and sync, the thread simply waiting in the kernel; what the executor adds is the difference), `dma`
//!   (glommio's `write_at`, then `fdatasync`).
//! - Each under three loads, because what the kernel leaves to a worker thread or a work queue has to find a core first.
//!   `idle`: nothing else runs. `working`: the appending thread itself is never idle, as a store under load is not; it
//!   computes for a moment, looks for completions, and computes again. `contended`: another program keeps every core
//!   busy, and whoever wakes up waits for a scheduler tick.
//! - The paths take turns in short slices of one run, in an order that rotates, and ratios are taken round by round:
//!   what else happens on the machine hits all of them alike.
//!
//! With `--test`, or when not run by `cargo bench`, everything runs for an instant, so that it cannot rot.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark reads clocks")]

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::Read as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dkc::engine::input::DiskDone;
use dkc::engine::wal::{AlignedBuffer, DiskAction, DiskOp, DiskOpId, segment_file_name};
use dkc::ids::{SegmentEpoch, StoreId};
use dkc::runtime::disk::{Alarm, Disk};
use dkc::runtime::segment_dir::LogDirectory;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::io::{DmaFile, OpenOptions};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use hdrhistogram::Histogram;
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};

type Failure = Box<dyn std::error::Error>;

/// `DmaFile` has to be this many times faster than the ring at p99 under load to be preferred.
const ADVANTAGE_NEEDED: f64 = 1.2;
/// Sizes of an append. The first decides: with one request at a time, a commit is a block.
const APPEND_BYTES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
const PATHS: [&str; 3] = ["disk", "ring", "dma"];
const LOADS: [Load; 3] = [Load::Idle, Load::Working, Load::Contended];
/// What a working store does between two looks at its completions.
const WORK: Duration = Duration::from_micros(20);
const DISK_EPOCH: SegmentEpoch = SegmentEpoch(1);
const RING_EPOCH: SegmentEpoch = SegmentEpoch(2);
const DMA_EPOCH: SegmentEpoch = SegmentEpoch(3);
const ROUNDS: usize = 6;
const MESSAGE_BYTES: usize = 64;
const PIPELINE_DEPTHS: [usize; 2] = [128, 1_024];

struct Arguments {
    seconds: f64,
    directory: PathBuf,
    json: bool,
    tiny: bool,
}

impl Arguments {
    fn parse() -> Result<Arguments, Failure> {
        let mut seconds = None;
        let mut directory = None;
        let (mut json, mut tiny) = (false, !std::env::args().any(|argument| argument == "--bench"));
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                "--bench" => {}
                "--test" => tiny = true,
                "--json" => json = true,
                "--seconds" => seconds = Some(value()?.parse::<f64>()?),
                "--dir" => directory = Some(PathBuf::from(value()?)),
                other => return Err(format!("unknown argument {other}; known: --seconds N, --dir PATH, --json").into()),
            }
        }
        // Beside this very binary, so inside the target folder: a real disk more often than the temporary folder.
        let beside_us = || Ok::<_, Failure>(std::env::current_exe()?.parent().ok_or("no folder")?.to_owned());
        Ok(Arguments {
            seconds: seconds.unwrap_or(60.0) * if tiny { 0.001 } else { 1.0 },
            directory: directory.map_or_else(beside_us, Ok)?,
            json,
            tiny,
        })
    }
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse()?;
    let folder = tempfile::Builder::new().prefix("dkc-raw-").tempdir_in(&arguments.directory)?;
    let cores = std::thread::available_parallelism()?.get();
    let mut report = Report { place: file_system(&folder.path().canonicalize()?), cores, ..Report::default() };

    let data = folder.path().to_owned();
    let (slice, segment_bytes) = slices(&arguments);
    // The executor's memory stays well below what an ordinary user may lock (8 MiB).
    let executor = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(4 << 20).make()?;
    (report.direct_io, report.appends) =
        executor.run(async move { measure_appends(&data, cores, slice, segment_bytes).await })?;
    drop(executor);
    report.echo = measure_echo(cores, Duration::from_secs_f64(arguments.seconds / 20.0))?;
    print!("{}", if arguments.json { report.to_json() } else { report.to_text() });
    Ok(())
}

/// How long one path appends before the next has its turn, and how long the files are.
fn slices(arguments: &Arguments) -> (Duration, u64) {
    let turns = ROUNDS * PATHS.len() * APPEND_BYTES.len() * LOADS.len();
    let segment_bytes = if arguments.tiny { 2 << 20 } else { 64 << 20 };
    (Duration::from_secs_f64(arguments.seconds / turns as f64), segment_bytes)
}

// ---- Durable appends --------------------------------------------------------------------------------------------

/// What goes on beside the appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Idle,
    Working,
    Contended,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Idle => "idle",
            Load::Working => "working",
            Load::Contended => "contended",
        }
    }

    /// Between two looks at the completions: nothing, or a moment of what a store does with its time.
    fn work(self) {
        if self == Load::Working {
            let end = Instant::now() + WORK;
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
    }
}

/// All appends of one size under one load.
struct Appends {
    bytes: usize,
    load: Load,
    /// In nanoseconds, as `PATHS`.
    latencies: [Histogram<u64>; 3],
    /// p99 of `dma` divided by p99 of `disk`, a round each.
    ratios: Vec<f64>,
}

async fn measure_appends(
    data: &Path,
    cores: usize,
    slice: Duration,
    segment_bytes: u64,
) -> Result<(bool, Vec<Appends>), Failure> {
    let directory = LogDirectory::open(data, StoreId(0)).map_err(|e| e.to_string())?;
    let mut rig = Rig::new(&directory, segment_bytes).await?;
    let mut all = Vec::new();
    for load in LOADS {
        for bytes in APPEND_BYTES {
            let spinners = Spinners::start(if load == Load::Contended { cores } else { 0 })?;
            all.push(rig.measure(bytes, load, slice).await?);
            spinners.stop()?;
        }
    }
    Ok((rig.disk.direct_io(), all))
}

/// The three paths, a file each.
struct Rig {
    disk: Disk,
    alarm: Alarm,
    next_id: u64,
    ring: IoUring,
    ring_file: File,
    dma_file: DmaFile,
    segment_bytes: u64,
}

impl Rig {
    async fn new(directory: &LogDirectory, segment_bytes: u64) -> Result<Rig, Failure> {
        let path = |epoch| directory.path().join(segment_file_name(epoch));
        let disk = Disk::open(directory)?;
        let alarm = disk.alarm()?;
        let flags = if disk.direct_io() { rustix::fs::OFlags::DIRECT } else { rustix::fs::OFlags::empty() };
        for epoch in [RING_EPOCH, DMA_EPOCH] {
            make_zeros(&path(epoch), segment_bytes)?;
        }
        let ring_file = File::options().write(true).custom_flags(flags.bits() as i32).open(path(RING_EPOCH))?;
        let dma_file = OpenOptions::new().write(true).dma_open(path(DMA_EPOCH)).await?;
        let mut rig = Rig { disk, alarm, next_id: 0, ring: IoUring::new(8)?, ring_file, dma_file, segment_bytes };
        let epoch = DISK_EPOCH;
        for action in [
            DiskAction::Zero { epoch, recycle: None, bytes: segment_bytes },
            DiskAction::SyncFile { epoch },
            DiskAction::Publish { epoch },
            DiskAction::SyncDir,
        ] {
            rig.perform(action, Load::Idle).await?;
        }
        Ok(rig)
    }

    async fn measure(&mut self, bytes: usize, load: Load, slice: Duration) -> Result<Appends, Failure> {
        let mut appends =
            Appends { bytes, load, latencies: [new_histogram(), new_histogram(), new_histogram()], ratios: Vec::new() };
        for round in 0..ROUNDS {
            let mut p99 = [0.0; PATHS.len()];
            for turn in 0..PATHS.len() {
                let path = (round + turn) % PATHS.len();
                let latencies = self.run(PATHS[path], bytes, load, slice).await?;
                p99[path] = latencies.value_at_quantile(0.99) as f64;
                appends.latencies[path].add(&latencies)?;
            }
            appends.ratios.push(p99[2] / p99[0]);
        }
        Ok(appends)
    }

    /// Appends through one path for a while, from the start of its file, over and over.
    async fn run(&mut self, path: &str, bytes: usize, load: Load, slice: Duration) -> Result<Histogram<u64>, Failure> {
        let mut latencies = new_histogram();
        let mut buffer = AlignedBuffer::zeroed(bytes);
        buffer.fill(0xa5);
        let mut offset = 0;
        let end = Instant::now() + slice;
        // The first append pays for what has gone cold in the meantime.
        let mut warm = false;
        while latencies.is_empty() || Instant::now() < end {
            let took;
            (took, buffer) = match path {
                "disk" => self.append_through_disk(offset, buffer, load).await?,
                "ring" => (self.append_through_ring(offset, &buffer, load)?, buffer),
                _ => (self.append_through_dma(offset, &buffer, load).await?, buffer),
            };
            if std::mem::replace(&mut warm, true) {
                latencies.record(took.as_nanos() as u64)?;
            }
            offset = (offset + bytes as u64) % self.segment_bytes;
        }
        Ok(latencies)
    }

    async fn append_through_disk(
        &mut self,
        offset: u64,
        buffer: AlignedBuffer,
        load: Load,
    ) -> Result<(Duration, AlignedBuffer), Failure> {
        let start = Instant::now();
        let done = self.perform(DiskAction::Write { epoch: DISK_EPOCH, offset, buffer }, load).await?;
        Ok((start.elapsed(), done.buffer.ok_or("no buffer came back")?))
    }

    /// One operation from its submission to its end, as a driver waits for it: asleep until the alarm, or looking
    /// for completions every turn while it has other things to do.
    async fn perform(&mut self, action: DiskAction, load: Load) -> Result<DiskDone, Failure> {
        self.next_id += 1;
        self.disk.submit(DiskOp { id: DiskOpId(self.next_id), action });
        let mut ended = Vec::new();
        loop {
            match load {
                Load::Working => load.work(),
                Load::Idle | Load::Contended => self.alarm.wait().await?,
            }
            self.disk.reap(&mut ended);
            if let Some(done) = ended.pop() {
                done.result.clone().map_err(|e| e.to_string())?;
                return Ok(done);
            }
        }
    }

    /// The linked pair with nothing around it.
    fn append_through_ring(&mut self, offset: u64, buffer: &AlignedBuffer, load: Load) -> Result<Duration, Failure> {
        let fd = types::Fd(self.ring_file.as_raw_fd());
        let write = opcode::Write::new(fd, buffer.as_ptr(), buffer.len() as u32).offset(offset).build();
        let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        let entries = [write.flags(Flags::IO_LINK).user_data(buffer.len() as u64), sync.user_data(0)];
        let start = Instant::now();
        // SAFETY: the buffer and the file outlive both completions: the loop below leaves only when it has seen both,
        // and an error in between ends the process.
        unsafe { self.ring.submission().push_multiple(&entries)? };
        let mut missing = entries.len();
        let mut submitted = false;
        while missing > 0 {
            let entered = match load {
                Load::Working if submitted => Ok(0),
                Load::Working => self.ring.submit(),
                Load::Idle | Load::Contended => self.ring.submit_and_wait(missing),
            };
            submitted |= entered.is_ok();
            if entered.is_err_and(|e| e.kind() != std::io::ErrorKind::Interrupted) {
                eprintln!("the ring failed");
                std::process::abort();
            }
            load.work();
            for completion in self.ring.completion() {
                missing -= 1;
                if i64::from(completion.result()) != completion.user_data() as i64 {
                    eprintln!("the write or its sync failed: {}", completion.result());
                    std::process::abort();
                }
            }
        }
        Ok(start.elapsed())
    }

    async fn append_through_dma(&mut self, offset: u64, content: &[u8], load: Load) -> Result<Duration, Failure> {
        let mut buffer = self.dma_file.alloc_dma_buffer(content.len());
        buffer.as_bytes_mut().copy_from_slice(content);
        let stop = Rc::new(Cell::new(load != Load::Working));
        let stopped = stop.clone();
        let work = glommio::spawn_local(async move {
            while !stopped.get() {
                work_and_let_glommio_look(load).await;
            }
        });
        let start = Instant::now();
        let written = self.dma_file.write_at(buffer, offset).await?;
        self.dma_file.fdatasync().await?;
        let took = start.elapsed();
        stop.set(true);
        work.await;
        if written != content.len() {
            return Err("DmaFile wrote less than it was given".into());
        }
        Ok(took)
    }
}

/// While any task is ready, glommio looks for completions of files only when its timer fires (100 ms; a short one makes
/// it miss wake-ups). So this works inside of a wait that is over by then: with no task ready glommio looks, and comes
/// back at once.
async fn work_and_let_glommio_look(load: Load) {
    let mut timer = pin!(glommio::timer::Timer::new(WORK / 2));
    let work_once = poll_fn(|context| {
        let waiting = timer.as_mut().poll(context).is_pending();
        if waiting {
            load.work();
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    work_once.await;
}

/// A file as long as a segment, all its blocks written, durable.
fn make_zeros(path: &Path, bytes: u64) -> Result<(), Failure> {
    let mut file = File::create(path)?;
    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
    Ok(file.sync_all()?)
}

/// Threads that keep every core busy until they are stopped.
struct Spinners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<rustix::io::Result<()>>>,
}

impl Spinners {
    fn start(cores: usize) -> Result<Spinners, Failure> {
        let mut spinners = Spinners { stop: Arc::default(), threads: Vec::new() };
        for core in 0..cores {
            let stop = spinners.stop.clone();
            let spin = move || {
                let mut only = rustix::thread::CpuSet::new();
                only.set(core);
                rustix::thread::sched_setaffinity(None, &only)?;
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                Ok(())
            };
            spinners.threads.push(std::thread::Builder::new().name(format!("spinner-{core}")).spawn(spin)?);
        }
        Ok(spinners)
    }

    /// Fails if a core was not kept busy.
    fn stop(mut self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a spinner does nothing that could panic")?;
        }
        Ok(())
    }
}

// ---- Echo over loopback -----------------------------------------------------------------------------------------

/// Round trips of 64-byte messages through a glommio server that sends back what it reads.
struct Echo {
    /// In nanoseconds, one message at a time.
    round_trips: Histogram<u64>,
    /// Messages a second, as `PIPELINE_DEPTHS`.
    pipelined: [f64; 2],
}

fn measure_echo(cores: usize, each: Duration) -> Result<Echo, Failure> {
    let (port_sender, port_receiver) = std::sync::mpsc::channel();
    let server = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 20).spawn(move || async move {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        port_sender.send(port).map_err(|e| e.to_string())?;
        serve_echo(listener.accept().await.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())
    })?;
    let port = port_receiver.recv()?;
    let client = LocalExecutorBuilder::new(Placement::Fixed(1 % cores)).io_memory(1 << 20).make()?;
    let echo = client.run(async move { drive_echo(port, each).await })?;
    server.join()??;
    Ok(echo)
}

async fn serve_echo(mut stream: TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn drive_echo(port: u16, each: Duration) -> Result<Echo, Failure> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut round_trips = new_histogram();
    let mut pipelined = [0.0; PIPELINE_DEPTHS.len()];
    let mut buffer = vec![0x5a; MESSAGE_BYTES];
    let end = Instant::now() + each;
    while round_trips.is_empty() || Instant::now() < end {
        let start = Instant::now();
        stream.write_all(&buffer).await?;
        stream.read_exact(&mut buffer).await?;
        round_trips.record(start.elapsed().as_nanos() as u64)?;
    }
    for (rate, depth) in pipelined.iter_mut().zip(PIPELINE_DEPTHS) {
        buffer.resize(depth * MESSAGE_BYTES, 0x5a);
        let start = Instant::now();
        let mut messages = 0;
        while messages == 0 || start.elapsed() < each {
            stream.write_all(&buffer).await?;
            stream.read_exact(&mut buffer).await?;
            messages += depth;
        }
        *rate = messages as f64 / start.elapsed().as_secs_f64();
    }
    Ok(Echo { round_trips, pipelined })
}

// ---- Report -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Report {
    place: String,
    cores: usize,
    direct_io: bool,
    appends: Vec<Appends>,
    echo: Echo,
}

impl Default for Echo {
    fn default() -> Echo {
        Echo { round_trips: new_histogram(), pipelined: [0.0; PIPELINE_DEPTHS.len()] }
    }
}

impl Report {
    /// p99 of `dma` divided by p99 of `disk` at the size that decides: the median of the rounds.
    fn ratio(&self, load: Load) -> f64 {
        let decisive = self.appends.iter().find(|appends| appends.load == load && appends.bytes == APPEND_BYTES[0]);
        decisive.map_or(f64::NAN, |appends| median(&appends.ratios))
    }

    /// `DmaFile` needs its advantage under either load.
    fn chosen(&self) -> &'static str {
        let dma_is_better = |load| self.ratio(load) < 1.0 / ADVANTAGE_NEEDED;
        if dma_is_better(Load::Working) || dma_is_better(Load::Contended) { "DmaFile" } else { "the ring" }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let io = if self.direct_io { "direct" } else { "buffered" };
        let _infallible = writeln!(text, "durable appends, {io} I/O on {}, {} cores; µs", self.place, self.cores)
            .and_then(|()| writeln!(text, "{HEADING}"))
            .and_then(|()| self.appends.iter().try_for_each(|appends| appends.write_text(&mut text)))
            .and_then(|()| writeln!(text, "\nTCP echo on loopback, {MESSAGE_BYTES}-byte messages; µs\n{HEADING}"))
            .and_then(|()| write_row(&mut text, "round trip", &self.echo.round_trips))
            .and_then(|()| {
                PIPELINE_DEPTHS.iter().zip(self.echo.pipelined).try_for_each(|(depth, rate)| {
                    writeln!(text, "pipelined {depth} deep: {:.2} million messages a second", rate / 1e6)
                })
            })
            .and_then(|()| {
                writeln!(
                    text,
                    "\nDmaFile p99 / ring p99 of {} bytes: {:.2} working, {:.2} contended; so the log goes through {}",
                    APPEND_BYTES[0],
                    self.ratio(Load::Working),
                    self.ratio(Load::Contended),
                    self.chosen()
                )
            });
        text
    }

    fn to_json(&self) -> String {
        let appends = self.appends.iter().flat_map(|appends| {
            PATHS.iter().zip(&appends.latencies).map(|(path, latencies)| {
                let (bytes, load) = (appends.bytes, appends.load.name());
                format!(r#"{{"path":"{path}","bytes":{bytes},"load":"{load}",{}}}"#, json_figures(latencies))
            })
        });
        let pipelined = PIPELINE_DEPTHS
            .iter()
            .zip(self.echo.pipelined)
            .map(|(depth, rate)| format!(r#"{{"depth":{depth},"messages_per_second":{rate:.0}}}"#));
        format!(
            "{{\"file_system\":\"{}\",\"direct_io\":{},\"cores\":{},\n\"appends\":[\n{}],\n\"echo\":{{{},\"pipelined\":[{}]}},\n\
             \"dma_p99_over_ring_p99\":{{\"working\":{:.3},\"contended\":{:.3}}},\"chosen\":\"{}\"}}\n",
            self.place.escape_default(),
            self.direct_io,
            self.cores,
            appends.collect::<Vec<_>>().join(",\n"),
            json_figures(&self.echo.round_trips),
            pipelined.collect::<Vec<_>>().join(","),
            self.ratio(Load::Working),
            self.ratio(Load::Contended),
            self.chosen(),
        )
    }
}

const HEADING: &str = "                               count       p50       p90       p99     p99.9       max";
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("max", 1.0)];

impl Appends {
    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        for (path, latencies) in PATHS.iter().zip(&self.latencies) {
            write_row(text, &format!("{:>5} KiB {} {path}", self.bytes >> 10, self.load.name()), latencies)?;
        }
        let (least, most) = self.ratios.iter().fold((f64::MAX, 0.0_f64), |(a, b), &x| (a.min(x), b.max(x)));
        writeln!(text, "{:>26}  p99 dma/disk {:.2} ({least:.2} to {most:.2})", "", median(&self.ratios))
    }
}

fn write_row(text: &mut String, name: &str, latencies: &Histogram<u64>) -> std::fmt::Result {
    write!(text, "{name:<26}{:>10}", latencies.len())?;
    for (_, quantile) in QUANTILES {
        write!(text, "{:>10.1}", latencies.value_at_quantile(quantile) as f64 / 1e3)?;
    }
    writeln!(text)
}

fn json_figures(latencies: &Histogram<u64>) -> String {
    let mut figures = format!("\"count\":{}", latencies.len());
    for (name, quantile) in QUANTILES {
        let micros = latencies.value_at_quantile(quantile) as f64 / 1e3;
        let _infallible = write!(figures, ",\"{name}_us\":{micros:.1}");
    }
    figures
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three significant digits are within the histogram's range of 0 to 5")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The file system a path is on and what it is mounted from, as the mount table tells it.
fn file_system(path: &Path) -> String {
    // Fields: … [4] mount point … a dash, the file system, the source.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut description = after.split(' ');
        Some((before.split(' ').nth(4)?, description.next()?, description.next()?))
    });
    let innermost = mounts.filter(|(point, ..)| path.starts_with(point)).max_by_key(|(point, ..)| point.len());
    innermost.map_or("an unknown file system".into(), |(_, kind, source)| format!("{kind} ({source})"))
}
