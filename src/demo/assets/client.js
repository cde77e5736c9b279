// A client of the gateway in one file, without dependencies: a connection that names its commands,
// matches the answers, and comes back by itself. Take it as it is, or learn the protocol from it;
// docs/PROTOCOL.md is the whole of it.
//
//   const client = new Client(socketUrl(), { user: "alice" });
//   client.addEventListener("message", ({ detail }) => console.log(detail.from.user, detail.data));
//   client.join("lobby", { presence: true });
//   client.connect();
//   await client.command("publish", { room: "lobby", data: { text: "hello" } });
//
//        connect()                 "connected"
//   idle ────────▶ connecting ───────────────────▶ online
//                   ▲     │ no connection             │ lost, or a close code
//                   │     ▼                           │
//                   └─ waiting ◀──────────────────────┤ that says: come back
//                                 stopped ◀───────────┘ that says: do not
//
// Everything has a bound: commands in flight, how long one may take, what may wait in the socket,
// how long a silent connection is believed in, how long the pauses between attempts become.

const COMMANDS_MAX = 512;
const COMMAND_TIMEOUT_MS = 10_000;
const SOCKET_BYTES_MAX = 256 * 1024;
const PING_INTERVAL_MS = 1_000;
const SILENCE_MAX_MS = 10_000;
const BACKOFF_FIRST_MS = 400;
const BACKOFF_MAX_MS = 15_000;
/** A connection that has lasted this long starts the pauses over. */
const STABLE_MS = 5_000;

/** Close codes after which coming back would only repeat what went wrong (PROTOCOL.md §6). */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 4001, 4002, 4003, 4004, 4005]);

/** An `error` of the gateway, or one of ours: OFFLINE, BUSY, TIMEOUT. */
export class CommandError extends Error {
  constructor(code, message, retryAfterMs = 0) {
    super(message);
    this.name = "CommandError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Where the gateway that served this page takes clients: `path` beside the page, as ws or wss. */
export function socketUrl(path = "ws") {
  const url = new URL(path, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url;
}

/**
 * Events, each with its `detail`:
 *   state    { state, delayMs?, attempt, code?, reason? }
 *   message  a room's message, as the gateway sent it
 *   joined   { room, ok, missed }: missed is null where it can't be known
 *   event    everything else that comes unasked: user_joined, user_left, gap, direct, reconnect
 *   refused  a CommandError that no command waits for
 *   latency  { ms }: how long a ping took there and back
 */
export class Client extends EventTarget {
  #url;
  #user;
  #openSocket;
  #socket = null;
  #state = "idle";
  #rooms = new Map();
  #commands = new Map();
  #nextId = 1;
  #attempt = 0;
  #retryTimer = 0;
  #pingTimer = 0;
  /** Since when an answer, or any other sign of life, is waited for. */
  #askedAt = null;
  #onlineSince = 0;
  #retryAfterMs = 0;
  #unpluggedUntil = 0;

  /** What `connected` said last: `client`, `node`, `limits`. */
  hello = null;

  constructor(url, { user, openSocket = (url) => new WebSocket(url) } = {}) {
    super();
    this.#url = url;
    this.#user = user;
    this.#openSocket = openSocket;
    // Who knows that the network is back need not wait for the pause's end.
    globalThis.addEventListener?.("online", () => this.#state === "waiting" && this.#open());
  }

  get state() {
    return this.#state;
  }

  get isOnline() {
    return this.#state === "online";
  }

  connect() {
    if (this.#state === "idle" || this.#state === "stopped" || this.#state === "waiting") {
      this.#attempt = 0;
      this.#open();
    }
  }

  /** Says goodbye, and stays away. */
  close() {
    this.#abandon(1000);
    this.#setState("stopped", { code: 1000, reason: "closed here" });
  }

  /** Another name is another connection, as the name is said while connecting. */
  rename(user) {
    this.#user = user;
    if (this.#state === "online" || this.#state === "connecting") {
      this.#abandon(1000);
      this.#open();
    }
  }

  /** The connection is gone without a word, and no other can be made for `ms`. */
  unplug(ms) {
    this.#unpluggedUntil = Date.now() + ms;
    this.#attempt = 0;
    if (this.#socket) this.#lost(1006, "unplugged");
  }

  /** Joins now or as soon as there is a connection, and again after each loss of it. */
  join(room, { state } = {}) {
    const known = this.#rooms.get(room) ?? { epoch: null, seq: 0 };
    this.#rooms.set(room, { ...known, state });
    if (this.isOnline) this.#join(room);
  }

  /** Replaces what lists of members say about us; joining again does that and announces nothing. */
  restate(room, state) {
    const known = this.#rooms.get(room);
    if (!known) return;
    known.state = state;
    if (this.isOnline) this.command("join", { room, state }).catch(() => {});
  }

  leave(room) {
    if (this.#rooms.delete(room) && this.isOnline) {
      this.command("leave", { room }).catch(() => {});
    }
  }

  /** Sends a command and gives what its `ok` carries. Throws a CommandError. */
  command(type, fields = {}) {
    if (!this.isOnline) return Promise.reject(new CommandError("OFFLINE", "not connected"));
    if (this.#commands.size >= COMMANDS_MAX) {
      return Promise.reject(new CommandError("BUSY", "too many commands wait for their answers"));
    }
    const id = String(this.#nextId++);
    return new Promise((resolve, reject) => {
      this.#commands.set(id, { resolve, reject, sentAt: performance.now() });
      this.#socket.send(JSON.stringify({ type, id, ...fields }));
    });
  }

  /**
   * Publishes without an `id`, so that it is answered only if it is refused. `extra` may hold
   * `ephemeral` and `key`, for what is only true for a moment: typing, a pointer. Says whether it
   * was sent: with much unsent in front of it, it is not.
   */
  post(room, data, extra = {}) {
    if (!this.isOnline || this.#socket.bufferedAmount > SOCKET_BYTES_MAX) return false;
    this.#socket.send(JSON.stringify({ type: "publish", room, data, ...extra }));
    return true;
  }

  #setState(state, detail = {}) {
    this.#state = state;
    this.#emit("state", { state, attempt: this.#attempt, ...detail });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #open() {
    clearTimeout(this.#retryTimer);
    this.#setState("connecting");
    if (Date.now() < this.#unpluggedUntil) return this.#lost(1006, "unplugged");
    const url = new URL(this.#url);
    if (this.#user) url.searchParams.set("user", this.#user);
    const socket = this.#openSocket(url.href);
    this.#socket = socket;
    this.#askedAt = performance.now();
    socket.onmessage = ({ data }) => this.#onText(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#pingTimer = setInterval(() => this.#tick(), PING_INTERVAL_MS);
  }

  /** Lets go of the socket: nothing of it is heard any more. */
  #abandon(code) {
    clearTimeout(this.#retryTimer);
    clearInterval(this.#pingTimer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close(code);
    }
    const error = new CommandError("OFFLINE", "the connection was lost before the answer came");
    for (const { reject } of this.#commands.values()) reject(error);
    this.#commands.clear();
  }

  #lost(code, reason) {
    this.#abandon();
    if (this.#onlineSince && performance.now() - this.#onlineSince > STABLE_MS) this.#attempt = 0;
    this.#onlineSince = 0;
    this.hello = null;
    if (FINAL_CODES.has(code)) return this.#setState("stopped", { code, reason });
    const delayMs = this.#pause(code, reason);
    this.#attempt += 1;
    this.#retryTimer = setTimeout(() => this.#open(), delayMs);
    this.#setState("waiting", { delayMs, code, reason });
  }

  /** How long to wait: what the gateway asked for, else ever longer; with jitter, so that clients
   *  that were lost together do not come back together. */
  #pause(code, reason) {
    const asked = /retry-after=(\d{1,5})/.exec(reason ?? "");
    const told = asked ? Number(asked[1]) * 1000 : this.#retryAfterMs;
    this.#retryAfterMs = 0;
    if (told > 0) return told * (1 + Math.random() / 10);
    if (code === 4006) return 0;
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.#attempt);
    return ceiling / 2 + (Math.random() * ceiling) / 2;
  }

  /** Once a second: asks for a sign of life, gives up on what has waited too long. */
  #tick() {
    const now = performance.now();
    // Not "has said nothing for so long": in a hidden page this runs once a minute.
    if (this.#askedAt !== null && now - this.#askedAt > SILENCE_MAX_MS) {
      return this.#lost(1006, "silence");
    }
    for (const [id, { reject, sentAt }] of this.#commands) {
      if (now - sentAt < COMMAND_TIMEOUT_MS) break;
      this.#commands.delete(id);
      reject(new CommandError("TIMEOUT", "no answer"));
    }
    // Browsers answer the gateway's pings by themselves and show nobody; this one is ours.
    if (this.isOnline) {
      this.#askedAt ??= now;
      const ping = this.command("ping");
      ping.then(() => this.#emit("latency", { ms: performance.now() - now }), () => {});
    }
  }

  #onText(text) {
    this.#askedAt = null;
    const parsed = JSON.parse(text);
    // Rooms that coalesce send arrays.
    for (const message of Array.isArray(parsed) ? parsed : [parsed]) this.#onMessage(message);
  }

  #onMessage(message) {
    switch (message.type) {
      case "connected":
        this.hello = message;
        this.#onlineSince = performance.now();
        this.#setState("online");
        for (const room of this.#rooms.keys()) this.#join(room);
        break;
      case "ok":
      case "pong":
        this.#answer(message.id)?.resolve(message);
        break;
      case "error": {
        const { code, message: text, retry_after_ms: retryAfterMs } = message;
        const error = new CommandError(code, text, retryAfterMs);
        // Should the gateway lose patience (4029), this is when it would have us back.
        if (code === "RATE_LIMITED") this.#retryAfterMs = Math.max(1_000, retryAfterMs ?? 0);
        const waiting = this.#answer(message.id);
        if (waiting) waiting.reject(error);
        else this.#emit("refused", error);
        break;
      }
      case "message": {
        const room = this.#rooms.get(message.room);
        if (room && message.seq) room.seq = message.seq;
        this.#emit("message", message);
        break;
      }
      case "gap": {
        const room = this.#rooms.get(message.room);
        if (room) room.seq = message.next_seq - 1;
        this.#emit("event", message);
        break;
      }
      case "reconnect":
        // A planned close follows.
        this.#retryAfterMs = message.after_ms;
        this.#emit("event", message);
        break;
      default:
        this.#emit("event", message);
    }
  }

  #answer(id) {
    const command = this.#commands.get(id);
    this.#commands.delete(id);
    return command;
  }

  /** `since` says how far we got: the answer tells whether anything was missed. */
  async #join(name) {
    const room = this.#rooms.get(name);
    const since = room.epoch ? { epoch: room.epoch, seq: room.seq } : undefined;
    const fields = { room: name, presence: true, state: room.state, since };
    try {
      const ok = await this.command("join", fields);
      if (this.#rooms.get(name) === undefined) return;
      const isSameCount = since && since.epoch === ok.epoch;
      const missed = isSameCount ? ok.seq - since.seq : null;
      Object.assign(this.#rooms.get(name), { epoch: ok.epoch, seq: ok.seq });
      this.#emit("joined", { room: name, ok, missed, isRejoin: Boolean(since) });
    } catch (error) {
      if (error.code !== "OFFLINE") this.#emit("refused", error);
    }
  }
}
