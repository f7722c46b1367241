//! Work that blocks (mount, fsync, CNI, spawn) never runs on an async worker.

/// Runs `f` on the blocking pool and waits for it. A panic of `f` continues in the caller.
pub(crate) async fn run<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and will drop this future too.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
