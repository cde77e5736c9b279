//! The life of a connection as the engine's state machine sees it, over a kernel that does at once
//! what it is asked.
//!
//! Receiving into shared buffers is not among it: only a kernel of the crate's own can make a
//! chunk, and the simulated one takes far more instructions than what would be measured.

use std::{collections::VecDeque, hint::black_box, net::SocketAddr};

use tidegate::{
    base::{
        segments::{Segment, SendBatch},
        slab::Key,
    },
    engine::{
        Chunk, CloseMode, ConnKey, Engine, Event, ListenerId,
        slots::{Completion, Kernel, Received, Slots, Tag},
    },
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("engine/accept-and-close", 64, accept_and_close),
    case("engine/send", 64, send),
    case("engine/receive-into", 64, receive_into),
    case("engine/pause-and-resume", 64, pause_and_resume),
];

/// Events looked at in a turn.
const EVENTS_MAX: usize = 256;

/// Accepts, closes.
fn accept_and_close(n: u32) -> Call {
    let mut engine = Slots::new(Prompt::default(), 0);
    let mut events = Vec::new();
    Box::new(move || {
        let conns = accept(&mut engine, n, &mut events);
        for conn in &conns {
            engine.close(*conn, CloseMode::Orderly);
        }
        engine.submit();
        poll(&mut engine, n, &mut events);
        assert_eq!(engine.slots_open(), 0, "every connection is closed");
    })
}

/// Sends of one run of bytes, taken whole.
fn send(n: u32) -> Call {
    let mut engine = Slots::new(Prompt::default(), 0);
    let mut events = Vec::new();
    let conns = accept(&mut engine, n, &mut events);
    let mut bufs: Vec<Vec<u8>> = vec![vec![0; 128]; n as usize];
    let mut boxes: Vec<Box<SendBatch>> = Vec::new();
    Box::new(move || {
        for (conn, buf) in conns.iter().zip(bufs.drain(..)) {
            let mut batch = boxes.pop().unwrap_or_default();
            batch.push(Segment::Owned { buf, start: 0 });
            engine.send(*conn, batch);
        }
        engine.submit();
        events.clear();
        engine.poll(&mut events, EVENTS_MAX);
        for event in events.drain(..) {
            let Event::Sent {
                done: Some(mut batch),
                ..
            } = event
            else {
                panic!("{event:?}");
            };
            for segment in batch.drain() {
                if let Segment::Owned { buf, .. } = segment {
                    bufs.push(buf);
                }
            }
            boxes.push(batch);
        }
        assert_eq!(bufs.len(), conns.len(), "every send is done");
    })
}

/// Receives into messages' own buffers.
fn receive_into(n: u32) -> Call {
    let mut engine = Slots::new(Prompt::default(), 0);
    let mut events = Vec::new();
    let conns = accept(&mut engine, n, &mut events);
    let mut bufs: Vec<Vec<u8>> = vec![Vec::with_capacity(128); n as usize];
    Box::new(move || {
        for (conn, buf) in conns.iter().zip(bufs.drain(..)) {
            engine.receive_into(*conn, buf, 64);
        }
        engine.submit();
        events.clear();
        engine.poll(&mut events, EVENTS_MAX);
        for event in events.drain(..) {
            let Event::ReceivedInto { mut buf, .. } = event else {
                panic!("{event:?}");
            };
            buf.clear();
            bufs.push(buf);
        }
        assert_eq!(bufs.len(), conns.len(), "every receive is done");
    })
}

fn pause_and_resume(n: u32) -> Call {
    let mut engine = Slots::new(Prompt::default(), 0);
    let mut events = Vec::new();
    let conns = accept(&mut engine, n, &mut events);
    for conn in &conns {
        engine.resume_receive(*conn);
    }
    Box::new(move || {
        for conn in &conns {
            engine.pause_receive(*conn);
        }
        engine.submit();
        poll(&mut engine, n, &mut events);
        for conn in &conns {
            engine.resume_receive(*conn);
        }
    })
}

/// Has `n` connections arrive.
fn accept(engine: &mut Slots<Prompt>, n: u32, events: &mut Vec<Event>) -> Vec<ConnKey> {
    for _ in 0..n {
        engine.kernel_mut().done.push_back(Completion::Accept {
            listener: 0,
            result: Ok(PromptSocket),
            more: true,
        });
    }
    events.clear();
    engine.poll(events, EVENTS_MAX);
    let conns = events.drain(..).map(|event| match event {
        Event::Accepted { conn, .. } => conn,
        other => panic!("{other:?}"),
    });
    conns.collect()
}

fn poll(engine: &mut Slots<Prompt>, n: u32, events: &mut Vec<Event>) {
    events.clear();
    engine.poll(events, EVENTS_MAX);
    assert_eq!(black_box(&*events).len(), n as usize, "one event each");
}

/// A kernel whose operations are done as soon as they are asked for.
#[derive(Default)]
struct Prompt {
    done: VecDeque<Completion<PromptSocket>>,
}

struct PromptSocket;

impl Kernel for Prompt {
    type Socket = PromptSocket;

    fn accept(&mut self, _: ListenerId) {}

    fn cancel_accept(&mut self, _: ListenerId) {}

    fn stop_listener(&mut self, _: ListenerId) {}

    fn listeners(&self) -> ListenerId {
        1
    }

    fn receive(&mut self, _: &PromptSocket, _: Key) {}

    fn receive_into(&mut self, _: &PromptSocket, key: Key, mut buf: Vec<u8>, bytes_max: usize) {
        buf.resize(buf.len() + bytes_max, 0);
        self.done.push_back(Completion::ReceiveInto {
            tag: Tag::of(key),
            buf,
            result: Ok(bytes_max),
        });
    }

    fn cancel_receive(&mut self, key: Key) {
        self.done.push_back(Completion::Receive {
            tag: Tag::of(key),
            received: Received::Failed(libc::ECANCELED),
            more: false,
        });
    }

    fn cancel_receive_into(&mut self, _: Key) {}

    fn send(&mut self, _: &PromptSocket, key: Key, batch: Box<SendBatch>) {
        let result = Ok(batch.remaining());
        self.done.push_back(Completion::Send {
            tag: Tag::of(key),
            batch,
            result,
        });
    }

    fn cancel_send(&mut self, _: Key) {}

    fn shutdown_write(&mut self, _: &PromptSocket) {}

    fn set_reset(&mut self, _: &PromptSocket) {}

    fn close(&mut self, _: PromptSocket, key: Key) {
        self.done.push_back(Completion::Close { tag: Tag::of(key) });
    }

    fn peer_addr(&self, _: &PromptSocket) -> Option<SocketAddr> {
        None
    }

    fn unsent_bytes(&self, _: &PromptSocket) -> usize {
        0
    }

    fn enter(&mut self) {}

    fn has_submissions(&mut self) -> bool {
        false
    }

    fn has_work(&self) -> bool {
        !self.done.is_empty()
    }

    fn next_completion(&mut self) -> Option<Completion<PromptSocket>> {
        self.done.pop_front()
    }

    fn chunk_mut(&mut self, _: &Chunk) -> &mut [u8] {
        &mut []
    }

    fn recycle(&mut self, _: Chunk) {}

    fn buffers_free(&mut self) -> usize {
        1
    }

    fn overflows(&self) -> u64 {
        0
    }

    fn enter_failures(&self) -> u64 {
        0
    }
}
