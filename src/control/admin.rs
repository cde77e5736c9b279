//! The operator's HTTP interface.
//!
//! `GET /counters` answers `{"total": {name: number, …}, "cores": [{…}, …]}`; `GET /healthz`
//! answers 200. It belongs on a private address: it authenticates nobody.

use std::{io, net::TcpListener, sync::Arc};

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Map, Value, json};
use tracing::error;

use crate::base::counters::Counters;

/// Serves on `listener` from a thread of its own, for as long as the process lives.
///
/// # Errors
/// If the system gives no thread, or the listener can't be used.
pub fn spawn(listener: TcpListener, counters: Vec<Arc<Counters>>) -> io::Result<()> {
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
                    axum::serve(listener, router(counters)).await
                };
                if let Err(error) = served.await {
                    error!(%error, "the admin interface has ended");
                }
            });
        })?;
    Ok(())
}

fn router(counters: Vec<Arc<Counters>>) -> Router {
    Router::new()
        .route("/counters", get(report))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(Arc::new(counters))
}

async fn report(State(counters): State<Arc<Vec<Arc<Counters>>>>) -> Json<Value> {
    let mut total = Map::new();
    let mut cores = Vec::with_capacity(counters.len());
    for core in counters.iter() {
        let mut own = Map::new();
        for (name, value) in core.snapshot() {
            let sum = total.get(name).and_then(Value::as_u64).unwrap_or(0);
            total.insert(name.to_owned(), (sum + value).into());
            own.insert(name.to_owned(), value.into());
        }
        cores.push(Value::Object(own));
    }
    Json(json!({ "total": total, "cores": cores }))
}
