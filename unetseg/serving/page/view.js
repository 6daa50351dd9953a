/** A canvas that looks at an image: zoom and pan by wheel, pinch, drag and keyboard. */

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** `x`, `y`: the image's pixel at the upper left corner; `scale`: CSS pixels per pixel of the image. */
export class View {
  /**
   * `draw(context, view)` paints. `tool.takes(point, event)` says whether a pointer at that point of the image
   * is the tool's, which then hears down, move, up or cancel; else it moves the image.
   */
  constructor(canvas, draw, tool = {}) {
    Object.assign(this, { canvas, draw, tool, x: 0, y: 0, scale: 1, width: 1, height: 1 });
    this.context = canvas.getContext("2d");
    this.pointers = new Map();
    this.space = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
    const on = (name, handle) => canvas.addEventListener(name, (event) => handle.call(this, event), { passive: false });
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.up);
    on("wheel", this.wheel);
    on("contextmenu", (event) => event.preventDefault());
    on("keydown", this.key);
    on("keyup", (event) => { if (event.key === " ") this.setSpace(false); });
    on("blur", () => this.setSpace(false));
  }

  /** Looks at the whole of an image of this size. */
  open(width, height) {
    Object.assign(this, { width, height, fitted: true });
    this.fit();
  }

  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    const margin = clientWidth > 500 ? 24 : 8;
    this.scale = Math.min((clientWidth - 2 * margin) / this.width, (clientHeight - 2 * margin) / this.height, 16);
    this.scale = Math.max(this.scale, 1e-4);
    this.x = (this.width - clientWidth / this.scale) / 2;
    this.y = (this.height - clientHeight / this.scale) / 2;
    this.fitted = true;
    this.request();
  }

  resize() {
    this.ratio = devicePixelRatio;
    this.canvas.width = Math.round(this.canvas.clientWidth * this.ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * this.ratio);
    if (this.fitted) this.fit();
    this.request();
  }

  /** Paints once before the next frame, however often it is asked. */
  request() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.context.setTransform(1, 0, 0, 1, 0, 0);
      this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      if (this.canvas.width) this.draw(this.context, this);
    });
  }

  /** Lets the context draw in pixels of the image. */
  toImagePixels() {
    const scale = this.scale * this.ratio;
    this.context.setTransform(scale, 0, 0, scale, -this.x * scale, -this.y * scale);
  }

  /** Where an event is, in pixels of the image. */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: this.x + (event.clientX - box.left) / this.scale, y: this.y + (event.clientY - box.top) / this.scale };
  }

  centre() {
    return { x: this.x + this.canvas.clientWidth / this.scale / 2, y: this.y + this.canvas.clientHeight / this.scale / 2 };
  }

  zoom(factor, at = this.centre()) {
    const scale = Math.min(Math.max(this.scale * factor, 20 / Math.max(this.width, this.height)), 64);
    this.x = at.x - (at.x - this.x) * (this.scale / scale);
    this.y = at.y - (at.y - this.y) * (this.scale / scale);
    this.scale = scale;
    this.moved();
  }

  /** Moves by CSS pixels; something of the image always stays in view. */
  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.moved();
  }

  moved() {
    const within = (value, size, seen) => Math.min(Math.max(value, -seen + seen / 8), size - seen / 8);
    this.x = within(this.x, this.width, this.canvas.clientWidth / this.scale);
    this.y = within(this.y, this.height, this.canvas.clientHeight / this.scale);
    this.fitted = false;
    this.request();
  }

  setSpace(held) {
    this.space = held;
    this.canvas.classList.toggle("grab", held);
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 2 && this.isUsing) {
      this.isUsing = false; // a second finger: it was a pinch
      this.tool.cancel?.();
    } else if (this.pointers.size === 1 && event.button === 0 && !this.space) {
      this.isUsing = Boolean(this.tool.takes?.(this.point(event), event));
      if (this.isUsing) this.tool.down?.(this.point(event), event);
    }
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    this.tool.hover?.(this.point(event), event);
    if (!before) return;
    if (this.isUsing) {
      const steps = event.getCoalescedEvents?.() ?? [];
      for (const one of steps.length ? steps : [event]) this.tool.move?.(this.point(one), one);
    } else if (this.pointers.size === 1) {
      this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    } else {
      const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const between = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.zoom(apart(event) / apart(before), this.point(between));
      this.pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    }
    this.pointers.set(event.pointerId, event);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.isUsing) (event.type === "pointerup" ? this.tool.up : this.tool.cancel)?.(this.point(event), event);
    this.isUsing = false;
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey) this.pan(-lines * (event.deltaX || event.deltaY), 0);
    else this.zoom(Math.exp(-lines * event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), this.point(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = KEYS[event.key];
    if (event.key === " ") this.setSpace(true);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (direction && (event.shiftKey || !this.tool.step)) this.pan(-60 * direction[0], -60 * direction[1]);
    else if (direction) this.tool.step(...direction);
    else return;
    event.preventDefault();
  }
}
