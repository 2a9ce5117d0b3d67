//! The checker against histories with a known answer: hand-made ones, among them the anomalies of public reports on
//! etcd and Consul, and random ones from a sequential model.

use std::time::Instant;

use proptest::prelude::*;

use super::super::history::Moment;
use super::super::models::{Lock, LockInput, Register, RegisterInput, RegisterOutput};
use super::*;

type RegisterOp = Operation<RegisterInput, RegisterOutput>;

/// `client invoked returned|? operation`, one per line: `write 1`, `read 1`, `read nil`, `cas 1 2 ok`, `cas nil 2 no`.
fn register(text: &str) -> Vec<RegisterOp> {
    lines(text, |words, known| {
        let value = |word: &str| (word != "nil").then(|| word.parse::<u64>().unwrap());
        let (input, output) = match words {
            ["write", stored] => (RegisterInput::Write(value(stored).unwrap()), RegisterOutput::Written),
            ["read"] => (RegisterInput::Read, RegisterOutput::Value(None)),
            ["read", seen] => (RegisterInput::Read, RegisterOutput::Value(value(seen))),
            ["cas", expect, new, rest @ ..] => (
                RegisterInput::Cas { expect: value(expect), new: value(new).unwrap() },
                RegisterOutput::Swapped(rest == ["ok"]),
            ),
            other => panic!("what is {other:?}?"),
        };
        (input, known.then_some(output))
    })
}

/// `client invoked returned|? acquire|release ok|no`.
fn lock(text: &str) -> Vec<Operation<LockInput, bool>> {
    lines(text, |words, known| {
        let owner = words[0].parse::<u64>().unwrap();
        let input = match words[1] {
            "acquire" => LockInput::Acquire { owner },
            "release" => LockInput::Release { owner },
            other => panic!("what is {other}?"),
        };
        (input, known.then(|| words[2] == "ok"))
    })
}

fn lines<I, O>(text: &str, parse: impl Fn(&[&str], bool) -> (I, Option<O>)) -> Vec<Operation<I, O>> {
    let moment = |order: u64| Moment { order, at_ns: order };
    let operations = text.lines().map(str::trim).filter(|line| !line.is_empty()).zip(0u64..);
    operations
        .map(|(line, id)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let client = words[0].parse().unwrap();
            let returned = words[2].parse::<u64>().ok();
            let (input, output) = parse(&words[3..], returned.is_some());
            let returned = returned.zip(output).map(|(at, output)| (moment(at), output));
            Operation { client, id, input, invoked: moment(words[1].parse().unwrap()), returned }
        })
        .collect()
}

fn decide<M: Model>(model: &M, operations: &[Operation<M::Input, M::Output>]) -> Decision<M::Input, M::Output> {
    check(model, operations, &mut Budget::default())
}

const RIGHT: &[(&str, &str)] = &[
    ("nothing happened", ""),
    ("a read of an empty register", "0 0 1 read nil"),
    ("a write, then a read", "0 0 1 write 1\n0 2 3 read 1"),
    ("a read concurrent with a write sees it or not", "0 0 9 write 1\n1 1 2 read nil\n2 3 4 read 1"),
    ("two concurrent writes, either may be last", "0 0 5 write 1\n1 1 6 write 2\n2 7 8 read 1"),
    ("the same, the other way", "0 0 5 write 1\n1 1 6 write 2\n2 7 8 read 2"),
    ("an unknown write is seen", "0 0 ? write 1\n1 5 6 read 1"),
    ("an unknown write is never seen", "0 0 ? write 1\n1 5 6 read nil\n1 7 8 read nil"),
    (
        "an unknown write takes effect long after",
        "0 0 ? write 1\n1 5 6 read nil\n1 7 8 write 2\n1 9 10 read 2\n1 11 12 read 1",
    ),
    ("an unknown write is seen between two reads", "0 0 ? write 1\n1 2 3 read nil\n1 4 5 read 1\n1 6 7 read 1"),
    ("a compare-and-swap matches", "0 0 1 write 1\n0 2 3 cas 1 2 ok\n1 4 5 read 2"),
    ("a compare-and-swap does not match", "0 0 1 write 1\n0 2 3 cas 9 2 no\n1 4 5 read 1"),
    ("a compare with the empty register", "0 0 1 cas nil 1 ok\n1 2 3 cas nil 2 no\n1 4 5 read 1"),
    ("of two concurrent swaps one wins", "0 0 1 write 1\n1 2 6 cas 1 2 ok\n2 3 7 cas 1 3 no\n0 8 9 read 2"),
    (
        "a chain of swaps in reverse order of invocation",
        "0 0 1 write 1\n1 2 9 cas 2 3 ok\n2 3 8 cas 1 2 ok\n0 10 11 read 3",
    ),
    ("an unknown swap explains a failed one", "0 0 1 write 1\n1 2 ? cas 1 2\n2 5 6 cas 1 3 no\n0 7 8 read 2"),
    ("an unknown swap that did nothing", "0 0 1 write 1\n1 2 ? cas 1 2\n2 5 6 cas 1 3 ok\n0 7 8 read 3"),
    ("two unknown swaps in a chain explain a read", "0 0 1 write 1\n1 2 ? cas 1 2\n2 3 ? cas 2 3\n0 7 8 read 3"),
    ("two unknown writes, both seen", "0 0 ? write 1\n1 0 ? write 2\n2 3 4 read 2\n2 5 6 read 1"),
    (
        "a read overlaps three writes and sees the middle one",
        "0 0 1 write 1\n0 2 3 write 2\n0 4 5 write 3\n1 2 6 read 2",
    ),
    ("reads of one client see concurrent writes in turn", "0 0 9 write 1\n1 0 9 write 2\n2 1 2 read 1\n2 3 4 read 2"),
    (
        "a write of the value that is there is not too early",
        "0 0 1 write 1\n1 2 9 write 2\n2 3 8 write 1\n0 10 11 read 1",
    ),
    ("an unknown read says nothing", "0 0 1 write 1\n1 2 ? read\n0 3 4 read 1"),
    (
        "an unknown write is overwritten unseen, a failed swap is explained by it",
        "0 0 1 write 1\n1 2 ? write 2\n2 3 4 cas 1 5 no\n0 5 6 write 3\n0 7 8 read 3",
    ),
];

const WRONG: &[(&str, &str)] = &[
    ("a value from nowhere", "0 0 1 write 1\n0 2 3 read 7"),
    ("a stale read after an acknowledged write", "0 0 1 write 1\n0 2 3 write 2\n1 4 5 read 1"),
    ("an acknowledged write is not there", "0 0 1 write 1\n1 2 3 read nil"),
    // etcd 2.x and Consul before consistent reads: a deposed leader answers from its own state.
    ("a deposed leader answers", "0 0 1 write 1\n1 2 3 write 2\n1 4 5 read 2\n0 6 7 read 1"),
    ("two clients see opposite orders", "0 0 20 write 1\n1 0 20 write 2\n2 1 2 read 1\n2 3 4 read 2\n3 5 6 read 1"),
    ("a lost update: both swaps of one value win", "0 0 1 write 1\n1 2 6 cas 1 2 ok\n2 3 7 cas 1 3 ok"),
    // Split brain: two leaders each accept a swap from the empty register.
    ("split brain, both create", "0 0 5 cas nil 1 ok\n1 1 6 cas nil 2 ok"),
    ("a swap that failed has an effect", "0 0 1 write 1\n1 2 3 cas 7 2 no\n0 4 5 read 2"),
    ("a swap that matched has none", "0 0 1 write 1\n1 2 3 cas 1 2 ok\n0 4 5 read 1"),
    ("a swap fails though it must match", "0 0 1 write 1\n1 2 3 cas 1 2 no"),
    ("a read from the future", "0 0 1 read 1\n1 2 3 write 1"),
    // A write with an unknown outcome is seen, then gone, then back.
    ("a value reappears", "0 0 1 write 1\n1 2 ? write 2\n2 3 4 read 2\n2 5 6 read 1"),
    ("a value reappears after an overwrite", "0 0 1 write 1\n0 2 3 write 2\n1 4 5 read 2\n1 6 7 read 1"),
    ("an unknown write takes effect twice", "0 0 ? write 1\n1 2 3 read 1\n1 4 5 write 2\n1 6 7 read 2\n1 8 9 read 1"),
    ("an unknown write takes effect before it was asked for", "1 0 1 read 1\n0 2 ? write 1"),
    ("a read goes back in time within one client", "0 0 9 write 1\n1 1 2 read 1\n1 3 4 read nil"),
    ("a read goes back in time across clients", "0 0 9 write 1\n1 1 2 read 1\n2 3 4 read nil"),
    ("acknowledged writes vanish after a restart", "0 0 1 write 1\n0 2 3 write 2\n0 4 5 write 3\n1 9 10 read nil"),
    ("an unknown swap cannot have matched", "0 0 1 write 1\n1 2 ? cas 7 2\n0 4 5 read 2"),
    ("a chain with a missing link", "0 0 1 write 1\n1 2 ? cas 2 3\n0 4 5 read 3"),
    ("an acknowledged swap chain forks", "0 0 1 write 1\n0 2 3 cas 1 2 ok\n1 4 5 cas 1 3 ok\n0 6 7 read 2"),
    (
        "two unknown writes cannot explain three turns",
        "0 0 ? write 1\n1 0 ? write 2\n2 3 4 read 1\n2 5 6 read 2\n2 7 8 read 1",
    ),
    ("a failed swap without anything to fail on", "0 0 1 cas nil 1 ok\n1 2 3 cas 1 2 ok\n0 4 5 cas 2 3 no"),
];

const LOCK_RIGHT: &[(&str, &str)] = &[
    ("taken, released, taken", "1 0 1 1 acquire ok\n1 2 3 1 release ok\n2 4 5 2 acquire ok"),
    ("refused while held", "1 0 1 1 acquire ok\n2 2 3 2 acquire no\n1 4 5 1 release ok"),
    ("an unknown acquire explains a refusal", "1 0 ? 1 acquire\n2 2 3 2 acquire no"),
    (
        "an unknown release frees it later",
        "1 0 1 1 acquire ok\n1 2 ? 1 release\n2 3 4 2 acquire no\n2 5 6 2 acquire ok",
    ),
];

const LOCK_WRONG: &[(&str, &str)] = &[
    // Jepsen on etcd 3.4: locks do not exclude, the second holder begins while the first still holds.
    ("held twice", "1 0 1 1 acquire ok\n2 2 3 2 acquire ok"),
    ("held twice, concurrent", "1 0 5 1 acquire ok\n2 1 6 2 acquire ok"),
    ("refused while free", "1 0 1 1 acquire ok\n1 2 3 1 release ok\n2 4 5 2 acquire no"),
    ("released by another", "1 0 1 1 acquire ok\n2 2 3 2 release ok"),
    (
        "an unknown release cannot free it twice",
        "1 0 1 1 acquire ok\n1 2 ? 1 release\n2 3 4 2 acquire ok\n3 5 6 3 acquire ok",
    ),
];

#[test]
fn right_histories_are_accepted() {
    for (name, text) in RIGHT {
        assert_eq!(decide(&Register, &register(text)), Decision::Linearizable, "{name}");
    }
    for (name, text) in LOCK_RIGHT {
        assert_eq!(decide(&Lock, &lock(text)), Decision::Linearizable, "{name}");
    }
    assert!(RIGHT.len() >= 20);
}

#[test]
fn wrong_histories_are_rejected_and_what_is_shown_is_wrong_by_itself() {
    for (name, text) in WRONG {
        let operations = register(text);
        let Decision::Violation(shown) = decide(&Register, &operations) else { panic!("accepted: {name}") };
        assert!(shown.operations.len() <= operations.len(), "{name}");
        let again = search(&Register, &shown.operations, &mut Budget::default());
        assert!(matches!(again, Found::Violation { .. }), "{name}:\n{}", shown.render());
    }
    for (name, text) in LOCK_WRONG {
        assert!(matches!(decide(&Lock, &lock(text)), Decision::Violation(_)), "accepted: {name}");
    }
    assert!(WRONG.len() >= 20);
}

#[test]
fn a_violation_is_shown_small() {
    // Fifty clean rounds, then a stale read, then fifty more.
    let mut text = String::new();
    for round in 0..50 {
        text += &format!(
            "0 {0} {1} write {2}\n1 {3} {4} read {2}\n",
            round * 10,
            round * 10 + 1,
            round + 1,
            round * 10 + 2,
            round * 10 + 3
        );
    }
    text += "2 1000 1001 read 49\n";
    for round in 50..100 {
        text += &format!("0 {0} {1} write {2}\n", 2000 + round * 10, 2001 + round * 10, round + 1);
    }
    let Decision::Violation(shown) = decide(&Register, &register(&text)) else { panic!("accepted") };
    let lines = shown.render();
    assert!(shown.operations.len() <= 3, "{lines}");
    assert!(lines.contains("Read -> Value(Some(49))"), "{lines}");
}

#[test]
fn an_exhausted_budget_is_undecided_never_a_pass() {
    let operations = register("0 0 1 write 1\n0 2 3 read 1");
    for steps in 0..2 {
        assert_eq!(check(&Register, &operations, &mut Budget { steps }), Decision::Undecided);
    }
    assert_eq!(check(&Register, &operations, &mut Budget { steps: 10 }), Decision::Linearizable);
}

#[test]
fn the_part_that_is_wrong_is_named() {
    let parts: BTreeMap<&str, Vec<RegisterOp>> =
        [("a", register("0 0 1 write 1\n0 2 3 read 1")), ("b", register("0 0 1 write 1\n0 2 3 read nil"))].into();
    let (decision, key) = check_parts(&Register, &parts, &mut Budget::default());
    assert!(matches!(decision, Decision::Violation(_)));
    assert_eq!(key, Some(&"b"));
}

/// A small generator of numbers, so that large histories are the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A history of `clients` that a register really had: every operation has its effect at a random moment of its span.
///
/// `lost` of 100 outcomes are unknown; of those half never take effect, the others up to long after.
fn really_happened(count: usize, clients: u64, lost: u64, seed: u64) -> Vec<RegisterOp> {
    let mut numbers = Numbers(seed);
    let mut free_at = vec![0u64; usize::try_from(clients).unwrap()];
    // (moment of the effect, index), moments made unique by the index.
    let mut effects: Vec<(u64, usize)> = Vec::new();
    let mut operations: Vec<RegisterOp> = Vec::new();
    let mut spans: Vec<(u64, Option<u64>)> = Vec::new();
    for index in 0..count {
        let client = numbers.below(clients);
        let at = usize::try_from(client).unwrap();
        let invoked = free_at[at] + 1 + numbers.below(30);
        let returned = invoked + 2 + numbers.below(60);
        free_at[at] = returned;
        let input = match numbers.below(4) {
            0 | 1 => RegisterInput::Read,
            2 => RegisterInput::Write(index as u64 + 1),
            _ => RegisterInput::Cas { expect: Some(u64::MAX), new: index as u64 + 1 },
        };
        let is_lost = numbers.below(100) < lost;
        if !is_lost {
            effects.push((invoked + numbers.below(returned - invoked), index));
        } else if numbers.below(2) == 0 {
            effects.push((invoked + numbers.below(500), index));
        }
        spans.push((invoked, (!is_lost).then_some(returned)));
        let moment = Moment { order: 0, at_ns: 0 };
        operations.push(Operation { client, id: index as u64, input, invoked: moment, returned: None });
    }
    effects.sort_unstable();
    let mut state: Option<u64> = None;
    let mut answers: Vec<Option<RegisterOutput>> = vec![None; count];
    for (_, index) in effects {
        if let RegisterInput::Cas { expect, .. } = &mut operations[index].input {
            // Half of the swaps match.
            *expect = if numbers.below(2) == 0 { state } else { Some(u64::MAX - 1) };
        }
        let (next, answer) = match operations[index].input {
            RegisterInput::Read => (state, RegisterOutput::Value(state)),
            RegisterInput::Write(value) => (Some(value), RegisterOutput::Written),
            RegisterInput::Cas { expect, new } if expect == state => (Some(new), RegisterOutput::Swapped(true)),
            RegisterInput::Cas { .. } => (state, RegisterOutput::Swapped(false)),
        };
        state = next;
        answers[index] = Some(answer);
    }
    // Ranks of all moments: effects fall strictly between, so ties may go either way as long as invocations are first.
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (index, (invoked, returned)) in spans.iter().enumerate() {
        moments.push((*invoked, false, index));
        moments.extend(returned.map(|returned| (returned, true, index)));
    }
    moments.sort_unstable();
    for ((at_ns, is_return, index), order) in moments.into_iter().zip(0u64..) {
        let moment = Moment { order, at_ns };
        if is_return {
            operations[index].returned = answers[index].map(|answer| (moment, answer));
        } else {
            operations[index].invoked = moment;
        }
    }
    operations.sort_by_key(|operation| operation.invoked.order);
    operations
}

/// Makes a read return what was certainly overwritten before it began. `false` when the history offers no such read.
fn make_a_read_stale(operations: &mut [RegisterOp], pick: usize) -> bool {
    let certain_writes: Vec<(u64, u64, u64)> = operations
        .iter()
        .filter_map(|operation| match (operation.input, &operation.returned) {
            (RegisterInput::Write(value), Some((returned, _))) => {
                Some((value, operation.invoked.order, returned.order))
            }
            _ => None,
        })
        .collect();
    let reads: Vec<usize> = (0..operations.len())
        .filter(|at| operations[*at].input == RegisterInput::Read && operations[*at].returned.is_some())
        .collect();
    for offset in 0..reads.len() {
        let read = reads[(pick + offset) % reads.len()];
        let begin = operations[read].invoked.order;
        let stale = certain_writes.iter().find(|(_, _, returned)| {
            certain_writes.iter().any(|(_, later, later_returned)| later > returned && *later_returned < begin)
        });
        if let Some((value, _, _)) = stale {
            let returned = operations[read].returned.as_mut().unwrap();
            returned.1 = RegisterOutput::Value(Some(*value));
            return true;
        }
    }
    false
}

#[test]
fn ten_thousand_operations_of_eight_clients_on_one_register_take_seconds() {
    for (lost, seed) in [(0, 1), (5, 2)] {
        let mut operations = really_happened(10_000, 8, lost, seed);
        let started = Instant::now();
        assert_eq!(decide(&Register, &operations), Decision::Linearizable, "lost {lost} of 100");
        let right = started.elapsed();
        assert!(make_a_read_stale(&mut operations, 4_000));
        let started = Instant::now();
        let found = search(&Register, &operations, &mut Budget::default());
        let wrong = started.elapsed();
        assert!(matches!(found, Found::Violation { .. }), "{found:?}, lost {lost} of 100");
        println!("one register, lost {lost} of 100: right {right:?}, wrong {wrong:?}");
        assert!(right.as_secs() < 5 && wrong.as_secs() < 5, "{right:?} and {wrong:?}");
    }
}

#[test]
fn ten_thousand_operations_of_eight_clients_on_eight_registers_take_seconds() {
    for (lost, seed) in [(0, 10), (5, 20), (10, 30)] {
        let mut parts: BTreeMap<u64, Vec<RegisterOp>> =
            (0..8).map(|part| (part, really_happened(1_250, 8, lost, seed + part))).collect();
        let started = Instant::now();
        let decision = check_parts(&Register, &parts, &mut Budget::default());
        let right = started.elapsed();
        assert_eq!(decision, (Decision::Linearizable, None), "lost {lost} of 100");
        assert!(make_a_read_stale(parts.get_mut(&5).unwrap(), 300));
        let started = Instant::now();
        let (decision, part) = check_parts(&Register, &parts, &mut Budget::default());
        let wrong = started.elapsed();
        assert_eq!(part, Some(&5));
        let Decision::Violation(shown) = &decision else { panic!("not found, lost {lost} of 100") };
        println!(
            "eight registers, lost {lost} of 100: right {right:?}, wrong {wrong:?}, shown {}",
            shown.operations.len()
        );
        assert!(shown.operations.len() <= 12, "{}", shown.render());
        assert!(right.as_secs() < 5 && wrong.as_secs() < 5, "{right:?} and {wrong:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What a register really did is accepted, whatever the overlap and the losses.
    #[test]
    fn what_happened_is_accepted(count in 0usize..80, clients in 1u64..9, lost in 0u64..40, seed: u64) {
        let operations = really_happened(count, clients, lost, seed);
        prop_assert_eq!(decide(&Register, &operations), Decision::Linearizable);
    }

    /// One read that shows an overwritten value is found.
    #[test]
    fn a_stale_read_is_rejected(count in 10usize..80, clients in 1u64..9, lost in 0u64..40, seed: u64, pick: usize) {
        let mut operations = really_happened(count, clients, lost, seed);
        prop_assume!(make_a_read_stale(&mut operations, pick % 1000));
        let decision = decide(&Register, &operations);
        let Decision::Violation(shown) = decision else { return Err(TestCaseError::fail("accepted")) };
        let again = search(&Register, &shown.operations, &mut Budget::default());
        prop_assert!(matches!(again, Found::Violation { stuck: _ }), "not wrong by itself");
    }

    /// The search agrees with trying every order, on histories that are right or wrong at random.
    #[test]
    fn the_search_agrees_with_every_order(
        steps in prop::collection::vec((0u64..3, 0u64..4, 0u64..3, 1u64..12, 0u64..4), 0..8),
    ) {
        let moments: Vec<(u64, u64)> =
            (0u64..).zip(&steps).map(|(order, (_, _, _, length, _))| (order * 4, order * 4 + length)).collect();
        let operations: Vec<RegisterOp> = steps
            .iter()
            .zip(&moments)
            .enumerate()
            .map(|(index, ((kind, value, told, _, known), (invoked, returned)))| {
                let seen = |told: u64| (told > 0).then_some(told);
                let (input, output) = match kind {
                    0 => (RegisterInput::Read, RegisterOutput::Value(seen(*told))),
                    1 => (RegisterInput::Write(value % 2 + 1), RegisterOutput::Written),
                    _ => (
                        RegisterInput::Cas { expect: seen(*told), new: value % 2 + 1 },
                        RegisterOutput::Swapped(value % 4 < 2),
                    ),
                };
                // Returns at odd places, so that no two moments are equal.
                let moment = |order: u64| Moment { order, at_ns: order };
                let returned = (*known > 0).then_some((moment(returned * 16 + 1 + index as u64), output));
                Operation { client: index as u64, id: index as u64, input, invoked: moment(invoked * 16), returned }
            })
            .collect();
        let expected = brute_force(&operations, &mut Vec::new(), None);
        let found = search(&Register, &operations, &mut Budget::default()) == Found::Linearizable;
        prop_assert_eq!(found, expected, "{:?}", operations);
    }
}

/// Tries every order of every choice of unknown operations.
fn brute_force(operations: &[RegisterOp], placed: &mut Vec<usize>, state: Option<u64>) -> bool {
    let rest: Vec<usize> = (0..operations.len()).filter(|at| !placed.contains(at)).collect();
    if rest.iter().all(|at| operations[*at].returned.is_none()) {
        return true;
    }
    let bound = rest
        .iter()
        .filter_map(|at| operations[*at].returned.as_ref().map(|(moment, _)| moment.order))
        .min()
        .unwrap_or(u64::MAX);
    rest.into_iter().any(|at| {
        let operation = &operations[at];
        if operation.invoked.order > bound {
            return false;
        }
        let output = operation.returned.as_ref().map(|(_, output)| output);
        let Some(next) = Register.step(&state, &operation.input, output) else { return false };
        placed.push(at);
        let found = brute_force(operations, placed, next);
        placed.pop();
        found
    })
}
