//! The operator's HTTP interface.
//!
//! `GET /counters` answers `{"total": {name: number, …}, "cores": [{…}, …], "process": {…}}`;
//! `GET /healthz` answers 200. It belongs on a private address: it authenticates nobody.

use std::{io, net::TcpListener, sync::Arc};

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Map, Value, json};
use tracing::error;

use super::process::ProcessCounters;
use crate::base::counters::Counters;

/// What is reported.
#[derive(Clone, Debug)]
pub struct Counted {
    /// By core.
    pub cores: Vec<Arc<Counters>>,
    /// Of the process.
    pub process: Arc<ProcessCounters>,
}

/// Serves on `listener` from a thread of its own, for as long as the process lives.
///
/// # Errors
/// If the system gives no thread, or the listener can't be used.
pub fn spawn(listener: TcpListener, counted: Counted) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    std::thread::Builder::new()
        .name("tidegate-admin".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let served = async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    axum::serve(listener, router(counted)).await
                };
                if let Err(error) = served.await {
                    error!(%error, "the admin interface has ended");
                }
            });
        })?;
    Ok(())
}

fn router(counted: Counted) -> Router {
    Router::new()
        .route("/counters", get(report))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(Arc::new(counted))
}

async fn report(State(counted): State<Arc<Counted>>) -> Json<Value> {
    let mut total = Map::new();
    let mut cores = Vec::with_capacity(counted.cores.len());
    for core in &counted.cores {
        let mut own = Map::new();
        for (name, value) in core.snapshot() {
            let sum = total.get(name).and_then(Value::as_u64).unwrap_or(0);
            total.insert(name.to_owned(), (sum + value).into());
            own.insert(name.to_owned(), value.into());
        }
        cores.push(Value::Object(own));
    }
    let process = counted.process.snapshot().into_iter();
    let process: Map<_, _> = process
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Json(json!({ "total": total, "cores": cores, "process": process }))
}
