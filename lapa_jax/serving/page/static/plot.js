// The action chunk: a row for each dimension, on the left what was done, on the right what is planned.

import { html, svg } from "./elements.js";

const PAST = 24;                       // steps that are kept in view
const LEFT = 46, RIGHT = 8, EDGE = 9;  // pixels

export class ActionPlot {
  // axes: [{name, unit, low, high}]
  constructor(place, axes) {
    this.rows = axes.map((axis, d) => new Row(place, axis, d, axes.length > 3 ? 56 : 88));
    this.clear();
    new ResizeObserver(() => this.draw()).observe(place);
  }

  clear() {
    this.done = [];  // [step, action]
    this.plan = null;
    this.step = 0;
    this.draw();
  }

  // A decision of the server.
  planned(decision) {
    this.plan = decision;
    this.draw();
  }

  // An action was carried out, and led to `step`.
  passed(step, action) {
    this.step = step;
    this.done = [...this.done, [step - 1, action]].filter(([at]) => at >= step - PAST);
    this.draw();
  }

  draw() {
    for (const row of this.rows) row.draw(this.step, this.done, this.plan);
  }
}

class Row {
  constructor(place, axis, dimension, height) {
    this.d = dimension;
    this.height = height;
    this.unit = axis.unit;
    this.low = axis.low ?? 0;
    this.high = axis.high ?? 0;
    this.name = axis.name;
    const row = html(place, "div", { class: "axis" });
    const words = html(row, "div");
    html(words, "b").textContent = axis.name;
    this.value = html(words, "span", { class: "muted" });
    this.svg = svg(row, "svg", { role: "img" });
    this.say(null);
  }

  say(value) {
    this.value.textContent = `${value === null ? "–" : short(value)} ${this.unit}`;
    const said = value === null ? "nothing planned" : `next ${short(value)}`;
    this.svg.setAttribute("aria-label", `${this.name}: ${said} ${this.unit}`);
  }

  draw(step, done, plan) {
    const chunk = plan ? plan.actions.map((action, i) => [plan.step + i, action[this.d]]) : [];
    const past = done.map(([at, action]) => [at, action[this.d]]);
    for (const [, value] of [...chunk, ...past]) {
      this.low = Math.min(this.low, value);
      this.high = Math.max(this.high, value);
    }
    const horizon = Math.max(chunk.length, 1);
    const width = this.svg.clientWidth || 300;
    const spread = this.high - this.low || 1;
    const x = (at) => LEFT + ((at - step + PAST + 0.5) / (PAST + horizon)) * (width - LEFT - RIGHT);
    const y = (value) => EDGE + ((this.high - value) / spread) * (this.height - 2 * EDGE);
    this.svg.setAttribute("height", this.height);
    this.svg.replaceChildren();
    this.scale(width, y);
    this.line(x(step - 0.5), 0, x(step - 0.5), this.height, "now-line");
    const carried = plan?.carried ?? [];
    const next = (i) => i < carried.length && plan.step + i >= step;
    this.points(chunk, x, y, (i) => (next(i) ? "planned carried" : "planned"), "planned");
    this.points(past, x, y, () => "done", "done");
    this.say(carried[step - plan?.step]?.[this.d] ?? null);
  }

  scale(width, y) {
    for (const value of new Set([this.high, 0, this.low])) {
      if (value !== 0 || (this.low <= 0 && this.high >= 0)) {
        if (value === 0) this.line(LEFT, y(0), width - RIGHT, y(0), "zero");
        const text = svg(this.svg, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" });
        text.textContent = short(value);
      }
    }
  }

  line(x1, y1, x2, y2, kind) {
    svg(this.svg, "line", { x1, y1, x2, y2, class: kind });
  }

  points(values, x, y, kind, name) {
    const places = values.map(([at, value]) => `${x(at)},${y(value)}`);
    svg(this.svg, "polyline", { points: places.join(" "), class: `path ${name}` });
    values.forEach(([at, value], i) => svg(this.svg, "circle", { cx: x(at), cy: y(value), r: 3, class: kind(i) }));
  }
}

function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  return size >= 100 || size < 1e-4 ? value.toPrecision(2) : String(Number(value.toFixed(size < 1 ? 4 : 2)));
}
