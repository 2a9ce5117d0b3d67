//! What hangs over the links: every effect in force, and the setting of each link that follows from all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::faults::link::Effect;
use crate::world::HostId;
use crate::world::network::{self, NetworkConfig};

/// A directed link.
pub(super) type Link = (HostId, HostId);

/// The effects in force, by number.
pub(super) struct Weather {
    base: NetworkConfig,
    next: u64,
    effects: BTreeMap<u64, (Option<Vec<Link>>, Effect)>,
    /// Links with a setting of their own.
    touched: BTreeSet<Link>,
}

impl Weather {
    pub fn new(base: NetworkConfig) -> Weather {
        Weather { base, next: 0, effects: BTreeMap::new(), touched: BTreeSet::new() }
    }

    /// Changes what the links are like when nothing hangs over them.
    pub fn rebase(&mut self, change: impl FnOnce(&mut NetworkConfig)) {
        change(&mut self.base);
        self.apply();
    }

    /// Begins an effect on some links, or on all. Returns its number.
    pub fn begin(&mut self, links: Option<Vec<Link>>, effect: Effect) -> u64 {
        let number = self.next;
        self.next += 1;
        self.effects.insert(number, (links, effect));
        self.apply();
        number
    }

    /// Ends an effect; does nothing when it has ended.
    pub fn end(&mut self, number: u64) {
        if self.effects.remove(&number).is_some() {
            self.apply();
        }
    }

    /// Ends everything but what is permanent: slow links stay slow.
    pub fn calm(&mut self) {
        self.effects.retain(|_, (_, effect)| matches!(effect, Effect::Slow { .. }));
        self.base = NetworkConfig { loss_ppm: 0, spike_ppm: 0, ..self.base.clone() };
        self.apply();
    }

    fn apply(&mut self) {
        let mut everywhere = self.base.clone();
        let mut own: BTreeMap<Link, Vec<&Effect>> = BTreeMap::new();
        for (links, effect) in self.effects.values() {
            match links {
                None => effect.change(&mut everywhere),
                Some(links) => links.iter().for_each(|link| own.entry(*link).or_default().push(effect)),
            }
        }
        for (from, to) in self.touched.iter().filter(|link| !own.contains_key(link)) {
            network::configure_link(*from, *to, None);
        }
        self.touched = own.keys().copied().collect();
        for ((from, to), effects) in own {
            let mut config = everywhere.clone();
            effects.into_iter().for_each(|effect| effect.change(&mut config));
            network::configure_link(from, to, Some(config));
        }
        network::configure(everywhere);
    }
}
