//! What wakes an idle worker, and how a busy one lets its runtime get on.
//!
//! A ring signals an eventfd when there is something to enter for; monoio's own ring reads it. An
//! epoll set is a descriptor itself, readable while it holds edges; it stands in monoio's epoll
//! set, and an eventfd beside it serves the busy worker alone.
//!
//! Both tell a missed wake from a coincidence: news that came just as time had passed. A ring's
//! eventfd keeps the signal, so it is asked once work is known of: before the turn, where the ring's
//! flag tells of some, and after one that found completions. (What a turn itself completes signals too,
//! so that it is silent after the turn proves much and that it speaks little.) An epoll set forgets
//! with the turn, so it is asked before.

use std::{
    fs::File,
    future::{Future, poll_fn},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use monoio::net::UnixStream;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout},
    sys::eventfd::{EfdFlags, EventFd},
};
use tracing::error;

/// The wakes of one worker.
pub(super) enum Wakes {
    Ring(RingWakes),
    Set(SetWakes),
}

/// A wait that may be begun anew each time it has ended.
type Wait = Pin<Box<dyn Future<Output = ()>>>;

impl Wakes {
    /// Those of a ring that signals `eventfd`; inside monoio's uring driver.
    pub(super) fn of_ring(eventfd: OwnedFd) -> io::Result<Self> {
        RingWakes::new(eventfd).map(Self::Ring)
    }

    /// Those of the epoll set `set`; inside monoio's legacy driver.
    pub(super) fn of_set(set: OwnedFd) -> io::Result<Self> {
        SetWakes::new(set).map(Self::Set)
    }

    /// Ready once the engine has news since it was last asked.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Ring(ring) => ring.poll(cx),
            Self::Set(set) => set.poll(cx),
        }
    }

    /// Lets the runtime's other tasks run, and comes back behind them.
    pub(super) async fn pass_through_runtime(&mut self) {
        match self {
            Self::Ring(ring) => ring.pass_through_runtime().await,
            Self::Set(set) => set.pass_through_runtime().await,
        }
    }

    /// To be asked when only time has passed, before the turn: whether a wake was missed. `has_work` says
    /// what the engine knows of work without entering the kernel.
    pub(super) async fn missed_before_turn(&mut self, has_work: bool) -> bool {
        match self {
            // The kernel says so and signals at once.
            Self::Ring(ring) => has_work && ring.missed().await,
            Self::Set(set) => set.missed().await,
        }
    }

    /// To be asked when only time had passed and the turn found completions: whether a wake was
    /// missed.
    pub(super) async fn missed_after_turn(&mut self) -> bool {
        match self {
            Self::Ring(ring) => ring.missed().await,
            Self::Set(_) => false,
        }
    }
}

/// Reads of the eventfd, one after the other: one is always waiting in the runtime's own ring.
pub(super) struct RingWakes {
    file: Rc<monoio::fs::File>,
    raw: OwnedFd,
    read: Wait,
}

impl RingWakes {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let raw = fd.try_clone()?;
        let file = Rc::new(monoio::fs::File::from_std(File::from(fd))?);
        let read = Self::read(Rc::clone(&file));
        Ok(Self { file, raw, read })
    }

    fn read(file: Rc<monoio::fs::File>) -> Wait {
        Box::pin(async move {
            let (result, _) = file.read_at(vec![0u8; 8], 0).await;
            if let Err(error) = result {
                error!(%error, "reading the eventfd");
            }
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let poll = self.read.as_mut().poll(cx);
        if poll.is_ready() {
            self.read = Self::read(Rc::clone(&self.file));
        }
        poll
    }

    async fn pass_through_runtime(&mut self) {
        signal(self.raw.as_fd());
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// If the eventfd was signalled meanwhile, the two coincided; if not, a wake was missed.
    async fn missed(&mut self) -> bool {
        let mut patience = pin!(monoio::time::sleep(PATIENCE));
        poll_fn(|cx| {
            if self.poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            patience.as_mut().poll(cx).map(|()| true)
        })
        .await
    }
}

/// Waits for an epoll set within the runtime's own.
pub(super) struct SetWakes {
    stream: Rc<UnixStream>,
    raw: OwnedFd,
    readable: Wait,
    eventfd: EventFd,
    eventfd_stream: UnixStream,
}

impl SetWakes {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let raw = fd.try_clone()?;
        let stream = Rc::new(stream(fd)?);
        let readable = Self::readable(Rc::clone(&stream));
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let eventfd_stream = self::stream(eventfd.as_fd().try_clone_to_owned()?)?;
        Ok(Self {
            stream,
            raw,
            readable,
            eventfd,
            eventfd_stream,
        })
    }

    fn readable(stream: Rc<UnixStream>) -> Wait {
        Box::pin(async move {
            // Not relaxed: the runtime remembers an edge, the set itself says whether it holds.
            if let Err(error) = stream.readable(false).await {
                error!(%error, "waiting for the epoll set");
            }
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let poll = self.readable.as_mut().poll(cx);
        if poll.is_ready() {
            self.readable = Self::readable(Rc::clone(&self.stream));
        }
        poll
    }

    async fn pass_through_runtime(&mut self) {
        {
            let mut readable = pin!(self.eventfd_stream.readable(false));
            // The runtime remembers the edge of the last time, and forgets it by this look.
            if poll_once(readable.as_mut()).await.is_pending() {
                signal(self.eventfd.as_fd());
                let _ = readable.await;
            }
        }
        // Fails only if nothing was written, which is as well.
        let _ = self.eventfd.read();
    }

    /// Where the set holds edges, the runtime must have heard of them once it has looked.
    async fn missed(&mut self) -> bool {
        if !is_readable(self.raw.as_fd()) {
            return false;
        }
        self.pass_through_runtime().await;
        poll_fn(|cx| Poll::Ready(self.poll(cx).is_pending())).await
    }
}

/// A stream, which is what monoio lets one wait for; nothing is read through it.
fn stream(fd: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(StdUnixStream::from(fd))
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

fn signal(eventfd: BorrowedFd<'_>) {
    // Fails only at the counter's end, which no number of turns reaches.
    let _ = nix::unistd::write(eventfd, &1u64.to_ne_bytes());
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// How long the runtime may take to read an eventfd that was signalled.
const PATIENCE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;
    use crate::engine::uring;

    /// An epoll set over an eventfd, which makes it readable for good once it is signalled.
    struct Set {
        epoll: Epoll,
        eventfd: EventFd,
    }

    impl Set {
        fn new() -> Self {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
            let eventfd = EventFd::new().unwrap();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            epoll.add(&eventfd, event).unwrap();
            Self { epoll, eventfd }
        }

        fn fd(&self) -> OwnedFd {
            self.epoll.0.try_clone().unwrap()
        }

        fn signal(&self) {
            signal(self.eventfd.as_fd());
        }

        fn calm(&self) {
            self.eventfd.read().unwrap();
        }
    }

    fn in_legacy(test: impl Future<Output = ()>) {
        RuntimeBuilder::<LegacyDriver>::new()
            .enable_timer()
            .build()
            .unwrap()
            .block_on(test);
    }

    fn in_uring(test: impl Future<Output = ()>) {
        RuntimeBuilder::<IoUringDriver>::new()
            .enable_timer()
            .build()
            .unwrap()
            .block_on(test);
    }

    async fn is_ready(wakes: &mut Wakes) -> bool {
        poll_fn(|cx| Poll::Ready(wakes.poll(cx).is_ready())).await
    }

    /// Passes until another task, which waits for time, has run to its end.
    async fn let_others_run(mut wakes: Wakes) {
        let done = Rc::new(Cell::new(false));
        let other = Rc::clone(&done);
        monoio::spawn(async move {
            for _ in 0..3 {
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            other.set(true);
        });
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !done.get() {
            assert!(std::time::Instant::now() < end, "the other task starves");
            wakes.pass_through_runtime().await;
        }
    }

    #[test]
    fn a_busy_worker_over_a_set_that_is_always_ready_lets_others_run() {
        in_legacy(async {
            let set = Set::new();
            set.signal();
            let_others_run(Wakes::of_set(set.fd()).unwrap()).await;
        });
    }

    #[test]
    fn a_busy_worker_over_a_ring_lets_others_run() {
        if uring::probe().is_err() {
            return;
        }
        in_uring(async {
            let eventfd = EventFd::new().unwrap();
            let fd = eventfd.as_fd().try_clone_to_owned().unwrap();
            let_others_run(Wakes::of_ring(fd).unwrap()).await;
        });
    }

    #[test]
    fn work_of_a_ring_that_no_signal_tells_of_is_a_missed_wake() {
        if uring::probe().is_err() {
            return;
        }
        in_uring(async {
            let eventfd = EventFd::new().unwrap();
            let fd = eventfd.as_fd().try_clone_to_owned().unwrap();
            let mut wakes = Wakes::of_ring(fd).unwrap();
            assert!(!is_ready(&mut wakes).await);
            assert!(!wakes.missed_before_turn(false).await);
            assert!(wakes.missed_before_turn(true).await);
            signal(eventfd.as_fd());
            assert!(!wakes.missed_before_turn(true).await);
        });
    }

    #[test]
    fn a_set_wakes_each_time_it_has_something_and_only_then() {
        in_legacy(async {
            let set = Set::new();
            let mut wakes = Wakes::of_set(set.fd()).unwrap();
            for _ in 0..3 {
                assert!(!is_ready(&mut wakes).await);
                set.signal();
                poll_fn(|cx| wakes.poll(cx)).await;
                // As long as it holds something, waiting ends at once.
                assert!(is_ready(&mut wakes).await);
                set.calm();
                wakes.pass_through_runtime().await;
            }
        });
    }

    #[test]
    fn news_that_come_as_time_passes_are_no_missed_wake() {
        in_legacy(async {
            let set = Set::new();
            let mut wakes = Wakes::of_set(set.fd()).unwrap();
            assert!(!wakes.missed_before_turn(true).await);
            assert!(!is_ready(&mut wakes).await);
            set.signal();
            assert!(!wakes.missed_before_turn(true).await);
        });
    }

    #[test]
    fn news_that_the_runtime_never_hears_of_are_one() {
        in_legacy(async {
            let (watched, unwatched) = (Set::new(), Set::new());
            let mut wakes = SetWakes::new(watched.fd()).unwrap();
            wakes.raw = unwatched.fd();
            let mut wakes = Wakes::Set(wakes);
            unwatched.signal();
            assert!(wakes.missed_before_turn(true).await);
        });
    }
}
