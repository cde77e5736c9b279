//! L5: the control plane, one tokio thread. It reads what workers count and never holds them up.

pub mod admin;
