//! What shows that each rule of consensus is kept: scripts (`tests/raft/scripts`), tests, and bugs put back in that must be noticed
//! (`src/mutant.rs`). A test reads this table and checks that everything it names is there.
//!
//! The rules are those that the literature and the bugs of other implementations have taught; A is safety, B persistence and
//! flow, C elections, D reads, E membership, F checkpoints, G disks, H exactly-once, I many groups. Beside what is named here, the core's
//! world (`dkc-sim core`) checks after every step: election safety with a quorum's votes, log matching, leader completeness, state machine
//! safety, commits durable on a quorum, of the leader's term; reads confirmed by a quorum since they were asked.
//!
//! | rule | in short | shown by |
//! |---|---|---|
//! | A1 | term and vote are one record, durable before a message depends on them | `votes-not-awaited` `votes-twice` `a_voter_grants_one_vote_a_term_and_remembers_it_across_a_crash` `a_vote_that_was_not_durable_was_never_given` `the_first_who_asks_gets_the_vote` |
//! | A2 | a vote is kept for its whole term | `vote-cleared-in-its-term` |
//! | A3 | vote requests wait for term, vote and log | `vote-requests-not-awaited` `a_vote_request_waits_for_the_disk` `a_campaign_elects_a_leader_that_commits_an_entry_of_its_own` |
//! | A4 | acknowledged is what is durable | `appends-acknowledged-at-once` `appends_two_deep_are_released_by_the_disk` |
//! | A5 | a term's record comes before its entries | `terms-not-saved` `a_crash_between_a_term_and_its_entry_loses_no_law` |
//! | A6 | a log is cut at the first real conflict only | `stale-appends-truncate` `a_stale_append_does_not_cut_a_log` |
//! | A7 | a follower commits only what this leader's appends have verified | `commit-beyond-what-was-verified` `heartbeats-commit-anything` `a_follower_does_not_commit_what_a_heartbeat_names` |
//! | A8 | a leader commits by counting only entries of its term | `old-terms-committed-by-counting` `figure_8_an_entry_of_an_old_term_is_not_committed_by_counting` `entries_of_former_terms_are_committed_with_one_of_the_own` |
//! | A9 | quorums are those of the configuration in effect, both halves, the leader by its durable log and only if it votes | `half-is-a-majority` `joint-commits-by-the-incoming-half` `joint-commits-by-either-half` `learners-are-counted` `leader-counts-itself-always` `leader-counts-what-is-not-durable` `quorums_are_what_counting_subsets_says` `a_minority_commits_nothing` |
//! | A10 | late answers change nothing, what is matched never goes back | `late-acknowledgements-count` `match-goes-back` `late_answers_change_nothing` |
//! | A11 | logs are compared by last term, then by length | `longer-logs-win` `later-terms-win-at-any-length` `any-log-wins` `logs_are_compared_by_term_before_length` `a_replica_that_lags_gets_no_pre_votes` |
//! | A12 | a new leader appends an entry of its term | `no-entry-of-the-own-term` `a_new_leader_answers_reads_only_after_an_entry_of_its_own` |
//! | A13 | votes are counted for one term, kind and configuration | `pre-votes-count-as-votes` `late-votes-count` |
//! | A14 | cutting a log is one record | `truncation-not-logged` `a_cut_and_an_installed_checkpoint_are_found_again` |
//! | A15 | what is committed is never taken back: the replica stops instead | `what_is_committed_is_never_taken_back` |
//! | A16 | a sole voter goes the same way | `a_single_voter_commits_only_what_is_durable` `nothing_is_committed_before_it_is_durable` |
//! | A17 | applied is what is committed; a checkpoint is no further than the log | `applied-before-committed` `smoke_seeds_hold_and_repeat_themselves` |
//! | B1 | what waits for the disk and what does not are told apart | `a_leader_commits_before_its_own_disk` `appends_two_deep_are_released_by_the_disk` |
//! | B2 | durability is one watermark | `an_overwritten_entry_is_not_taken_for_the_one_written_again` |
//! | B3 | no completion is lost or comes out of order | `one_write_is_under_way_and_the_rest_gathers` |
//! | B4 | the leader writes while its followers do | `a_leader_commits_before_its_own_disk` |
//! | B5 | a commit index held back is looked at again | `a_restarted_follower_hears_of_the_commit_index_again` `followers_learn_of_a_commit_at_once` |
//! | B6 | probe, replicate, checkpoint; a window in messages and bytes, which the commit index goes around | `window-ignored` `the_window_bounds_what_is_under_way` `appends_pause_at_the_window_and_the_commit_index_goes_on` |
//! | B7 | a follower's appends share a log write | `parts_of_one_turn_share_an_entry_and_keep_their_places` `one_write_is_under_way_and_the_rest_gathers` |
//! | B8 | one probe a term | `figure_7_is_repaired_with_a_probe_a_term` `a_hint_is_the_last_place_where_logs_can_agree` |
//! | B9 | answers to heartbeats restart what was lost | `probe-never-repeated` `lost-appends-not-noticed` `an_answer_to_a_heartbeat_ends_a_probe` `a_lost_append_is_noticed_by_the_next_heartbeat` |
//! | B10 | what is not settled is bounded, and gives its room back | `proposals-unbounded` `room-never-given-back` `proposals_are_bounded_by_what_is_not_settled` |
//! | B11 | answers wait for commit and apply only | `nothing_is_answered_or_visible_before_it_is_durable` |
//! | B12 | old entries are sent from memory, behind their predecessor's term | `terms_are_known_from_the_entry_before_the_first_on` `a_slow_follower_gets_a_checkpoint_and_then_the_log` |
//! | B13 | pressure reaches whoever proposes | `a_leader_that_cannot_commit_takes_only_so_much` |
//! | C1 | election timeouts are spread, and restart on word from the leader | `election_timeouts_are_spread_over_an_interval` `heartbeats_keep_elections_away` `a_split_vote_is_followed_by_another_election` |
//! | C2 | pre-votes change nothing | `votes_are_refused_while_a_leader_is_heard` `a_replica_that_lags_gets_no_pre_votes` |
//! | C3 | no leading without a quorum's answers; a leader that is heard is not deposed | `leads-without-a-quorum` `candidates-depose-a-heard-leader` `a_leader_that_nobody_answers_steps_down` |
//! | C4 | whoever is in a later term frees itself by saying so | `old-leaders-not-answered` `a_replica_stuck_in_a_later_term_is_freed` |
//! | C5 | votes do not go by the voter's configuration; a removed server disturbs nobody | `only-members-get-votes` `a_learner_that_is_a_voter_unawares_votes` `a_removed_server_disturbs_nobody` |
//! | C6 | who does not vote does not campaign | `dismissed-voters-do-not-lead` `a_voter_is_added_as_a_learner_first` |
//! | C7 | transfers: the log first, no proposals, no pre-vote, given up in time | `transfers-never-end` `late-timeouts-heeded` `a_transfer_waits_for_the_log_and_beats_stickiness` `a_transfer_that_comes_to_nothing_ends` `a_late_request_to_lead_is_ignored` |
//! | C8 | no leading with a disk that stands still | `leads-with-a-stalled-log` `a_leader_whose_disk_stands_still_gives_way` |
//! | C9 | so many campaigns a store, in turns | `lost-campaigns-keep-their-turn` |
//! | C10 | priorities | waits |
//! | C11 | a group is formatted once, the same everywhere | `log-begins-without-configuration` `the_meta_shard_writes_the_map_down_once` |
//! | C12 | messages are for one replica of one life | `strangers_have_no_vote` `replica-ids-reused` `read-numbers-begin-at-one` |
//! | D1 | capture, then a round, then apply | `reads-not-confirmed` `reads-before-the-own-term-commits` `reads-do-not-await-apply` `reads-join-the-round-under-way` `rounds-not-looked-at-after-changes` `a_leader_that_is_cut_off_answers_no_reads` `a_question_that_gets_no_answer_is_given_up` |
//! | D2 | rounds are numbered by the leader | `rounds-not-numbered` `read-numbers-begin-at-one` `a_late_answer_confirms_no_later_round` `reads_that_gather_share_a_round` |
//! | D3 | the index answered is the one captured | `a_read_round_and_a_transfer_do_not_mix_up` `followers-read-by-themselves` |
//! | D4 | reads ask the quorum that commits | `one-answer-confirms-reads` |
//! | D5 | leases | waits |
//! | D6 | followers ask the leader, and read their own state | `followers-read-by-themselves` `a_follower_asks_the_leader_and_reads_its_own_state` |
//! | D7 | answers carry the applied index | `tops_take_turns_with_everything_else` `reads-do-not-await-apply` |
//! | E1 | joint changes, one at a time, after an entry of the own term | `changed-before-the-own-term-commits` `voters-changed-in-one-step` `changes-overlap` `one_change_at_a_time` `two_leaders_and_two_changes_make_no_two_majorities` |
//! | E2 | the latest configuration of the log is in effect, and no other | `configuration-not-reverted` `a_change_that_is_cut_off_is_reverted` `the_latest_configuration_counts_committed_or_not` |
//! | E3 | both halves elect; the dismissed may have to lead | `joint-elects-by-the-incoming-half` `dismissed-voters-do-not-lead` `a_dismissed_server_leads_until_its_dismissal_is_committed` |
//! | E4 | a dismissed leader leads until that is committed, and does not count itself | `leader-counts-itself-always` `removed-leader-stays` `a_dismissed_leader_does_not_count_itself` `the_leader_is_exchanged_in_one_joint_change` |
//! | E5 | a joint configuration is left by whoever leads | `joint-left-at-once` `joint-never-left` |
//! | E6 | learners first, caught up before they vote, voters last out as learners | `a_voter_is_added_as_a_learner_first` `a_change_that_names_who_lags_is_refused` `impossible_changes_are_refused_by_name` |
//! | E7 | ids are never used twice | `replica-ids-reused` `replicas-written-to-before-they-are-added` `a_replica_is_written_to_when_it_is_added_for_good` |
//! | E8 | who has lost what it acknowledged is given up | `amnesia-accepted` `a_follower_that_lost_its_disk_is_given_up` `only_what_was_sent_after_an_acknowledgement_can_contradict_it` |
//! | E9 | a checkpoint carries the configuration of its index | `checkpoints-carry-the-latest-configuration` `checkpoints-forget-the-configuration` `log-begins-without-configuration` |
//! | E10 | witnesses | waits |
//! | F1 | a checkpoint names its entry, by index and term | `checkpoints-carry-the-current-term` `replay-over-newer-pages` |
//! | F2 | one record puts a checkpoint in force | `installation-not-logged` `a_cut_and_an_installed_checkpoint_are_found_again` |
//! | F3 | a log that holds the checkpoint's entry is kept, any other goes | `checkpoints-keep-a-conflicting-log` `checkpoints-drop-a-good-log` `a_slow_follower_gets_a_checkpoint_and_then_the_log` |
//! | F4 | a checkpoint that contradicts what is committed stops the replica | `a_checkpoint_that_contradicts_what_is_committed_is_a_fault` |
//! | F5 | pieces, resumed at the offset wanted | `chunks-stored-at-any-offset` `a_checkpoint_resumes_where_it_broke_off` |
//! | F6 | any sufficient acknowledgement ends a transfer | `a_checkpoint_ends_when_the_log_will_do` |
//! | F7 | the log is kept short, and a tail of it for those who lag | `the_log_stays_bounded` `only_what_may_go_is_forgotten` |
//! | F8 | a segment is freed when no group needs it | `unreleased_segments_are_kept` `released_segments_are_recycled_and_votes_survive_them` |
//! | F9 | checkpoints are made at a rate | `what_is_spent_comes_back_at_the_rate` |
//! | F10 | archives are checked before they are read | `cut_and_flipped_archives_never_panic` |
//! | G1 | a failed write is a latch | `a_failed_write_latches_the_log_for_good` |
//! | G2 | directories are synced | `a_segment_is_used_only_after_zeros_sync_name_and_directory` |
//! | G3 | only a torn tail is cut | `every_tear_of_the_last_write_keeps_what_was_acknowledged` `every_flipped_byte_is_refused_or_harmless` |
//! | G4 | repair from peers | waits |
//! | G5 | a record is of its place | `a_record_of_another_place_does_not_open` |
//! | G6 | a full disk is foreseen | `a_full_disk_leaves_a_reserve_and_recovers` |
//! | G7 | scrubbing | waits |
//! | G8 | state is saved with its index or made anew | `a_restart_begins_with_the_newest_checkpoint` `page-taken-as-of-the-start` |
//! | H1 | what counts once is replicated state | `retry-applied-again` `a_retry_is_answered_with_the_original_result_also_after_a_restart` |
//! | H2 | clients say what they know | `floor-slides` `what_the_client_has_settled_is_forgotten_and_never_counted_again` |
//! | H3 | sessions expire by the log | `expired-taken-for-new` `sessions_expire_by_age_and_their_late_copies_are_refused` |
//! | H4 | nothing is proposed twice inside | `refused-although-appended` `copies_in_one_entry_count_once` |
//! | H5 | no answer in time is not a failure | `refused-although-appended` `loss-taken-for-never-sent` |
//! | H6 | other content under a used number is an error | `content-not-compared` |
//! | H7 | sessions of moved shards | waits |
//! | I1 | one frame of heartbeats a store, with each group's own term | `frames-carry-one-term` `beats_of_many_groups_share_a_frame_and_keep_their_terms` |
//! | I2 | liveness of nodes | waits |
//! | I3 | groups that sleep | waits |
//! | I4 | bounded work a turn | `tops_take_turns_with_everything_else` `a_lone_voter_leads_only_once_its_vote_is_durable` |
//! | I5 | groups share a log's writes | `one_write_is_under_way_and_the_rest_gathers` |
//! | I6 | a disk's groups stop leading together | `leads-with-a-stalled-log` `a_sole_voter_with_a_slow_disk_goes_on` |
//! | R1 | a replica begins by a committed entry, and no earlier one ever again | `replicas-written-to-before-they-are-added` `replica-ids-reused` |
//! | R4 | applied is what is committed, and the leader counts by its disk | `applied-before-committed` `leader-counts-what-is-not-durable` `a_leader_that_lost_its_own_tail_gets_it_back` |
//! | R5 | refused definitely is what is in no log | `refused-although-appended` |
//! | R6 | no campaign with a stalled log; a sole voter stays | `a_leader_whose_disk_stands_still_gives_way` `a_sole_voter_with_a_slow_disk_goes_on` |
