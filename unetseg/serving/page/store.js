/** What the page knows of the server: the state of the folder, and its images. */
import * as api from "./api.js";
import { clearNotice, notice } from "./elements.js";

export const store = { state: null, images: [], epochs: [], progress: null };
const watchers = new Set();

/** Calls `watcher` after each change. */
export const watch = (watcher) => watchers.add(watcher);
export const changed = () => watchers.forEach((watcher) => watcher());
export const image = (id) => store.images.find((one) => one.id === id);

/** Asks for state and images. */
export async function refresh() {
  store.state = await api.get("state");
  store.images = store.state.folder ? await api.get("images") : [];
  changed();
}

let waiting = 0;
/** Refreshes soon: many events within a moment cost one question. */
export function refreshSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(() => refresh().catch(refused), 400);
}

/** Shows what the server refused, with the fix. */
export function refused(refusal) {
  if (!(refusal instanceof api.Refusal)) throw refusal;
  notice("refused", refusal.message, refusal.fix);
}

/** An action that may be refused, as a listener; `done` is shown no more once it worked. */
export const trying = (action) => async (...values) => {
  try {
    const result = await action(...values);
    clearNotice("refused");
    return result;
  } catch (refusal) {
    return refused(refusal);
  }
};

/** Whether a class takes part in the picture of a mask: the background does not. */
export const isDrawn = (one) => one.index !== store.state.background;
/** What pixels without a class of their own hold: the background, or 255 for nothing. */
export const blank = () => store.state.background ?? 255;

/** The colour of each class index as 32 bits; background and 255 are clear. */
export function palette() {
  const colours = new Uint32Array(256);
  const bytes = new Uint8Array(colours.buffer);
  for (const one of store.state.classes.filter(isDrawn)) bytes.set([...one.colour, 255], 4 * one.index);
  return colours;
}

/** Whether a mask was saved since the present model was trained, so that training on would learn from it. */
export const isNew = (one) => one.mask !== "none" && one.fresh;
