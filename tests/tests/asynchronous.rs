//! The asynchronous face of the library, with a real daemon at the other end.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use rustix::process::Signal;
use stated_client::tokio::Client;
use stated_shared::{FailureKind, Lock, Notice, Selector, StateName, Wait};
use stated_tests::{BUILD_LIMIT, Daemon, Host, LIMIT, Random, programs_dir, run_within, state};
use tokio::runtime::Runtime;

/// Runs to the end, within the limit of every test.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("it ends") })
}

async fn connect(host: &Host) -> Client {
    Client::connect(&host.options()).await.unwrap()
}

fn exclusive(name: &str) -> Lock {
    Lock::exclusive([state(name)], "test")
}

fn try_lock(name: &str) -> Lock {
    Lock { wait: Wait::No, ..exclusive(name) }
}

/// Polls once, which sends the request, and waits for the daemon to say that it queues.
async fn until_queued(client: &Client, lock: &mut (impl Future + Unpin)) {
    let mut notices = client.notices();
    assert!(Future::poll(std::pin::Pin::new(lock), &mut Context::from_waker(Waker::noop())).is_pending());
    while !matches!(notices.recv().await.unwrap(), Notice::Queued { .. }) {}
}

#[test]
fn what_is_written_is_read_back_whatever_its_size() {
    let host = Host::new();
    let _daemon = host.daemon();
    block_on(async {
        let client = connect(&host).await;
        let mut random = Random::new();
        let mut writes = Vec::new();
        let contents: Vec<Vec<u8>> = [0, 1, 200_000, 300_000, 3_000_000].map(|len| random.bytes(len)).into();
        // All at once: those that are streamed may not mix with each other.
        for (index, content) in contents.iter().enumerate() {
            let (client, name, content) = (client.clone(), state(&format!("s/{index}")), content.clone());
            writes.push(tokio::spawn(async move { client.put(&name, content).await }));
        }
        for write in writes {
            assert!(write.await.unwrap().unwrap().states[0].changed);
        }
        let reads: Vec<_> = (0..contents.len())
            .map(|index| {
                let client = client.clone();
                tokio::spawn(async move { client.get(&state(&format!("s/{index}")), Selector::Newest).await })
            })
            .collect();
        for (read, content) in reads.into_iter().zip(&contents) {
            assert!(read.await.unwrap().unwrap().1 == *content);
        }
        client.put(&state("s/0"), "again").await.unwrap();
        assert_eq!(client.list(Some("s/*".to_owned()), None).await.unwrap().versions.len(), contents.len());
        assert_eq!(client.log(&state("s/0"), None).await.unwrap().versions.len(), 2);
        assert_eq!(client.show(&state("s/0"), Selector::Newest).await.unwrap().version.0, 2);
        assert_eq!(client.status().await.unwrap().states, contents.len() as u64);
        let missing = client.get(&state("missing"), Selector::Newest).await.unwrap_err();
        assert_eq!(missing.kind, FailureKind::NotFound);
    });
}

#[test]
fn a_request_that_waits_for_a_lock_holds_up_no_other() {
    let host = Host::new();
    let _daemon = host.daemon();
    block_on(async {
        let (holder, waiter) = (connect(&host).await, connect(&host).await);
        let held = holder.lock(&exclusive("x")).await.unwrap();
        let wanted = exclusive("x");
        let mut waiting = pin!(waiter.lock(&wanted));
        until_queued(&waiter, &mut waiting).await;
        waiter.put(&state("y"), "meanwhile").await.unwrap();
        assert_eq!(waiter.lock(&try_lock("x")).await.unwrap_err().kind, FailureKind::Busy);
        held.release().await.unwrap();
        let granted = waiting.await.unwrap();
        assert!(!granted.is_lost());
        assert_eq!(waiter.locks(None, None).await.unwrap().locks[0].id, *granted.id());
    });
}

#[test]
fn a_guard_that_is_dropped_frees_the_lock_and_one_that_is_kept_does_not() {
    let host = Host::new();
    let _daemon = host.daemon();
    block_on(async {
        let (one, other) = (connect(&host).await, connect(&host).await);
        drop(one.lock(&exclusive("x")).await.unwrap());
        let guard = other.lock(&exclusive("x")).await.unwrap();
        let kept = guard.keep();
        assert_eq!(one.lock(&try_lock("x")).await.unwrap_err().kind, FailureKind::Busy);
        other.unlock(&kept.id).await.unwrap();
        // A lease too is given back; kept, it is renewed by its ID.
        let lease = Lock { ttl_ms: Some(3_600_000), ..exclusive("x") };
        drop(one.lock(&lease).await.unwrap());
        let kept = other.lock(&lease).await.unwrap().keep();
        assert!(other.renew(&kept.id, None).await.unwrap().expires.is_some());
        assert_eq!(one.break_lock(&state("x"), None).await.unwrap()[0].id, kept.id);
    });
}

#[test]
fn a_dropped_future_leaves_no_lock_behind() {
    let host = Host::new();
    let _daemon = host.daemon();
    block_on(async {
        let (holder, gone, next) = (connect(&host).await, connect(&host).await, connect(&host).await);
        // Dropped while it waits: what is granted to it later is given back.
        let held = holder.lock(&exclusive("x")).await.unwrap();
        let wanted = exclusive("x");
        let mut waiting = Box::pin(gone.lock(&wanted));
        until_queued(&gone, &mut waiting).await;
        drop(waiting);
        held.release().await.unwrap();
        next.lock(&exclusive("x")).await.unwrap().release().await.unwrap();
        // Dropped with the grant in its hands.
        let mut granted = Box::pin(gone.lock(&wanted));
        assert!(granted.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // Its answer came before this one, which was asked for after it.
        gone.status().await.unwrap();
        drop(granted);
        next.lock(&exclusive("x")).await.unwrap().release().await.unwrap();
    });
}

#[test]
fn a_lock_that_is_broken_is_told_to_its_guard() {
    let host = Host::new();
    let _daemon = host.daemon();
    block_on(async {
        let (holder, breaker) = (connect(&host).await, connect(&host).await);
        let guard = holder.lock(&exclusive("x")).await.unwrap();
        breaker.break_lock(&state("x"), Some(guard.id().clone())).await.unwrap();
        assert!(guard.lost().await.contains("broken"));
        assert!(guard.is_lost());
        breaker.lock(&try_lock("x")).await.unwrap().release().await.unwrap();
        // As with any ID that is given back twice.
        guard.release().await.unwrap();
    });
}

#[test]
fn the_session_outlives_a_killed_daemon_with_its_locks_and_its_requests() {
    let host = Host::new();
    let daemon = host.daemon();
    block_on(async {
        let (holder, waiter) = (connect(&host).await, connect(&host).await);
        let guard = holder.lock(&exclusive("x")).await.unwrap();
        let wanted = exclusive("x");
        let mut waiting = pin!(waiter.lock(&wanted));
        until_queued(&waiter, &mut waiting).await;
        let daemon = replace(&host, daemon, Signal::KILL).await;
        holder.put(&state("y"), "after").await.unwrap();
        assert!(!guard.is_lost(), "the lock is held by the same session still");
        let mut commit = stated_shared::Commit::put(state("x"), b"under the lock".to_vec());
        commit.locks = vec![guard.id().clone()];
        holder.commit(commit).await.unwrap();
        // In good order too, with requests on their way.
        let puts: Vec<_> = (0..50)
            .map(|index| {
                let holder = holder.clone();
                tokio::spawn(async move { holder.put(&state(&format!("z/{index}")), "z").await })
            })
            .collect();
        let _daemon = replace(&host, daemon, Signal::TERM).await;
        for put in puts {
            assert_eq!(put.await.unwrap().unwrap().states[0].version.0, 1, "applied once");
        }
        guard.release().await.unwrap();
        waiting.await.unwrap().release().await.unwrap();
    });
}

/// Ends the daemon and starts another, while the runtime goes on.
async fn replace(host: &Host, mut daemon: Daemon, signal: Signal) -> Daemon {
    daemon.signal(signal);
    daemon = tokio::task::spawn_blocking(move || {
        daemon.exit();
        daemon
    })
    .await
    .unwrap();
    drop(daemon);
    host.daemon()
}

#[test]
fn a_daemon_that_stays_away_is_told_and_one_that_comes_back_is_found() {
    let host = Host::new();
    let daemon = host.daemon();
    block_on(async {
        let client = connect(&host).await;
        client.put(&state("a"), "1").await.unwrap();
        daemon.kill();
        // Waits no longer than whoever asks.
        let name = state("a");
        let mut read = pin!(client.get(&name, Selector::Newest));
        assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let _daemon = host.daemon();
        assert_eq!(read.await.unwrap().1, b"1");
    });
}

#[test]
fn the_end_of_the_runtime_ends_the_session_and_its_locks() {
    let host = Host::new();
    let _daemon = host.daemon();
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(connect(&host));
    let guard = runtime.block_on(client.lock(&exclusive("x"))).unwrap();
    drop(runtime);
    block_on(async {
        let other = connect(&host).await;
        other.lock(&exclusive("x")).await.unwrap().release().await.unwrap();
        let failure = client.put(&state("a"), "x").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert_eq!(guard.lost().await, "the session ended");
    });
}

#[test]
fn the_example_runs() {
    let host = Host::new();
    let _daemon = host.daemon();
    // Beside the programs, where cargo puts it.
    let target = programs_dir().parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build
        .args(["build", "--quiet", "--package", "stated-client", "--example", "deploy", "--features", "tokio"])
        .args(["--profile", if target.join("debug") == programs_dir() { "dev" } else { "release" }, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    run_within(build, BUILD_LIMIT).ok();
    let deploy = |said: &str| {
        let done = host.call(programs_dir().join("examples/deploy"), ["a/b"]).run().ok();
        assert!(done.text().ends_with(said), "{}", done.text());
    };
    deploy("done: a/b@1");
    deploy("done: a/b@2");
    assert_eq!(host.get("a/b"), b"2");
    let name = StateName::parse("a/b").unwrap();
    assert_eq!(host.client().get(&name, Selector::Newest).unwrap().0.message.as_deref(), Some("deploy 2"));
}
