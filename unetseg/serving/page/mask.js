/** The class indexes of a window of an image while it is drawn on, with what can be undone. */

const REMEMBERED = 64e6; // bytes of undone and done

export class Mask {
  /** `window`: x, y, width and height within the image; `pixels`: a class index each, 255 for none; `blank`: that of nothing. */
  constructor(window, pixels, colours, blank) {
    Object.assign(this, window, { pixels, colours, blank, done: [], undone: [], edits: 0 });
    this.canvas = new OffscreenCanvas(this.width, this.height);
    this.context = this.canvas.getContext("2d");
    this.repaint(0, 0, this.width, this.height);
  }

  contains({ x, y }) {
    return x >= this.x && y >= this.y && x < this.x + this.width && y < this.y + this.height;
  }

  at({ x, y }) {
    return this.pixels[Math.floor(y - this.y) * this.width + Math.floor(x - this.x)];
  }

  /** An edit: all that is painted until `commit` is undone together. */
  begin() {
    this.before = this.pixels.slice();
    this.box = [this.width, this.height, 0, 0];
  }

  commit() {
    const [x0, y0, x1, y1] = this.box;
    const before = this.before;
    this.before = null;
    if (!before || x0 >= x1 || y0 >= y1) return false;
    const cut = (pixels) => {
      const part = new Uint8Array((x1 - x0) * (y1 - y0));
      for (let y = y0; y < y1; y++) part.set(pixels.subarray(y * this.width + x0, y * this.width + x1), (y - y0) * (x1 - x0));
      return part;
    };
    this.done.push({ box: [x0, y0, x1, y1], before: cut(before), after: cut(this.pixels) });
    this.undone = [];
    let bytes = 0;
    const from = this.done.findLastIndex((edit) => (bytes += 2 * edit.before.length) > REMEMBERED);
    if (from > 0) this.done.splice(0, from);
    this.edits++;
    return true;
  }

  cancel() {
    if (!this.before) return;
    this.pixels = this.before;
    this.before = null;
    this.repaint(0, 0, this.width, this.height);
  }

  undo() { return this.put(this.done, this.undone, "before"); }
  redo() { return this.put(this.undone, this.done, "after"); }

  put(from, to, which) {
    const edit = from.pop();
    if (!edit) return false;
    const [x0, y0, x1, y1] = edit.box;
    for (let y = y0; y < y1; y++)
      this.pixels.set(edit[which].subarray((y - y0) * (x1 - x0), (y - y0 + 1) * (x1 - x0)), y * this.width + x0);
    to.push(edit);
    this.edits++;
    this.repaint(x0, y0, x1, y1);
    return true;
  }

  /** A line from one point of the image to another, round at its ends, `size` pixels wide. */
  stroke(from, to, size, value) {
    const [ax, ay, bx, by] = [from.x - this.x, from.y - this.y, to.x - this.x, to.y - this.y];
    const radius = Math.max(size / 2, 0.71); // the thinnest still holds the pixel under the pointer
    const length = (bx - ax) ** 2 + (by - ay) ** 2 || 1;
    const [x0, x1] = this.range(Math.min(ax, bx) - radius, Math.max(ax, bx) + radius, this.width);
    const [y0, y1] = this.range(Math.min(ay, by) - radius, Math.max(ay, by) + radius, this.height);
    for (let y = y0; y < y1; y++)
      for (let x = x0; x < x1; x++) {
        const [px, py] = [x + 0.5 - ax, y + 0.5 - ay];
        const t = Math.min(Math.max((px * (bx - ax) + py * (by - ay)) / length, 0), 1);
        if ((px - t * (bx - ax)) ** 2 + (py - t * (by - ay)) ** 2 <= radius * radius) this.pixels[y * this.width + x] = value;
      }
    this.touched(x0, y0, x1, y1);
  }

  /** All pixels whose centres lie within a polygon (even-odd). */
  polygon(points, value) {
    const [xs, ys] = [points.map((p) => p.x - this.x), points.map((p) => p.y - this.y)];
    const [y0, y1] = this.range(Math.min(...ys), Math.max(...ys), this.height);
    const [left, right] = this.range(Math.min(...xs), Math.max(...xs), this.width);
    for (let y = y0; y < y1; y++) {
      const crossed = [];
      for (let i = 0, j = xs.length - 1; i < xs.length; j = i++)
        if ((ys[i] > y + 0.5) !== (ys[j] > y + 0.5))
          crossed.push(xs[i] + ((y + 0.5 - ys[i]) / (ys[j] - ys[i])) * (xs[j] - xs[i]));
      crossed.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossed.length; i += 2) {
        const [x0, x1] = [Math.max(Math.ceil(crossed[i] - 0.5), 0), Math.min(Math.ceil(crossed[i + 1] - 0.5), this.width)];
        if (x1 > x0) this.pixels.fill(value, y * this.width + x0, y * this.width + x1);
      }
    }
    this.touched(left, y0, right, y1);
  }

  /** The connected pixels of the same class as the one at a point. */
  fill(point, value) {
    const { width, height, pixels } = this;
    const start = Math.floor(point.y - this.y) * width + Math.floor(point.x - this.x);
    const old = pixels[start];
    if (old === value) return;
    const stack = [start];
    while (stack.length) {
      const at = stack.pop();
      const y = Math.floor(at / width);
      let [x0, x1] = [at, at];
      while (x0 > y * width && pixels[x0 - 1] === old) x0--;
      while (x1 + 1 < (y + 1) * width && pixels[x1 + 1] === old) x1++;
      if (pixels[at] !== old) continue;
      pixels.fill(value, x0, x1 + 1);
      for (const next of [y > 0 && -width, y + 1 < height && width])
        if (next) for (let i = x0; i <= x1; i++)
          if (pixels[i + next] === old && (i === x0 || pixels[i + next - 1] !== old)) stack.push(i + next);
    }
    this.touched(0, 0, width, height);
  }

  /** Takes other pixels for all: the model's mask, or none. */
  replace(pixels) {
    this.begin();
    this.pixels.set(pixels);
    this.touched(0, 0, this.width, this.height);
    return this.commit();
  }

  /** Takes one class for another, in what can be undone too. */
  change(from, to) {
    const edits = [...this.done, ...this.undone].flatMap((edit) => [edit.before, edit.after]);
    for (const pixels of [this.pixels, ...edits])
      for (let i = 0; i < pixels.length; i++) if (pixels[i] === from) pixels[i] = to;
  }

  recolour(colours) {
    this.colours = colours;
    this.repaint(0, 0, this.width, this.height);
  }

  range(low, high, limit) {
    return [Math.max(Math.floor(low), 0), Math.min(Math.ceil(high) + 1, limit)];
  }

  touched(x0, y0, x1, y1) {
    const [a, b, c, d] = this.box;
    this.box = [Math.min(a, x0), Math.min(b, y0), Math.max(c, x1), Math.max(d, y1)];
    this.repaint(x0, y0, x1, y1);
  }

  repaint(x0, y0, x1, y1) {
    if (x1 <= x0 || y1 <= y0) return;
    const picture = new ImageData(x1 - x0, y1 - y0);
    const out = new Uint32Array(picture.data.buffer);
    for (let y = y0, i = 0; y < y1; y++)
      for (let x = x0; x < x1; x++, i++) out[i] = this.colours[this.pixels[y * this.width + x]];
    this.context.putImageData(picture, x0, y0);
  }
}
