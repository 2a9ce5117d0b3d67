//! Sequential models of small objects: what a history is compared with.

use super::history::Operation;
use super::linearizability::Model;

/// A register of one number that may be empty, with compare-and-swap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterInput {
    Read,
    Write(u64),
    /// Stores `new` if the register holds `expect`.
    Cas {
        expect: Option<u64>,
        new: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOutput {
    Value(Option<u64>),
    Written,
    /// Whether the compare matched.
    Swapped(bool),
}

impl Model for Register {
    type State = Option<u64>;
    type Input = RegisterInput;
    type Output = RegisterOutput;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, input: &RegisterInput, output: Option<&RegisterOutput>) -> Option<Option<u64>> {
        let (next, answer) = match *input {
            RegisterInput::Read => (*state, RegisterOutput::Value(*state)),
            RegisterInput::Write(value) => (Some(value), RegisterOutput::Written),
            RegisterInput::Cas { expect, new } if expect == *state => (Some(new), RegisterOutput::Swapped(true)),
            RegisterInput::Cas { .. } => (*state, RegisterOutput::Swapped(false)),
        };
        output.is_none_or(|told| *told == answer).then_some(next)
    }

    fn overwrites(&self, input: &RegisterInput) -> bool {
        matches!(input, RegisterInput::Write(_))
    }

    fn observes_only(&self, operation: &Operation<RegisterInput, RegisterOutput>) -> bool {
        match operation.input {
            RegisterInput::Read => true,
            RegisterInput::Write(_) => false,
            RegisterInput::Cas { .. } => {
                matches!(operation.returned, Some((_, RegisterOutput::Swapped(false))))
            }
        }
    }

    fn independent(
        &self,
        removed: &Operation<RegisterInput, RegisterOutput>,
        kept: &Operation<RegisterInput, RegisterOutput>,
    ) -> bool {
        let (RegisterInput::Write(value) | RegisterInput::Cas { new: value, .. }) = removed.input else {
            return true;
        };
        match (kept.input, kept.returned.map(|(_, output)| output)) {
            // Without `removed` such a read, or swap, only has fewer ways to be wrong.
            (RegisterInput::Read, Some(RegisterOutput::Value(read))) => read != Some(value),
            (RegisterInput::Cas { expect, .. }, Some(RegisterOutput::Swapped(true)) | None) => expect != Some(value),
            (RegisterInput::Cas { .. }, _) => false,
            (RegisterInput::Write(_) | RegisterInput::Read, _) => true,
        }
    }
}

/// A lock with owners. Acquiring a held lock and releasing one that is not held by the caller are refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockInput {
    Acquire { owner: u64 },
    Release { owner: u64 },
}

impl Model for Lock {
    /// The owner.
    type State = Option<u64>;
    type Input = LockInput;
    /// Whether it was done.
    type Output = bool;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, input: &LockInput, output: Option<&bool>) -> Option<Option<u64>> {
        let done = match (*input, *state) {
            (LockInput::Acquire { owner }, None) => Some(Some(owner)),
            (LockInput::Release { owner }, Some(holder)) if owner == holder => Some(None),
            _ => None,
        };
        match (output, done) {
            (Some(true) | None, Some(next)) => Some(next),
            (Some(false) | None, None) => Some(*state),
            _ => None,
        }
    }

    fn observes_only(&self, operation: &Operation<LockInput, bool>) -> bool {
        matches!(operation.returned, Some((_, false)))
    }
}
