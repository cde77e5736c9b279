//! Why a system can't run the ring, in words for its operator.

use std::io;

/// The oldest kernel that has all the ring needs (DEFER_TASKRUN).
pub const KERNEL_MIN: &str = "6.1";

/// Why this system can't run the ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringError {
    /// The system call is blocked.
    #[error(
        "io_uring is forbidden here ({0}): the sysctl kernel.io_uring_disabled, or a seccomp \
         profile such as Docker's default one; allow io_uring_setup, io_uring_enter and \
         io_uring_register, or let engine.kind be \"auto\" or \"epoll\""
    )]
    Forbidden(io::Error),
    /// The kernel lacks something.
    #[error(
        "this kernel ({release}) lacks {feature}; engine.kind = \"uring\" needs Linux {KERNEL_MIN} or \
         newer, \"auto\" and \"epoll\" do not"
    )]
    Missing {
        /// What it lacks.
        feature: &'static str,
        /// What `uname -r` says.
        release: String,
    },
    /// Memory that the ring may lock is short.
    #[error("not enough lockable memory for the ring ({0}): raise RLIMIT_MEMLOCK (ulimit -l)")]
    Memory(io::Error),
    /// Anything else.
    #[error("{action}: {source}")]
    Other {
        /// What was being done.
        action: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

impl UringError {
    /// Why in a few words, without what to do about it.
    pub fn reason(&self) -> String {
        match self {
            Self::Forbidden(error) => format!("io_uring is forbidden here: {error}"),
            Self::Missing { feature, release } => format!("Linux {release} lacks {feature}"),
            Self::Memory(error) => format!("not enough lockable memory for io_uring: {error}"),
            Self::Other { action, source } => format!("io_uring fails: {action}: {source}"),
        }
    }
}

/// What a failed set-up of the ring means.
pub(super) fn setup_error(error: io::Error) -> UringError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => UringError::Forbidden(error),
        Some(libc::EINVAL) => missing("io_uring's DEFER_TASKRUN"),
        Some(libc::ENOMEM) => UringError::Memory(error),
        _ => other("making the ring")(error),
    }
}

/// The kernel lacks `feature`.
pub(super) fn missing(feature: &'static str) -> UringError {
    let release = nix::sys::utsname::uname().map_or_else(
        |_| "of unknown release".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    UringError::Missing { feature, release }
}

/// Anything else that failed while doing `action`.
pub(super) fn other(action: &'static str) -> impl FnOnce(io::Error) -> UringError {
    move |source| UringError::Other { action, source }
}
