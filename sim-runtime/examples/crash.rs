//! Crash-tests a SQLite program of one's own: a bank that must neither invent money nor forget a transfer it confirmed.
//!
//! For each I/O operation the program does, a fresh world loses its power in the middle of exactly that operation. What
//! was not synced survives in part: whole writes or torn ones, in any order, with the file's length before or after its
//! data. The host reboots on what is left and the bank must still add up. With `synchronous = OFF` it does not.
//!
//! `cargo run -p sim-runtime --example crash`

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{Disk, PowerLossOutcome};
use sim_runtime::world::section::Lane;
use sim_runtime::world::{self, World, WorldConfig};

const ACCOUNTS: i64 = 20;
const TRANSFERS: i64 = 30;

/// The program. It knows nothing of the simulation: its default VFS happens to be the simulated one.
fn open(synchronous: &str) -> rusqlite::Result<Connection> {
    let bank = Connection::open("/bank.sqlite")?;
    // A busy handler would sleep inside one call, and there is only one thread.
    bank.busy_timeout(Duration::ZERO)?;
    bank.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 10; BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER, note TEXT);
         CREATE TABLE IF NOT EXISTS confirmed (count INTEGER);
         INSERT INTO confirmed SELECT 0 WHERE NOT EXISTS (SELECT * FROM confirmed);
         WITH RECURSIVE id(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM id WHERE n < {ACCOUNTS} - 1)
             INSERT OR IGNORE INTO account SELECT n, 100, '' FROM id; COMMIT"
    ))?;
    Ok(bank)
}

fn transfer(bank: &mut Connection, n: i64) -> rusqlite::Result<()> {
    let transaction = bank.transaction()?;
    let note = format!("{n:0400}");
    transaction.execute("UPDATE account SET balance = balance - 7, note = ?2 WHERE id = ?1", (n % ACCOUNTS, &note))?;
    transaction
        .execute("UPDATE account SET balance = balance + 7, note = ?2 WHERE id = ?1", (n * 3 % ACCOUNTS, &note))?;
    transaction.execute("UPDATE confirmed SET count = count + 1", ())?;
    transaction.commit()
}

/// What must hold after every power loss, given how many transfers were confirmed before it.
fn audit(bank: &Connection, confirmed: i64) -> Result<(), String> {
    let ask = |sql| bank.query_row(sql, (), |row| row.get::<_, i64>(0)).map_err(|error| error.to_string());
    let check = "PRAGMA integrity_check";
    let check: String = bank.query_row(check, (), |row| row.get(0)).map_err(|error| error.to_string())?;
    let (total, count) = (ask("SELECT sum(balance) FROM account")?, ask("SELECT count FROM confirmed")?);
    match (check.as_str(), total == 100 * ACCOUNTS, count >= confirmed) {
        ("ok", true, true) => Ok(()),
        _ => Err(format!("{check}; {total} in all; {count} of {confirmed} confirmed transfers are there")),
    }
}

/// One life: the power goes in the middle of the operation after the first `skip`. `None` when there was no such.
fn crash_at(skip: u64, synchronous: &'static str) -> Option<(PowerLossOutcome, Result<(), String>)> {
    sqlite::reset_randomness();
    let confirmed = Arc::new(AtomicI64::new(0));
    let (confirms, verdict) = (confirmed.clone(), Arc::new(std::sync::Mutex::new(Ok(()))));
    let judged = verdict.clone();
    let world = World::new(WorldConfig::seeded(skip));
    let outcome = world.run(async move {
        let host = world::add_host("bank");
        let disk = Disk::of(host);
        disk.arm_power_loss_at_op(skip, 500_000);
        world::boot(host, move || async move {
            let lane = Lane::new("bank");
            let mut bank = lane.run(|| open(synchronous).expect("opens")).await;
            lane.run(|| Disk::current().sync_dir("/").expect("synced")).await;
            for n in 0..TRANSFERS {
                let ours = &mut bank;
                lane.run(move || transfer(ours, n).expect("transfers")).await;
                confirms.store(n + 1, Ordering::Relaxed);
            }
            lane.run(move || drop(bank)).await;
        });
        wait_until_down(host).await;
        let outcome = disk.power_losses().pop()?;
        world::boot(host, move || async move {
            let confirmed = confirmed.load(Ordering::Relaxed);
            let lane = Lane::new("bank");
            let audited = lane.run(|| match open(synchronous) {
                Ok(bank) => audit(&bank, confirmed),
                Err(error) => Err(error.to_string()),
            });
            *judged.lock().expect("one thread") = audited.await;
        });
        wait_until_down(host).await;
        Some(outcome)
    });
    let outcome = outcome.unwrap_or_else(|halt| panic!("{halt}"))?;
    let verdict = verdict.lock().expect("one thread").clone();
    Some((outcome, verdict))
}

async fn wait_until_down(host: world::HostId) {
    while world::running(host).is_some() {
        world::sleep(Duration::from_millis(1)).await;
    }
}

/// Crashes everywhere and returns the failures.
fn crash_everywhere(synchronous: &'static str) -> Vec<String> {
    let (mut crashes, mut lost, mut failures) = (0, 0, Vec::new());
    while let Some((outcome, verdict)) = crash_at(crashes, synchronous) {
        lost += outcome.sectors_lost;
        failures.extend(verdict.err().map(|error| format!("operation {crashes}, {:?}: {error}", outcome.shape)));
        crashes += 1;
    }
    println!("synchronous = {synchronous}: {crashes} crashes lost {lost} sectors, {} failures", failures.len());
    failures
}

fn main() {
    let _installed = sqlite::install();
    assert_eq!(crash_everywhere("FULL"), Vec::<String>::new());
    let failures = crash_everywhere("OFF");
    println!("for instance: {}", failures.first().expect("without syncs it cannot hold"));
}
