/** Look: what the model finds in the images, beside the images, those it is least sure of first. */
import * as api from "./api.js";
import { button, count, empty, h, iconButton, say, short } from "./elements.js";
import { ORDER } from "./gallery.js";
import { inColours, Pyramid } from "./pyramid.js";
import { image, palette, refresh, store, trying } from "./store.js";
import { View } from "./view.js";

const KNOB = 36; // CSS pixels, as in style.css

const at = { id: null, divider: 0.5, info: null, order: "uncertainty", own: false };
let parts, view, picture, masks = {};

export function build(section) {
  const canvas = h("canvas", { tabIndex: 0, role: "application", className: "moves", "aria-label": "The image and the mask of the model" });
  const files = h("input", { type: "file", multiple: true, className: "unseen", "aria-label": "Images to look at",
    onchange: () => upload(files.files) });
  parts = {
    canvas, empty: h("div"), stage: h("div", { className: "stage" }),
    bare: empty("Nothing looked at yet", "Let the model find masks in your images, or add others to look at."), whole: h("div", { className: "workplace" }), title: h("h1"),
    list: h("div", { className: "strip scroll", role: "list", "aria-label": "Images" }), facts: h("dl", { className: "facts" }),
    table: h("details"),
    divider: h("input", { type: "range", className: "divider", min: 0, max: 100, value: 50,
      "aria-label": "How much of the image is without the mask",
      oninput: () => { at.divider = parts.divider.value / 100; view.request(); } }),
    predict: button("Find in all images", trying(() => predict("all")), "primary"),
    progress: h("progress", { max: 1, value: 0, "aria-label": "Images predicted" }),
    correct: h("a", { className: "button" }, "Correct this mask"),
    own: h("label", { className: "field check" }, h("input", { type: "checkbox",
      onchange: (event) => { at.own = event.target.checked; view.request(); } }), h("span", null, "My mask on the left")),
    zip: h("a", { className: "button", href: api.url("masks.zip?of=predicted"), download: "" }, "Download the masks"), files,
    order: h("select", { "aria-label": "Order of the images", onchange: (event) => { at.order = event.target.value; showList(); } },
      ["uncertainty", "dice", "objects", "name"].map((value) => h("option", { value }, ORDER[value][0]))),
  };
  parts.stage.append(parts.bare, canvas, h("span", { className: "tag left" }, "image"), h("span", { className: "tag right" }, "mask"),
    parts.divider, h("div", { className: "tools" }, iconButton("fit", "Whole image (0)", () => view.fit())));
  parts.whole.append(
    parts.stage,
    h("aside", { className: "panel", "aria-label": "What the model finds" },
      h("div", { className: "about" }, h("div", { className: "row" }, iconButton("left", "Previous image", () => next(-1)), parts.title,
        iconButton("right", "Next image", () => next(1))),
      parts.facts, parts.own, h("p", { className: "actions" }, parts.correct), parts.table, h("hr")), parts.predict, parts.progress,
      h("div", { className: "fields" }, h("label", { className: "field" }, h("span", null, "Order"), parts.order)),
      h("p", { className: "actions" }, h("label", { className: "button drop" }, files, "Add images"), parts.zip),
        h("p", { className: "note" }, "Drop images anywhere here to look at them too. They are not added to your folder.")),
    parts.list);
  section.append(parts.empty, parts.whole);
  const grab = { takes: isNearDivider, down: moveDivider, move: moveDivider, hover: (point) => canvas.classList.toggle("slides",
    isNearDivider(point)) };
  view = new View(canvas, draw, grab);
  section.addEventListener("dragover", (event) => { event.preventDefault(); section.classList.add("over-drop"); });
  section.addEventListener("dragleave", () => section.classList.remove("over-drop"));
  section.addEventListener("drop", (event) => { event.preventDefault(); section.classList.remove("over-drop"); upload(event.dataTransfer.files); });
  section.addEventListener("keydown", (event) => { if (event.key === "n" || event.key === "N") next(event.shiftKey ? -1 : 1); });
}

const listed = () => store.images.filter((one) => one.predicted).sort(ORDER[at.order][1]);

export async function show(id) {
  at.wanted = (image(id) ?? image(at.wanted) ?? listed()[0])?.id;
  update();
}

const open = trying(async (id) => {
  const one = image(id);
  const key = id + one.revision + one.predicted + store.state.model?.version;
  const colours = palette();
  if (key === at.key && String(colours) === String(at.colours)) return;
  const info = await api.info(id);
  if (id !== at.wanted) return; // another image was asked for meanwhile
  const isOther = id !== at.id;
  Object.assign(at, { id, key, colours, info });
  const tiles = (address, paint) => new Pyramid(at.info, (...place) => api.imageUrl(id, address(place.join("/"))), () => view.request(),
    paint);
  picture = tiles((place) => `tiles/${place}.jpg`);
  const layer = (of) => tiles((place) => `mask_tiles/${place}.png?of=${of}&r=${encodeURIComponent(key)}`, inColours(colours));
  masks = { predicted: one.predicted && layer("predicted"), own: one.mask !== "none" && layer("own") };
  if (isOther) view.open(at.info.width, at.info.height);
  view.request();
  showFacts();
  showList();
});

export function update() {
  const { state } = store;
  if (!parts || !state) return;
  const hasModel = Boolean(state.model);
  parts.empty.replaceChildren(hasModel ? ""
    : empty("No model yet", "Train one, and here you see what it finds: in every image of the folder, and in others that you drop.",
    h("a", { className: "button primary", href: "#train" }, "Train a model")));
  parts.whole.hidden = !hasModel;
  if (!hasModel) return;
  const predicting = state.predicting?.done < state.predicting?.total ? state.predicting : null;
  const left = store.images.filter((one) => !one.predicted).length;
  parts.progress.hidden = !predicting;
  parts.progress.value = predicting ? predicting.done / Math.max(predicting.total, 1) : 0;
  parts.predict.disabled = Boolean(predicting) || !left;
  parts.predict.textContent = predicting ? `${predicting.done} of ${count(predicting.total, "image")}` : left
    ? `Find in ${left === store.images.length ? "all" : "the other"} ${count(left, "image")}` : "All images are done";
  parts.zip.hidden = left === store.images.length;
  showList();
  const one = image(at.wanted) ?? listed()[0];
  at.wanted = one?.id;
  parts.whole.classList.toggle("nothing", !one);
  if (one && !document.querySelector("#look").hidden) open(one.id);
  showFacts();
}

function showList() {
  const some = listed();
  const here = Math.max(some.findIndex((one) => one.id === at.id), 0);
  const { version } = store.state.model ?? {};
  const key = some.map((one) => one.id + one.revision).join() + at.id + version;
  if (parts.list.dataset.key === key) return;
  parts.list.dataset.key = key;
  parts.list.replaceChildren(...some.slice(Math.max(here - 20, 0), here + 40).map((one) => h("div", { role: "listitem" },
    h("a", { href: `#look/${one.id}`, title: one.name, "aria-current": one.id === at.id ? "true" : null },
    h("img", { src: api.imageUrl(one.id, `thumbnail.jpg?of=predicted&r=${version}`),
      alt: one.name, loading: "lazy" })))));
}

const showFacts = () => {
  const one = image(at.id);
  if (!one) return;
  parts.title.textContent = short(one.name);
  parts.title.title = one.name;
  const fact = (name, text) => text != null && [h("dt", null, name), h("dd", null, text)];
  parts.facts.replaceChildren(...[fact("Objects", one.objects?.toLocaleString("en")), fact("Unsure", one.uncertainty?.toFixed(2)),
    fact("Dice", one.dice?.toFixed(2)), fact("Size", `${one.width} × ${one.height}`),
    fact("My mask", one.mask === "none" ? "none" : one.mask)].filter(Boolean).flat());
  parts.own.hidden = one.mask === "none";
  parts.correct.href = `#draw/${one.id}${one.mask === "none" ? "/model" : ""}`;
  parts.correct.hidden = !one.predicted || one.uploaded || !store.state.writer;
  if (one.predicted && parts.table.dataset.of !== at.key) showObjects(one).catch(() => {});
};

async function showObjects(one) {
  parts.table.dataset.of = at.key;
  const { count: n, rows } = await api.objects(one.id);
  const columns = Object.keys(rows[0] ?? {});
  parts.table.hidden = !rows.length;
  parts.table.replaceChildren(h("summary", null, `Table of ${count(n, "object")}`),
    h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Objects" },
    h("table", null, h("thead", null, h("tr", null, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", null, rows.slice(0, 200).map((row) => h("tr", null, columns.map((name) => h("td", null, row[name]))))))));
}

function draw(context) {
  if (!picture) return;
  picture.draw(context, view);
  const middle = Math.round(line() * view.ratio);
  const part = (pyramid, x0, x1) => {
    if (!pyramid || x1 <= x0) return;
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.beginPath();
    context.rect(x0, 0, x1 - x0, context.canvas.height);
    context.clip();
    context.globalAlpha = 0.6;
    pyramid.draw(context, view);
    context.restore();
  };
  part(masks.predicted, middle, context.canvas.width);
  if (at.own) part(masks.own, 0, middle);
  context.fillStyle = "#0008";
  context.fillRect(middle - 2 * view.ratio, 0, 4 * view.ratio, context.canvas.height);
  context.fillStyle = "#fff";
  context.fillRect(middle - view.ratio, 0, 2 * view.ratio, context.canvas.height);
}

/** Where the line between image and mask is, in CSS pixels: under the middle of the slider's knob. */
const line = () => KNOB / 2 + at.divider * (parts.canvas.clientWidth - KNOB);
const across = (point) => (point.x - view.x) * view.scale;
const isNearDivider = (point) => Math.abs(across(point) - line()) < 14;
function moveDivider(point) {
  at.divider = Math.min(Math.max((across(point) - KNOB / 2) / (parts.canvas.clientWidth - KNOB), 0), 1);
  parts.divider.value = 100 * at.divider;
  view.request();
}

function next(by) {
  const some = listed();
  const one = some[(some.findIndex((each) => each.id === at.id) + by + some.length) % some.length];
  if (one) location.hash = `look/${one.id}`;
}

async function predict(ids) {
  const { total } = await api.post("predict", { ids });
  store.state.predicting = { done: 0, total };
  update();
}

const upload = trying(async (files) => {
  if (!files.length) return;
  say(`${count(files.length, "image")} on the way`);
  const added = await api.upload(files);
  await refresh();
  if (added.length) location.hash = `look/${added[0].id}`;
});

export const events = {
  predicted({ done, total }) {
    store.state.predicting = done < total ? { done, total } : null;
    say(`${done} of ${total} images are done.`, 5000);
  },
};
