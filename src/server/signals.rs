//! L6: what signals ask for.

use std::io;

use flume::Sender;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tracing::warn;

use crate::{bridge::Report, control::reload::Trigger};

/// Reports SIGTERM and SIGINT, and has the configuration read again on SIGHUP if that is possible;
/// from a thread of its own, for as long as the process lives.
///
/// # Errors
/// If the system refuses.
pub(super) fn watch(reports: Sender<Report>, reload: Option<Sender<Trigger>>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new()
        .name("tidegate-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    match &reload {
                        // If there is no place, enough are waiting.
                        Some(reload) => drop(reload.try_send(Trigger::Asked)),
                        None => warn!("SIGHUP: there is nothing to reload from"),
                    }
                } else if reports.send(Report::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}
