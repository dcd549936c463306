//! Links: the connections of a client, whom they lead to, and whom to ask for which keys.
//!
//! An *endpoint* is an address where a store may be: a seed that the client was given, or one that the cluster map names. A *link* is
//! a connection to one, from the moment it is asked for:
//!
//! ```text
//!   dialling ── connected ──► greeting ── Welcome ──► up
//!      └───────────┴── broken, too slow, or nonsense ──┴──► gone; the endpoint is left alone for a while
//! ```
//!
//! The map is a hint. Any store takes any request, so a request whose store cannot be reached goes by another; and a store is
//! connected to only when a few requests wanted it.

use super::LinkId;
use crate::client::pipeline::{Expected, Pipeline};
use crate::engine::prng::Prng;
use crate::ids::{ClusterId, KeyHash, Micros, NodeId, StoreId};
use crate::limits::{
    CLIENT_ADDRESS_BYTES_MAX, CLIENT_DIAL_AFTER, CLIENT_DIAL_BACK_OFF_MICROS_MAX, CLIENT_DIAL_BACK_OFF_MICROS_MIN,
    CLIENT_DIAL_MICROS_MAX, CLIENT_DIAL_STAGGER_MICROS, CLIENT_LINK_BYTES_MAX, CLIENT_LINKS_MAX, CLIENT_SEEDS_MAX,
    CONNECTION_REQUESTS_MAX,
};
use crate::wire::client::{Hello, PROTOCOL_VERSION, Welcome};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Dialling { until: Micros },
    Greeting { until: Micros },
    Up,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) endpoint: Arc<str>,
    phase: Phase,
    pub(super) pipeline: Pipeline,
    /// Whose answer each request brings. A request that ended otherwise is not listed any more.
    pub(super) operations: BTreeMap<u64, super::OpId>,
    /// The request for the map that is under way.
    pub(super) greeting: Option<u64>,
    /// When something last came.
    pub(super) heard: Micros,
}

impl Link {
    fn has_room(&self) -> bool {
        self.phase == Phase::Up
            && self.pipeline.waiting() < CONNECTION_REQUESTS_MAX
            && self.pipeline.unsent().len() < CLIENT_LINK_BYTES_MAX
    }

    /// Whether answers that nobody waits for any more keep it from taking requests.
    fn is_clogged(&self) -> bool {
        self.pipeline.waiting() >= CONNECTION_REQUESTS_MAX && self.operations.len() < CONNECTION_REQUESTS_MAX / 2
    }

    /// Asks for the map. In the first frame that says who we are.
    fn greet(&mut self, cluster_id: ClusterId, client_name: &str) {
        let hello = Hello {
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            cluster_id: (cluster_id != ClusterId(0)).then_some(cluster_id),
            client_name,
        };
        let write = |encoder: &mut crate::wire::client::Encoder, out: &mut Vec<u8>, id| encoder.hello(out, id, &hello);
        self.greeting = Some(self.pipeline.request(Expected::Welcome, write));
    }
}

/// Where a store may be.
#[derive(Debug, Default)]
struct Endpoint {
    seed: bool,
    link: Option<LinkId>,
    /// Connections in a row that answered nothing.
    failures: u32,
    not_before: Micros,
    /// Requests that would rather have gone there, since it was last dialled.
    wanted: u32,
    /// Why the last connection ended.
    error: Option<String>,
}

/// Who owns what, as a server said.
#[derive(Debug)]
struct Map {
    epoch: u64,
    routing_seed: u64,
    /// Start of each shard's range, ascending, and where its owner is.
    shards: Vec<(KeyHash, Option<Arc<str>>)>,
}

/// All links of a client.
#[derive(Debug)]
pub(super) struct Links {
    client_name: String,
    prng: Prng,
    cluster: ClusterId,
    map: Option<Map>,
    endpoints: BTreeMap<Arc<str>, Endpoint>,
    /// In which order they are tried when there is no link.
    order: Vec<Arc<str>>,
    links: BTreeMap<LinkId, Link>,
    last_link: u64,
    last_dial: Option<Micros>,
    /// Wanted from the shell.
    pub(super) dials: Vec<(LinkId, Arc<str>)>,
    /// Wanted from the shell.
    pub(super) closes: Vec<LinkId>,
}

impl Links {
    pub(super) fn new(seeds: &[String], client_name: &str, prng: Prng) -> Links {
        let mut links = Links {
            client_name: client_name.to_owned(),
            prng,
            cluster: ClusterId(0),
            map: None,
            endpoints: BTreeMap::new(),
            order: Vec::new(),
            links: BTreeMap::new(),
            last_link: 0,
            last_dial: None,
            dials: Vec::new(),
            closes: Vec::new(),
        };
        for seed in seeds.iter().take(CLIENT_SEEDS_MAX) {
            let seed: Arc<str> = seed.as_str().into();
            links.order.push(Arc::clone(&seed));
            links.endpoints.insert(seed, Endpoint { seed: true, ..Endpoint::default() });
        }
        links
    }

    pub(super) fn get(&self, link: LinkId) -> Option<&Link> {
        self.links.get(&link)
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&link)
    }

    /// The links there are.
    pub(super) fn ids(&self) -> impl Iterator<Item = LinkId> {
        self.links.keys().copied()
    }

    /// A connection was made.
    pub(super) fn connected(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Phase::Dialling { until } = link.phase {
            link.phase = Phase::Greeting { until };
            link.heard = now;
            link.greet(self.cluster, &self.client_name);
        }
    }

    /// Takes a link away. Its endpoint is left alone for a while.
    pub(super) fn remove(&mut self, now: Micros, id: LinkId, reason: &str) -> Option<Link> {
        let link = self.links.remove(&id)?;
        let back_off = CLIENT_DIAL_BACK_OFF_MICROS_MIN;
        if let Some(endpoint) = self.endpoints.get_mut(&link.endpoint) {
            endpoint.link = None;
            let wait = back_off << endpoint.failures.min(16);
            let wait = wait.min(CLIENT_DIAL_BACK_OFF_MICROS_MAX);
            endpoint.not_before = now.plus(wait / 2 + self.prng.below(wait / 2 + 1));
            endpoint.failures += 1;
            endpoint.error = Some(reason.chars().take(super::REASON_CHARACTERS_MAX).collect());
        }
        self.forget_strangers();
        Some(link)
    }

    /// Asks the server behind a link for the map, if that is not under way.
    pub(super) fn ask_for_map(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id)
            && link.greeting.is_none()
        {
            link.greet(self.cluster, &self.client_name);
        }
    }

    /// A server has answered a request: it is worth connecting to.
    pub(super) fn note_service(&mut self, id: LinkId) {
        let endpoint = self.links.get(&id).and_then(|link| self.endpoints.get_mut(&link.endpoint));
        if let Some(endpoint) = endpoint {
            endpoint.failures = 0;
        }
    }

    /// A server has said who it is, and who owns what.
    ///
    /// # Errors
    /// Why there can be no talking to it.
    pub(super) fn welcomed(&mut self, id: LinkId, welcome: Welcome) -> Result<(), String> {
        if welcome.protocol != PROTOCOL_VERSION {
            return Err("the server chose a protocol that was not offered".to_owned());
        }
        if self.cluster != ClusterId(0) && welcome.cluster_id != self.cluster {
            return Err(format!("the server belongs to another cluster, {:032x}", welcome.cluster_id.0));
        }
        self.cluster = welcome.cluster_id;
        if let Some(link) = self.links.get_mut(&id) {
            link.phase = Phase::Up;
            link.greeting = None;
        }
        if self.map.as_ref().is_none_or(|map| map.epoch <= welcome.map_epoch) {
            self.take_map(welcome);
        }
        Ok(())
    }

    fn take_map(&mut self, welcome: Welcome) {
        let mut addresses: BTreeMap<(NodeId, StoreId), Arc<str>> = BTreeMap::new();
        for store in welcome.stores {
            if (1..=CLIENT_ADDRESS_BYTES_MAX).contains(&store.address.len()) {
                addresses.insert((store.node, store.store), store.address.into());
            }
        }
        self.order.retain(|address| self.endpoints.get(address).is_some_and(|endpoint| endpoint.seed));
        for address in addresses.values() {
            self.endpoints.entry(Arc::clone(address)).or_default();
            if !self.order.contains(address) {
                self.order.push(Arc::clone(address));
            }
        }
        let owner = |range: &crate::wire::client::ShardRange| addresses.get(&(range.node, range.store)).cloned();
        let shards = welcome.shards.iter().map(|range| (range.start, owner(range))).collect();
        self.map = Some(Map { epoch: welcome.map_epoch, routing_seed: welcome.routing_seed, shards });
        self.forget_strangers();
    }

    /// Drops endpoints that nobody names any more.
    fn forget_strangers(&mut self) {
        let order = &self.order;
        self.endpoints.retain(|address, endpoint| endpoint.link.is_some() || order.contains(address));
    }

    /// Place of the shard that owns a key, if the map is known.
    pub(super) fn shard_of(&self, key: &[u8]) -> Option<usize> {
        let map = self.map.as_ref()?;
        let hash = KeyHash::of(map.routing_seed, key);
        map.shards.partition_point(|(start, _)| *start <= hash).checked_sub(1)
    }

    /// The owner of the shard at a place of the map.
    fn owner(&self, place: usize) -> Option<Arc<str>> {
        self.map.as_ref()?.shards.get(place)?.1.clone()
    }

    /// Shards of the map, and its epoch.
    pub(super) fn shards(&self) -> Option<(usize, u64)> {
        self.map.as_ref().map(|map| (map.shards.len(), map.epoch))
    }

    /// The link by which a request is to go now: to the owner of a shard if that can be, else by the one with the least to do.
    pub(super) fn choose(&mut self, now: Micros, place: Option<usize>) -> Option<LinkId> {
        if let Some(owner) = place.and_then(|place| self.owner(place)) {
            let link = self.endpoints.get(&owner).and_then(|endpoint| endpoint.link);
            if let Some(id) = link.filter(|id| self.links.get(id).is_some_and(Link::has_room)) {
                return Some(id);
            }
            self.want(now, &owner);
        }
        let load = |link: &Link| (link.pipeline.waiting(), link.pipeline.unsent().len());
        let able = self.links.iter().filter(|(_, link)| link.has_room());
        able.min_by_key(|(id, link)| (load(link), **id)).map(|(id, _)| *id)
    }

    fn want(&mut self, now: Micros, address: &Arc<str>) {
        let Some(endpoint) = self.endpoints.get_mut(address) else { return };
        endpoint.wanted = endpoint.wanted.saturating_add(1);
        let ready = endpoint.link.is_none() && endpoint.not_before <= now;
        if ready && endpoint.wanted >= CLIENT_DIAL_AFTER && self.links.len() < CLIENT_LINKS_MAX {
            self.dial(now, &Arc::clone(address));
        }
    }

    /// With nobody to talk to: dials the next endpoint. Says when to call again, if that is to be sooner than something happens.
    pub(super) fn seek(&mut self, now: Micros) -> Option<Micros> {
        if self.links.values().any(|link| link.phase == Phase::Up) {
            return None;
        }
        if self.links.len() >= CLIENT_LINKS_MAX {
            return None;
        }
        let idle = |address: &&Arc<str>| self.endpoints.get(*address).is_some_and(|endpoint| endpoint.link.is_none());
        let patience = |address: &Arc<str>| self.endpoints.get(address).map_or(Micros(u64::MAX), |e| e.not_before);
        let next = self.order.iter().filter(idle).min_by_key(|address| patience(address)).cloned()?;
        let stagger = self.last_dial.filter(|_| !self.links.is_empty());
        let at = stagger.map_or(Micros(0), |dial| dial.plus(CLIENT_DIAL_STAGGER_MICROS)).max(patience(&next));
        if at > now {
            return Some(at);
        }
        self.dial(now, &next);
        Some(now.plus(CLIENT_DIAL_STAGGER_MICROS))
    }

    fn dial(&mut self, now: Micros, address: &Arc<str>) {
        self.last_link += 1;
        let id = LinkId(self.last_link);
        let link = Link {
            endpoint: Arc::clone(address),
            phase: Phase::Dialling { until: now.plus(CLIENT_DIAL_MICROS_MAX) },
            pipeline: Pipeline::new(),
            operations: BTreeMap::new(),
            greeting: None,
            heard: now,
        };
        self.links.insert(id, link);
        if let Some(endpoint) = self.endpoints.get_mut(address) {
            endpoint.link = Some(id);
            endpoint.wanted = 0;
        }
        self.last_dial = Some(now);
        self.dials.push((id, Arc::clone(address)));
    }

    /// Links that have taken too long to come up, or take no more requests.
    pub(super) fn useless(&self, now: Micros) -> Vec<(LinkId, &'static str)> {
        let reason = |link: &Link| match link.phase {
            Phase::Dialling { until } if until <= now => Some("no connection in time"),
            Phase::Greeting { until } if until <= now => Some("no welcome in time"),
            Phase::Up if link.is_clogged() => Some("most requests were not answered"),
            _ => None,
        };
        self.links.iter().filter_map(|(id, link)| Some((*id, reason(link)?))).collect()
    }

    /// When some link will have taken too long to come up.
    pub(super) fn deadline(&self) -> Option<Micros> {
        let until = |link: &Link| match link.phase {
            Phase::Dialling { until } | Phase::Greeting { until } => Some(until),
            Phase::Up => None,
        };
        self.links.values().filter_map(until).min()
    }

    /// Why nobody can be reached, endpoint by endpoint.
    pub(super) fn why(&self) -> String {
        let reason = |address: &Arc<str>| {
            let endpoint = self.endpoints.get(address)?;
            let reason = match (&endpoint.error, endpoint.link) {
                (Some(error), _) => error.as_str(),
                (None, Some(_)) => "no answer in time",
                (None, None) => return None,
            };
            Some(format!("{address}: {reason}"))
        };
        let reasons: Vec<String> = self.order.iter().filter_map(reason).take(super::REASONS_MAX).collect();
        match reasons.as_slice() {
            [] if self.order.is_empty() => "no endpoint is given".to_owned(),
            [] => "no answer in time".to_owned(),
            reasons => reasons.join("; "),
        }
    }

    /// Bytes of the memory that links hold, for tests of its bounds.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let unsent = self.links.values().map(|link| link.pipeline.unsent().len()).sum();
        (self.links.len(), self.endpoints.len(), unsent)
    }
}
