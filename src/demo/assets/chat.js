// The conversation: what was said, what is still on its way, and who is typing.
//
// Everything that came from others is put in as text and never as markup. What is kept is bounded.

import { hueOf, nameOf } from "./people.js";

const LINES_MAX = 500;
const TEXT_LENGTH_MAX = 2_000;
const OUTBOX_MAX = 20;
const TYPING_SAID_MS = 2_000;
const TYPING_SEEN_MS = 4_500;
const TYPISTS_MAX = 50;
const NEAR_END_PX = 80;

/** What a message says, if it is for people: `{text}` as this page sends it, or plain text from a
 *  raw client. */
export function textOf(data) {
  const text = typeof data === "string" ? data : data?.text;
  return typeof text === "string" && text.trim() !== "" ? text.slice(0, TEXT_LENGTH_MAX) : null;
}

/** The lines of one room. */
export class Log {
  #list;
  #jump;
  #lastSender = null;

  constructor({ list, jump }) {
    this.#list = list;
    this.#jump = jump;
    jump.addEventListener("click", () => this.#toEnd());
    list.addEventListener("scroll", () => this.#isAtEnd() && (jump.hidden = true));
  }

  clear() {
    this.#list.replaceChildren();
    this.#lastSender = null;
    this.#jump.hidden = true;
  }

  /** Gives the line, so that what is on its way can be told as delivered later. */
  say({ from, text, seq = null, ts = Date.now(), isOwn = false, isPending = false }) {
    const line = document.createElement("li");
    line.className = "line";
    line.classList.toggle("is-own", isOwn);
    line.classList.toggle("is-pending", isPending);
    const sender = from.client ?? "self";
    line.classList.toggle("is-continued", sender === this.#lastSender);
    this.#lastSender = sender;
    line.style.setProperty("--hue", hueOf(nameOf(from)));
    const who = part("bdi", "who", nameOf(from));
    const body = part("span", "text", text);
    body.dir = "auto";
    line.append(who, body, this.#meta(seq, ts));
    this.#add(line);
    return line;
  }

  /** It has come back with its place in the room's order. */
  confirm(line, { seq, ts }) {
    line.classList.remove("is-pending", "is-lost");
    line.lastChild.replaceWith(this.#meta(seq, ts));
  }

  /** No answer came: it may have been delivered or not. */
  lose(line, onAgain) {
    line.classList.replace("is-pending", "is-lost");
    const again = part("button", "again", "Not confirmed. Send again");
    again.type = "button";
    again.addEventListener("click", () => {
      line.remove();
      onAgain();
    });
    line.lastChild.replaceWith(again);
  }

  /** What the gateway or this page has to say. */
  note(text, tone = "plain") {
    const line = part("li", `note is-${tone}`, text);
    this.#lastSender = null;
    this.#add(line);
  }

  #meta(seq, ts) {
    const time = new Date(ts);
    const shown = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const meta = part("span", "meta", seq ? `#${seq}` : "…");
    meta.title = seq ? `message ${seq} of this room, ${shown}` : "on its way";
    return meta;
  }

  #add(line) {
    const wasAtEnd = this.#isAtEnd();
    this.#list.append(line);
    while (this.#list.childElementCount > LINES_MAX) this.#list.firstElementChild.remove();
    if (wasAtEnd || line.classList.contains("is-own")) this.#toEnd();
    else this.#jump.hidden = false;
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#list;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #toEnd() {
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#jump.hidden = true;
  }
}

/** What this page has to say: on its way, or waiting for a connection. */
export class Outbox {
  #log;
  #publish;
  #waiting = [];
  #sent = new Map();

  /** `publish(text, mid)` gives a promise. */
  constructor({ log, publish }) {
    this.#log = log;
    this.#publish = publish;
  }

  /** Says whether there was room for it. */
  say(text, from, isOnline) {
    if (!isOnline && this.#waiting.length >= OUTBOX_MAX) return false;
    const mid = crypto.getRandomValues(new Uint32Array(2)).join("-");
    const line = this.#log.say({ from, text, isOwn: true, isPending: true });
    const one = { mid, text, line, from };
    if (isOnline) this.#send(one);
    else this.#waiting.push(one);
    return true;
  }

  /** There is a connection, and we are in the room. */
  flush() {
    for (const one of this.#waiting.splice(0)) this.#send(one);
  }

  /** One of ours has come back; says whether it was known. */
  onDelivered({ mid, seq, ts }) {
    const one = this.#sent.get(mid);
    if (!one) return false;
    this.#sent.delete(mid);
    this.#log.confirm(one.line, { seq, ts });
    return true;
  }

  clear() {
    this.#waiting = [];
    this.#sent.clear();
  }

  #send(one) {
    this.#sent.set(one.mid, one);
    this.#publish(one.text, one.mid).catch(() => {
      if (!this.#sent.delete(one.mid)) return;
      this.#log.lose(one.line, () => this.say(one.text, one.from, true));
    });
  }
}

/** Who is typing: ephemeral, so each is forgotten unless it is said again. */
export class Typing {
  #line;
  #onChange;
  #typists = new Map();
  #saidAt = -Infinity;

  constructor({ line, onChange }) {
    this.#line = line;
    this.#onChange = onChange;
  }

  /** Whether it is time to tell the others that we are. */
  isDue() {
    const now = performance.now();
    if (now - this.#saidAt < TYPING_SAID_MS) return false;
    this.#saidAt = now;
    return true;
  }

  /** We have stopped. Says whether we had told them. */
  stop() {
    const had = this.#saidAt > -Infinity;
    this.#saidAt = -Infinity;
    return had;
  }

  set(client, name, isTyping) {
    const known = this.#typists.get(client);
    clearTimeout(known?.timer);
    if (isTyping && (known || this.#typists.size < TYPISTS_MAX)) {
      const timer = setTimeout(() => this.set(client, name, false), TYPING_SEEN_MS);
      this.#typists.set(client, { name, timer });
    } else {
      this.#typists.delete(client);
    }
    this.#onChange(client, this.#typists.has(client));
    this.#show();
  }

  clear() {
    for (const client of [...this.#typists.keys()]) this.set(client, "", false);
  }

  #show() {
    const names = [...this.#typists.values()].map(({ name }) => name);
    const verb = names.length === 1 ? "is" : "are";
    const listed = names.length > 3 ? `${names.length} people` : names.join(" and ");
    this.#line.textContent = names.length ? `${listed} ${verb} typing` : "";
  }
}

function part(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}
