// The play of the slow client, on a thread of its own; slow.js says what it is for.

import { Client } from "./client.js";

const PIECE_BYTES = 48 * 1024;
const PIECES_PER_SECOND = 36;
const IN_FLIGHT_MAX = 8;
/** More than any kernel keeps for one connection: a reader that has been sent so much reads. */
const FEED_BYTES_MAX = 24 * 1024 * 1024;
const OPEN_TIMEOUT_MS = 8_000;
const ASLEEP_MAX_MS = 20_000;
const RETURN_AFTER_MS = 1_400;

const tell = (change) => self.postMessage(change);

self.onmessage = ({ data }) => {
  play(data).catch((error) => tell({ phase: "failed", reason: error.message }));
};

async function play({ url, name, room }) {
  const feed = `feed-${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
  const named = new URL(url);
  named.searchParams.set("user", name);
  const openReader = async (rooms) => {
    const reader = typeof WebSocketStream === "function" ? new StreamReader() : new StillReader();
    const client = await within(OPEN_TIMEOUT_MS, reader.open(named.href, rooms));
    return { reader, client };
  };
  const { reader, client } = await openReader([room, feed]);
  reader.sleep();
  const end = await feedUntilGone({ url, feed, sleeper: client, name });
  if (end !== "evicted") {
    reader.close();
    const isLost = end === "lost";
    return tell(isLost ? { phase: "failed", reason: "the connection was lost" } : { phase: "unable" });
  }
  // Read at once: who takes nothing even now is reset, and does not see the code.
  const closed = within(ASLEEP_MAX_MS, reader.wake());
  tell({ phase: "evicted" });
  const { code, reason } = await closed;
  tell({ phase: "evicted", behind: 0, code, reason });
  await new Promise((resolve) => setTimeout(resolve, RETURN_AFTER_MS));
  const again = await openReader([room]);
  tell({ phase: "back" });
  again.reader.wake();
}

/** Publishes until the sleeper is gone, or until there is no use in it. */
function feedUntilGone({ url, feed, sleeper, name }) {
  const feeder = new Client(url, { user: `feeder of ${name}`.slice(0, 60) });
  const data = "~".repeat(PIECE_BYTES);
  const deadline = performance.now() + ASLEEP_MAX_MS;
  let inFlight = 0;
  let sent = 0;
  let timer = 0;
  return new Promise((resolve) => {
    const end = (how) => {
      clearInterval(timer);
      feeder.close();
      resolve(how);
    };
    const publish = () => {
      if (sent >= FEED_BYTES_MAX || performance.now() > deadline) return end("nothing");
      if (inFlight >= IN_FLIGHT_MAX || !feeder.isOnline) return;
      inFlight += 1;
      const delivered = () => {
        sent += data.length;
        tell({ behind: sent });
      };
      feeder
        .command("publish", { room: feed, data, echo: false })
        .then(delivered, () => {})
        .finally(() => (inFlight -= 1));
    };
    feeder.addEventListener("joined", () => {
      if (timer) return;
      tell({ phase: "asleep" });
      timer = setInterval(publish, 1000 / PIECES_PER_SECOND);
    });
    feeder.addEventListener("event", ({ detail }) => {
      if (detail.type !== "user_left" || detail.client !== sleeper) return;
      end(detail.reason === "evicted" ? "evicted" : "lost");
    });
    setTimeout(() => timer || end("lost"), OPEN_TIMEOUT_MS);
    feeder.join(feed);
    feeder.connect();
  });
}

/** Reads only when asked: what is not asked for stays in the kernel, and then in the gateway. */
class StreamReader {
  #stream;
  #reader;
  #closed;

  /** Gives the connection's `client`, once it is in all rooms. */
  async open(url, rooms) {
    this.#stream = new WebSocketStream(url);
    this.#closed = this.#stream.closed.then(
      ({ closeCode, reason }) => ({ code: closeCode, reason }),
      (error) => ({ code: error.closeCode ?? 1006, reason: error.reason ?? "" }),
    );
    const { readable, writable } = await this.#stream.opened;
    this.#reader = readable.getReader();
    const writer = writable.getWriter();
    const joins = rooms.map((room) => ({ type: "join", id: room, room, state: { slow: true } }));
    await writer.write(JSON.stringify(joins));
    let client = null;
    let left = rooms.length;
    while (left > 0) {
      const { value, done } = await this.#reader.read();
      if (done) throw new Error("the connection was closed");
      const message = JSON.parse(value);
      if (message.type === "connected") client = message.client;
      if (message.type === "error") throw new Error(message.message);
      if (message.type === "ok") left -= 1;
    }
    return client;
  }

  sleep() {}

  /** Reads to the end and gives the close code. */
  async wake() {
    try {
      while (!(await this.#reader.read()).done);
    } catch {
      // A reset: what was on its way is lost.
    }
    return this.#closed;
  }

  close() {
    // Without an unread chunk in the way, or it would wait for one.
    this.#reader?.cancel().catch(() => {});
    this.#stream?.close();
  }
}

/** The same with a thread that stands still, where there is no such stream. */
class StillReader {
  #worker = new Worker(new URL("./slow-sleeper.js", import.meta.url));
  #isAsleep = false;
  #lock =
    typeof SharedArrayBuffer === "function" && globalThis.crossOriginIsolated
      ? new Int32Array(new SharedArrayBuffer(4))
      : null;
  #closed = new Promise((resolve) => {
    this.#worker.addEventListener("message", ({ data }) => data.closed && resolve(data.closed));
  });

  open(url, rooms) {
    return new Promise((resolve, reject) => {
      this.#worker.addEventListener("message", ({ data }) => data.client && resolve(data.client));
      this.#worker.addEventListener("error", ({ message }) => reject(new Error(message)));
      this.#closed.then(() => reject(new Error("the connection was closed")));
      this.#worker.postMessage({ open: { url, rooms, lock: this.#lock } });
    });
  }

  sleep() {
    this.#isAsleep = true;
    this.#worker.postMessage({ sleep: ASLEEP_MAX_MS });
  }

  wake() {
    if (this.#lock) {
      Atomics.store(this.#lock, 0, 1);
      Atomics.notify(this.#lock, 0);
    } else if (this.#isAsleep) {
      // It can't be told anything: it is given up, with what it has not read.
      this.#worker.terminate();
      return Promise.resolve({ code: null, reason: "" });
    }
    return this.#closed;
  }

  close() {
    this.#worker.terminate();
  }
}

function within(ms, promise) {
  let timer = 0;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("no answer in time")), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
