/** An image or a mask of any size as tiles: those in view, at the level that the zoom needs, are fetched. */

const KEPT = 400; // tiles, 256 KiB each

export class Pyramid {
  /** `address(level, column, row)`; `onload` after each tile; `paint(bitmap)` makes what is drawn of it. */
  constructor({ width, height, tile, levels }, address, onload, paint = null) {
    this.ground = paint ? "#0000" : "#8883";
    paint ??= (bitmap) => bitmap;
    Object.assign(this, { width, height, tile, levels, address, onload, paint });
    this.tiles = new Map(); // "level/column/row" → what is drawn, null while it is fetched or where there is none
    this.fetching = new Map();
  }

  /** Paints what is in view; where a tile is not there yet, a coarser one stands in for it. */
  draw(context, view) {
    const scale = view.scale * view.ratio;
    const level = Math.min(Math.max(Math.floor(-Math.log2(scale) + 0.3), 0), this.levels - 1);
    const size = this.tile * 2 ** level; // pixels of the image on a side of a tile
    const last = (length, from, seen) => Math.min(Math.ceil(length / size), Math.ceil((from + seen / scale) / size));
    const columns = [Math.max(Math.floor(view.x / size), 0), last(this.width, view.x, context.canvas.width)];
    const rows = [Math.max(Math.floor(view.y / size), 0), last(this.height, view.y, context.canvas.height)];
    const wanted = new Set([this.want(this.levels - 1, 0, 0)]);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.imageSmoothingEnabled = scale < 2;
    context.fillStyle = this.ground; // where it lies, before any tile is there
    context.fillRect(-view.x * scale, -view.y * scale, this.width * scale, this.height * scale);
    for (let row = rows[0]; row < rows[1]; row++)
      for (let column = columns[0]; column < columns[1]; column++) {
        wanted.add(this.want(level, column, row));
        this.drawTile(context, { x: view.x, y: view.y, scale }, [level, column, row]);
      }
    for (const [key, stop] of this.fetching) if (!wanted.has(key)) stop.abort();
  }

  drawTile(context, view, [level, column, row]) {
    const size = this.tile * 2 ** level;
    const [x, y] = [column * size, row * size];
    const [width, height] = [Math.min(size, this.width - x), Math.min(size, this.height - y)];
    for (let up = 0; level + up < this.levels; up++) {
      const drawn = this.tiles.get(`${level + up}/${column >> up}/${row >> up}`);
      if (!drawn) continue;
      const shrink = 2 ** (level + up);
      const [left, top] = [x / shrink - (column >> up) * this.tile, y / shrink - (row >> up) * this.tile];
      const at = (value, from) => Math.round((value - from) * view.scale); // whole pixels: no seams
      const [x0, y0] = [at(x, view.x), at(y, view.y)];
      context.drawImage(drawn, left, top, Math.min(width / shrink, drawn.width - left), Math.min(height / shrink, drawn.height - top),
        x0, y0, at(x + width, view.x) - x0, at(y + height, view.y) - y0);
      return;
    }
  }

  want(...place) {
    const key = place.join("/");
    if (this.tiles.has(key)) {
      const drawn = this.tiles.get(key); // the newest are last, the oldest go first
      this.tiles.delete(key);
      this.tiles.set(key, drawn);
    } else {
      this.fetch(key, place);
    }
    return key;
  }

  async fetch(key, place) {
    const stop = new AbortController();
    this.tiles.set(key, null);
    this.fetching.set(key, stop);
    try {
      const answer = await fetch(this.address(...place), { signal: stop.signal });
      if (answer.ok) {
        const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
        this.tiles.set(key, this.paint(await createImageBitmap(await answer.blob(), exact)));
        while (this.tiles.size > KEPT) this.tiles.delete(this.tiles.keys().next().value);
        this.onload();
      }
    } catch {
      this.tiles.delete(key); // moved out of view, or the server is away: it is asked for again when in view
    } finally {
      this.fetching.delete(key);
    }
  }
}

/** Paints class indexes, grey in the bitmap, in their colours. */
export const inColours = (colours) => (bitmap) => {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const picture = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colours[pixels[i] & 255];
  context.putImageData(picture, 0, 0);
  return canvas;
};
