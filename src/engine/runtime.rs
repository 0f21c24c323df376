//! Driver. The media runtime: one thread with its own current-thread runtime for every call's network task.
//!
//! It must tick every 20 ms while decoders and encoders load the box, so nothing else runs there: no file, no name
//! lookup, no log to a pipe per packet (ARCHITECTURE.md, concurrency).

use std::sync::mpsc;

use tokio::runtime::{Builder, Handle};

use crate::base::stop::process_thread;

/// Starts the thread; `raise` runs on it first and asks for real-time priority.
pub fn start(raise: impl FnOnce() + Send + 'static) -> std::io::Result<Handle> {
    let (tell, started) = mpsc::sync_channel(1);
    process_thread("media", move || {
        raise();
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // The starter waits for exactly this answer.
                let _ = tell.send(Err(error));
                return;
            }
        };
        let _ = tell.send(Ok(runtime.handle().clone()));
        runtime.block_on(std::future::pending::<()>());
    })?;
    started.recv().map_err(|_| std::io::Error::other("the media thread ended while starting"))?
}
