//! What every [`Transport`] must do, as checks to run on each: in memory, simulated, and over a real network.
//!
//! A [`Rig`] makes endpoints of the transport under test; the checks use only what the trait promises. They panic with
//! the promise that was broken.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::{AsyncRuntime, Instant};

use crate::transport::{Handler, ReplyFuture, Transport, TransportError};
use crate::types::Address;

/// Makes endpoints.
pub trait Rig: Send + Sync {
    type Runtime: AsyncRuntime;
    type Transport: Transport;

    /// A new endpoint and where others reach it.
    fn endpoint(&self) -> impl Future<Output = (Self::Transport, Address)> + Send;

    /// Where nobody ever listens.
    fn nowhere(&self) -> Address;

    /// The longest message that may be sent, in bytes.
    fn message_bytes_max(&self) -> usize;

    /// A call within this time succeeds on an idle machine, and the checks wait so long for a call that must fail.
    fn patience(&self) -> Duration;
}

/// Runs every check.
pub async fn test_all<R: Rig>(rig: &R) {
    a_reply_answers_its_request(rig).await;
    long_messages_arrive_whole(rig).await;
    a_request_is_handled_once(rig).await;
    concurrent_calls_do_not_wait_for_each_other(rig).await;
    a_slow_handler_times_the_call_out(rig).await;
    an_abandoned_call_disturbs_nothing(rig).await;
    a_message_that_is_too_long_is_not_sent(rig).await;
    nobody_there_is_an_error_in_time(rig).await;
    a_closed_endpoint_neither_serves_nor_calls(rig).await;
}

/// Replies are those of the handler, also empty ones.
pub async fn a_reply_answers_its_request<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    server.serve(Arc::new(Echo::default()));
    for request in [vec![], vec![ECHO], vec![ECHO, 1, 2, 3]] {
        let reply = client.call(&address, request.clone(), rig.patience()).await;
        assert_eq!(reply, Ok(request), "the reply is the handler's");
    }
    client.close();
    server.close();
}

/// Messages up to the limit arrive byte for byte, both ways.
pub async fn long_messages_arrive_whole<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    server.serve(Arc::new(Echo::default()));
    let mut request: Vec<u8> =
        (0..rig.message_bytes_max()).map(|i| u8::try_from(i % 251).expect("below 251")).collect();
    request[0] = ECHO;
    let reply = client.call(&address, request.clone(), rig.patience()).await;
    let arrived = reply.map(|reply| reply == request);
    assert_eq!(arrived, Ok(true), "a message of the greatest length arrives whole");
    client.close();
    server.close();
}

/// One call is handled at most once, also when its reply is late or lost.
pub async fn a_request_is_handled_once<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    let echo = Arc::new(Echo::default());
    server.serve(echo.clone());
    for _ in 0..20 {
        client.call(&address, vec![ECHO], rig.patience()).await.expect("an idle endpoint replies");
    }
    assert_eq!(echo.handled.load(Ordering::SeqCst), 20, "each call is handled exactly once when it is answered");
    client.close();
    server.close();
}

/// A call that is stuck does not delay others to the same endpoint.
pub async fn concurrent_calls_do_not_wait_for_each_other<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    server.serve(Arc::new(Echo::default()));
    let stuck = {
        let (client, address, patience) = (client.clone(), address.clone(), rig.patience() * 4);
        R::Runtime::spawn(async move { client.call(&address, vec![NEVER], patience).await })
    };
    let mut calls = Vec::new();
    for i in 0..32u8 {
        let (client, address, patience) = (client.clone(), address.clone(), rig.patience());
        let reply = async move { (i, client.call(&address, vec![ECHO, i], patience).await) };
        calls.push(R::Runtime::spawn(reply));
    }
    for call in calls {
        let (i, reply) = call.await.expect("the task ends");
        assert_eq!(reply, Ok(vec![ECHO, i]), "each of many concurrent calls gets its own reply");
    }
    let patience = rig.patience() * 4;
    let ended = stuck.await.expect("the task ends");
    assert_eq!(ended, Err(TransportError::Timeout(address, patience)), "a call nobody answers times out");
    client.close();
    server.close();
}

/// The timeout is that of the caller, and the error says that the request may have been delivered.
pub async fn a_slow_handler_times_the_call_out<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    server.serve(Arc::new(Echo::default()));
    let timeout = rig.patience() / 2;
    let begun = <R::Runtime as AsyncRuntime>::Instant::now();
    let error = client.call(&address, vec![NEVER], timeout).await.expect_err("nobody replies");
    assert_eq!(error, TransportError::Timeout(address, timeout));
    assert!(error.may_have_been_delivered());
    assert!(begun.elapsed() >= timeout, "a call does not time out early");
    client.close();
    server.close();
}

/// Dropping a call leaves the endpoint usable.
pub async fn an_abandoned_call_disturbs_nothing<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    server.serve(Arc::new(Echo::default()));
    for i in 0..8u8 {
        let abandoned = client.call(&address, vec![NEVER], rig.patience() * 4);
        let outcome = R::Runtime::timeout(rig.patience() / 8, abandoned).await;
        assert!(outcome.is_err(), "the call was still waiting");
        let reply = client.call(&address, vec![ECHO, i], rig.patience()).await;
        assert_eq!(reply, Ok(vec![ECHO, i]), "a call after an abandoned one gets its own reply");
    }
    client.close();
    server.close();
}

/// A request over the limit is refused here and never reaches the handler.
pub async fn a_message_that_is_too_long_is_not_sent<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    let echo = Arc::new(Echo::default());
    server.serve(echo.clone());
    let (max, actual) = (rig.message_bytes_max(), rig.message_bytes_max() + 1);
    let refused = client.call(&address, vec![ECHO; actual], rig.patience()).await;
    assert_eq!(refused, Err(TransportError::TooLarge { actual, max }));
    let reply = client.call(&address, vec![ECHO], rig.patience()).await;
    assert_eq!(reply, Ok(vec![ECHO]), "the connection survives a refusal");
    assert_eq!(echo.handled.load(Ordering::SeqCst), 1, "what is refused is not handled");
    client.close();
    server.close();
}

/// A call to nobody fails no later than its timeout.
pub async fn nobody_there_is_an_error_in_time<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let begun = <R::Runtime as AsyncRuntime>::Instant::now();
    let refused = client.call(&rig.nowhere(), vec![ECHO], rig.patience()).await;
    let error = refused.expect_err("nobody is there");
    assert!(
        matches!(error, TransportError::Unreachable(_) | TransportError::Refused(_) | TransportError::Timeout(..)),
        "{error}"
    );
    assert!(begun.elapsed() <= rig.patience() * 2, "the error comes in time");
    client.close();
}

/// After `close` nothing is served and nothing is sent.
pub async fn a_closed_endpoint_neither_serves_nor_calls<R: Rig>(rig: &R) {
    let (client, _) = rig.endpoint().await;
    let (server, address) = rig.endpoint().await;
    let echo = Arc::new(Echo::default());
    server.serve(echo.clone());
    client.call(&address, vec![ECHO], rig.patience()).await.expect("an open endpoint replies");
    server.close();
    client.call(&address, vec![ECHO], rig.patience()).await.expect_err("a closed endpoint does not serve");
    assert_eq!(echo.handled.load(Ordering::SeqCst), 1, "a closed endpoint handles nothing");
    client.close();
    let refused = client.call(&address, vec![ECHO], rig.patience()).await;
    assert_eq!(refused, Err(TransportError::Closed), "a closed endpoint does not call");
}

const ECHO: u8 = 0;
const NEVER: u8 = 1;

/// Replies with the request, unless it begins with [`NEVER`].
#[derive(Default)]
struct Echo {
    handled: AtomicU64,
}

impl Handler for Echo {
    fn handle(&self, request: Vec<u8>) -> ReplyFuture {
        self.handled.fetch_add(1, Ordering::SeqCst);
        if request.first() == Some(&NEVER) {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(request))
    }
}
