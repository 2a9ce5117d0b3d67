//! Which disk belongs to which host of the running world.
//!
//! The world owns the registry through the hook that it calls when a host dies, so disks live exactly as long as their
//! world. A thread-local finds it, and knows which world it found.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::host_disk::Disk;
use crate::world::{self, HostId};

type Disks = RefCell<BTreeMap<HostId, Disk>>;

thread_local! {
    static FOUND: RefCell<Option<(usize, Weak<Disks>)>> = const { RefCell::new(None) };
}

/// The disk of a host, made on first use.
///
/// # Panics
/// Outside a world.
pub(super) fn disk_of(host: HostId) -> Disk {
    let disks = disks();
    let known = disks.borrow().get(&host).cloned();
    known.unwrap_or_else(|| {
        let disk = Disk::new(host);
        disks.borrow_mut().insert(host, disk.clone());
        disk
    })
}

fn disks() -> Rc<Disks> {
    let world = world::identity();
    let found = FOUND.with_borrow(|found| match found {
        Some((of, disks)) if *of == world => disks.upgrade(),
        _ => None,
    });
    found.unwrap_or_else(|| {
        let disks = Rc::new(Disks::default());
        FOUND.set(Some((world, Rc::downgrade(&disks))));
        let of_world = disks.clone();
        world::on_kill(move |incarnation, cause, at| {
            let disk = of_world.borrow().get(&incarnation.host).cloned();
            if let Some(disk) = disk {
                disk.host_died(incarnation.boot, cause, at);
            }
        });
        disks
    })
}
