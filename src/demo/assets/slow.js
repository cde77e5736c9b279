// A client that stops reading, and what the gateway does about it.
//
// It is a second connection of this page, a member of the room like any other. Once it has joined
// it no longer takes anything from its socket; a third connection, the feeder, publishes to a room
// where only the two of them are, so that nobody else gets what is meant to pile up. What the
// kernel takes for it is some megabytes; then its queue in the gateway grows to its bound, it is
// evicted with 4008 `slow client`, wakes up, reads what is left, and comes back.
//
// A page can't stop reading from a WebSocket: the browser reads on and keeps everything. A
// WebSocketStream leaves data where it is until it is asked for. Where there is none, a worker whose
// thread stands still does the same in browsers that hold back then; in others nothing happens, and
// the page says so.
//
// All of it runs in a worker, so that what is drawn in the page does not make it slower still. This
// is the page's side; slow-worker.js is the play.

import { socketUrl } from "./client.js";

/** What the gateway keeps at most for a client of the path below; src/config/routes.rs. */
export const QUEUE_KIB = 256;
const PATH = "demo/ws";

const OFF = { phase: "off", behind: 0, code: null, reason: "" };

/**
 * Calls `onChange` with { phase, behind, code, reason } whenever something has changed. Phases:
 * off, joining, asleep, evicted, back, unable, failed.
 */
export class SlowClient {
  #onChange;
  #worker = null;
  #status = OFF;

  constructor({ onChange }) {
    this.#onChange = onChange;
  }

  get isOn() {
    return this.#worker !== null;
  }

  get status() {
    return this.#status;
  }

  /** `name` of the member in `room`. */
  start({ name, room }) {
    if (this.#worker) return;
    const worker = new Worker(new URL("./slow-worker.js", import.meta.url), { type: "module" });
    this.#worker = worker;
    worker.onmessage = ({ data }) => this.#tell(worker, data);
    worker.onerror = ({ message }) => {
      this.#tell(worker, { phase: "failed", reason: message || "its program did not load" });
    };
    worker.postMessage({ url: socketUrl(PATH).href, name, room });
    this.#tell(worker, { ...OFF, phase: "joining" });
  }

  /** Ends the worker, and with it its connections. */
  stop() {
    const worker = this.#worker;
    if (!worker) return;
    worker.terminate();
    this.#tell(worker, OFF);
    this.#worker = null;
    this.#onChange(this.#status);
  }

  #tell(worker, change) {
    if (worker !== this.#worker) return;
    this.#status = { ...this.#status, ...change };
    this.#onChange(this.#status);
  }
}
