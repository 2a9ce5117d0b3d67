//! Durable before told (Raft, figure 2: "persistent state on all servers, updated on stable storage before responding to
//! RPCs"; section 7 for snapshots): what a node tells another about its vote, its log or its snapshot is on its disk then.
//!
//! Judged on a sample of replies, the disk as it was when the reply was there. A node that has voted in a later term since
//! may have truncated what it had: it proves nothing.

use aspen::types::{LogId, NodeId, Vote};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::{Boots, named, shown};
use crate::event::{DurableImage, Event, Told};

#[derive(Debug, Default)]
pub struct DurableBeforeTold {
    boots: Boots,
}

/// What is missing on the disk; `None` if nothing is.
fn missing(told: &Told, image: &DurableImage) -> Option<String> {
    match told {
        Told::Vote(vote) => {
            (!holds_vote(image, vote)).then(|| format!("it votes for {vote}, and on its disk is {:?}", image.vote))
        }
        Told::Entries { last, .. } => {
            let ends = image.log.last_key_value().map(|(index, _)| *index);
            (!holds(image, *last)).then(|| format!("it has {}, and its durable log ends at {ends:?}", shown(*last)))
        }
        Told::Snapshot { last, .. } => (!holds(image, *last)).then(|| {
            let covered = image.covered();
            format!("a snapshot up to {} is installed, and its disk covers {covered:?}", shown(*last))
        }),
    }
}

/// The log has it, or a snapshot that was installed meanwhile, or the state, stands for it.
fn holds(image: &DurableImage, id: LogId) -> bool {
    image.covered().is_some_and(|covered| covered.index >= id.index) || image.holds(id)
}

/// A node that has since followed a leader of the same term votes for nobody else in it either.
fn holds_vote(image: &DurableImage, told: &Vote) -> bool {
    image.vote.is_some_and(|vote| {
        let (now, then) = (vote.leader_id, told.leader_id);
        now.term > then.term || now == then || (now.term == then.term && vote.committed)
    })
}

/// Whether the node has heard of a later term than that in which it told.
fn has_moved_on(told: &Told, image: &DurableImage) -> bool {
    let (Told::Vote(vote) | Told::Entries { vote, .. } | Told::Snapshot { vote, .. }) = told;
    image.vote.is_some_and(|now| now.leader_id.term > vote.leader_id.term)
}

impl DurableBeforeTold {
    fn judge_told(node: NodeId, told: &Told, image: &DurableImage, at_ns: Nanos, judge: &mut Judge<'_>) {
        let proves = !has_moved_on(told, image);
        judge.evaluated(proves);
        if let Some(what) = missing(told, image).filter(|_| proves) {
            judge.violated(at_ns, named(node), format!("told another node that {what}"));
        }
    }
}

impl Oracle<Event> for DurableBeforeTold {
    fn property(&self) -> &'static str {
        "durable-before-told"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        if let Event::Told { node, told, image } = &event.event {
            Self::judge_told(*node, told, image, event.at_ns, judge);
        }
    }

    fn finish(&mut self, _at_ns: Nanos, _judge: &mut Judge<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    fn tells(told: Told, image: DurableImage) -> Run {
        let mut run = Run::new();
        run.boot(1).emit(1, Event::Told { node: 1, told, image: Box::new(image) });
        run
    }

    fn voted(term: u64, node: NodeId) -> DurableImage {
        DurableImage { vote: Some(vote(term, node, false)), ..image(&[(4, 1, 0), (5, 2, 0)]) }
    }

    #[test]
    fn a_vote_is_on_the_disk_when_it_is_told() {
        let told = || Told::Vote(vote(3, 2, false));
        tells(told(), voted(3, 2)).accepts(DurableBeforeTold::default());
        tells(told(), voted(4, 1)).accepts(DurableBeforeTold::default());
        tells(told(), voted(2, 2)).rejects(DurableBeforeTold::default(), "it votes for");
        tells(told(), voted(3, 1)).rejects(DurableBeforeTold::default(), "it votes for");
        // The vote waited for its sync while somebody else won the election.
        let follows = DurableImage { vote: Some(vote(3, 1, true)), ..voted(3, 1) };
        tells(told(), follows).accepts(DurableBeforeTold::default());
        tells(told(), image(&[])).rejects(DurableBeforeTold::default(), "on its disk is None");
    }

    #[test]
    fn entries_are_on_the_disk_when_they_are_told() {
        let told = |at| Told::Entries { vote: vote(2, 1, true), last: at };
        let purged = |mut image: DurableImage| {
            image.purged = Some(id(9, 2));
            image
        };
        tells(told(id(5, 2)), voted(2, 1)).accepts(DurableBeforeTold::default());
        tells(told(id(6, 2)), purged(voted(2, 1))).accepts(DurableBeforeTold::default());
        tells(told(id(6, 2)), voted(2, 1)).rejects(DurableBeforeTold::default(), "its durable log ends at Some(5)");
        tells(told(id(5, 1)), voted(2, 1)).rejects(DurableBeforeTold::default(), "it has entry 5 of term 1");
        // A snapshot came while they were being written, and openraft takes them for written then.
        let installed = |last| DurableImage { snapshot: Some(last), ..voted(2, 1) };
        tells(told(id(6, 2)), installed(id(9, 2))).accepts(DurableBeforeTold::default());
        tells(told(id(6, 2)), installed(id(5, 2))).rejects(DurableBeforeTold::default(), "it has entry 6");
    }

    #[test]
    fn what_a_later_leader_may_have_taken_away_proves_nothing() {
        let told = Told::Entries { vote: vote(2, 1, true), last: id(6, 2) };
        tells(told, voted(3, 2)).accepts(DurableBeforeTold::default());
    }

    #[test]
    fn a_snapshot_is_on_the_disk_when_it_is_told() {
        let told = || Told::Snapshot { vote: vote(2, 1, true), last: id(9, 2) };
        let with = |applied, snapshot| DurableImage { applied, snapshot, ..voted(2, 1) };
        tells(told(), with(Some(id(9, 2)), None)).accepts(DurableBeforeTold::default());
        tells(told(), with(None, Some(id(9, 2)))).accepts(DurableBeforeTold::default());
        let logged = DurableImage { log: image(&[(9, 2, 0)]).log, ..voted(2, 1) };
        tells(told(), logged).accepts(DurableBeforeTold::default());
        tells(told(), with(Some(id(8, 2)), None)).rejects(DurableBeforeTold::default(), "a snapshot up to entry 9");
    }

    #[test]
    fn a_damaged_disk_and_a_boot_that_is_over_prove_nothing() {
        let mut run = tells(Told::Vote(vote(1, 1, false)), voted(1, 1));
        let told = || Told::Vote(vote(3, 2, false));
        run.emit(1, Event::Damaged { node: 1 });
        run.emit(1, Event::Told { node: 1, told: told(), image: Box::default() });
        run.accepts(DurableBeforeTold::default());
        let mut run = tells(Told::Vote(vote(1, 1, false)), voted(1, 1));
        run.down(1).emit(1, Event::Told { node: 1, told: told(), image: Box::default() });
        run.accepts(DurableBeforeTold::default());
    }
}
