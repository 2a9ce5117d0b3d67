//! Changes of the membership on real nodes: what an operator asks for, what is refused, and what is left of a change that
//! was interrupted.

mod support;

use std::collections::BTreeSet;

use aspen::error::{ErrorCode, ErrorOutcome};
use aspen::membership::Change;
use aspen::types::{Address, NodeId};
use support::cluster::{Cluster, address, get, set, value};

fn ids(ids: &[NodeId]) -> BTreeSet<NodeId> {
    ids.iter().copied().collect()
}

/// A machine that lost everything comes back under a new id and takes the old one's place, in one change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_replaced_under_a_new_id() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(true);
    for number in 0..20 {
        client.execute(set("a", &number.to_string())).await.unwrap();
    }
    let leader = cluster.leader().await;
    let lost = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(lost).await;

    let new = client.allocate_node_id().await.unwrap();
    assert!(new > 20, "the index of an entry after the writes, not {new}");
    let another = client.allocate_node_id().await.unwrap();
    assert_ne!(new, another, "every id is another");
    cluster.start_node(new).await;
    let status = client.cluster_status().await.unwrap();
    client.add_learner(new, address(new), &status).await.unwrap();
    let replaced = loop {
        let status = client.cluster_status().await.unwrap();
        assert_eq!(status.learners, ids(&[new]));
        match client.replace([lost].into(), new, &status).await {
            Ok(_) => break client.cluster_status().await.unwrap(),
            // Not in sync yet.
            Err(error) => {
                assert_eq!((error.code, error.outcome), (ErrorCode::PreconditionFailed, ErrorOutcome::Definite))
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let expected: BTreeSet<NodeId> = (1..=3).filter(|id| *id != lost).chain([new]).collect();
    assert_eq!((&replaced.voters, &replaced.learners), (&vec![expected], &ids(&[])));

    // Nobody has the lost one's id again, whoever asks; nor one that was allocated before the last change, since nobody can
    // tell any more that it was not used.
    for id in [lost, another] {
        let refused = client.add_learner(id, address(9), &replaced).await.unwrap_err();
        assert_eq!((refused.code, refused.outcome), (ErrorCode::PreconditionFailed, ErrorOutcome::Definite));
        assert!(refused.message.contains("never used again"), "{refused}");
    }
    assert_eq!(client.cluster_status().await.unwrap().membership, replaced.membership);

    // The new node counts: the cluster lives on when another one goes.
    let other = (1..=3).find(|id| *id != lost && *id != leader).unwrap();
    cluster.kill(other).await;
    client.execute(set("a", "after")).await.unwrap();
    assert_eq!(value(&client.query(get("a")).await.unwrap()).as_deref(), Some("after"));
    cluster.converge().await;
    cluster.stop().await;
}

/// What would cost the quorum, or was decided on an old membership, is refused for a definite reason and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_changes_are_refused() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(true);
    let leader = cluster.leader().await;
    let before = client.cluster_status().await.unwrap();
    assert_eq!((before.leader, &before.voters), (leader, &vec![ids(&[1, 2, 3])]));

    let followers: Vec<NodeId> = (1..=3).filter(|id| *id != leader).collect();
    cluster.kill(followers[0]).await;
    // Until the leader has missed it for long enough.
    loop {
        let status = client.cluster_status().await.unwrap();
        if status.members[&followers[0]].silent_for_ms.is_none_or(|silent| silent > 2 * 800) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let unsafe_changes = [
        Change::Voters { add: ids(&[]), remove: ids(&[followers[1]]), retain: false },
        Change::Voters { add: ids(&[]), remove: ids(&[1, 2, 3]), retain: false },
        Change::Voters { add: ids(&[9]), remove: ids(&[]), retain: false },
        Change::AddLearner { id: 1_000_000, address: Address("nowhere".to_owned()) },
        Change::AddLearner { id: followers[1], address: address(followers[1]) },
        Change::RemoveLearner { id: 9 },
        Change::Finish,
    ];
    for change in unsafe_changes {
        let error = client.change_membership(change.clone(), None).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (ErrorCode::PreconditionFailed, ErrorOutcome::Definite), "{change:?}");
    }
    assert!(client.transfer_leadership(followers[0]).await.is_err(), "a dead node is no heir");
    let after = client.cluster_status().await.unwrap();
    assert_eq!((after.membership, after.voters), (before.membership, before.voters.clone()));

    // The dead one may go; a second operator, who decided on what was, is refused.
    client.remove(followers[0], &before).await.unwrap();
    let error = client.remove(followers[0], &before).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::PreconditionFailed, ErrorOutcome::Definite));
    assert_eq!(client.cluster_status().await.unwrap().voters, [ids(&[leader, followers[1]])]);
    cluster.stop().await;
}

/// Leadership goes where it is wanted, and a node without a vote gets it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_votes_come_and_go() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(true);
    client.execute(set("a", "1")).await.unwrap();
    let leader = cluster.leader().await;
    let heir = (1..=3).find(|id| *id != leader).unwrap();
    // A voter that just fell behind is refused: tried until it is in sync.
    while client.cluster_status().await.unwrap().leader != heir {
        let _ = client.transfer_leadership(heir).await;
    }
    // A leader that has just taken office has not heard of everybody yet, and refuses what might cost the quorum.
    loop {
        let status = client.cluster_status().await.unwrap();
        let change = Change::Voters { add: ids(&[]), remove: ids(&[leader]), retain: true };
        match client.change_membership(change, status.membership).await {
            Ok(_) => break,
            Err(refused) => assert_eq!(refused.code, ErrorCode::PreconditionFailed, "{refused}"),
        }
    }
    let demoted = client.cluster_status().await.unwrap();
    assert_eq!(demoted.learners, ids(&[leader]));
    client.promote(leader, &demoted).await.unwrap();
    assert_eq!(client.cluster_status().await.unwrap().voters, [ids(&[1, 2, 3])]);
    client.execute(set("a", "2")).await.unwrap();
    cluster.converge().await;
    cluster.stop().await;
}
