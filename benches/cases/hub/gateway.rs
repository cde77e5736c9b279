//! Some cores without their sockets: hubs and sessions, and what passes between them carried by
//! hand, in order.

use std::{hint::black_box, sync::Arc, time::Duration};

use tidegate::{
    base::{
        ids::{ClientId, CoreId, Encoding, SessionKey},
        limits::TURN_DELIVERIES_MAX,
        rng::Rng,
        segments::SharedFrame,
        slab::Slab,
        time::{Instant, Now},
    },
    config::Config,
    handler::{
        reply::Hello,
        rooms::{Rooms, answer},
    },
    hub::{
        Hub, Output, Outputs, Routes,
        edge::{Receivers, Sessions},
        wire::{Delivery, HomeRoomKey, Join, Leave, LeaveReason, Payload, PublishRef, Request},
    },
    proto::ws::MessageKind,
    session::{
        LocalRoomKey, Session,
        outbound::Handling,
        rates::{Meter, RateLimits, Rates},
    },
};

/// All cores, and the time.
pub(super) struct Gateway {
    pub(super) cores: Vec<Core>,
    now: Now,
    hello: Hello,
    limits: RateLimits,
    rates: Rates,
    /// Where answers are written to, as they are before they are sent.
    payload: Vec<u8>,
    /// Rooms that asked to be woken.
    pub(super) to_wake: Vec<HomeRoomKey>,
}

/// One core.
pub(super) struct Core {
    pub(super) hub: Hub,
    pub(super) sessions: Sessions,
    pub(super) out: Outputs,
}

impl Gateway {
    pub(super) fn new(cores: u16, config: Config) -> Self {
        let limits = RateLimits::new(&config.limits);
        let config = Arc::new(config);
        let routes = Routes::new(cores, [1, 2, 3, 4]);
        Self {
            cores: (0..cores)
                .map(|core| Core {
                    hub: Hub::new(
                        core,
                        routes.clone(),
                        Arc::clone(&config),
                        Rng::new(u64::from(core)),
                    ),
                    sessions: Slab::new(0),
                    out: Outputs::new(),
                })
                .collect(),
            now: Now {
                mono: Instant::from_nanos(0),
                unix_ms: 1_790_000_000_000,
            },
            hello: Hello {
                node: "node-1".to_owned(),
                ping_interval_ms: 25_000,
                pong_timeout_ms: 10_000,
                message_bytes_max: 65_536,
                rooms_max: 100,
                messages_per_second: 100,
            },
            limits,
            rates: Rates::default(),
            payload: Vec::new(),
            to_wake: Vec::new(),
        }
    }

    /// A name whose home is `core`.
    pub(super) fn name_at(&self, core: CoreId) -> String {
        let routes = self.cores[0].hub.routes();
        let mut names = (0..).map(|n| format!("room-{n}"));
        names
            .find(|name| routes.core_of(name) == core)
            .expect("each core has names")
    }

    /// A client comes; a raw one into its room.
    pub(super) fn connect(
        &mut self,
        core: CoreId,
        user: Option<&Arc<str>>,
        encoding: Encoding,
        room: Option<&str>,
    ) -> SessionKey {
        let sessions = &mut self.cores[usize::from(core)].sessions;
        let key = sessions.next_key();
        let client = ClientId { core, session: key };
        sessions.insert(Session::new(client, user.map(Arc::clone), encoding, key));
        self.rooms(core, |rooms, _| rooms.on_open(key, room));
        self.settle(&mut Tally::default());
        key
    }

    /// A client goes.
    pub(super) fn disconnect(&mut self, core: CoreId, key: SessionKey) {
        let sessions = &mut self.cores[usize::from(core)].sessions;
        let session = sessions.remove(key).expect("the client is there");
        self.rooms(core, |rooms, _| {
            rooms.on_close(session, LeaveReason::Disconnected);
        });
        self.settle(&mut Tally::default());
    }

    /// A client's message, 10 ms after the one before.
    pub(super) fn say(&mut self, core: CoreId, key: SessionKey, text: &str) {
        self.rooms(core, |rooms, meter| {
            rooms.on_json(key, MessageKind::Text, text.as_bytes(), meter);
        });
        self.settle(&mut Tally::default());
    }

    /// A raw client's message, 10 ms after the one before.
    pub(super) fn say_raw(&mut self, core: CoreId, key: SessionKey, text: &str) {
        self.rooms(core, |rooms, meter| {
            rooms.on_raw(key, MessageKind::Text, text.as_bytes(), meter);
        });
        self.settle(&mut Tally::default());
    }

    fn rooms(&mut self, core: CoreId, act: impl FnOnce(&mut Rooms<'_>, &mut Meter<'_>)) {
        self.now.mono = self.now.mono.plus(Duration::from_millis(10));
        let core = &mut self.cores[usize::from(core)];
        let mut rooms = Rooms {
            now: self.now,
            hub: &mut core.hub,
            sessions: &mut core.sessions,
            out: &mut core.out,
            hello: &self.hello,
            rooms_per_client: 100,
            errors: 0,
            too_many_rooms: 0,
        };
        let mut meter = Meter::new(self.now.mono, &mut self.rates, &self.limits);
        act(&mut rooms, &mut meter);
        assert_eq!((rooms.errors, meter.refused), (0, 0), "commands are right");
    }

    /// A client joins, past its command.
    pub(super) fn join(&mut self, core: CoreId, key: SessionKey, room: &str) -> LocalRoomKey {
        let Core {
            hub, sessions, out, ..
        } = &mut self.cores[usize::from(core)];
        let session = sessions.get_mut(key).expect("the client is there");
        let home = hub.routes().core_of(room);
        let local = hub.edge_mut().begin_join(room, home, session);
        let edge = hub.edge().get(local).expect("it was just opened");
        let join = Join {
            room: Arc::clone(edge.name()),
            local,
            client: session.client,
            user: session.user.clone(),
            encoding: session.encoding,
            takes_deflated: session.takes_deflated,
            state: None,
            presence: false,
            since: None,
            id: Some("1".into()),
        };
        out.push_back(Output::Request {
            to: home,
            request: Request::Join(Box::new(join)),
        });
        self.settle(&mut Tally::default());
        local
    }

    /// A client leaves, past its command.
    pub(super) fn leave(&mut self, core: CoreId, key: SessionKey, local: LocalRoomKey) {
        let Core {
            hub, sessions, out, ..
        } = &mut self.cores[usize::from(core)];
        let session = sessions.get(key).expect("the client is there");
        let membership = session.membership(local).expect("it has joined");
        let room = hub.edge().get(local).expect("it has a member");
        let leave = Leave {
            room: room.home_ref(membership),
            local,
            client: session.client,
            reason: LeaveReason::Left,
            command: true,
            id: Some("1".into()),
        };
        out.push_back(Output::Request {
            to: room.home_core(),
            request: Request::Leave(leave),
        });
        self.settle(&mut Tally::default());
    }

    /// A member publishes, past its command.
    pub(super) fn publish(
        &mut self,
        core: CoreId,
        key: SessionKey,
        local: LocalRoomKey,
        conflation_key: Option<&str>,
        data: &[u8],
    ) {
        let Core {
            hub, sessions, out, ..
        } = &mut self.cores[usize::from(core)];
        let session = sessions.get(key).expect("the client is there");
        let membership = session.membership(local).expect("it has joined");
        let room = hub.edge().get(local).expect("it has a member");
        let (home, reference) = (room.home_core(), room.home_ref(membership));
        let publish = PublishRef {
            room: &reference,
            local: Some(local),
            client: session.client,
            user: None,
            payload: Payload::Json,
            data,
            mid: None,
            key: conflation_key,
            ephemeral: false,
            echo: true,
            id: Some("1"),
        };
        if home == core {
            hub.publish_at_home(self.now, publish, out);
        } else {
            out.push_back(Output::Request {
                to: home,
                request: Request::Publish(Box::new(publish.to_owned())),
            });
        }
    }

    /// A request of another part of `from`, to a home or a directory.
    pub(super) fn request(&mut self, from: CoreId, to: CoreId, request: Request) {
        let core = &mut self.cores[usize::from(from)];
        core.out.push_back(Output::Request { to, request });
        self.settle(&mut Tally::default());
    }

    /// Wakes the rooms that asked for it.
    pub(super) fn wake_rooms(&mut self, core: CoreId) {
        for room in std::mem::take(&mut self.to_wake) {
            let core = &mut self.cores[usize::from(core)];
            core.hub.on_room_timer(room, &mut core.out);
        }
        self.settle(&mut Tally::default());
    }

    /// Carries everything where it belongs, until no core has anything to say or to hand out.
    pub(super) fn settle(&mut self, receivers: &mut impl Receivers) {
        let mut is_settled = false;
        while !is_settled {
            is_settled = true;
            for at in 0..self.cores.len() {
                while let Some(output) = self.cores[at].out.pop_front() {
                    is_settled = false;
                    self.carry(at as CoreId, output);
                }
                let core = &mut self.cores[at];
                let edge = core.hub.edge_mut();
                if !edge.is_quiet() {
                    is_settled = false;
                    let (sessions, out) = (&mut core.sessions, &mut core.out);
                    edge.run(TURN_DELIVERIES_MAX, sessions, receivers, out);
                }
            }
        }
    }

    fn carry(&mut self, from: CoreId, output: Output) {
        match output {
            Output::Request { to, request } => {
                let to = &mut self.cores[usize::from(to)];
                let (sessions, out) = (&to.sessions, &mut to.out);
                to.hub
                    .handle_request(self.now, from, request, sessions, out);
            }
            Output::Deliver { to, delivery } => self.deliver(from, to, delivery),
            Output::Reply { to, id, reply } => {
                let sessions = &self.cores[usize::from(from)].sessions;
                if let Some(session) = sessions.get(to) {
                    self.payload.clear();
                    answer(session, id.as_deref(), &reply, &mut self.payload);
                    black_box(&self.payload);
                }
            }
            Output::Direct { message, .. } => drop(black_box(message)),
            Output::Message { payload, .. } => drop(black_box(payload)),
            Output::WakeRoom { room, .. } => self.to_wake.push(room),
            Output::ReturnWindow { to, bytes } => {
                self.cores[usize::from(to)].hub.return_window(from, bytes);
            }
        }
    }

    fn deliver(&mut self, from: CoreId, to: CoreId, delivery: Delivery) {
        let core = &mut self.cores[usize::from(to)];
        let (sessions, out) = (&mut core.sessions, &mut core.out);
        let edge = core.hub.edge_mut();
        edge.handle_delivery(to, from, delivery, sessions, out);
    }
}

/// Stands in for the members' queues: counts.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) deliveries: u32,
}

impl Receivers for Tally {
    fn deliver(&mut self, to: &Session, frame: &SharedFrame, n: u32, handling: &Handling<'_>) {
        black_box((to, frame, handling));
        self.deliveries += n;
    }
}
