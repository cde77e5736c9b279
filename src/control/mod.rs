//! L5: the control plane: the operator's interface on one tokio thread, reloads on another. It
//! reads what workers count, tells them what changed, and never holds them up.

pub mod admin;
pub mod process;
pub mod reload;
