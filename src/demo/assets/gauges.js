// Instruments: a sparkline of latency and a chart of messages received. Figures as they are
// measured in this page; what is drawn is told in text beside it.

const LATENCY_POINTS = 60;
const RATE_BIN_MS = 500;
const RATE_BINS = 120;

/** A canvas that fits its box on any screen; `draw` gets a context in CSS pixels. */
export class Chart {
  #canvas;
  #draw;
  #width = 0;
  #height = 0;

  constructor(canvas, draw) {
    this.#canvas = canvas;
    this.#draw = draw;
    new ResizeObserver(([entry]) => {
      this.#width = entry.contentRect.width;
      this.#height = entry.contentRect.height;
      this.draw();
    }).observe(canvas);
  }

  draw() {
    if (!this.#width || !this.#height) return;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(this.#width * scale), Math.round(this.#height * scale)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const context = this.#canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    const style = getComputedStyle(this.#canvas);
    this.#draw(context, this.#width, this.#height, style);
  }
}

const milliseconds = (ms) => (ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0));

/** How long a ping takes there and back: the last one large, the median of a minute below. */
export class LatencyGauge {
  #samples = [];
  #last;
  #median;
  #chart;

  constructor({ canvas, last, median }) {
    this.#last = last;
    this.#median = median;
    this.#chart = new Chart(canvas, (...args) => this.#draw(...args));
  }

  /** The median in text, for others to show. */
  get medianText() {
    return this.#samples.length ? `${milliseconds(this.median)} ms` : "unknown";
  }

  get median() {
    const sorted = this.#samples.toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? 0;
  }

  add(ms) {
    this.#samples.push(ms);
    if (this.#samples.length > LATENCY_POINTS) this.#samples.shift();
    this.#last.textContent = milliseconds(ms);
    this.#median.textContent = milliseconds(this.median);
    this.#chart.draw();
  }

  silence() {
    this.#last.textContent = "–";
  }

  redraw() {
    this.#chart.draw();
  }

  #draw(context, width, height, style) {
    // One sample far above the others would press them all flat; it is cut at the top.
    const top = Math.min(Math.max(0.5, ...this.#samples), Math.max(0.5, this.median * 4)) * 1.15;
    const x = (n) => width - (this.#samples.length - 1 - n) * (width / (LATENCY_POINTS - 1)) - 2;
    const y = (ms) => height - 2 - Math.min(1, ms / top) * (height - 6);
    context.strokeStyle = style.getPropertyValue("--line");
    context.setLineDash([2, 4]);
    context.beginPath();
    context.moveTo(0, y(this.median));
    context.lineTo(width, y(this.median));
    context.stroke();
    context.setLineDash([]);
    context.strokeStyle = context.fillStyle = style.getPropertyValue("--accent");
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    context.beginPath();
    this.#samples.forEach((ms, n) => context.lineTo(x(n), y(ms)));
    context.stroke();
    const at = this.#samples.length - 1;
    if (at < 0) return;
    context.beginPath();
    context.arc(x(at), y(this.#samples[at]), 2.5, 0, 7);
    context.fill();
  }
}

/** Messages that have come in, each second, over a minute. */
export class RateGauge {
  #bins = new Array(RATE_BINS).fill(0);
  #pending = 0;
  #total = 0;
  #figure;
  #sum;
  #chart;

  constructor({ canvas, figure, total }) {
    this.#figure = figure;
    this.#sum = total;
    this.#chart = new Chart(canvas, (...args) => this.#draw(...args));
    setInterval(() => this.#turn(), RATE_BIN_MS);
  }

  /** Messages a second, over the last second. */
  rate = 0;

  count() {
    this.#pending += 1;
    this.#total += 1;
  }

  redraw() {
    this.#chart.draw();
  }

  #turn() {
    this.#bins.shift();
    this.#bins.push(this.#pending);
    this.#pending = 0;
    const perSecond = 1000 / RATE_BIN_MS;
    this.rate = Math.round(this.#bins.slice(-perSecond).reduce((sum, one) => sum + one, 0));
    this.#figure.textContent = String(this.rate);
    this.#sum.textContent = this.#total.toLocaleString("en");
    if (!document.hidden) this.#chart.draw();
  }

  #draw(context, width, height, style) {
    const top = Math.max(5, ...this.#bins);
    const step = width / RATE_BINS;
    const quiet = style.getPropertyValue("--line");
    const loud = style.getPropertyValue("--accent");
    this.#bins.forEach((bin, n) => {
      const tall = bin ? Math.max(2, (bin / top) * (height - 2)) : 1;
      context.fillStyle = bin ? loud : quiet;
      context.fillRect(n * step, height - tall, Math.max(1, step - 1.25), tall);
    });
  }
}
