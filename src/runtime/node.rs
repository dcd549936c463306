//! The node file: who this node is and what shape it has, in `node.toml` inside the data directory.
//!
//! A data directory looks like this:
//!
//! ```text
//! dkc-data/
//!   LOCK             held while a server runs (lock.rs)
//!   node.toml        this file; node.toml.tmp while it is being replaced
//!   store-000/       store 0, and so on: wal/ its log, checkpoint/ its checkpoints
//! ```
//!
//! People may read the file, and it ends in a line with the checksum of all lines before it, so that nobody edits the
//! number of stores of a directory full of counts. Its owner alone may read it: who knows the session secret can speak for any
//! client's session. It is replaced, never changed in place: written beside, synced,
//! renamed, and the directory synced.
//!
//! `opened` is the node's memory of its logs. It is false until the first log segment of every store is durable, and
//! no client is served before it is true. From then on a log that is missing or empty is a lost log, which recovery
//! refuses by name instead of starting over at zero.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::{RequestedShape, Shape};
use super::lock::LOCK_FILE;
use crate::engine::sessions::token::SessionSecret;
use crate::ids::{ClusterId, NodeId, StoreId};
use crate::limits::{SHARDS_MAX, STORES_MAX, WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN};

/// Version of the file this server reads and writes.
const FORMAT: u32 = 2;
const FILE: &str = "node.toml";
const UNFINISHED_FILE: &str = "node.toml.tmp";
const HEADING: &str =
    "# Who this node is. Written by dkc-server, not to be edited: the last line is a checksum of the others.\n";
const CHECKSUM_KEY: &str = "checksum = ";
/// Permissions of the file.
const OWNER_ONLY: u32 = 0o600;
/// Node ids have so many bits, so that every JSON reader can hold them.
const NODE_ID_BITS: u32 = 48;

/// What the node file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The cluster this node belongs to.
    pub cluster: ClusterId,
    /// The node's id in the cluster.
    pub node: NodeId,
    /// Which life of the node this directory is; 1 for the first.
    pub incarnation: u64,
    /// Seed of the cluster's routing hash.
    pub routing_seed: u64,
    /// What the tokens of sessions are made with.
    pub session_secret: SessionSecret,
    /// Stores, shards, segment size.
    pub shape: Shape,
    /// Whether every store's log exists durably.
    pub opened: bool,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum NodeError {
    #[error("cannot {action} {path}: {error}", path = .path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("no random numbers for a new cluster's identity: {0}")]
    Random(getrandom::Error),
    #[error("{path} is damaged ({what}); restore it from a backup: it is small and changes only when a node is formatted",
        path = .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{path} has format {found}, this server knows {FORMAT}; run the version that wrote it, or a newer one",
        path = .path.display())]
    UnknownFormat { path: PathBuf, found: u32 },
    #[error("{directory} has the log of a store ({entry}) but no {FILE}; restore {FILE}, or choose another --data-dir",
        directory = .directory.display())]
    StoresWithoutNodeFile { directory: PathBuf, entry: String },
    #[error("{directory} is neither empty nor a server's data directory (it contains {entry}); choose another --data-dir",
        directory = .directory.display())]
    ForeignDirectory { directory: PathBuf, entry: String },
    #[error("{directory} is no data directory: it has no {FILE}", directory = .directory.display())]
    NoDataDirectory { directory: PathBuf },
    #[error("{path}, the log of a store, is missing although this node has used it; restore it, or start over in an \
        empty --data-dir", path = .path.display())]
    MissingStore { path: PathBuf },
    #[error("{flag} {requested} does not match {directory}, which was formatted with {found}; leave the flag away, or \
        choose another --data-dir", directory = .directory.display())]
    OtherShape { directory: PathBuf, flag: &'static str, requested: u64, found: u64 },
}

/// The file's content as it is written. Numbers that may need 64 bits are text: TOML's integers are signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    cluster: String,
    node: u64,
    incarnation: u64,
    routing_seed: String,
    session_secret: String,
    stores: u16,
    shards: u32,
    wal_segment_bytes: u64,
    opened: bool,
}

/// What every format has.
#[derive(Deserialize)]
struct AnyContent {
    format: u32,
}

impl Node {
    /// Reads the node file of a data directory that is locked; formats the directory if it is new. The second value
    /// tells whether it was.
    ///
    /// # Errors
    /// If the directory is not a data directory, is damaged, or was formatted with another shape than `requested`.
    pub fn open_or_format(directory: &Path, requested: RequestedShape) -> Result<(Node, bool), NodeError> {
        if let Some(node) = Node::read(directory, requested)? {
            return Ok((node, false));
        }
        refuse_foreign_entries(directory)?;
        let node = Node::random(requested.or_default())?;
        node.save(directory)?;
        Ok((node, true))
    }

    /// Reads the node file of a data directory that has one, and changes nothing.
    ///
    /// # Errors
    /// As [`Node::open_or_format`]; also if there is no node file.
    pub fn open(directory: &Path, requested: RequestedShape) -> Result<Node, NodeError> {
        if let Some(node) = Node::read(directory, requested)? {
            return Ok(node);
        }
        if directory.is_dir() {
            refuse_foreign_entries(directory)?;
        }
        Err(NodeError::NoDataDirectory { directory: directory.into() })
    }

    /// None if there is no node file.
    fn read(directory: &Path, requested: RequestedShape) -> Result<Option<Node>, NodeError> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(NodeError::Io { action: "read", path, error }),
        };
        let node = Node::decode(&path, &text)?;
        node.check_shape(directory, requested)?;
        node.check_stores(directory)?;
        Ok(Some(node))
    }

    /// Replaces the node file, durably.
    ///
    /// # Errors
    /// If the file system refuses a step; the file is then the old one or the new one.
    pub fn save(&self, directory: &Path) -> Result<(), NodeError> {
        let unfinished = directory.join(UNFINISHED_FILE);
        let path = directory.join(FILE);
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |error| NodeError::Io { action, path, error }
        };
        let mut create = OpenOptions::new();
        create.write(true).create(true).truncate(true).mode(OWNER_ONLY);
        let mut file = create.open(&unfinished).map_err(failed("create", &unfinished))?;
        file.write_all(self.encode().as_bytes()).map_err(failed("write", &unfinished))?;
        file.sync_all().map_err(failed("sync", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("rename a file to", &path))?;
        File::open(directory).and_then(|d| d.sync_all()).map_err(failed("sync", directory))
    }

    /// A new node of a new cluster.
    fn random(shape: Shape) -> Result<Node, NodeError> {
        let mut random = [0; 48];
        getrandom::fill(&mut random).map_err(NodeError::Random)?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| random[at + i]));
        Ok(Node {
            cluster: ClusterId(u128::from(number(0)) | u128::from(number(8)) << 64 | 1),
            node: NodeId(number(16) >> (u64::BITS - NODE_ID_BITS) | 1),
            incarnation: 1,
            routing_seed: number(24),
            session_secret: SessionSecret(std::array::from_fn(|i| random[32 + i])),
            shape,
            opened: false,
        })
    }

    fn encode(&self) -> String {
        let content = Content {
            format: FORMAT,
            cluster: format!("{:032x}", self.cluster.0),
            node: self.node.0,
            incarnation: self.incarnation,
            routing_seed: format!("{:016x}", self.routing_seed),
            session_secret: format!("{:032x}", u128::from_be_bytes(self.session_secret.0)),
            stores: self.shape.stores,
            shards: self.shape.shards,
            wal_segment_bytes: self.shape.segment_bytes,
            opened: self.opened,
        };
        let content = toml::to_string(&content).expect("numbers and text are always TOML");
        let text = format!("{HEADING}{content}");
        let checksum = crc32fast::hash(text.as_bytes());
        format!("{text}{CHECKSUM_KEY}\"{checksum:08x}\"\n")
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Node, NodeError> {
        let damaged = |what: &str| NodeError::Damaged { path: path.into(), what: what.into() };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let last_line = text.strip_suffix('\n').map(|text| text.rfind('\n').map_or(0, |newline| newline + 1));
        let (content, checksum) = text.split_at(last_line.ok_or_else(|| damaged("it is cut off"))?);
        let expected = format!("{CHECKSUM_KEY}\"{:08x}\"\n", crc32fast::hash(content.as_bytes()));
        if checksum != expected {
            return Err(damaged("its checksum does not match"));
        }
        let invalid = |error: toml::de::Error| damaged(error.message());
        let AnyContent { format } = toml::from_str(content).map_err(invalid)?;
        if format != FORMAT {
            return Err(NodeError::UnknownFormat { path: path.into(), found: format });
        }
        let content: Content = toml::from_str(content).map_err(invalid)?;
        let (Ok(cluster), Ok(routing_seed), Ok(session_secret)) = (
            u128::from_str_radix(&content.cluster, 16),
            u64::from_str_radix(&content.routing_seed, 16),
            u128::from_str_radix(&content.session_secret, 16),
        ) else {
            return Err(damaged("an id is not a hexadecimal number"));
        };
        let segment_is_valid = (WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(&content.wal_segment_bytes)
            && content.wal_segment_bytes.is_multiple_of(WAL_BLOCK_BYTES as u64);
        let stores_are_valid = (1..=STORES_MAX).contains(&usize::from(content.stores));
        let shards_are_valid = (1..=SHARDS_MAX).contains(&(content.shards as usize));
        if !(segment_is_valid && stores_are_valid && shards_are_valid) {
            return Err(damaged("a number is beyond its limit"));
        }
        let shape = Shape { stores: content.stores, shards: content.shards, segment_bytes: content.wal_segment_bytes };
        Ok(Node {
            cluster: ClusterId(cluster),
            node: NodeId(content.node),
            incarnation: content.incarnation,
            routing_seed,
            session_secret: SessionSecret(session_secret.to_be_bytes()),
            shape,
            opened: content.opened,
        })
    }

    fn check_shape(&self, directory: &Path, requested: RequestedShape) -> Result<(), NodeError> {
        let shape = self.shape;
        for (flag, requested, found) in [
            ("--stores", requested.stores.map(u64::from), u64::from(shape.stores)),
            ("--shards", requested.shards.map(u64::from), u64::from(shape.shards)),
            ("--wal-segment", requested.segment_bytes, shape.segment_bytes),
        ] {
            if let Some(requested) = requested.filter(|&requested| requested != found) {
                return Err(NodeError::OtherShape { directory: directory.into(), flag, requested, found });
            }
        }
        Ok(())
    }

    fn check_stores(&self, directory: &Path) -> Result<(), NodeError> {
        let logs = (0..self.shape.stores).map(|store| log_path(directory, StoreId(store)));
        match logs.into_iter().find(|path| self.opened && !path.is_dir()) {
            Some(path) => Err(NodeError::MissingStore { path }),
            None => Ok(()),
        }
    }
}

/// Where the log of a store is.
#[must_use]
pub fn log_path(directory: &Path, store: StoreId) -> PathBuf {
    directory.join(format!("store-{:03}", store.0)).join("wal")
}

/// Before formatting: a directory that holds anything but remains of an interrupted start is not taken over.
fn refuse_foreign_entries(directory: &Path) -> Result<(), NodeError> {
    let failed = |error| NodeError::Io { action: "list", path: directory.into(), error };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if entry.starts_with("store-") {
            return Err(NodeError::StoresWithoutNodeFile { directory: directory.into(), entry });
        }
        // A disk's own root directory may be the data directory.
        if ![LOCK_FILE, UNFINISHED_FILE, "lost+found"].contains(&entry.as_str()) {
            return Err(NodeError::ForeignDirectory { directory: directory.into(), entry });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    const SHAPE: Shape = Shape { stores: 2, shards: 4, segment_bytes: 64 << 20 };
    const REQUESTED: RequestedShape =
        RequestedShape { stores: Some(2), shards: Some(4), segment_bytes: Some(64 << 20) };
    const ANY: RequestedShape = RequestedShape { stores: None, shards: None, segment_bytes: None };

    fn formatted() -> (TempDir, Node) {
        let directory = tempdir().expect("a temporary directory");
        let (node, is_new) = Node::open_or_format(directory.path(), REQUESTED).expect("formats");
        assert!(is_new);
        (directory, node)
    }

    fn refusal(directory: &TempDir, requested: RequestedShape) -> NodeError {
        Node::open_or_format(directory.path(), requested).expect_err("must be refused")
    }

    /// Rewrites the file with another content and a checksum that fits.
    fn forge(directory: &TempDir, change: impl Fn(String) -> String) {
        let path = directory.path().join(FILE);
        let text = fs::read_to_string(&path).expect("readable");
        let content = text.split(CHECKSUM_KEY).next().expect("content").to_string();
        let content = change(content);
        let checksum = crc32fast::hash(content.as_bytes());
        fs::write(path, format!("{content}{CHECKSUM_KEY}\"{checksum:08x}\"\n")).expect("written");
    }

    #[test]
    fn a_new_directory_is_formatted_once() {
        let (directory, node) = formatted();
        assert_eq!(node.shape, SHAPE);
        assert!(!node.opened);
        assert!(node.node.0 > 0 && node.node.0 < 1 << NODE_ID_BITS);
        let (again, is_new) = Node::open_or_format(directory.path(), ANY).expect("opens");
        assert_eq!(again, node);
        assert!(!is_new);
        assert_ne!(formatted().1.cluster, node.cluster, "every cluster has an id of its own");
    }

    #[test]
    fn the_file_is_toml_with_a_checksum_anyone_can_compute() {
        let node = Node {
            cluster: ClusterId(0xabc),
            node: NodeId(7),
            incarnation: 1,
            routing_seed: u64::MAX,
            session_secret: SessionSecret(std::array::from_fn(|i| i as u8)),
            shape: SHAPE,
            opened: true,
        };
        let content = format!(
            "{HEADING}format = 2\ncluster = \"00000000000000000000000000000abc\"\nnode = 7\nincarnation = 1\n\
             routing_seed = \"ffffffffffffffff\"\n\
             session_secret = \"000102030405060708090a0b0c0d0e0f\"\nstores = 2\nshards = 4\nwal_segment_bytes = 67108864\nopened = true\n"
        );
        let checksum = crc32fast::hash(content.as_bytes());
        assert_eq!(node.encode(), format!("{content}checksum = \"{checksum:08x}\"\n"));
        assert_eq!(Node::decode(Path::new("x"), node.encode().as_bytes()).expect("reads"), node);
        assert!(toml::from_str::<toml::Table>(&node.encode()).is_ok());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let (directory, _) = formatted();
        let path = directory.path().join(FILE);
        let intact = fs::read(&path).expect("readable");
        for bit in 0..intact.len() * 8 {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Node::decode(&path, &bytes), Err(NodeError::Damaged { .. })), "bit {bit}");
        }
        for length in 0..intact.len() {
            assert!(matches!(Node::decode(&path, &intact[..length]), Err(NodeError::Damaged { .. })), "cut {length}");
        }
    }

    #[test]
    fn a_file_from_the_future_is_refused_by_its_format() {
        let (directory, _) = formatted();
        forge(&directory, |text| text.replace("format = 2", "format = 3\nunheard_of = true"));
        assert!(matches!(refusal(&directory, ANY), NodeError::UnknownFormat { found: 3, .. }));
    }

    #[test]
    fn a_file_that_was_edited_with_care_still_has_to_make_sense() {
        for (from, to) in [
            ("stores = 2", "stores = 0"),
            ("stores = 2", "stores = 300"),
            ("shards = 4", "shards = 5000"),
            ("wal_segment_bytes = 67108864", "wal_segment_bytes = 67108865"),
            ("incarnation = 1\n", ""),
            ("opened = false", "opened = false\nextra = 1"),
            ("routing_seed = \"", "routing_seed = \"x"),
        ] {
            let (directory, _) = formatted();
            forge(&directory, |text| {
                assert!(text.contains(from), "{from}");
                text.replace(from, to)
            });
            assert!(matches!(refusal(&directory, ANY), NodeError::Damaged { .. }), "{to}");
        }
    }

    #[test]
    fn a_log_without_a_node_file_is_never_formatted_over() {
        let directory = tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("store-001")).expect("created");
        assert!(matches!(refusal(&directory, ANY), NodeError::StoresWithoutNodeFile { .. }));
    }

    #[test]
    fn somebody_elses_directory_is_not_taken_over() {
        let directory = tempdir().expect("a temporary directory");
        fs::write(directory.path().join("thesis.tex"), "...").expect("written");
        let error = refusal(&directory, ANY).to_string();
        assert!(error.contains("thesis.tex") && error.contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_lost_log_is_refused_once_it_was_in_use() {
        let (directory, mut node) = formatted();
        assert!(Node::open_or_format(directory.path(), ANY).is_ok(), "no store was opened yet");
        for store in 0..2 {
            fs::create_dir_all(log_path(directory.path(), StoreId(store))).expect("created");
        }
        node.opened = true;
        node.save(directory.path()).expect("saved");
        assert_eq!(Node::open_or_format(directory.path(), ANY).expect("opens").0, node);
        fs::remove_dir(log_path(directory.path(), StoreId(1))).expect("removed");
        let error = refusal(&directory, ANY);
        assert!(matches!(&error, NodeError::MissingStore { path } if path.ends_with("store-001/wal")), "{error}");
    }

    #[test]
    fn the_shape_of_a_formatted_directory_never_changes() {
        let (directory, _) = formatted();
        assert!(Node::open_or_format(directory.path(), REQUESTED).is_ok());
        for (requested, flag) in [
            (RequestedShape { stores: Some(3), ..ANY }, "--stores 3"),
            (RequestedShape { shards: Some(5), ..ANY }, "--shards 5"),
            (RequestedShape { segment_bytes: Some(128 << 20), ..ANY }, "--wal-segment 134217728"),
        ] {
            let error = refusal(&directory, requested).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    // A crash between any two steps of `save` leaves one of these states.
    #[test]
    fn an_interrupted_save_leaves_the_old_file_or_none() {
        let (directory, mut node) = formatted();
        let unfinished = directory.path().join(UNFINISHED_FILE);
        fs::write(&unfinished, &node.encode()[..40]).expect("written");
        assert_eq!(Node::open_or_format(directory.path(), ANY).expect("opens").0, node, "the old file counts");
        node.opened = true;
        node.save(directory.path()).expect("saves over the remains");
        assert!(!unfinished.exists());

        let fresh = tempdir().expect("a temporary directory");
        fs::write(fresh.path().join(UNFINISHED_FILE), "format = ").expect("written");
        fs::write(fresh.path().join(LOCK_FILE), "").expect("written");
        assert!(Node::open_or_format(fresh.path(), ANY).expect("formats").1);
    }
}
