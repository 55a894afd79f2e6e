// The frame that was looked at and the one that is imagined, or how they differ.

const GAIN = 3;

export class Pair {
  constructor(seen, painted, difference) {
    this.seen = seen;
    this.painted = painted;
    this.difference = difference;
    this.images = null;
    difference.addEventListener("change", () => this.draw());
  }

  clear() {
    this.images = null;
    for (const canvas of [this.seen, this.painted]) canvas.width = canvas.height = 1;
  }

  async show(seen, painted) {
    this.images = await Promise.all([loaded(seen), loaded(painted)]);
    this.draw();
  }

  draw() {
    if (!this.images) return;
    const [before, after] = this.images.map(pixels);
    put(this.seen, before);
    put(this.painted, this.difference.checked ? apart(before, after) : after);
  }
}

async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

function pixels(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function apart(before, after) {
  const found = new ImageData(after.width, after.height);
  for (let i = 0; i < after.data.length; i++) {
    found.data[i] = i % 4 === 3 ? 255 : GAIN * Math.abs(after.data[i] - before.data[i]);
  }
  return found;
}

function put(canvas, data) {
  canvas.width = data.width;
  canvas.height = data.height;
  canvas.getContext("2d").putImageData(data, 0, 0);
}
