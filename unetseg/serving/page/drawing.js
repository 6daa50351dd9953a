/** Draw: a mask made or corrected by brush, polygon and fill, and saved as the pair of its image. */
import * as api from "./api.js";
import { ask, button, clearNotice, empty, h, iconButton, isTyping, notice, say, short, swatch, words } from "./elements.js";
import { Mask } from "./mask.js";
import { inColours, Pyramid } from "./pyramid.js";
import { editClasses } from "./classes.js";
import { blank, image, isDrawn, palette, refresh, refreshSoon, store, trying } from "./store.js";
import { View } from "./view.js";

const TOOLS = { brush: ["Brush", "b"], polygon: ["Polygon", "p"], fill: ["Fill", "f"], erase: ["Erase", "e"], hand: ["Move", "h"] };
export const KEYS = [
  ["B P F E H", "brush, polygon, fill, erase, move"], ["1 … 9", "the class to draw"], ["[ ]", "smaller, larger brush"],
  ["Ctrl Z, Ctrl Shift Z", "undo, redo"], ["Ctrl S", "save"], ["N, Shift N", "next, previous image"],
  ["M", "start from the model’s mask"], ["V", "hide the mask while held"], ["+ − 0", "zoom in, out, whole image"],
  ["Space or Shift with arrows", "move the image"], ["Arrows, then Enter", "move the cross, put the brush down or up, add a point"],
  ["Enter or double click, C", "close the polygon"], ["Backspace, Escape", "last point, whole polygon away"],
];

const at = { id: null, info: null, mask: null, revision: null, saved: 0, tool: "brush", size: 24, index: null, opacity: 0.55, points: [],
  cross: null };
let parts, view, pyramid, maskPyramid, loading = 0, saving = null, last = null, under = null;

const isLooking = () => !store.state.writer;
const isDirty = () => at.mask && (at.mask.before || at.mask.edits !== at.saved);
const value = () => (at.tool === "erase" ? blank() : at.index);

export function build(section) {
  const canvas = h("canvas", { tabIndex: 0, role: "application", "aria-label": "The image and its mask", "aria-describedby": "draw-keys" });
  const slider = (label, unit, min, max, now, oninput) => {
    const shown = h("output", null, now + unit);
    const take = (event) => { shown.textContent = event.target.value + unit; oninput(Number(event.target.value)); view.request(); };
    return h("label", { className: "field" }, h("span", null, label, shown), h("input",
      { type: "range", min, max, value: now, "aria-label": label, oninput: take }));
  };
  parts = {
    canvas, title: h("h1"), status: h("span", { className: "saved" }), classes: h("div",
      { className: "classes", role: "radiogroup", "aria-label": "Class to draw" }),
    tools: h("div", { className: "tools", role: "toolbar", "aria-label": "Tools" }),
    strip: h("div", { className: "strip scroll", role: "list", "aria-label": "Images" }),
    readout: h("p", { className: "readout", "aria-hidden": "true" }), empty: h("div"), whole: h("div", { className: "workplace" }),
    size: slider("Brush size", " px", 1, 200, at.size, (size) => { at.size = size; }), note: h("p", { className: "note" }),
    edit: button("Edit", () => editClasses().then(update), "quiet"),
    looking: h("p", { className: "looking", role: "status" }), loading: h("span", { className: "tag right loading" }, "loading …"),
    model: button("Start from the model’s mask", trying(fromModel)), save: button("Save", save, "primary"),
    remove: button("Take this mask away", trying(remove), "quiet"),
  };
  for (const [name, [label, key]] of Object.entries(TOOLS)) parts.tools.append(iconButton(name, `${label} (${key.toUpperCase()})`,
    () => take(name), `tool-${name}`));
  parts.tools.append(h("hr"), iconButton("undo", "Undo (Ctrl Z)", () => back("undo"), "undo"),
    iconButton("redo", "Redo (Ctrl Shift Z)", () => back("redo"), "redo"), h("hr"), iconButton("fit", "Whole image (0)", () => view.fit()));
  parts.whole.append(
    h("div", { className: "stage" }, canvas, parts.loading, parts.tools, parts.readout, h("p", { id: "draw-keys", className: "unseen" },
      "Arrows move a cross, Enter draws at it. The question mark lists all keys.")),
    h("aside", { className: "panel", "aria-label": "Drawing" },
      h("div", { className: "row" }, iconButton("left", "Previous image (Shift N)", () => next(-1)), parts.title,
        iconButton("right", "Next image (N)", () => next(1))),
      h("div", { className: "row" }, parts.save, parts.status), parts.looking,
      h("div", null, h("div", { className: "row head" }, h("h2", null, "Class"), parts.edit), parts.classes),
      h("div", { className: "fields" }, parts.size, slider("Opacity", "%", 0, 100, Math.round(100 * at.opacity),
        (percent) => { at.opacity = percent / 100; })),
      parts.model, parts.remove, parts.note),
    parts.strip);
  section.append(parts.empty, parts.whole);
  view = new View(canvas, draw, { takes, down, move, up, cancel, hover, step });
  canvas.addEventListener("dblclick", closePolygon);
  document.addEventListener("keydown", (event) => !section.hidden && key(event));
  const showMask = () => { at.hidden = false; view.request(); };
  document.addEventListener("keyup", (event) => event.key?.toLowerCase() === "v" && showMask());
  addEventListener("blur", showMask); // another window hears that the key is let go of
  document.addEventListener("visibilitychange", () => document.hidden && isDirty() && save());
  addEventListener("beforeunload", (event) => isDirty() && event.preventDefault());
  take("brush");
}

/** Opens an image: the one asked for, the last one, or the first without a mask. */
export async function show(id, isFromModel = false) {
  const images = drawable();
  parts.empty.replaceChildren(images.length ? "" : empty("Nothing to draw on yet", "Choose a folder with images first.",
    h("a", { className: "button primary", href: "#folder" }, "Choose a folder")));
  parts.whole.hidden = !images.length;
  const find = (key) => images.find((each) => each.id === key); // what was dropped is to look at only
  const one = find(id) ?? find(at.id) ?? images.find((each) => each.mask === "none") ?? images[0];
  if (one && one.id !== at.id && (await save())) await open(one.id);
  update();
  const isBegun = isFromModel && one?.predicted && one.mask === "none"; // a mask that is there is replaced only when asked
  if (isBegun && at.id === one.id) await trying(fromModel)(); // else it could not be opened
  if (one) parts.canvas.focus({ preventScroll: true });
}

export const leave = () => save();
const drawable = () => store.images.filter((one) => !one.uploaded);

const open = trying(async (id, spot = null, isGivenUp = false) => {
  const ticket = ++loading;
  parts.title.textContent = short(image(id).name);
  showSaved("opening …");
  const info = await api.info(id);
  if (ticket !== loading) return;
  if (isDirty() && !isGivenUp) { // it was drawn on meanwhile
    if (!(await save())) update();
    else if (ticket === loading) await open(id, spot); // else another one is opened by now
    return;
  }
  Object.assign(image(id) ?? {}, { mask: info.mask, revision: info.revision }); // the list may be older
  const isOther = id !== at.id;
  Object.assign(at, { id, info, revision: info.revision, mask: null, points: [], cross: null });
  if (isOther) {
    pyramid = new Pyramid(info, (...place) => api.imageUrl(id, `tiles/${place.join("/")}.jpg`), () => view.request());
    view.open(info.width, info.height);
  }
  showAround();
  const mask = await openWindow(info, spot ?? { x: info.width / 2, y: info.height / 2 });
  if (ticket !== loading) return; // another image was opened meanwhile
  Object.assign(at, { mask, saved: 0 });
  if (isOther) history.replaceState(null, "", `#draw/${id}`);
  update();
});

/** What of the mask of a large image lies around the window that is edited, as tiles. */
function showAround() {
  const { id, info, revision } = at;
  const look = (...place) => api.imageUrl(id, `mask_tiles/${place.join("/")}.png?of=own&r=${revision}`);
  maskPyramid = info.large && image(id)?.mask !== "none" ? new Pyramid(info, look, () => view.request(), inColours(palette())) : null;
}

/** The window of the mask that is edited: the whole, or as much as fits around a spot of a large image. */
async function openWindow(info, spot) {
  const most = info.large ? info.window : Infinity;
  const [width, height] = [Math.min(info.width, most), Math.min(info.height, most)];
  const from = (centre, size, limit) => Math.round(Math.min(Math.max(centre - size / 2, 0), limit - size));
  const window = { x: from(spot.x, width, info.width), y: from(spot.y, height, info.height), width, height };
  const has = image(at.id)?.mask !== "none";
  return new Mask(window, has ? await api.mask(at.id, "own", window) : new Uint8Array(width * height).fill(blank()), palette(), blank());
}

export function update() {
  if (!parts || !store.state || parts.whole.hidden) return;
  const { classes, writer, writer_note: note } = store.state;
  const one = image(at.id);
  if (!classes.some((each) => each.index === at.index)) at.index = (classes.find(isDrawn) ?? classes[0])?.index;
  followClasses();
  parts.title.textContent = one ? short(one.name) : "";
  parts.title.title = one?.name ?? "";
  parts.classes.replaceChildren(...classes.map((each, i) => h("label", { className: "class" },
    h("input", { type: "radio", name: "class", checked: each.index === at.index, disabled: !writer,
      onchange: () => { at.index = each.index; if (at.tool === "erase") take("brush"); } }),
    swatch(each.colour), h("span", null, each.name), i < 9 && h("kbd", null, i + 1))));
  for (const control of parts.tools.querySelectorAll("button")) control.disabled = !writer && !control.matches(".tool-hand, :last-child");
  parts.save.disabled = !writer;
  parts.model.hidden = !store.state.model || !writer;
  parts.remove.hidden = !writer || one?.mask !== "drawn";
  parts.note.textContent = at.info?.large ? `A large image: a window of ${at.info.window}² pixels is drawn on at a time. Draw outside of it to move it there.` : "";
  parts.canvas.ariaLabel = `${one?.name ?? "Image"}, ${at.info?.width} × ${at.info?.height} pixels, and its mask`;
  parts.looking.hidden = writer;
  parts.edit.hidden = !writer;
  const isAnother = note?.startsWith("somebody else");
  parts.looking.replaceChildren(...(isAnother ? [h("b", null, "Somebody else is drawing here. "), "Their masks appear as they are saved."]
    : words(note ?? "")));
  showTool();
  showStrip();
  showSaved();
}

/** Shows the open mask as the classes are by now: in their colours, and on what is blank by now. */
function followClasses() {
  const { mask } = at;
  const colours = palette();
  if (!mask || (mask.blank === blank() && String(mask.colours) === String(colours))) return;
  if (image(at.id)?.mask === "none" && (!mask.edits || mask.blank === 255)) mask.change(mask.blank, blank());
  mask.blank = blank();
  mask.recolour(colours);
  showAround();
  view.request();
}

/** The images around the present one, with what each has. */
function showStrip() {
  const images = drawable();
  const here = images.findIndex((one) => one.id === at.id);
  const around = images.slice(Math.max(here - 20, 0), here + 40);
  parts.strip.replaceChildren(...around.map((one) => h("div", { role: "listitem" },
    h("a", { href: `#draw/${one.id}`, title: one.name, "aria-current": one.id === at.id ? "true" : null, className: one.mask === "none"
    ? "" : "has" },
    h("img", { src: api.imageUrl(one.id, `thumbnail.jpg?of=own&r=${one.revision}`),
      alt: `${one.name}, ${one.mask === "none" ? "no mask yet" : `mask ${one.mask}`}`, loading: "lazy" })))));
  parts.strip.querySelector("[aria-current]")?.scrollIntoView?.({ block: "nearest", inline: "center" });
}

function showSaved(text) {
  const isNone = image(at.id)?.mask === "none" && !at.mask?.edits;
  parts.status.textContent = text ?? (isLooking() ? "looking only" : isDirty() ? "not saved yet" : isNone ? "no mask yet" : "saved");
  parts.status.classList.toggle("dirty", Boolean(isDirty()));
  parts.tools.querySelector(".undo").disabled = !at.mask?.done.length;
  parts.tools.querySelector(".redo").disabled = !at.mask?.undone.length;
}

function draw(context) {
  if (!pyramid) return;
  pyramid.draw(context, view);
  parts.loading.hidden = !pyramid.fetching.size;
  context.globalAlpha = at.hidden ? 0 : at.opacity;
  const { mask } = at;
  if (mask) {
    if (maskPyramid) {
      context.save();
      view.toImagePixels();
      context.beginPath(); // all but the window, whose pixels are drawn as they are edited
      context.rect(0, 0, at.info.width, at.info.height);
      context.rect(mask.x, mask.y, mask.width, mask.height);
      context.clip("evenodd");
      maskPyramid.draw(context, view);
      context.restore();
    }
    view.toImagePixels();
    context.imageSmoothingEnabled = false;
    context.drawImage(mask.canvas, mask.x, mask.y);
  }
  context.globalAlpha = 1;
  view.toImagePixels();
  drawGuides(context);
}

/** What is not of the mask: the window's border, the polygon on its way, the brush and the cross. */
function drawGuides(context) {
  const line = (width, colour, dash = []) => {
    Object.assign(context, { lineWidth: width / view.scale, strokeStyle: colour });
    context.setLineDash(dash.map((each) => each / view.scale));
    context.stroke();
  };
  const twice = (dash) => { line(3, "#000a", dash); line(1.5, "#fff", dash); };
  context.beginPath();
  if (at.info?.large && at.mask) context.rect(at.mask.x, at.mask.y, at.mask.width, at.mask.height);
  twice([10, 6]);
  const here = at.cross ?? under;
  context.beginPath();
  if (at.points.length) {
    for (const { x, y } of at.points) context.lineTo(x, y);
    if (here) context.lineTo(here.x, here.y);
    twice([]);
    context.beginPath();
    context.arc(at.points[0].x, at.points[0].y, 5 / view.scale, 0, 7);
  }
  if (here && !isLooking() && (at.tool === "brush" || at.tool === "erase")) {
    context.moveTo(here.x + at.size / 2, here.y);
    context.arc(here.x, here.y, at.size / 2, 0, 7);
  }
  if (at.cross)
    for (const [dx, dy] of [[1, 0], [0, 1]].map(([a, b]) => [(12 * a) / view.scale, (12 * b) / view.scale])) {
      context.moveTo(here.x - dx, here.y - dy);
      context.lineTo(here.x + dx, here.y + dy);
    }
  twice([]);
}

function takes(point, event) {
  at.cross = null;
  if (event.shiftKey || at.tool === "hand" || isLooking() || !at.mask) return false;
  if (at.mask.contains(point)) return true;
  const isInside = point.x >= 0 && point.y >= 0 && point.x < at.info.width && point.y < at.info.height;
  if (at.info.large && isInside) moveWindow(point);
  return !at.info.large && at.tool !== "fill"; // a stroke may begin outside the image
}

async function moveWindow(point) {
  if (!(await save())) return;
  await open(at.id, point);
  say("The window that is drawn on has moved.");
}

function down(point) {
  if (at.tool === "polygon") return addPoint(point);
  at.mask.begin();
  if (at.tool !== "fill") return move(point);
  at.mask.fill(point, value()); // until `up` a second finger takes it back
  return view.request();
}

function move(point) {
  if (!at.mask?.before || at.tool === "fill") return;
  at.mask.stroke(last ?? point, point, at.size, value());
  last = point;
  view.request();
}

function up() {
  last = null;
  if (at.mask?.before) at.mask.commit();
  showSaved();
  view.request();
}

function cancel() {
  last = null;
  at.points.pop();
  at.mask?.cancel();
  view.request();
}

function hover(point, event) {
  under = event?.pointerType === "touch" ? null : point;
  const held = at.mask?.contains(point) ? at.mask.at(point) : null;
  const name = store.state.classes.find((one) => one.index === held)?.name ?? (held === 255 ? "no class" : "");
  parts.readout.textContent = `${Math.floor(point.x)}, ${Math.floor(point.y)} ${name}`;
  view.request();
}

/** Moves the cross by the keyboard; with the brush down it draws. */
function step(dx, dy) {
  const pace = Math.max(Math.round(8 / view.scale), 1);
  at.cross ??= view.centre();
  at.cross = { x: Math.min(Math.max(at.cross.x + pace * dx, 0), at.info.width - 1),
    y: Math.min(Math.max(at.cross.y + pace * dy, 0), at.info.height - 1) };
  if (at.mask?.before) move(at.cross);
  hover(at.cross);
}

function addPoint(point) {
  const first = at.points[0];
  if (first && at.points.length > 2 && Math.hypot(point.x - first.x, point.y - first.y) < 9 / view.scale) return closePolygon();
  at.points.push(point);
  view.request();
  return undefined;
}

function closePolygon() {
  const points = at.points.splice(0);
  if (points.length > 2 && at.mask && !isLooking()) {
    at.mask.begin();
    at.mask.polygon(points, value());
    up();
  }
  view.request();
}

function enter() {
  if (isLooking()) return undefined;
  if (!at.cross) return closePolygon();
  if (at.tool === "polygon") return addPoint(at.cross);
  if (at.mask?.before) return up();
  if (at.tool === "hand" || !at.mask?.contains(at.cross)) return undefined;
  down(at.cross);
  if (at.tool === "fill") up(); // only a brush stays down
  return undefined;
}

function take(tool) {
  Object.assign(at, { tool, points: [] });
  showTool();
  view.request();
}

function showTool() {
  const tool = store.state && isLooking() ? "hand" : at.tool;
  for (const name of Object.keys(TOOLS)) parts.tools.querySelector(`.tool-${name}`).setAttribute("aria-pressed", name === tool);
  parts.canvas.className = tool === "hand" ? "moves" : "";
}

function back(which) {
  if (!isLooking() && at.mask?.[which]()) say(which === "undo" ? "Undone" : "Done again");
  showSaved();
  view.request();
}

const next = trying(async (by) => {
  const images = drawable();
  const one = images[(images.findIndex((each) => each.id === at.id) + by + images.length) % images.length];
  if (one && (await save())) location.hash = `draw/${one.id}`;
});

function key(event) {
  if (isTyping(event) || event.altKey) return;
  const name = event.key.toLowerCase();
  const control = event.ctrlKey || event.metaKey;
  const tool = Object.keys(TOOLS).find((each) => TOOLS[each][1] === name);
  if (control && name === "s") save();
  else if (control && name === "z") back(event.shiftKey ? "redo" : "undo");
  else if (control && name === "y") back("redo");
  else if (control) return;
  else if (tool) take(tool);
  else if (name === "n") next(event.shiftKey ? -1 : 1);
  else if (name === "m" && !parts.model.hidden) trying(fromModel)();
  else if (name === "v") at.hidden = true;
  else if (/^[1-9]$/.test(name)) parts.classes.querySelectorAll("input")[name - 1]?.click();
  else if (name === "[" || name === "]") resizeBrush(name === "]" ? 1.25 : 0.8);
  else if (name === "c") closePolygon();
  else if (name === "enter" && event.target === parts.canvas) enter();
  else if (name === "backspace") at.points.pop();
  else if (name === "escape") at.points = [];
  else return;
  event.preventDefault();
  view.request();
}

function resizeBrush(factor) {
  at.size = Math.min(Math.max(Math.round(at.size * factor + Math.sign(factor - 1)), 1), 200);
  parts.size.lastChild.value = at.size;
  parts.size.lastChild.dispatchEvent(new Event("input"));
}

/** The model's mask in place of what is drawn; undo brings that back. */
async function fromModel() {
  const { id, mask } = at;
  if (!mask) return; // it is still being opened
  if (!image(id)?.predicted) {
    showSaved("the model is asked …");
    await api.post("predict", { ids: [id] });
    if (!(await predicted(id))) return showSaved();
  }
  const pixels = await api.mask(id, "predicted", mask);
  if (mask !== at.mask) return; // another image was opened meanwhile
  if (mask.replace(pixels)) say("This is the model’s mask now. Correct it, then save.");
  showSaved();
  view.request();
}

/** Whether the model has found something in an image, once it is at rest. */
async function predicted(id) {
  store.state.predicting = { done: 0, total: 1 };
  while (store.state.predicting) await new Promise((resolve) => { setTimeout(resolve, 200); });
  await refresh();
  return image(id)?.predicted;
}

async function remove() {
  const answer = await ask("Take this mask away?", h("p", null, "What was drawn on this image is deleted from the folder."),
    [["", "Keep it"], ["yes", "Take it away", "primary"]]);
  if (!answer) return;
  await api.removeMask(at.id, at.revision);
  image(at.id).mask = "none";
  refreshSoon();
  await open(at.id, null, true);
}

/** Saves what is not saved yet; resolves with whether all is safe. */
export async function save() {
  while (saving) await saving;
  if (at.mask?.before) up(); // on its way, such as a line of the keyboard's brush
  if (!isDirty()) return true;
  if (isLooking()) {
    notice("unsaved", "Not saved: somebody else is drawing here by now.", "What you drew stays on this page until you may draw again.",
      [button("Try again", save), button("Give up what I drew", giveUp, "quiet")]);
    return false;
  }
  saving = put().finally(() => { saving = null; });
  return saving;
}

async function put() {
  const { mask, id } = at;
  const { edits } = mask;
  showSaved("saving …");
  try {
    const saved = await api.putMask(id, mask, at.revision);
    Object.assign(at, { revision: saved.revision, saved: edits });
    Object.assign(image(id) ?? {}, { mask: saved.mask, revision: saved.revision });
    clearNotice("unsaved");
    refreshSoon();
    showSaved();
    say("Saved");
    return true;
  } catch (refusal) {
    showSaved("not saved");
    if (refusal.status === 409) return conflict();
    if (refusal.status === 423) refreshSoon();
    notice("unsaved", `Not saved: ${refusal.message}`, refusal.fix,
      [button("Try again", save), button("Give up what I drew", giveUp, "quiet")]);
    return false;
  }
}

/** Shows the mask as it is in the folder: what can never be saved would let nobody leave. */
async function giveUp() {
  clearNotice("unsaved");
  at.saved = at.mask.edits; // also where the folder is gone
  await open(at.id, middle(at.mask), true);
}

const middle = ({ x, y, width, height }) => ({ x: x + width / 2, y: y + height / 2 });

/** Another saved this mask meanwhile: who wins is chosen, nothing is lost unasked. */
async function conflict() {
  const choice = await ask("This mask was saved by somebody else",
    h("p", null, "Since you opened it, another one was written. Keep yours and theirs is replaced; take theirs and yours is gone."),
    [["", "Go on drawing"], ["theirs", "Take theirs"], ["mine", "Keep mine", "primary"]]);
  if (choice === "mine") {
    at.revision = (await api.info(at.id)).revision;
    return put();
  }
  if (choice === "theirs") await open(at.id, middle(at.mask), true);
  return choice === "theirs";
}

/** A mask was saved: it is shown, unless it was saved here or is being drawn on. */
export const wasChanged = trying(async (id = at.id) => {
  const isBusy = () => !image(id) || id !== at.id || isDirty() || saving || at.mask?.before;
  if (isBusy()) return;
  const { revision } = await api.info(id);
  if (revision !== at.revision && !isBusy()) await open(id, at.mask && middle(at.mask));
});
