//! A host's disk in a world: death, time, faults, and what they leave. The engines' own proof is `crash_redb.rs` and
//! `crash_sqlite.rs`; here each rule of the model is shown once, by itself.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::disk::{
    self, Damage, Disk, DiskConfig, DiskError, FaultCount, FaultPoint, Latency, Moment, OpKind, OpenMode, Role, Shape,
    SimFile, Stalls, fault,
};
use sim_runtime::world::section::{self, Lane};
use sim_runtime::world::{self, Cause, HostId, World, WorldConfig};

fn simulate<T>(seed: u64, main: impl Future<Output = T>) -> (T, World) {
    let world = World::new(WorldConfig::seeded(seed));
    let result = world.run(main).unwrap_or_else(|halt| panic!("{halt}"));
    (result, world)
}

/// Boots `main` on a new host and waits until it is down, whatever ended it.
async fn host_with<F: Future<Output = ()> + Send + 'static>(name: &str, main: impl FnOnce() -> F + 'static) -> HostId {
    let host = world::add_host(name);
    boot_and_wait(host, main).await;
    host
}

async fn boot_and_wait<F: Future<Output = ()> + Send + 'static>(host: HostId, main: impl FnOnce() -> F + 'static) {
    world::boot(host, main);
    while world::running(host).is_some() {
        world::sleep(Duration::from_millis(1)).await;
    }
}

fn bytes(path: &str, host: HostId) -> Vec<u8> {
    Disk::of(host).contents(path).map(|image| image.to_vec()).unwrap_or_default()
}

fn durable(path: &str, host: HostId) -> Option<Vec<u8>> {
    Disk::of(host).durable(path).map(|image| image.to_vec())
}

/// Ten writes of one sector each, then a sync, in one section: with the default latencies 4 us each and 200 us.
fn write_ten_and_sync(file: &SimFile) -> io::Result<()> {
    (0..10).try_for_each(|n| file.write_at(&[b'0' + n as u8; 512], n * 512))?;
    file.sync()
}

/// The host dies at `at_us` inside a section that began at 0; how many of its ten writes are there, as readers see it?
fn writes_there_after(cause: Cause, at_us: u64) -> (usize, u64) {
    let (result, _) = simulate(1, async move {
        let host = world::add_host("writer");
        world::at(at_us * 1_000, move || world::kill(host, cause));
        boot_and_wait(host, || async {
            let file = Disk::current().open("/f", OpenMode::CREATE).expect("created outside sections: takes no time");
            Disk::current().sync_dir("/").expect("synced");
            section::run("write", move || write_ten_and_sync(&file)).await.expect("returned");
            world::sleep(Duration::from_secs(1)).await;
        })
        .await;
        let lost = Disk::of(host).power_losses().iter().map(|loss| loss.sectors_lost).sum();
        let written = bytes("/f", host).chunks(512).filter(|sector| sector[0] != 0).count();
        (written, lost)
    });
    result
}

#[test]
fn a_crash_takes_what_the_section_had_not_issued_and_leaves_the_page_cache() {
    // Writes are issued at 0, 4, 8, ... us.
    assert_eq!(writes_there_after(Cause::Crash, 3), (1, 0));
    assert_eq!(writes_there_after(Cause::Crash, 21), (6, 0));
    assert_eq!(writes_there_after(Cause::Crash, 100), (10, 0));
}

#[test]
fn a_power_loss_takes_any_part_of_what_was_not_synced() {
    for at_us in [3, 21, 41, 100, 239] {
        let issued = usize::try_from(at_us / 4 + 1).expect("small").min(10);
        let (written, lost) = writes_there_after(Cause::PowerLoss, at_us);
        assert!(written <= issued, "at {at_us} us: {written} of {issued}");
        assert_eq!(issued as u64 - lost, written as u64, "the report says what was lost");
    }
    assert_eq!(writes_there_after(Cause::PowerLoss, 241), (10, 0), "the sync had completed");
}

#[test]
fn a_power_loss_lands_inside_the_operation_it_was_armed_for() {
    let (outcomes, _) = simulate(3, async {
        let mut outcomes = Vec::new();
        for operation in 0..12 {
            let host = world::add_host("writer");
            let disk = Disk::of(host);
            disk.arm_power_loss_at_op(operation + 1, 500_000); // The first is the creation of the file.
            boot_and_wait(host, || async {
                let open = || Disk::current().open("/f", OpenMode::CREATE).expect("created");
                section::run("write", move || write_ten_and_sync(&open())).await.expect("returned");
                disk::declare_recovered();
                world::sleep(Duration::from_secs(1)).await;
                Disk::current().open("/f", OpenMode::EXISTING).expect("there");
            })
            .await;
            outcomes.push(disk.power_losses());
        }
        outcomes
    });
    for (operation, losses) in (0u64..).zip(&outcomes) {
        match operation {
            // Write n is in flight: n + 1 sectors are pending.
            0..10 => assert_eq!((losses[0].sectors_pending, losses[0].moment), (operation + 1, Moment::InRecovery)),
            10 => assert_eq!(losses[0].sectors_pending, 10, "the sync is in flight"),
            _ => assert!(losses.is_empty(), "there was no such operation"),
        }
    }
}

#[test]
fn moments_are_told_apart() {
    let moment = |at_us: u64| {
        simulate(1, async move {
            let host = world::add_host("writer");
            world::at(at_us * 1_000, move || world::kill(host, Cause::PowerLoss));
            boot_and_wait(host, move || async move {
                let file = Disk::current().open("/f", OpenMode::CREATE).expect("created");
                Disk::current().sync_dir("/").expect("synced");
                world::sleep(Duration::from_micros(10)).await;
                disk::declare_recovered();
                world::sleep(Duration::from_micros(10)).await;
                section::run("write", move || write_ten_and_sync(&file)).await.expect("returned");
                world::sleep(Duration::from_secs(1)).await;
            })
            .await;
            let losses = Disk::of(host).power_losses();
            (losses[0].moment, losses[0].shape.is_some())
        })
        .0
    };
    assert_eq!(moment(5), (Moment::InRecovery, false));
    assert_eq!(moment(15), (Moment::BeforeWrite, false));
    assert_eq!(moment(30), (Moment::BetweenWriteAndSync, true));
    assert_eq!(moment(100), (Moment::InSync, true));
    assert_eq!(moment(500), (Moment::BeforeWrite, false));
}

/// Writes on when it should be dead.
struct Stubborn {
    file: SimFile,
    results: Arc<Mutex<Vec<io::Result<()>>>>,
}

impl Drop for Stubborn {
    fn drop(&mut self) {
        let disk = Disk::current();
        let attempts = vec![
            self.file.write_at(b"ghost", 0),
            self.file.set_len(0),
            self.file.sync(),
            self.file.read_at(&mut [0; 5], 0).map(|_| ()),
            disk.remove("/f"),
            disk.rename("/f", "/g"),
            disk.open("/ghost", OpenMode::CREATE).map(|_| ()),
            disk.sync_dir("/"),
        ];
        self.results.lock().unwrap().extend(attempts);
    }
}

#[test]
fn a_dead_incarnation_cannot_reach_its_disk() {
    for cause in [Cause::Crash, Cause::PowerLoss, Cause::Stop] {
        let results: Arc<Mutex<Vec<io::Result<()>>>> = Arc::default();
        let kept = results.clone();
        let (operations, _) = simulate(1, async move {
            let host = world::add_host("ghost");
            world::at(1_000_000, move || world::kill(host, cause));
            boot_and_wait(host, move || async move {
                let file = Disk::current().open("/f", OpenMode::CREATE).expect("created");
                let stubborn = Stubborn { file, results: kept };
                stubborn.file.write_at(b"alive", 0).expect("alive");
                stubborn.file.sync().expect("alive");
                Disk::current().sync_dir("/").expect("alive");
                std::future::pending::<()>().await;
                drop(stubborn);
            })
            .await;
            assert_eq!(durable("/f", host), Some(b"alive".to_vec()));
            assert_eq!(durable("/ghost", host), None);
            Disk::of(host).counters().operations
        });
        let results = results.lock().unwrap();
        assert_eq!(results.len(), 8, "the destructor ran");
        assert!(results.iter().all(Result::is_err), "{results:?}");
        assert_eq!(operations, 4, "nothing after death");
    }
}

#[test]
fn names_need_their_directory_synced() {
    let (found, _) = simulate(1, async {
        let host = host_with("names", || async {
            let disk = Disk::current();
            let file = disk.open("/nameless", OpenMode::CREATE).expect("created");
            file.write_at(b"data", 0).expect("written");
            file.sync().expect("synced, but its name is not");
        })
        .await;
        let before = (durable("/nameless", host), bytes("/nameless", host));
        world::kill(host, Cause::PowerLoss);
        boot_and_wait(host, || async {
            // Drawn: lost or not. What may not be is a file with its name and without its synced data.
            let disk = Disk::current();
            if disk.exists("/nameless").expect("alive") {
                assert_eq!(disk.len_of("/nameless").expect("there"), 4);
            }
        })
        .await;
        before
    });
    assert_eq!(found, (None, b"data".to_vec()));
}

fn fails_with<T>(result: io::Result<T>, code: i32) -> bool {
    result.err().and_then(|error| error.raw_os_error()) == Some(code)
}

#[test]
fn armed_faults_reach_the_engine_once_and_are_counted() {
    let (counters, _) = simulate(1, async {
        let host = host_with("faulty", || async {
            let disk = Disk::current();
            disk.set_roles(|path| if path == "/log" { Role::Log } else { Role::Other });
            let (log, other) = (disk.open("/log", OpenMode::CREATE), disk.open("/other", OpenMode::CREATE));
            let (log, other) = (log.expect("created"), other.expect("created"));
            let arm = |kind, error| disk.arm(FaultPoint { kind, role: Some(Role::Log), skip: 0, error });

            arm(OpKind::Write, DiskError::Io);
            assert!(other.write_at(&[1; 2000], 0).is_ok(), "not its role");
            assert!(fails_with(log.write_at(&[1; 2000], 0), libc::EIO));
            let len = log.len().expect("alive");
            assert!(len < 2000 && len % 512 == 0, "{len} bytes of a failed write arrived");
            assert!(log.write_at(&[1; 2000], 0).is_ok(), "once");

            arm(OpKind::Write, DiskError::Full);
            assert!(fails_with(log.write_at(&[1; 2000], 2000), libc::ENOSPC));
            arm(OpKind::Read, DiskError::Io);
            assert!(fails_with(log.read_at(&mut [0; 10], 0), libc::EIO));

            log.set_len(512).expect("cut");
            log.sync().expect("synced");
            log.write_at(b"gone", 0).expect("written");
            arm(OpKind::Sync, DiskError::Io);
            assert!(fails_with(log.sync(), libc::EIO));
            let mut seen = [0; 4];
            log.read_at(&mut seen, 0).expect("readable");
            assert_eq!(seen, [1; 4], "the data is gone at once");
            assert!(log.sync().is_ok(), "and the next sync says all is well");
        })
        .await;
        Disk::of(host).counters()
    });
    let once = FaultCount { injected: 1, noticed: 1 };
    for kind in [fault::WRITE_ERROR, fault::READ_ERROR, fault::SYNC_ERROR, fault::FULL] {
        assert_eq!(counters.faults[kind], once, "{kind}");
    }
    assert_eq!((counters.role(Role::Log).writes, counters.role(Role::Log).syncs), (2, 2), "only what succeeded");
}

#[test]
fn a_failed_sync_that_the_power_loss_came_before_never_happened() {
    let (losses, _) = simulate(1, async {
        let host = world::add_host("late");
        // The write is pending at 100 us; the sync that would drop it fails at 204 us.
        world::at(100_000, move || world::kill(host, Cause::PowerLoss));
        boot_and_wait(host, || async {
            let disk = Disk::current();
            let file = disk.open("/f", OpenMode::CREATE).expect("created");
            disk.arm(FaultPoint { kind: OpKind::Sync, role: None, skip: 0, error: DiskError::Io });
            section::run("write", move || (file.write_at(&[1; 512], 0), file.sync())).await.1.expect_err("never seen");
        })
        .await;
        Disk::of(host).power_losses()
    });
    assert_eq!(losses[0].sectors_pending, 1);
}

#[test]
fn a_quota_stops_growth_until_it_is_lifted() {
    simulate(1, async {
        host_with("full", || async {
            let disk = Disk::current();
            disk.set_config(DiskConfig { quota_bytes: Some(4096), ..DiskConfig::default() });
            let file = disk.open("/f", OpenMode::CREATE).expect("created");
            file.write_at(&[1; 4096], 0).expect("fits");
            assert!(fails_with(file.set_len(4097), libc::ENOSPC));
            file.write_at(&[2; 4096], 0).expect("an overwrite takes no room");
            disk.heal();
            file.set_len(8192).expect("lifted");
        })
        .await;
    });
}

#[test]
fn operations_take_virtual_time_and_lanes_are_serial() {
    let (times, _) = simulate(1, async {
        let host = world::add_host("slow");
        let config = DiskConfig {
            write: Latency { ns_min: 1_000, ns_max: 50_000 },
            tail_ppm: 100_000,
            tail_factor: 10,
            stalls: Stalls { ppm: 20_000, length: Latency::fixed(5_000_000), syncs_only: false },
            ..DiskConfig::default()
        };
        Disk::of(host).set_config(config);
        boot_and_wait(host, || async {
            let lane = Lane::new("file");
            let file = Arc::new(Disk::current().open("/f", OpenMode::CREATE).expect("created"));
            let tasks: Vec<_> = (0..4u64)
                .map(|n| {
                    let (lane, file) = (lane.clone(), file.clone());
                    world::spawn("writer", async move {
                        for m in 0..25 {
                            let file = file.clone();
                            lane.run(move || file.write_at(&[1; 100], n * 1000 + m)).await.expect("written");
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("finished");
            }
        })
        .await;
        let counters = Disk::of(host).counters();
        assert_eq!(counters.overlapped, 0);
        assert!(counters.faults[fault::SLOW].noticed > 0 && counters.faults[fault::STALL].noticed > 0);
        world::now_ns()
    });
    assert!((5_000_000..100_000_000).contains(&times), "{times} ns for 100 writes");
}

/// One small life of a disk; `twist` changes one thing about it.
fn digest(twist: Option<usize>) -> (u64, u64) {
    let is = move |n| twist == Some(n);
    simulate(5, async move {
        host_with("digest", move || async move {
            let disk = Disk::current();
            let file = disk.open("/f", OpenMode::CREATE).expect("created");
            let mut bytes = [7; 100];
            bytes[50] ^= u8::from(is(0));
            file.write_at(&bytes, 0).expect("written");
            file.read_at(&mut [0; 10], u64::from(is(1))).expect("read");
            file.set_len(200 + u64::from(is(2))).expect("grown");
            disk.rename("/f", if is(3) { "/h" } else { "/g" }).expect("renamed");
            if is(4) {
                file.sync().expect("synced");
            }
            if is(5) {
                disk.arm(FaultPoint { kind: OpKind::Sync, role: None, skip: 0, error: DiskError::Io });
            }
            let _ = file.sync();
        })
        .await;
    })
    .1
    .digest()
}

#[test]
fn every_byte_and_every_operation_counts_for_the_digest() {
    assert_eq!(digest(None), digest(None));
    for twist in 0..6 {
        assert_ne!(digest(None), digest(Some(twist)), "twist {twist}");
    }
}

#[test]
fn timed_power_losses_have_every_shape() {
    let (shapes, _) = simulate(11, async {
        let host = world::add_host("unlucky");
        let mut shapes = std::collections::BTreeMap::<Shape, u32>::new();
        for n in 0..200 {
            world::at(world::now_ns() + 10_000 + n * 977 % 45_000, move || world::kill(host, Cause::PowerLoss));
            boot_and_wait(host, || async {
                let file = Disk::current().open("/f", OpenMode::CREATE).expect("opened");
                section::run("write", move || (0..12).try_for_each(|n| file.write_at(&[1; 1100], n * 1100)))
                    .await
                    .expect("written");
                std::future::pending::<()>().await;
            })
            .await;
        }
        for loss in Disk::of(host).power_losses() {
            *shapes.entry(loss.shape.expect("something was pending")).or_default() += 1;
        }
        shapes
    });
    assert!(shapes.len() == 6 && shapes.values().all(|count| *count >= 10), "{shapes:?}");
}

/// Orders damage to a file of 20 sectors that are written and synced one after the other, twice, and reads it all after a
/// restart. Returns the kind's count, what the sectors hold (`None` = unreadable), and how many sectors were done.
fn damaged(damage: Damage, sectors: u64, span: u64) -> (FaultCount, Vec<Option<u8>>, u64) {
    const SECTORS: u64 = 20;
    async fn write_all(content: u8) {
        let file = Arc::new(Disk::current().open("/f", OpenMode::CREATE).expect("opened"));
        Disk::current().sync_dir("/").expect("synced");
        for n in 0..SECTORS {
            let file = file.clone();
            let write = move || file.write_at(&[content; 512], n * 512).and_then(|()| file.sync());
            section::run("write", write).await.expect("written");
        }
    }
    let (result, _) = simulate(3, async move {
        let host = world::add_host("rotten");
        boot_and_wait(host, || write_all(1)).await;
        Disk::of(host).order_damage(damage, Role::Other, sectors, span);
        boot_and_wait(host, || write_all(2)).await;
        let done = Disk::of(host).carry_out_damage().values().sum();
        let held: Arc<Mutex<Vec<Option<u8>>>> = Arc::default();
        let reading = held.clone();
        boot_and_wait(host, move || async move {
            let file = Disk::current().open("/f", OpenMode::EXISTING).expect("opened");
            for n in 0..SECTORS {
                let mut sector = [0; 512];
                let read = file.read_at(&mut sector, n * 512).ok();
                let odd = sector.iter().find(|byte| **byte != sector[1]).copied();
                reading.lock().unwrap().push(read.map(|_| odd.unwrap_or(sector[1])));
            }
        })
        .await;
        let held = held.lock().unwrap().clone();
        (Disk::of(host).counters().faults.get(damage.kind()).copied().unwrap_or_default(), held, done)
    });
    result
}

#[test]
fn a_latent_sector_is_an_error_and_a_rotten_one_is_not() {
    let (count, held, done) = damaged(Damage::LatentSector, 3, 10);
    assert_eq!((count.injected, count.noticed, done), (3, 3, 3));
    assert_eq!(held.iter().filter(|sector| sector.is_none()).count(), 3);
    let (count, held, done) = damaged(Damage::BitRot, 3, 10);
    assert_eq!((count.injected, count.noticed, done), (3, 3, 3));
    let wrong = held.iter().filter(|byte| **byte != Some(2));
    assert!(held.iter().all(Option::is_some) && wrong.count() == 3, "{held:?}");
}

#[test]
fn a_lost_write_leaves_the_old_sector_and_only_where_it_is_cold() {
    let (count, held, done) = damaged(Damage::LostWrite, 4, 10);
    assert_eq!((count.injected, count.noticed, done), (4, 4, 4));
    let old: Vec<usize> = held.iter().enumerate().filter(|(_, byte)| **byte == Some(1)).map(|(n, _)| n).collect();
    assert!(old.len() == 4 && old.iter().all(|n| *n < 10), "{old:?}: only what was written within the span");
    let (_, held, done) = damaged(Damage::LostWrite, 4, 19);
    assert_eq!((held.contains(&Some(1)), done), (false, 0), "too few syncs came after it");
}

#[test]
fn a_misdirected_write_damages_two_places() {
    let (count, held, done) = damaged(Damage::MisdirectedWrite, 1, 10);
    assert_eq!((count.injected, done), (1, 1));
    assert!(held.iter().filter(|byte| **byte == Some(1)).count() >= 1, "{held:?}");
    assert!(count.noticed >= 1);
}

#[test]
fn a_moving_quota_refuses_growth_beyond_what_is_there() {
    simulate(1, async {
        let host = world::add_host("full");
        Disk::of(host).set_quota_above_used(Some(100));
        boot_and_wait(host, || async {
            let disk = Disk::current();
            let file = disk.open("/f", OpenMode::CREATE).expect("names are free");
            let refused = file.write_at(&[1; 600], 0).expect_err("no space");
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
            disk.set_quota_above_used(Some(600));
            file.write_at(&[1; 600], 0).expect("moved");
            file.write_at(&[2; 600], 0).expect("no growth");
            disk.set_quota_above_used(Some(0));
            assert!(file.set_len(700).is_err());
            disk.set_quota_above_used(None);
            file.set_len(700).expect("lifted");
        })
        .await;
        assert_eq!(world::host_status(host), world::HostStatus::Exited);
    });
}
