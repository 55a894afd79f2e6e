// The last milliseconds of several things, and their medians.

import { html, svg } from "./elements.js";

const KEPT = 50;

export class Latency {
  constructor(place) {
    this.place = place;
    this.values = [];
    this.show();
  }

  add(milliseconds) {
    this.values = [...this.values, milliseconds].slice(-KEPT);
    this.show();
  }

  get median() {
    const sorted = [...this.values].sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }

  show() {
    const count = this.values.length;
    this.place.textContent = count ? written(this.values.at(-1)) : "–";
    html(this.place, "small").textContent = count ? `p50 ${written(this.median)}` : "not measured";
  }

  // Bars of all that is kept, one at least, and the median as a line.
  draw(place) {
    const width = place.clientWidth || 300, height = place.clientHeight || 44;
    const most = Math.max(...this.values, 1e-9), bar = width / KEPT;
    place.replaceChildren();
    this.values.forEach((value, i) => {
      const tall = Math.max((value / most) * height, 1);
      svg(place, "rect", { x: i * bar, y: height - tall, width: bar * 0.7, height: tall, rx: 1 });
    });
    const y = height - (this.median / most) * height;
    svg(place, "line", { x1: 0, x2: width, y1: y, y2: y });
    place.setAttribute("aria-label", `The last ${this.values.length} answers, median ${written(this.median)}`);
  }
}

function written(milliseconds) {
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}
