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
    CAUGHT_BY_TESTS.iter().find(|mutant| mutant.name == name).expect("the bug is listed")
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
