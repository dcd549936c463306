//! Classic bugs, put back in on purpose, to see that the proof notices them.
//!
//! `mutant!("name")` is the condition under which a place of the code misbehaves. Without the feature `mutants` it is constantly
//! false and nothing of it is left. With it, a bug is chosen for the current thread by [`with`]; the simulator then has to find
//! a violation within its budget. A mutant that survives shows that the simulated world is too weak.

/// A bug, and the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// As in `mutant!`.
    pub name: &'static str,
    /// What is wrong.
    pub what: &'static str,
}

/// The bugs that the simulated world must notice.
pub const ALL: &[Mutant] = &[
    Mutant { name: "retry-applied-again", what: "a number that was decided is applied once more" },
    Mutant { name: "retry-answered-from-now", what: "a repeated request is answered with the entry that repeats it" },
    Mutant { name: "values-not-kept", what: "the new counts of a request are not remembered for its retries" },
    Mutant { name: "content-not-compared", what: "another request under a used number is taken for a retry" },
    Mutant { name: "forgotten-applied", what: "a number at or under the floor is applied" },
    Mutant { name: "floor-slides", what: "the floor rises by itself behind what was decided" },
    Mutant { name: "expired-taken-for-new", what: "a session at or under the mark starts over" },
    Mutant {
        name: "window-evicted",
        what: "the oldest window is dropped when there are many, although its session lives",
    },
    Mutant { name: "resolve-without-fence", what: "a number is resolved as not applied and not fenced" },
    Mutant { name: "former-holder-admitted", what: "requests of an earlier epoch are taken" },
    Mutant { name: "fence-forgets-repeats", what: "a resolved number that was applied is called fenced" },
    Mutant {
        name: "expired-sent-anew",
        what: "a client sends a request under a new session although a copy may have counted",
    },
    Mutant {
        name: "doubt-forgotten",
        what: "a client calls a request refused although an earlier copy may have counted",
    },
    Mutant {
        name: "loss-taken-for-never-sent",
        what: "a client takes what a broken connection had carried for never sent",
    },
    Mutant { name: "numbers-after-close", what: "a client uses numbers of a session that it has begun to close" },
    Mutant {
        name: "closed-short-of-former-holder",
        what: "a session is closed before what its former holder sent is answered again",
    },
    Mutant { name: "low-water-past-unknown", what: "a client's low-water mark passes a number of which nobody knows" },
    Mutant {
        name: "dead-files-recycled",
        what: "a file of a dead process is used again, and its late write lands in it",
    },
    Mutant { name: "header-not-awaited", what: "a store counts as opened before its first log header is durable" },
    Mutant {
        name: "overflow-refuses-others",
        what: "an overflow refuses other increments too, so replay depends on pages",
    },
    Mutant { name: "sessions-at-the-end-ignored", what: "sessions are not replaced at the end of a checkpoint" },
    Mutant { name: "checkpoint-not-synced", what: "a checkpoint is named before its file is durable" },
    Mutant {
        name: "leftovers-removed-at-once",
        what: "a file is removed although a late record may still name its checkpoint",
    },
    Mutant { name: "replay-over-newer-pages", what: "replay applies an entry again to a page that is past it" },
    Mutant { name: "page-taken-as-of-the-start", what: "a page's image says that it is older than it is" },
    Mutant { name: "split-pages-skipped", what: "the walk over pages misses the sibling of one that has split" },
    Mutant { name: "second-round-left-out", what: "a shard that may have more of the top is not asked again" },
    Mutant { name: "mark-not-logged", what: "a shard expires sessions by hearsay, without an entry of its log" },
];

/// The bugs that the core world must notice.
pub const CORE: &[Mutant] = &[
    Mutant { name: "any-log-wins", what: "a vote is granted whatever the candidate's log lacks (A11)" },
    Mutant { name: "longer-logs-win", what: "votes compare the lengths of logs and not their terms (A11)" },
    Mutant { name: "later-terms-win-at-any-length", what: "votes compare the last terms and not the lengths (A11)" },
    Mutant { name: "votes-twice", what: "a vote is granted although another was in this term (A1)" },
    Mutant { name: "vote-cleared-in-its-term", what: "stepping down within a term forgets the vote (A2)" },
    Mutant { name: "votes-not-awaited", what: "a vote leaves before it is durable (A1)" },
    Mutant { name: "vote-requests-not-awaited", what: "vote requests leave before term and own vote are durable (A3)" },
    Mutant { name: "terms-not-saved", what: "a term adopted from others is not recorded before its entries (A5)" },
    Mutant { name: "appends-acknowledged-at-once", what: "entries are acknowledged before they are durable (A4)" },
    Mutant { name: "stale-appends-truncate", what: "an append that arrives late cuts off what came after it (A6)" },
    Mutant { name: "truncation-not-logged", what: "a log is cut in memory only (A14)" },
    Mutant {
        name: "heartbeats-commit-anything",
        what: "a follower commits by a heartbeat what it has not verified (A7)",
    },
    Mutant {
        name: "old-terms-committed-by-counting",
        what: "entries of former terms are committed by counting copies (A8, figure 8)",
    },
    Mutant { name: "half-is-a-majority", what: "half of the voters make a quorum (A9)" },
    Mutant {
        name: "joint-commits-by-the-incoming-half",
        what: "the old half of a joint configuration is not asked for commits (A9)",
    },
    Mutant { name: "joint-commits-by-either-half", what: "either half of a joint configuration commits (A9)" },
    Mutant {
        name: "joint-elects-by-the-incoming-half",
        what: "the old half of a joint configuration is not asked for votes (E3)",
    },
    Mutant { name: "learners-are-counted", what: "learners count for quorums (A9)" },
    Mutant { name: "leader-counts-itself-always", what: "a leader counts itself although it is no voter (A9, E4)" },
    Mutant {
        name: "leader-counts-what-is-not-durable",
        what: "a leader counts its own entries before they are durable (A9, A16)",
    },
    Mutant { name: "late-acknowledgements-count", what: "acknowledgements of an earlier term count (A10)" },
    Mutant { name: "match-goes-back", what: "what is known to agree goes back with a late acknowledgement (A10)" },
    Mutant { name: "no-entry-of-the-own-term", what: "a new leader appends nothing (A12)" },
    Mutant { name: "pre-votes-count-as-votes", what: "late answers to pre-votes count as votes (A13)" },
    Mutant { name: "late-votes-count", what: "votes of an earlier term count (A13)" },
    Mutant { name: "applied-before-committed", what: "entries are applied before they are committed (A17, R4)" },
    Mutant { name: "window-ignored", what: "appends are sent without a bound on what is under way (B6)" },
    Mutant { name: "probe-never-repeated", what: "a probe that was lost is waited for for ever (B9)" },
    Mutant {
        name: "lost-appends-not-noticed",
        what: "the last append of a burst may get lost without anybody noticing (B9)",
    },
    Mutant { name: "leads-without-a-quorum", what: "a leader that nobody answers goes on leading (C3)" },
    Mutant { name: "old-leaders-not-answered", what: "a leader of an earlier term is not told so (C4)" },
    Mutant {
        name: "dismissed-voters-do-not-lead",
        what: "a voter that a change dismisses does not campaign (E3, 4.2.2)",
    },
    Mutant { name: "transfers-never-end", what: "a transfer that comes to nothing is never given up (C7)" },
    Mutant { name: "leads-with-a-stalled-log", what: "a leader whose disk stands still goes on leading (C8)" },
    Mutant { name: "reads-not-confirmed", what: "a leader answers reads without asking whether it leads (D1)" },
    Mutant {
        name: "reads-before-the-own-term-commits",
        what: "a leader answers reads before it has committed anything in its term (D1)",
    },
    Mutant { name: "reads-do-not-await-apply", what: "reads are answered before their index is applied (D1)" },
    Mutant { name: "rounds-not-numbered", what: "any answer confirms any round (D2)" },
    Mutant {
        name: "reads-join-the-round-under-way",
        what: "reads are confirmed by a round that began before them (D1)",
    },
    Mutant { name: "one-answer-confirms-reads", what: "a single answer confirms a round (D4)" },
    Mutant { name: "followers-read-by-themselves", what: "a follower answers reads by its own commit index (D6)" },
    Mutant { name: "read-numbers-begin-at-one", what: "a follower numbers its questions anew in each life (D2)" },
    Mutant {
        name: "changed-before-the-own-term-commits",
        what: "a new leader changes the configuration before it has committed anything (E1)",
    },
    Mutant { name: "voters-changed-in-one-step", what: "voters change without a joint configuration (E1)" },
    Mutant { name: "changes-overlap", what: "a change begins before the one before is committed (E1)" },
    Mutant {
        name: "configuration-not-reverted",
        what: "a configuration stays in effect although its entry was cut off (E2)",
    },
    Mutant { name: "joint-left-at-once", what: "a joint configuration is left before it is committed (E5)" },
    Mutant { name: "joint-never-left", what: "nobody leaves a joint configuration (E5)" },
    Mutant { name: "removed-leader-stays", what: "a leader that was dismissed goes on leading (E4)" },
    Mutant { name: "replica-ids-reused", what: "the id of a replica that left is minted again (E7, R1)" },
    Mutant {
        name: "replicas-written-to-before-they-are-added",
        what: "a replica begins by an entry that may yet get lost, with its id (R1)",
    },
    Mutant {
        name: "log-begins-without-configuration",
        what: "a replica does not know who belonged to the group when its log began (E9)",
    },
    Mutant {
        name: "checkpoints-carry-the-current-term",
        what: "a checkpoint names the leader's term instead of its entry's (F1)",
    },
    Mutant {
        name: "checkpoints-carry-the-latest-configuration",
        what: "a checkpoint carries a configuration that came after it (E9)",
    },
    Mutant {
        name: "checkpoints-forget-the-configuration",
        what: "installing a checkpoint does not put its configuration in force (E9)",
    },
    Mutant { name: "installation-not-logged", what: "a checkpoint is put in force without a record (F2)" },
    Mutant {
        name: "checkpoints-keep-a-conflicting-log",
        what: "what is left of a log conflicts with the checkpoint installed (F3)",
    },
    Mutant { name: "checkpoints-drop-a-good-log", what: "a checkpoint takes the place of a log that has more (F3)" },
    Mutant {
        name: "chunks-stored-at-any-offset",
        what: "pieces of a checkpoint are stored wherever they come from (F5)",
    },
    Mutant {
        name: "lost-campaigns-keep-their-turn",
        what: "groups that cannot elect anybody keep a store's others from it (C9)",
    },
    Mutant { name: "refused-although-appended", what: "a proposal is refused that is in the log (R5)" },
    Mutant {
        name: "frames-carry-one-term",
        what: "a frame of heartbeats hides its groups' terms behind the first one's (I1)",
    },
];

/// Bugs of the core that its world cannot tell from hostility, or has no room for. The test that catches each names it.
pub const CORE_CAUGHT_BY_TESTS: &[Mutant] = &[
    Mutant {
        name: "rounds-not-looked-at-after-changes",
        what: "a round that a change leaves with all answers it needs is not ended (D1)",
    },
    Mutant { name: "commit-beyond-what-was-verified", what: "a follower commits what an append did not verify (A7)" },
    Mutant { name: "proposals-unbounded", what: "what is proposed and not settled is not bounded (B10)" },
    Mutant { name: "room-never-given-back", what: "settled proposals keep their room (B10)" },
    Mutant { name: "amnesia-accepted", what: "a follower that has lost what it acknowledged is written to again (E8)" },
    Mutant { name: "candidates-depose-a-heard-leader", what: "a candidate deposes a leader that its voters hear (C3)" },
    Mutant { name: "late-timeouts-heeded", what: "a late request to lead is followed (C7)" },
    Mutant { name: "only-members-get-votes", what: "a voter refuses whom its own configuration does not know (C5)" },
];

/// Bugs that the simulated world is too small for. The test that catches each names it.
pub const CAUGHT_BY_TESTS: &[Mutant] = &[
    Mutant { name: "birth-below-zero-not-tested", what: "a key whose first delta is negative is no candidate" },
    Mutant { name: "flags-cleared-first", what: "a sliced compaction drops members before it raises certification" },
    Mutant { name: "scan-shows-changes", what: "a scan shows a key as it is when the cursor comes to it" },
    Mutant {
        name: "candidates-of-some-pages",
        what: "the highest keys are not found anew from all pages of a checkpoint",
    },
];

/// The bug of this name that a test catches.
///
/// # Panics
/// If there is none.
#[cfg(test)]
pub(crate) fn caught_here(name: &str) -> &'static Mutant {
    CAUGHT_BY_TESTS.iter().chain(CORE_CAUGHT_BY_TESTS).find(|mutant| mutant.name == name).expect("the bug is listed")
}

/// The condition under which a named bug is active.
macro_rules! mutant {
    ($name:literal) => {
        cfg!(feature = "mutants") && $crate::mutant::is_active($name)
    };
}
pub(crate) use mutant;

std::thread_local! {
    static ACTIVE: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether a bug is chosen on this thread.
#[must_use]
pub fn is_active(name: &str) -> bool {
    ACTIVE.get() == Some(name)
}

/// Takes a bug out again, also when its run panics.
struct Restore(Option<&'static str>);

impl Drop for Restore {
    fn drop(&mut self) {
        ACTIVE.set(self.0);
    }
}

/// Runs something with a bug put back in. Does nothing without the feature `mutants`.
pub fn with<T>(mutant: &Mutant, run: impl FnOnce() -> T) -> T {
    let _restored = Restore(ACTIVE.replace(Some(mutant.name)));
    run()
}
