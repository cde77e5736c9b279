// Publishes so many messages a second to the room. The gateway allows each client a number of its
// own (`limits.messages_per_second`); beyond it a message is answered RATE_LIMITED and not carried
// out, and a client that does not listen is closed with 4029. This one listens.

const TICK_MS = 25;
/** After a refusal it goes on below what is allowed, for so long. */
const HUMBLE_MS = 12_000;
const HUMBLE_SHARE = 0.8;

export class Noise {
  /** What is asked for, and what was refused. */
  wanted = 0;
  refused = 0;
  #publish;
  #onChange;
  #debt = 0;
  #pausedUntil = 0;
  #humbleUntil = 0;
  #allowed = 100;
  #count = 0;
  #last = performance.now();

  constructor({ publish, onChange }) {
    this.#publish = publish;
    this.#onChange = onChange;
    setInterval(() => this.#tick(), TICK_MS);
  }

  /** What `connected` says; none is no limit. */
  set allowed(perSecond) {
    this.#allowed = perSecond ?? Infinity;
  }

  get isHumble() {
    return performance.now() < this.#humbleUntil;
  }

  /** Messages a second as they really go out. */
  get rate() {
    return this.isHumble ? Math.min(this.wanted, this.#allowed * HUMBLE_SHARE) : this.wanted;
  }

  /** The gateway has refused one. */
  onRefusal({ retryAfterMs }) {
    this.refused += 1;
    const now = performance.now();
    this.#pausedUntil = now + Math.max(500, retryAfterMs ?? 0);
    this.#humbleUntil = now + HUMBLE_MS;
    this.#debt = 0;
    this.#onChange(retryAfterMs ?? 0);
  }

  #tick() {
    const now = performance.now();
    // A tab that slept does not make up for it.
    const elapsed = Math.min(now - this.#last, 250);
    this.#last = now;
    if (this.wanted <= 0 || now < this.#pausedUntil) return;
    this.#debt += (this.rate * elapsed) / 1000;
    while (this.#debt >= 1) {
      this.#debt -= 1;
      this.#publish({ kind: "noise", n: ++this.#count });
    }
  }
}
