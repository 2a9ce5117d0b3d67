//! The planted bugs: what each does, and which real incident it resembles.

/// A planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    pub name: &'static str,
    /// One of [`FAMILIES`].
    pub family: &'static str,
    /// The spec it is searched with. None was made for it.
    pub spec: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The real incident it resembles.
    pub like: &'static str,
}

/// The families: durability and crash; ordering and races; elections and reads; membership and snapshots; clients and
/// determinism of apply.
pub const FAMILIES: [&str; 5] = ["durability", "ordering", "elections", "membership", "clients"];

/// All planted bugs, family by family.
pub static BUGS: &[Bug] = &[
    Bug {
        name: "vote-not-synced",
        family: "durability",
        spec: "default",
        about: "save_vote returns before the vote is durable; a node that loses power votes twice in a term",
        like: "robustmq #2039: the store of a Raft library answered save_vote from the page cache",
    },
    Bug {
        name: "append-acked-early",
        family: "durability",
        spec: "default",
        about: "an append is acknowledged before its sync; a quorum forgets what it acknowledged",
        like: "d-engine #329: a leader counted its in-memory index towards the quorum",
    },
    Bug {
        name: "group-commit-not-synced",
        family: "durability",
        spec: "default",
        about: "a transaction that carries several appends is not synced, although all of them are acknowledged",
        like: "TiKV #994: appends were answered before RocksDB's log was synced, and a crash took them back",
    },
    Bug {
        name: "failed-vote-acknowledged",
        family: "durability",
        spec: "disk",
        about: "a vote that could not be written is reported as saved; the node gives another in the same term after its restart",
        like: "etcd #10166: a follower answers although what it answers for did not reach its log",
    },
    Bug {
        name: "snapshot-acked-before-log",
        family: "durability",
        spec: "disk",
        about: "a snapshot is acknowledged although what it holds came as entries that are not durable yet",
        like: "openraft 0.10.0-alpha.37, which answers so (docs/trophies.md); its leader then meets a follower whose log went back",
    },
    Bug {
        name: "applied-outside-transaction",
        family: "durability",
        spec: "default",
        about: "last_applied is written in a transaction before the data's; a crash between them skips entries",
        like: "etcd 3.5's data inconsistency (#13766): the consistent index was not saved atomically with the data",
    },
    Bug {
        name: "set-multi-in-two-transactions",
        family: "durability",
        spec: "default",
        about: "the rows of one command are written in two transactions; a crash between them leaves half of it",
        like: "etcd 3.5's data inconsistency (#13766), on the side of the data: what belongs together was not one transaction",
    },
    Bug {
        name: "state-not-synced",
        family: "durability",
        spec: "power",
        about: "checkpoints of the state are not synced; a power loss leaves a torn database",
        like: "what SQLite's documentation says of `synchronous=OFF`: a power loss may corrupt the database",
    },
    Bug {
        name: "snapshot-not-synced",
        family: "durability",
        spec: "default",
        about: "a snapshot gets its name before its bytes are durable, and the log is purged up to it",
        like: "RedisRaft #548, which had to sync files before and after renaming them",
    },
    Bug {
        name: "snapshot-name-not-synced",
        family: "durability",
        spec: "default",
        about: "the directory is not synced after a snapshot was renamed, and the log is purged up to it",
        like: "RedisRaft #548 and Litestream #1344: the directory was not synced after a rename",
    },
    Bug {
        name: "install-not-checkpointed",
        family: "durability",
        spec: "default",
        about: "the pointer is switched to an installed state before that state is durable",
        like: "Turso #4899: after a crash an empty database beside a valid write-ahead log",
    },
    Bug {
        name: "checkpoint-error-ignored",
        family: "durability",
        spec: "disk",
        about: "a failed sync of a checkpoint is taken for a delay; what it lost is read on",
        like: "PostgreSQL's fsyncgate (2018): a sync that failed once was retried, and succeeded with the data gone",
    },
    Bug {
        name: "checkpoint-promises-later-state",
        family: "durability",
        spec: "mixed",
        about: "an operator who had a checkpoint is told what was applied when it was over; a power loss takes some of it",
        like: "RocksDB #10301: the sequence number of a checkpoint was read apart from the checkpoint",
    },
    Bug {
        name: "purge-answered-early",
        family: "durability",
        spec: "mixed",
        about: "an operator who had the log purged is told so before that is durable; a power loss brings the entries back",
        like: "what openraft itself does: `trigger().purge_log` returns before anything is purged, let alone durable",
    },
    Bug {
        name: "old-snapshots-kept",
        family: "durability",
        spec: "mixed",
        about: "superseded snapshots are not removed before the next start; the disk fills",
        like: "etcd #7957: nothing purged old snap.db files",
    },
    Bug {
        name: "row-checksum-not-verified",
        family: "durability",
        spec: "disk",
        about: "the checksum of a row is stored and never compared; a bit that rots is served as the value",
        like: "Ganesan and others (FAST 2017): stores that pass a corrupted value on to their clients, since nothing checks what is read",
    },
    Bug {
        name: "truncate-leaves-hole",
        family: "ordering",
        spec: "default",
        about: "truncation removes the first conflicting entries only; the old tail stays behind a hole",
        like: "canonical/raft and etcd #22442: a truncated tail that comes back after a restart",
    },
    Bug {
        name: "truncate-not-written",
        family: "ordering",
        spec: "default",
        about: "truncation happens in memory only; a longer old tail comes back after a restart",
        like: "etcd #22442: replaying the WAL brings back entries that Raft had truncated",
    },
    Bug {
        name: "committed-mark-ahead",
        family: "ordering",
        spec: "default",
        about: "the committed mark is saved before the entries that it names are durable; after a power loss it names what is not there",
        like: "etcd #5664: a node that does not start, since the saved `state.commit is out of range` of its log",
    },
    Bug {
        name: "purge-mark-late",
        family: "ordering",
        spec: "power",
        about: "purged entries are removed in a transaction before the one that says so; a crash between them leaves a hole",
        like: "Ratis RATIS-1763: purging in the wrong order left a gap between log segments, and the node did not start",
    },
    Bug {
        name: "append-readable-late",
        family: "ordering",
        spec: "default",
        about: "entries are readable once they are durable, not when the append returns",
        like: "openraft #1780 and #1544: a store whose readers saw entries only after the flush",
    },
    Bug {
        name: "cut-batch-reported-whole",
        family: "ordering",
        spec: "default",
        about: "a replication batch cut at its bound is reported as replicated to its end",
        like: "openraft #1802: replication progress claimed more than the follower had",
    },
    Bug {
        name: "unwritten-entries-evicted",
        family: "ordering",
        spec: "default",
        about: "the cache of the log lets go of entries that are not written yet; whoever reads them takes the log for damaged and stops",
        like: "hashicorp/raft #429: the cache of the log and the store under it disagreed, and a node died of `log not found`",
    },
    Bug {
        name: "cut-read-joined-to-cache",
        family: "ordering",
        spec: "default",
        about: "a read of the log that stopped at its bound on the disk goes on with the entries in memory; those between are left out",
        like: "etcd's `raftLog.slice`, which has to look whether what storage gave was cut: or there is a gap before the unstable entries",
    },
    Bug {
        name: "reply-to-another-request",
        family: "ordering",
        spec: "default",
        about: "replies are handed to the waiting requests by position, although some entries have no one waiting",
        like: "dgraph #9626: those who waited for dropped proposals were told that they had succeeded",
    },
    Bug {
        name: "revision-read-outside-transaction",
        family: "ordering",
        spec: "default",
        about: "an answer's revision is read after its rows, in another transaction",
        like: "etcd #13989: the revision in the header may not reflect the data in the body",
    },
    Bug {
        name: "stale-append-accepted",
        family: "ordering",
        spec: "default",
        about: "an append is judged under the follower's own vote; a deposed leader's entries are taken",
        like: "ScyllaDB #9965: a follower took obsolete entries for committed ones",
    },
    Bug {
        name: "vote-compares-terms-only",
        family: "elections",
        spec: "default",
        about: "a vote is granted if the last terms are equal, however much shorter the candidate's log is",
        like: "MongoDB's election protocol 0 (Jepsen, 3.4.0-rc3): a node without the newest writes could win",
    },
    Bug {
        name: "vote-counted-by-term",
        family: "elections",
        spec: "default",
        about: "a reply in the candidate's term counts as its vote, whomever the voter voted for",
        like: "little-raft #44: replies are counted as votes without looking at what they grant",
    },
    Bug {
        name: "leader-resumes-its-term",
        family: "elections",
        spec: "default",
        about: "a leader that was restarted goes on leading its term, and gives ids away twice",
        like: "canonical/raft #320: a leader that lost an entry gives its id to another in the same term",
    },
    Bug {
        name: "read-skips-read-index",
        family: "elections",
        spec: "default",
        about: "a read is served without the quorum round; a deposed leader answers with old values",
        like: "Xline #870 and d-engine #381: a partitioned leader served linearizable reads alone",
    },
    Bug {
        name: "read-before-apply",
        family: "elections",
        spec: "default",
        about: "a read does not wait until its read index is applied; a new leader answers with old values",
        like: "etcd #7331 and TiKV #9239: a new leader served a read index that was too old",
    },
    Bug {
        name: "follower-serves-reads",
        family: "elections",
        spec: "default",
        about: "a node that cannot confirm that it leads answers linearizable reads from its own state",
        like: "etcd #741 and Consul (Jepsen, 2014): reads were served locally by whoever was asked",
    },
    Bug {
        name: "stale-age-from-appends",
        family: "elections",
        spec: "default",
        about: "the state counts as fresh since the last append of a leader arrived; a deposed one that still sends ages it",
        like: "old-raft-rs #107: staleness told by the time since a heartbeat; this node itself did so once",
    },
    Bug {
        name: "probe-not-awaited",
        family: "elections",
        spec: "default",
        about: "a stale read does not wait until the index of its probe is applied; the state is older than it promises",
        like: "TiKV #9239: a read was served before its index was applied",
    },
    Bug {
        name: "stale-age-from-answer",
        family: "elections",
        spec: "default",
        about: "the age of a state is counted from the answer to its probe, not from when the probe was sent",
        like: "Ongaro's dissertation, section 6.4.1: a lease counts from when the heartbeats were sent",
    },
    Bug {
        name: "stale-read-ignores-revision",
        family: "clients",
        spec: "default",
        about: "a stale read does not wait for the revision that its client asks for; time goes back for it",
        like: "etcd #3879: a node that was catching up gave older and older answers than its client had had",
    },
    Bug {
        name: "wrong-node-accepted",
        family: "membership",
        spec: "membership",
        about: "a request meant for another node is served: who took over an address votes in its predecessor's name",
        like: "ScyllaDB #15866: a node that replaces another at its address receives what was meant for it",
    },
    Bug {
        name: "node-id-reused",
        family: "membership",
        spec: "membership",
        about: "a new node gets the highest id in use plus one; ids of removed nodes come again",
        like: "RedisRaft #2, and openraft #2002, which documents how a reused id splits a cluster",
    },
    Bug {
        name: "change-of-older-membership",
        family: "membership",
        spec: "membership",
        about: "a change is made although another one was made since it was decided on; two operators undo each other's work",
        like: "hashicorp/raft before #117, which gave every change the index of the configuration it was decided on",
    },
    Bug {
        name: "promotion-not-guarded",
        family: "membership",
        spec: "membership",
        about: "a learner becomes a voter whether or not it was heard and has caught up",
        like: "etcd before learners (#10537): a member added under a wrong address counted towards the quorum at once",
    },
    Bug {
        name: "quorum-counted-before-change",
        family: "membership",
        spec: "membership",
        about: "the guard of removals counts the healthy among the voters there are, not among those that would be left",
        like: "etcd before #3543: a started member could be removed although no quorum of started ones was left",
    },
    Bug {
        name: "removed-voter-stays-learner",
        family: "membership",
        spec: "membership",
        about: "a voter that is removed stays in the cluster as a learner",
        like: "async-raft #112: who was removed from the voters went on as a non-voter, and was sent the log",
    },
    Bug {
        name: "snapshot-omits-sessions",
        family: "membership",
        spec: "default",
        about: "a snapshot does not carry the sessions; after an install a retry is refused or applied twice",
        like: "Atomix #417: Raft sessions were not restored from a replicated snapshot",
    },
    Bug {
        name: "snapshot-omits-membership",
        family: "membership",
        spec: "default",
        about: "a snapshot does not carry the membership; who installs it belongs to no cluster",
        like: "SwarmKit #238: snapshots did not hold the member list; async-raft #133 saved a wrong one",
    },
    Bug {
        name: "snapshot-labelled-late",
        family: "membership",
        spec: "default",
        about: "a snapshot is labelled with what was applied after its state was pinned; who installs it skips entries",
        like: "NodeDB #162: installing a snapshot moved the applied index further than the data",
    },
    Bug {
        name: "purge-ahead-of-durable-state",
        family: "membership",
        spec: "default",
        about: "the log is purged up to the applied index, past the durable snapshot; a power loss leaves a gap",
        like: "RedisRaft #43: a gap between the snapshot and the first entry of the log at startup",
    },
    Bug {
        name: "reader-kept-after-install",
        family: "membership",
        spec: "default",
        about: "readers keep the connection to the state that an installed snapshot replaced",
        like: "Celeborn CELEBORN-1452: a follower went on with old metadata after it had installed a snapshot",
    },
    Bug {
        name: "sessions-evicted-by-local-clock",
        family: "clients",
        spec: "default",
        about: "apply expires sessions by the node's own clock; replicas disagree on what a retry does",
        like: "etcd #7320: leases expire by a local timer that Raft does not control",
    },
    Bug {
        name: "expiry-per-batch",
        family: "clients",
        spec: "default",
        about: "sessions expire at the end of each batch; what an entry does depends on how entries were batched",
        like: "databend #7325: leader and followers expired records at different moments of the log",
    },
    Bug {
        name: "unknown-session-recreated",
        family: "clients",
        spec: "default",
        about: "a command of an expired session opens it again; a retry is applied twice",
        like: "ZooKeeper-style sessions that come back; copycat #156: an expired session stayed in use after its recovery",
    },
    Bug {
        name: "retry-does-not-refresh-session",
        family: "clients",
        spec: "mixed",
        about: "a retry that is answered from the cache does not count as a use; the session expires early",
        like: "Atomix #330: a session expired although its client was at work",
    },
    Bug {
        name: "lost-session-reopened",
        family: "clients",
        spec: "default",
        about: "a client whose session expired sends the operation again in a new one, although the first may have been applied",
        like: "Atomix #327: operations of a closed session were sent again",
    },
    Bug {
        name: "log-time-starts-over",
        family: "clients",
        spec: "default",
        about: "the log time of a new leader begins at 0; until it has caught up no session expires",
        like: "etcd #9888: leases were renewed by every election and never ended",
    },
    Bug {
        name: "transaction-forgotten-by-session",
        family: "clients",
        spec: "default",
        about: "a session does not keep the reply to a transaction; a retry runs it a second time",
        like: "MongoDB 4.2.6 (Jepsen, 2020): transactions that were retried took effect twice",
    },
    Bug {
        name: "transaction-deletes-last",
        family: "clients",
        spec: "default",
        about: "the deletes of a transaction are done after its other operations; a get behind one finds the row",
        like: "eze #65: a transaction wrote first and deleted then, whatever the order of its operations",
    },
    Bug {
        name: "transaction-compares-last",
        family: "clients",
        spec: "default",
        about: "each comparison of a transaction replaces what the one before found, so that the last one decides",
        like: "opendialogai/core #141: several conditions passed when the last of them did",
    },
    Bug {
        name: "omitted-row-reads-as-absent",
        family: "clients",
        spec: "default",
        about: "a row that does not fit the reply to a transaction is reported as absent",
        like: "ArcadeDB #5711: an answer that was cut could not be told from a whole one",
    },
    Bug {
        name: "retry-under-a-new-number",
        family: "clients",
        spec: "default",
        about: "a client's retry takes a new sequence number; it is applied twice",
        like: "fluree/db #1839: a lost response made a follower replay a command that had committed",
    },
    Bug {
        name: "unknown-write-retried",
        family: "clients",
        spec: "default",
        about: "a client without a session repeats a write that may have been delivered",
        like: "jetcd #1444 (Jepsen, jetcd 0.8.2): writes were retried after errors that do not exclude success",
    },
    Bug {
        name: "unknown-reported-definite",
        family: "clients",
        spec: "default",
        about: "a client reports the last refusal, although an earlier attempt may have been delivered",
        like: "Consul #2893: `leadership lost while committing log` was taken for a failure",
    },
    Bug {
        name: "timeout-taken-for-refusal",
        family: "clients",
        spec: "default",
        about: "a client takes its own timeout for a refusal, although the command may be on its way to the log",
        like: "ArcadeDB #4790: a commit that timed out was reported as failed and replicated later",
    },
    Bug {
        name: "compare-of-create-revision",
        family: "clients",
        spec: "default",
        about: "compare-and-swap compares the revision that created the key, not the last one",
        like: "etcd's compare targets: a lock guarded by the create revision does not see later writes",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_has_a_name_of_its_own_and_a_known_family() {
        for (at, bug) in BUGS.iter().enumerate() {
            assert!(FAMILIES.contains(&bug.family), "{}", bug.name);
            assert!(!bug.about.is_empty() && !bug.like.is_empty(), "{}", bug.name);
            assert!(BUGS[at + 1..].iter().all(|other| other.name != bug.name), "{} is there twice", bug.name);
        }
        let in_family = |family| BUGS.iter().filter(|bug| bug.family == family).count();
        assert!(
            FAMILIES.into_iter().all(|family| in_family(family) >= 4),
            "every family is a sample, not a single case"
        );
    }
}
