//! Where a panic must not be survived.

/// Ends the process if a panic unwinds through the scope that holds it.
///
/// A worker survives a panic in one connection's input. Where the core's shared state is being
/// changed, half a change would be worse than an end: a supervisor restarts the process.
#[derive(Debug)]
#[must_use = "it guards the scope that holds it"]
pub struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
