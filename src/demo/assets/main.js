// Puts the page together: one connection, one room, and what is shown of them.

import { Log, Outbox, Typing, textOf } from "./chat.js";
import { Client, socketUrl } from "./client.js";
import { LatencyGauge, RateGauge } from "./gauges.js";
import { Noise } from "./noise.js";
import { People, cleanName, hueOf, nameOf, randomName } from "./people.js";
import { Pond } from "./pond.js";
import { QUEUE_KIB, SlowClient } from "./slow.js";

const ROOM_BYTES_MAX = 100;
const UNPLUGGED_MS = 3_000;
/** In a room with more members, nobody shows every newcomer where they point. */
const INTRODUCTIONS_MAX = 30;
/** In a room with more members, who comes and goes is not worth a line. */
const GREETINGS_MAX = 40;
const MIB = 1024 * 1024;

const $ = (id) => document.getElementById(id);

// What is kept between visits. Browsers may refuse it.
const kept = {
  get: (key) => {
    try {
      return localStorage.getItem(`tidegate.${key}`);
    } catch {
      return null;
    }
  },
  set: (key, value) => {
    try {
      localStorage.setItem(`tidegate.${key}`, value);
    } catch {
      // The page works without.
    }
  },
};

let name = cleanName(kept.get("name") ?? "") || randomName();
kept.set("name", name);
let room = roomOfHash();
let isIn = false;
let isRenamed = false;

const client = new Client(socketUrl(), { user: name });
const log = new Log({ list: $("log"), jump: $("jump") });
const people = new People($("people"), $("people-count"));
const latency = new LatencyGauge({ canvas: $("latency-chart"), last: $("latency-last"), median: $("latency-median") });
const rate = new RateGauge({ canvas: $("rate-chart"), figure: $("rate"), total: $("rate-total") });

const outbox = new Outbox({
  log,
  publish: (text, mid) => client.command("publish", { room, mid, data: { kind: "chat", text } }),
});

const typing = new Typing({
  line: $("typing"),
  onChange: (who, isTyping) => {
    people.mark(who, "typing", isTyping);
    pond.typing(who, isTyping);
  },
});

const pond = new Pond({
  root: $("pond"),
  canvas: $("water"),
  layer: $("pointers"),
  onMove: (at) => {
    showSelf();
    tell("cursor", at);
  },
  onDrop: (at) => {
    showSelf();
    pond.drop("", { hue: hueOf(name), at });
    tell("drop", at);
  },
});

const noise = new Noise({
  publish: (data) => isIn && client.post(room, data),
  onChange: (retryAfterMs) => showNoise(retryAfterMs),
});

/** What is true for a moment only. One message of each kind is enough for who lags behind. */
function tell(kind, data) {
  if (isIn) client.post(room, { kind, ...data }, { ephemeral: true, key: `${kind}:${client.hello.client}` });
}

function self() {
  return { client: client.hello?.client, user: name };
}

function showSelf() {
  pond.point("self", pond.own, { name, hue: hueOf(name), isSelf: true });
}

// ---- the room -------------------------------------------------------------------------------

function roomOfHash() {
  let wanted = location.hash.slice(1);
  try {
    wanted = decodeURIComponent(wanted);
  } catch {
    // A half-written escape is a name as it stands.
  }
  return cleanRoom(wanted) || "lobby";
}

function cleanRoom(text) {
  let plain = text.replace(/[\p{Cc}\ud800-\udfff]/gu, "").trim().replace(/^[@#]+/, "");
  while (new TextEncoder().encode(plain).length > ROOM_BYTES_MAX) plain = plain.slice(0, -1);
  return plain.replace(/[\ud800-\udfff]/gu, "");
}

function enter(next) {
  if (next !== room) client.leave(room);
  room = next;
  isIn = false;
  log.clear();
  outbox.clear();
  typing.clear();
  pond.clear();
  people.replace([], 0, null);
  slow.stop();
  showRoom();
  client.join(room, { state: ownState() });
}

function showRoom() {
  $("room").value = room;
  $("room-title").textContent = room;
  document.title = `#${room} · Tidegate`;
}

const ownState = () => ({ pos: pond.own, away: document.hidden });

client.addEventListener("joined", ({ detail: { room: joined, ok, missed, isRejoin } }) => {
  if (joined !== room) return;
  isIn = true;
  people.replace(ok.users, ok.members, client.hello.client);
  pond.clear();
  showSelf();
  for (const member of ok.users) {
    if (member.client === client.hello.client) continue;
    if (member.state?.pos) pond.point(member.client, member.state.pos, look(member));
  }
  if (isRenamed) {
    log.note(`You are ${name} now.`);
    isRenamed = false;
  } else if (!isRejoin) {
    const others = ok.members - 1;
    const company = others === 0 ? "Nobody else is here yet" : others === 1 ? "One other is here" : `${others} others are here`;
    log.note(`You are in #${room}. ${company}.`);
  } else if (missed === null) {
    log.note("Back. Everyone had left meanwhile, so the room has started over.", "good");
  } else if (missed === 0) {
    log.note("Back, and nothing was missed.", "good");
  } else {
    const many = missed === 1 ? "One message was" : `${missed} messages were`;
    log.note(`Back. ${many} missed meanwhile; this version keeps no history to replay.`, "warn");
  }
  outbox.flush();
});

const look = (member) => ({ name: nameOf(member), hue: hueOf(nameOf(member)) });

client.addEventListener("event", ({ detail: event }) => {
  if (event.room && event.room !== room) return;
  if (event.type === "user_joined") {
    people.joined(event);
    if (event.members <= GREETINGS_MAX) log.note(`${nameOf(event)} came in.`);
    if (event.members <= INTRODUCTIONS_MAX) tell("cursor", pond.own);
  } else if (event.type === "user_left") {
    typing.set(event.client, "", false);
    people.left(event);
    pond.remove(event.client);
    if (event.members <= GREETINGS_MAX || event.reason === "evicted") {
      log.note(`${nameOf(event)} ${farewells[event.reason] ?? "left"}.`, event.reason === "evicted" ? "bad" : "plain");
    }
  } else if (event.type === "gap") {
    log.note(`${event.dropped} messages were dropped for us here, as we were too slow.`, "warn");
  } else if (event.type === "reconnect") {
    log.note(`The gateway closes this connection soon (${event.reason}).`, "warn");
  }
});

const farewells = {
  left: "left",
  disconnected: "has gone",
  timed_out: "fell silent",
  evicted: "was evicted with 4008: it had stopped reading",
};

client.addEventListener("message", ({ detail: message }) => {
  rate.count();
  if (message.room !== room) return;
  const { data, from } = message;
  const isOwn = from.client === client.hello?.client;
  const member = look(from);
  const text = textOf(data);
  if (text !== null) {
    typing.set(from.client, "", false);
    pond.drop(isOwn ? "self" : from.client, { hue: member.hue });
    if (isOwn && outbox.onDelivered(message)) return;
    log.say({ from, text, seq: message.seq, ts: message.ts, isOwn });
  } else if (data?.kind === "noise") {
    pond.drop(isOwn ? "self" : from.client, { hue: member.hue, weight: 0.3 });
  } else if (!isOwn) {
    onMoment(from.client, member, data);
  }
});

function onMoment(who, member, data) {
  if (data?.kind === "cursor" || data?.kind === "drop") pond.point(who, data, member);
  if (data?.kind === "drop") pond.drop(who, { hue: member.hue });
  if (data?.kind === "typing") typing.set(who, member.name, data.on === true);
  if (data?.kind === "away") people.mark(who, "away", data.on === true);
}

// ---- the connection -------------------------------------------------------------------------

let lostAt = 0;
let retryAt = 0;
let attempts = 0;

client.addEventListener("state", ({ detail: { state, delayMs, code, reason, attempt } }) => {
  document.body.dataset.state = state;
  attempts = attempt;
  if (state !== "online") isIn = false;
  if (state === "online") {
    const { limits, node, client: own } = client.hello;
    noise.allowed = limits.messages_per_second;
    showNoise(0);
    $("node").textContent = node;
    $("connection-id").textContent = own;
    if (lostAt) {
      $("plug-text").textContent = `Back after ${((performance.now() - lostAt) / 1000).toFixed(1)} s and in the room again.`;
    }
    lostAt = 0;
  } else if (state === "waiting" || state === "stopped") {
    if (!lostAt) {
      lostAt = performance.now();
      typing.clear();
      latency.silence();
      log.note(whyLost(code, reason), "bad");
    }
    retryAt = performance.now() + (delayMs ?? 0);
  }
  $("plug").disabled = state !== "online" && state !== "stopped";
  $("plug").textContent = state === "stopped" ? "Connect again" : "Pull the plug";
  pond.setTide(rate.rate, client.isOnline);
  showState();
});

function whyLost(code, reason) {
  if (reason === "unplugged") return "The plug is out. What you write now waits here.";
  if (code === 1012) return "The gateway restarts and has said when to come back.";
  if (code === 1006) return "The connection is gone.";
  return `The gateway has closed the connection: ${code} ${reason}`.trim() + ".";
}

function showState() {
  const { state } = document.body.dataset;
  const seconds = Math.max(0, (retryAt - performance.now()) / 1000).toFixed(1);
  const texts = {
    idle: "starting",
    connecting: "connecting",
    online: "online",
    waiting: `offline, trying again in ${seconds} s`,
    stopped: "offline",
  };
  // Read aloud when it changes, not ten times a second.
  const spoken = state === "online" ? "online" : state === "connecting" ? "connecting" : "offline";
  if ($("state-spoken").textContent !== spoken) $("state-spoken").textContent = spoken;
  $("state-text").textContent = texts[state] ?? state;
  if (state === "waiting") {
    $("plug-text").textContent = `Offline for ${((performance.now() - lostAt) / 1000).toFixed(1)} s. Attempt ${attempts + 1} in ${seconds} s; the pauses grow, with some chance in them.`;
  }
}

setInterval(() => {
  if (document.body.dataset.state === "waiting") showState();
}, 100);

client.addEventListener("latency", ({ detail: { ms } }) => {
  latency.add(ms);
  if (slow.isOn) whileAsleep.push(ms);
});

client.addEventListener("refused", ({ detail: error }) => {
  if (error.code === "RATE_LIMITED") noise.onRefusal(error);
  else log.note(`The gateway refused that: ${error.message} (${error.code}).`, "bad");
});

setInterval(() => pond.setTide(rate.rate, client.isOnline), 500);

// ---- the slow client ------------------------------------------------------------------------

/** Latency of this page's own connection while the slow one sleeps; some are enough. */
const whileAsleep = [];
const slow = new SlowClient({ onChange: (status) => showSlow(status) });

function showSlow({ phase, behind, code, reason }) {
  const isOn = slow.isOn;
  $("slow").setAttribute("aria-checked", String(isOn));
  $("slow-phase").textContent = phase;
  $("slow-phase").dataset.phase = phase;
  const mib = (behind / MIB).toFixed(1);
  $("slow-bar").value = behind / MIB;
  $("slow-behind").textContent = `${mib} MiB`;
  const closing = code ? `${code} ${reason || "and a reset"}` : "4008, which it slept through";
  const median = whileAsleep.toSorted((a, b) => a - b)[Math.floor(whileAsleep.length / 2)];
  const ours = median === undefined ? latency.medianText : `${median.toFixed(2)} ms`;
  const texts = {
    off: `Adds a member that stops reading. Its queue in the gateway is ${QUEUE_KIB} KiB. What happens?`,
    joining: "It joins like anyone else.",
    asleep: `It reads nothing. The kernel takes some MiB, then its queue fills. Your latency: ${ours}.`,
    evicted: behind === 0 ? `Closed with ${closing}. Your latency stayed at ${ours}.` : "It wakes up and reads what is left.",
    back: `Closed with ${closing}; it has come back and reads. Your latency stayed at ${ours}.`,
    unable: "This browser reads on even for a page that does not, so there is no slow client to see.",
    failed: `It could not be shown: ${reason}.`,
  };
  $("slow-text").textContent = texts[phase];
}

$("slow").addEventListener("click", () => {
  if (slow.isOn) return slow.stop();
  whileAsleep.length = 0;
  slow.start({ name: `slow-${name}`.slice(0, 40), room });
});

// Closer looks while it sleeps.
setInterval(() => {
  if (!slow.isOn || slow.status.phase !== "asleep" || !client.isOnline) return;
  const sentAt = performance.now();
  client.command("ping").then(() => {
    whileAsleep.push(performance.now() - sentAt);
    if (whileAsleep.length > 100) whileAsleep.shift();
  }, () => {});
}, 200);

// ---- what people do -------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  if (typing.stop()) tell("typing", { on: false });
  if (outbox.say(text, self(), isIn)) $("text").value = "";
  else log.note("No more than 20 messages wait for the connection.", "warn");
});

$("text").addEventListener("input", () => {
  if ($("text").value === "") {
    if (typing.stop()) tell("typing", { on: false });
  } else if (typing.isDue()) {
    tell("typing", { on: true });
  }
});

$("name").value = name;
$("name").addEventListener("change", () => {
  const next = cleanName($("name").value) || randomName();
  $("name").value = next;
  if (next === name) return;
  name = next;
  kept.set("name", name);
  isRenamed = client.isOnline;
  client.rename(name);
});

$("room").addEventListener("change", () => {
  const next = cleanRoom($("room").value) || "lobby";
  $("room").value = next;
  location.hash = encodeURIComponent(next);
});

// Enter in a field does what leaving it does.
for (const id of ["name", "room"]) {
  $(id).addEventListener("keydown", ({ key, target }) => key === "Enter" && target.blur());
}

addEventListener("hashchange", () => {
  const next = roomOfHash();
  if (next !== room) enter(next);
});

$("noise").addEventListener("input", () => {
  noise.wanted = Number($("noise").value);
  showNoise(0);
});

function showNoise(retryAfterMs) {
  const shown = `${noise.wanted} a second`;
  $("noise-value").textContent = shown;
  $("noise").setAttribute("aria-valuetext", shown);
  const isRefused = noise.isHumble && noise.wanted > 0;
  $("noise-text").dataset.tone = isRefused ? "warn" : "";
  const limit = client.hello?.limits.messages_per_second;
  if (!client.hello) return;
  $("noise-text").textContent = isRefused
    ? `RATE_LIMITED: ${noise.refused} refused so far, the last to be tried again after ${retryAfterMs} ms. ${limit} a second are allowed; going on with ${Math.round(noise.rate)}.`
    : limit ? `Each client may send ${limit} a second.` : "There is no limit here.";
}

$("plug").addEventListener("click", () => {
  if (client.state === "stopped") client.connect();
  else client.unplug(UNPLUGGED_MS);
});

$("share").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    $("share").textContent = "Copied";
  } catch {
    $("share").textContent = "Copy the address bar";
  }
  setTimeout(() => ($("share").textContent = "Copy link"), 2_000);
});

// Not a link to the field: what stands behind `#` here is the room.
$("skip").addEventListener("click", () => $("text").focus());

function redraw() {
  for (const gauge of [latency, rate, pond]) gauge.redraw();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

const themes = ["", "dark", "light"];
function showTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const shown = theme || "auto";
  $("theme").textContent = shown;
  $("theme").setAttribute("aria-label", `Colour scheme: ${shown}`);
  redraw();
}
$("theme").addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "") + 1) % themes.length];
  kept.set("theme", next);
  showTheme(next);
});

addEventListener("visibilitychange", () => {
  client.restate(room, ownState());
  tell("away", { on: document.hidden });
});

showTheme(themes.includes(kept.get("theme")) ? kept.get("theme") : "");
showRoom();
showSelf();
showSlow(slow.status);
showNoise(0);
showState();
if (!location.hash) history.replaceState(null, "", `#${encodeURIComponent(room)}`);
client.join(room, { state: ownState() });
client.connect();
