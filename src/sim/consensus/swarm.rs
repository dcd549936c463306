//! What a run is like: how many stores and groups, and how often each thing happens to them. Drawn anew for each run, so that runs differ
//! more than actions within one do: some never lose a packet, some lose every third.

use super::entropy::Entropy;

/// What can happen in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A packet arrives.
    Deliver,
    /// A packet arrives, and will once more.
    Repeat,
    /// A packet is lost.
    Lose,
    /// A store's disk moves.
    Write,
    /// Time goes on to where something is due.
    Tick,
    /// Something is proposed.
    Propose,
    /// Somebody reads.
    Read,
    /// A store dies.
    Crash,
    /// A store starts.
    Start,
    /// Links are cut.
    Cut,
    /// All links work.
    Heal,
    /// A disk stops moving, or moves again.
    Stick,
    /// The clock jumps.
    Jump,
    /// A checkpoint is begun or ended.
    Checkpoint,
    /// A replica forgets applied entries.
    Forget,
    /// The configuration is to change.
    Change,
    /// Leadership is to change.
    Transfer,
    /// Owners stop applying, or apply again.
    Lag,
    /// A store's clock stops, or goes on.
    Doze,
}

#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) stores: usize,
    pub(super) groups: usize,
    pub(super) voters: usize,
    /// Packets overtake one another.
    pub(super) reorders: bool,
    /// Owners do not apply for now.
    pub(super) lags: bool,
    /// Proposals at a time, at most.
    pub(super) burst: usize,
    /// Entries in one message, at most.
    pub(super) batch: usize,
    /// By choice.
    actions: Vec<Action>,
}

/// Those that happen in any run, with their usual shares.
const USUAL: &[(Action, usize)] =
    &[(Action::Deliver, 90), (Action::Write, 50), (Action::Tick, 9), (Action::Propose, 12), (Action::Start, 3)];

/// Those that some runs are without, with their largest shares.
const HOSTILE: &[(Action, usize)] = &[
    (Action::Repeat, 16),
    (Action::Lose, 24),
    (Action::Read, 12),
    (Action::Crash, 4),
    (Action::Cut, 4),
    (Action::Stick, 3),
    (Action::Jump, 2),
    (Action::Checkpoint, 8),
    (Action::Forget, 8),
    (Action::Change, 8),
    (Action::Transfer, 4),
    (Action::Lag, 3),
    (Action::Doze, 4),
];

impl Swarm {
    pub(super) fn draw(entropy: &mut Entropy) -> Swarm {
        let mut below = |bound: u64| entropy.below(bound).unwrap_or(0) as usize;
        let stores = 3 + [0, 0, 0, 1, 2, 2, 3, 4][below(8)];
        let groups = [1, 1, 1, 1, 1, 2, 3, 4][below(8)];
        let voters = [3, 3, 3, 2, 1, 4, 5, 5][below(8)].min(stores);
        let reorders = below(3) > 0;
        let burst = [1, 1, 3, 12][below(4)];
        let batch = [1_024, 1, 2, 5][below(4)];
        let mut actions = Vec::new();
        for &(action, share) in USUAL {
            actions.extend(std::iter::repeat_n(action, share));
        }
        for &(action, most) in HOSTILE {
            // Half of the runs are without it.
            let share = below(16);
            let share = if share < 8 { 0 } else { (most * (share - 7)).div_ceil(8) };
            actions.extend(std::iter::repeat_n(action, share));
            if action == Action::Cut && share > 0 {
                actions.extend([Action::Heal; 3]);
            }
        }
        Swarm { stores, groups, voters, reorders, lags: false, burst, batch, actions }
    }

    /// Nothing but the given actions, in equal shares: what is enumerated.
    pub(super) fn plain(stores: usize, actions: &[Action]) -> Swarm {
        let actions = actions.to_vec();
        Swarm { stores, groups: 1, voters: stores, reorders: true, lags: false, burst: 1, batch: 2, actions }
    }

    pub(super) fn choices(&self) -> u64 {
        self.actions.len() as u64
    }

    pub(super) fn action(&self, choice: u64) -> Action {
        self.actions[choice as usize]
    }
}
