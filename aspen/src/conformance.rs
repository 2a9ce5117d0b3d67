//! What the seams promise, as checks to run in any environment: openraft's storage suite on our stores, on real files
//! or a simulated disk; and [`transport`].

pub mod transport;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use crate::env::{Env, Lane};
use crate::floor::DurableFloor;
use crate::health::Health;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::store::StoreConfig;
use crate::types::TypeConfig;

/// Runs all cases of openraft's suite, each on fresh stores in a directory of its own below `dir`.
pub async fn storage_suite<E: Env>(
    env: &E,
    dir: PathBuf,
    config: StoreConfig,
) -> Result<(), StorageError<TypeConfig<E>>> {
    Suite::test_all(FreshStores { env: env.clone(), dir, config, made: AtomicU64::new(0) }).await
}

/// Makes stores that do not know of each other: the suite purges logs that no snapshot covers, and appends to logs that
/// begin anywhere.
struct FreshStores<E> {
    env: E,
    dir: PathBuf,
    config: StoreConfig,
    made: AtomicU64,
}

impl<E: Env> StoreBuilder<TypeConfig<E>, LogStore<E>, StateMachine<E>> for FreshStores<E> {
    async fn build(&self) -> Result<((), LogStore<E>, StateMachine<E>), StorageError<TypeConfig<E>>> {
        let dir = self.dir.join(format!("case-{}", self.made.fetch_add(1, Ordering::Relaxed)));
        let opened: std::io::Result<_> = async {
            let (env, at) = (self.env.clone(), dir.clone());
            self.env.lane("store").run(move || env.create_dir_all(&at)).await??;
            let (log, _) = LogStore::open(&self.env, &dir, self.config.log(), Health::default(), None).await?;
            let floor = DurableFloor::default();
            let opened = StateMachine::open(&self.env, &dir, self.config.state(), Health::default(), floor).await?;
            Ok(((), log, opened.0))
        }
        .await;
        opened.map_err(|error| StorageError::read(TypeConfig::<E>::err_from_error(&error)))
    }
}
