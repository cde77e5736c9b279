//! Two cores without their sockets: hubs and sessions, and what passes between them carried by hand, in
//! order, as their workers would.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::ids::{ClientId, CoreId, Encoding, SessionKey};
use tidegate::base::limits::TURN_DELIVERIES_MAX;
use tidegate::base::rng::Rng;
use tidegate::base::segments::SharedFrame;
use tidegate::base::slab::Slab;
use tidegate::base::time::{Instant, Now};
use tidegate::config::Config;
use tidegate::handler::reply::{self, Hello};
use tidegate::handler::rooms::{Answer, Rooms, answer};
use tidegate::hub::edge::{Receivers, Sessions};
use tidegate::hub::wire::{HomeRoomKey, LeaveReason};
use tidegate::hub::{Hub, Output, Outputs, Routes};
use tidegate::proto::ws::deflate::Inflation;
use tidegate::proto::ws::{Connection, Event, Input, MessageKind, Role};
use tidegate::session::Session;
use tidegate::session::outbound::Handling;
use tidegate::session::rates::{Meter, RateLimits, Rates};

/// Alice and a nobody on core 0; Bob, and a raw client in `lobby`, on core 1.
pub(super) const CLIENTS: usize = 4;

const USERS: [Option<&str>; CLIENTS] = [Some("alice"), Some("bob"), None, None];
const ENCODINGS: [Encoding; CLIENTS] = [
    Encoding::Json,
    Encoding::Json,
    Encoding::Json,
    Encoding::Raw,
];
const TAKES_DEFLATED: [bool; CLIENTS] = [false, true, false, true];
const CORES: [CoreId; CLIENTS] = [0, 1, 0, 1];

pub(super) struct Stand {
    cores: Vec<Core>,
    clients: [Client; CLIENTS],
    now: Now,
    hello: Hello,
    limits: RateLimits,
    rates: Rates,
    to_wake: Vec<(CoreId, HomeRoomKey)>,
    /// Rooms that are open though nobody has come.
    rooms_at_rest: usize,
}

struct Core {
    hub: Hub,
    sessions: Sessions,
    out: Outputs,
}

#[derive(Default)]
struct Client {
    session: Option<SessionKey>,
    /// Since it came.
    heard: Vec<Vec<u8>>,
    directs: u64,
}

impl Stand {
    pub(super) fn new(config: Config) -> Self {
        let limits = RateLimits::new(&config.limits);
        let config = Arc::new(config);
        let routes = Routes::new(2, [1, 2, 3, 4]);
        let core = |core| Core {
            hub: Hub::new(
                core,
                routes.clone(),
                Arc::clone(&config),
                Rng::new(u64::from(core)),
            ),
            sessions: Slab::new(0),
            out: Outputs::new(),
        };
        let mut stand = Self {
            cores: vec![core(0), core(1)],
            clients: Default::default(),
            now: Now {
                mono: Instant::from_nanos(0),
                unix_ms: 1_790_000_000_000,
            },
            hello: Hello {
                node: "node-1".to_owned(),
                ping_interval_ms: 25_000,
                pong_timeout_ms: 10_000,
                message_bytes_max: 65_536,
                rooms_max: 3,
                messages_per_second: 0,
            },
            limits,
            rates: Rates::default(),
            to_wake: Vec::new(),
            rooms_at_rest: 0,
        };
        stand.settle();
        stand.rooms_at_rest = stand.rooms_open();
        stand
    }

    pub(super) fn is_connected(&self, client: usize) -> bool {
        self.clients[client].session.is_some()
    }

    pub(super) fn is_json(&self, client: usize) -> bool {
        ENCODINGS[client] == Encoding::Json
    }

    /// What the client has been told since it came.
    pub(super) fn heard(&self, client: usize) -> &[Vec<u8>] {
        &self.clients[client].heard
    }

    pub(super) fn connect(&mut self, client: usize) {
        if self.is_connected(client) {
            return;
        }
        let core = CORES[client];
        let sessions = &mut self.cores[usize::from(core)].sessions;
        let session = sessions.next_key();
        let id = ClientId { core, session };
        let user = USERS[client].map(Arc::from);
        let mut new = Session::new(id, user, ENCODINGS[client], session);
        new.takes_deflated = TAKES_DEFLATED[client];
        sessions.insert(new);
        self.clients[client] = Client {
            session: Some(session),
            ..Client::default()
        };
        let room = (ENCODINGS[client] == Encoding::Raw).then_some("lobby");
        self.act(core, |rooms, _| rooms.on_open(session, room));
    }

    pub(super) fn disconnect(&mut self, client: usize) {
        let Some(key) = self.clients[client].session.take() else {
            return;
        };
        let core = CORES[client];
        let sessions = &mut self.cores[usize::from(core)].sessions;
        let session = sessions.remove(key).expect("it was there");
        self.act(core, |rooms, _| {
            rooms.on_close(session, LeaveReason::Disconnected);
        });
    }

    pub(super) fn say(&mut self, client: usize, text: &str) {
        let Some(key) = self.clients[client].session else {
            return;
        };
        let is_json = self.is_json(client);
        self.act(CORES[client], |rooms, meter| {
            let (kind, text) = (MessageKind::Text, text.as_bytes());
            if is_json {
                rooms.on_json(key, kind, text, meter);
            } else {
                rooms.on_raw(key, kind, text, meter);
            }
        });
    }

    /// The timers of the rooms fire.
    pub(super) fn wake_rooms(&mut self) {
        for (core, room) in std::mem::take(&mut self.to_wake) {
            let core = &mut self.cores[usize::from(core)];
            core.hub.on_room_timer(room, &mut core.out);
        }
        self.settle();
    }

    /// When all have gone and all timers have fired.
    pub(super) fn assert_nothing_is_left(&mut self) {
        for _ in 0..3 {
            self.wake_rooms();
        }
        assert!(self.to_wake.is_empty(), "a timer goes on without its room");
        assert_eq!(self.rooms_open(), self.rooms_at_rest, "rooms");
        for core in &self.cores {
            assert_eq!(core.hub.edge().memberships(), 0, "memberships");
            assert_eq!(core.hub.users(), 0, "users");
            assert_eq!(core.hub.window_bytes(), 0, "bytes on their way");
            assert_eq!(core.sessions.len(), 0, "sessions");
        }
    }

    fn rooms_open(&self) -> usize {
        self.cores.iter().map(|core| core.hub.rooms_open()).sum()
    }

    fn act(&mut self, core: CoreId, act: impl FnOnce(&mut Rooms<'_>, &mut Meter<'_>)) {
        self.now.mono = self.now.mono.plus(Duration::from_millis(10));
        for core in &mut self.cores {
            core.hub.allow_compression(64 << 10);
        }
        let core = &mut self.cores[usize::from(core)];
        let mut rooms = Rooms {
            now: self.now,
            hub: &mut core.hub,
            sessions: &mut core.sessions,
            out: &mut core.out,
            hello: &self.hello,
            rooms_per_client: 3,
            errors: 0,
            too_many_rooms: 0,
        };
        let mut meter = Meter::new(self.now.mono, &mut self.rates, &self.limits);
        act(&mut rooms, &mut meter);
        self.settle();
    }

    /// Carries everything where it belongs, until no core has anything to say or to hand out.
    fn settle(&mut self) {
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
                    let mut heard = Heard(Vec::new());
                    edge.run(TURN_DELIVERIES_MAX, sessions, &mut heard, out);
                    for (session, frame, messages) in heard.0 {
                        self.hear_frames(at as CoreId, session, frame, messages);
                    }
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
            Output::Deliver { to, delivery } => {
                let core = &mut self.cores[usize::from(to)];
                let (sessions, out) = (&mut core.sessions, &mut core.out);
                let edge = core.hub.edge_mut();
                edge.handle_delivery(to, from, delivery, sessions, out);
            }
            Output::Reply { to, id, reply } => {
                let sessions = &self.cores[usize::from(from)].sessions;
                if let Some(session) = sessions.get(to) {
                    let mut payload = Vec::new();
                    let is_message = answer(session, id.as_deref(), &reply, &mut payload);
                    if is_message == Answer::Message {
                        self.hear(from, to, payload);
                    }
                }
            }
            Output::Direct { to, message } => {
                if let Some(client) = self.client(from, to) {
                    let mut payload = Vec::new();
                    client.directs += 1;
                    reply::direct(&mut payload, client.directs, &message);
                    client.heard.push(payload);
                }
            }
            Output::Message { to, payload } => self.hear(from, to, payload),
            Output::WakeRoom { room, .. } => self.to_wake.push((from, room)),
            Output::ReturnWindow { to, bytes } => {
                self.cores[usize::from(to)].hub.return_window(from, bytes);
            }
        }
    }

    fn client(&mut self, core: CoreId, session: SessionKey) -> Option<&mut Client> {
        let mut clients = self.clients.iter_mut().zip(CORES);
        let found = clients.find(|(client, at)| *at == core && client.session == Some(session));
        found.map(|(client, _)| client)
    }

    fn takes_deflated(&self, core: CoreId, session: SessionKey) -> bool {
        let session = self.cores[usize::from(core)].sessions.get(session);
        session.is_some_and(|session| session.takes_deflated)
    }

    fn hear(&mut self, core: CoreId, session: SessionKey, payload: Vec<u8>) {
        if let Some(client) = self.client(core, session) {
            client.heard.push(payload);
        }
    }

    /// What the members of a room get are whole frames.
    fn hear_frames(
        &mut self,
        core: CoreId,
        session: SessionKey,
        mut frames: Vec<u8>,
        messages: u32,
    ) {
        let mut connection = Connection::new(Role::Client, 1 << 20);
        let mut input = Input::new(&mut frames);
        let mut found = 0;
        let mut inflation = Inflation::new();
        connection.set_deflate(self.takes_deflated(core, session));
        while let Some(event) = connection.poll_event(&mut input).expect("frames are sound") {
            let payload = match event {
                Event::Message(message) => message.payload().to_vec(),
                Event::Compressed(compressed) => {
                    let message = inflation.inflate(&compressed, None, 1 << 20);
                    message.expect("it is sound").payload().to_vec()
                }
                other => panic!("{other:?} in a room"),
            };
            found += 1;
            self.hear(core, session, payload);
        }
        assert!(!connection.has_partial(), "frames are whole");
        assert_eq!(found, messages, "messages in a frame");
    }
}

/// What members were handed, in order.
struct Heard(Vec<(SessionKey, Vec<u8>, u32)>);

impl Receivers for Heard {
    fn deliver(&mut self, to: &Session, frame: &SharedFrame, messages: u32, _: &Handling<'_>) {
        let frame = frame.as_slice().to_vec();
        self.0.push((to.client.session, frame, messages));
    }
}
