//! A simulated network between stores: it loses, repeats, reorders, holds and cuts, one way or both.

use std::collections::VecDeque;

use crate::engine::raft::Envelope;
use crate::engine::raft::heartbeats::Frame;

/// Packets under way, at most; past it the oldest are lost, as in any switch.
const PACKETS_MAX: usize = 512;

/// What travels as one.
#[derive(Clone, Debug)]
pub(super) enum Content {
    One(Envelope),
    Beats(Frame),
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) struct Network {
    packets: VecDeque<Packet>,
    /// By sender and receiver.
    cut: Vec<Vec<bool>>,
}

impl Network {
    pub(super) fn new(stores: usize) -> Network {
        Network { packets: VecDeque::new(), cut: vec![vec![false; stores]; stores] }
    }

    pub(super) fn send(&mut self, packet: Packet) {
        if self.packets.len() == PACKETS_MAX {
            self.packets.pop_front();
        }
        self.packets.push_back(packet);
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Takes a packet out; `None` also if it is lost in a cut.
    pub(super) fn take(&mut self, place: usize) -> Option<Packet> {
        let packet = self.packets.remove(place)?;
        (!self.cut[packet.from][packet.to]).then_some(packet)
    }

    /// A packet stays where it is, and comes another time.
    pub(super) fn copy(&mut self, place: usize) -> Option<Packet> {
        let packet = self.packets.get(place)?.clone();
        (!self.cut[packet.from][packet.to]).then_some(packet)
    }

    pub(super) fn lose(&mut self, place: usize) {
        self.packets.remove(place);
    }

    pub(super) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.cut[from][to] = cut;
    }

    pub(super) fn heal(&mut self) {
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    }
}
