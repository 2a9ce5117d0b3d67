//! Which node to ask next: the leader if one is known, else one node after the other.

use crate::types::Address;

/// The addresses a client knows and the leader it believes in.
#[derive(Debug)]
pub(super) struct Targets {
    addresses: Vec<Address>,
    /// Asked next when no leader is known.
    next: usize,
    leader: Option<Address>,
    /// Who answered the last request that any node may answer.
    reader: Option<Address>,
    /// Hints followed in a row without a pause.
    redirects: u64,
}

impl Targets {
    /// Starts at `first` (modulo their number), so that not all clients ask the same node first. `addresses` is not empty.
    pub(super) fn new(addresses: Vec<Address>, first: usize) -> Self {
        assert!(!addresses.is_empty(), "a client knows at least one address");
        let next = first % addresses.len();
        Targets { addresses, next, leader: None, reader: None, redirects: 0 }
    }

    /// Whom to ask now.
    pub(super) fn pick(&self) -> Address {
        self.leader.clone().unwrap_or_else(|| self.addresses[self.next].clone())
    }

    /// Whom to ask for what any node may answer: who answered last, or one of all by a random number.
    pub(super) fn any(&self, random: u64) -> Address {
        let count = u64::try_from(self.addresses.len()).expect("addresses fit into memory");
        let drawn = || self.addresses[usize::try_from(random % count).expect("below the number of addresses")].clone();
        self.reader.clone().unwrap_or_else(drawn)
    }

    /// The node at this address answered what any node may, or did not.
    pub(super) fn read_from(&mut self, address: Option<Address>) {
        self.reader = address;
    }

    /// `address` answered as the leader does.
    pub(super) fn answered(&mut self, address: Address) {
        self.leader = Some(address);
        self.redirects = 0;
    }

    /// `failed` did not serve the request; `hint` is the leader it named. Returns whether to go on without a pause:
    /// the hint is news, and not too many were followed in a row.
    pub(super) fn refused(&mut self, failed: &Address, hint: Option<Address>, redirects_max: u64) -> bool {
        match hint {
            Some(hint) if hint != *failed && self.redirects < redirects_max => {
                self.redirects += 1;
                self.leader = Some(hint);
                true
            }
            _ => {
                self.pass_over(failed);
                false
            }
        }
    }

    /// Forgets the leader and moves on to the next address that is not `failed`.
    pub(super) fn pass_over(&mut self, failed: &Address) {
        self.leader = None;
        self.redirects = 0;
        self.next = (self.next + 1) % self.addresses.len();
        if self.addresses[self.next] == *failed {
            self.next = (self.next + 1) % self.addresses.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str) -> Address {
        Address(name.to_owned())
    }

    fn targets() -> Targets {
        Targets::new(["a", "b", "c"].into_iter().map(address).collect(), 3)
    }

    #[test]
    fn a_hint_is_followed_and_an_answer_remembered() {
        let mut targets = targets();
        assert_eq!(targets.pick(), address("a"));
        assert!(targets.refused(&address("a"), Some(address("c")), 3));
        assert_eq!(targets.pick(), address("c"));
        targets.answered(address("c"));
        assert_eq!(targets.leader, Some(address("c")));
    }

    #[test]
    fn hints_that_lead_in_circles_end_in_a_pause() {
        let mut targets = targets();
        assert!(targets.refused(&address("a"), Some(address("b")), 2));
        assert!(targets.refused(&address("b"), Some(address("a")), 2));
        assert!(!targets.refused(&address("a"), Some(address("b")), 2));
        assert_eq!(targets.leader, None);
    }

    #[test]
    fn every_address_gets_its_turn() {
        let mut targets = targets();
        let mut asked = Vec::new();
        for _ in 0..3 {
            let address = targets.pick();
            targets.pass_over(&address);
            asked.push(address.0);
        }
        asked.sort();
        assert_eq!(asked, ["a", "b", "c"]);
    }

    #[test]
    fn a_node_that_names_itself_is_passed_over() {
        let mut targets = targets();
        assert!(!targets.refused(&address("a"), Some(address("a")), 3));
        assert_eq!(targets.pick(), address("b"));
    }
}
