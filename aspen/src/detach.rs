//! A time limit on calls of openraft that abandons the wait and never the call.
//!
//! openraft's calls are not all safe to drop half way: one that waits for the end of a dying core and is dropped makes
//! every later call panic ("RaftCore should have already quit"). A call that is late is therefore left to end by itself.

use std::time::Duration;

use openraft::type_config::TypeConfigExt;

use crate::env::Env;
use crate::types::TypeConfig;

/// The time was up; the call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

/// What `call` returns, if it does within `limit`.
pub(crate) async fn timeout<E: Env, T: Send + 'static>(
    limit: Duration,
    call: impl Future<Output = T> + Send + 'static,
) -> Result<T, Late> {
    let mut call = Box::pin(call);
    match TypeConfig::<E>::timeout(limit, call.as_mut()).await {
        Ok(value) => Ok(value),
        Err(_) => {
            drop(TypeConfig::<E>::spawn(async move {
                call.await;
            }));
            Err(Late)
        }
    }
}
