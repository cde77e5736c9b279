// The pond: water that every message moves, and the pointers of all who are in the room.
//
// A message is a stone that falls where its sender points. The more messages a second, the higher
// the waves; without a connection the water is still.

import { Chart } from "./gauges.js";

const POINTERS_MAX = 40;
const RIPPLES_MAX = 14;
const RIPPLE_MS = 2_600;
const SEND_INTERVAL_MS = 50;
const FRAME_MS = 30;
const IDLE_FRAME_MS = 66;
const LINES = 15;
/** Below this weight it is spray: no more of it at once than can be told apart. */
const SPRAY_WEIGHT = 0.5;
const SPRAY_INTERVAL_MS = 220;
const KEY_STEP = 0.03;

const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const darkness = matchMedia("(prefers-color-scheme: dark)");

const clamp = (value) => Math.min(1, Math.max(0, value));

export class Pond {
  #root;
  #layer;
  #onMove;
  #onDrop;
  #chart;
  #pointers = new Map();
  #ripples = [];
  #own = { x: 0.5, y: 0.55 };
  #swell = 0;
  #wantedSwell = 0;
  #lastFrame = 0;
  #sentAt = -Infinity;
  #sendTimer = 0;
  #sprayedAt = -Infinity;

  constructor({ root, canvas, layer, onMove, onDrop }) {
    this.#root = root;
    this.#layer = layer;
    this.#onMove = onMove;
    this.#onDrop = onDrop;
    this.#chart = new Chart(canvas, (...args) => this.#draw(...args));
    root.addEventListener("pointermove", (event) => this.#point(event));
    root.addEventListener("pointerdown", (event) => {
      this.#point(event);
      this.#onDrop(this.#own);
    });
    root.addEventListener("keydown", (event) => this.#onKey(event));
    requestAnimationFrame((now) => this.#frame(now));
    stillness.addEventListener("change", () => this.#chart.draw());
  }

  /** Where this page's own pointer is, as shares of width and height. */
  get own() {
    return this.#own;
  }

  /** Messages a second, and whether there is a connection at all. */
  setTide(rate, isOnline) {
    this.#wantedSwell = isOnline ? 0.25 + Math.min(1, Math.log10(1 + rate) / 2.2) : 0;
  }

  /** A member points somewhere. */
  point(client, position, { name, hue, isSelf = false }) {
    const at = { x: clamp(Number(position?.x)), y: clamp(Number(position?.y)) };
    if (Number.isNaN(at.x) || Number.isNaN(at.y)) return;
    let pointer = this.#pointers.get(client);
    if (!pointer) {
      if (this.#pointers.size >= POINTERS_MAX) return;
      pointer = { element: element(isSelf), client };
      this.#pointers.set(client, pointer);
      this.#layer.append(pointer.element);
      pointer.element.dataset.client = client;
    }
    pointer.at = at;
    pointer.hue = hue;
    const { style, lastChild } = pointer.element;
    style.setProperty("--hue", hue);
    style.left = `${at.x * 100}%`;
    style.top = `${at.y * 100}%`;
    // A label at the right edge stands on the left of its pointer.
    pointer.element.classList.toggle("is-turned", at.x > 0.72);
    lastChild.textContent = isSelf ? "you" : name;
  }

  typing(client, isTyping) {
    this.#pointers.get(client)?.element.classList.toggle("is-typing", isTyping);
  }

  remove(client) {
    this.#pointers.get(client)?.element.remove();
    this.#pointers.delete(client);
  }

  clear() {
    for (const { element } of this.#pointers.values()) element.remove();
    this.#pointers.clear();
    this.#ripples = [];
  }

  /** A stone falls where `client` points; how heavy is from 0 to 1. */
  drop(client, { hue, weight = 1, at = this.#pointers.get(client)?.at ?? { x: 0.5, y: 0.4 } }) {
    const now = performance.now();
    if (weight < SPRAY_WEIGHT) {
      if (now - this.#sprayedAt < SPRAY_INTERVAL_MS) return;
      this.#sprayedAt = now;
    }
    this.#ripples.push({ ...at, hue, weight, at: now });
    if (this.#ripples.length > RIPPLES_MAX) this.#ripples.shift();
  }

  redraw() {
    this.#chart.draw();
  }

  #point(event) {
    const box = this.#root.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    this.#move(x, y);
  }

  #onKey(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) {
      this.#move(this.#own.x + step[0] * KEY_STEP, this.#own.y + step[1] * KEY_STEP * 1.6);
    } else if (event.key === "Enter" || event.key === " ") {
      this.#onDrop(this.#own);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Told at most every 50 ms, and the last place always. */
  #move(x, y) {
    this.#own = { x: round(clamp(x)), y: round(clamp(y)) };
    if (this.#sendTimer) return;
    const pause = this.#sentAt + SEND_INTERVAL_MS - performance.now();
    this.#sendTimer = setTimeout(() => {
      this.#sendTimer = 0;
      this.#sentAt = performance.now();
      this.#onMove(this.#own);
    }, Math.max(0, pause));
  }

  #frame(now) {
    requestAnimationFrame((next) => this.#frame(next));
    this.#ripples = this.#ripples.filter((one) => now - one.at < RIPPLE_MS);
    const isMoving = this.#ripples.length > 0 || Math.abs(this.#swell - this.#wantedSwell) > 0.02;
    if (now - this.#lastFrame < (isMoving ? FRAME_MS : IDLE_FRAME_MS)) return;
    if (stillness.matches && !isMoving) return;
    this.#lastFrame = now;
    this.#swell += (this.#wantedSwell - this.#swell) * 0.04;
    this.#chart.draw();
  }

  #draw(context, width, height, style) {
    const now = performance.now();
    const time = stillness.matches ? 0 : now / 1000;
    const ripples = this.#ripples.map((one) => ({
      x: one.x * width,
      y: one.y * height,
      age: Math.min(1, (now - one.at) / RIPPLE_MS),
      weight: one.weight,
      hue: one.hue,
    }));
    const reach = Math.hypot(width, height) * 0.42;
    context.strokeStyle = context.fillStyle = style.getPropertyValue("--water");
    const step = Math.max(8, width / 84);
    for (let n = 0; n < LINES; n += 1) {
      // Lines lie closer together in the distance.
      const depth = (n + 1) / LINES;
      const base = height * (0.06 + 0.98 * depth ** 1.45);
      const tall = height * 0.03 * depth * this.#swell;
      context.globalAlpha = 0.25 + 0.6 * depth;
      context.lineWidth = 0.8 + depth * 0.8;
      context.beginPath();
      for (let x = -step; x <= width + step; x += step) {
        let y = base;
        y += tall * Math.sin(x * (0.011 - 0.004 * depth) + time * (0.5 + 0.3 * depth) + n * 1.7);
        y += tall * 0.5 * Math.sin(x * 0.023 - time * 0.7 + n * 0.6);
        if (!stillness.matches) for (const one of ripples) y += lift(one, x, base, reach) * depth;
        context.lineTo(x, y);
      }
      context.stroke();
      // Sheets of water lie over each other: nearer is deeper.
      if (n % 2) continue;
      context.lineTo(width + step, height);
      context.lineTo(-step, height);
      context.globalAlpha = 0.055;
      context.fill();
    }
    for (const one of ripples) ring(context, one, reach);
    context.globalAlpha = 1;
  }
}

const round = (share) => Math.round(share * 1000) / 1000;

/** How far a ripple lifts the water at a place. */
function lift({ x, y, age, weight }, atX, atY, reach) {
  const distance = Math.hypot(atX - x, (atY - y) * 2.1);
  const front = age * reach;
  const behind = front - distance;
  if (behind < 0 || behind > 130) return 0;
  return -Math.sin(behind / 13) * Math.exp(-behind / 42) * 22 * weight * (1 - age) ** 1.6;
}

/** The ring itself, in its sender's colour. Where motion is unwanted it stands still and fades. */
function ring(context, { x, y, age, weight, hue }, reach) {
  const radius = stillness.matches ? 14 : 4 + age * reach * (0.35 + 0.65 * weight);
  context.globalAlpha = (1 - age) ** 2 * (0.35 + 0.5 * weight);
  context.strokeStyle = colourOf(hue);
  context.lineWidth = 1 + 1.5 * (1 - age) * weight;
  context.beginPath();
  context.ellipse(x, y, radius, radius * 0.48, 0, 0, 7);
  context.stroke();
}

/** As the style sheets make it of a hue. */
function colourOf(hue) {
  const { theme } = document.documentElement.dataset;
  const isDark = theme ? theme === "dark" : darkness.matches;
  return isDark ? `oklch(0.82 0.12 ${hue})` : `oklch(0.47 0.13 ${hue})`;
}

function element(isSelf) {
  const pointer = document.createElement("div");
  pointer.className = isSelf ? "pointer is-self" : "pointer";
  const dot = document.createElement("i");
  const label = document.createElement("bdi");
  pointer.append(dot, label);
  return pointer;
}
