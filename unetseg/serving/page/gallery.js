/** Folder: what was found, and all images with their masks. */
import * as api from "./api.js";
import { editClasses } from "./classes.js";
import { leave } from "./drawing.js";
import { ask, button, count, empty, h, select, short, swatch, words } from "./elements.js";
import { refused, store, trying } from "./store.js";

const AT_ONCE = 120; // cards added each time that the end of the list comes near

const SHOW = {
  all: ["all images", () => true], none: ["without a mask", (one) => one.mask === "none"],
    masks: ["with a mask", (one) => one.mask !== "none"],
  drawn: ["drawn here", (one) => one.mask === "drawn"], corrected: ["corrected", (one) => one.mask === "corrected"],
  predicted: ["predicted", (one) => one.predicted], uploaded: ["dropped here", (one) => one.uploaded],
};
const falling = (key) => (a, b) => (b[key] ?? -1) - (a[key] ?? -1);
export const ORDER = {
  name: ["name", (a, b) => a.name.localeCompare(b.name, "en", { numeric: true })], uncertainty: ["uncertain first", falling("uncertainty")],
  dice: ["worst Dice first", (a, b) => (a.dice ?? 2) - (b.dice ?? 2)], objects: ["most objects first", falling("objects")],
};

/** A list of images that grows while it is scrolled; `card(image)` makes each. */
export class Gallery {
  constructor(card, settings = { show: "all", order: "name", find: "" }) {
    Object.assign(this, { card, settings, key: "" });
    const control = (label, name, choices) => {
      const field = select(label, Object.entries(choices).map(([value, [text]]) => [value, text]),
        (value) => { settings[name] = value; this.update(); });
      field.lastChild.value = settings[name];
      return field;
    };
    const find = h("label", { className: "field" }, h("span", null, "Name"), h("input",
      { type: "search", placeholder: "contains …",
      oninput: (event) => { settings.find = event.target.value.toLowerCase(); this.update(); } }));
    this.list = h("div", { className: "gallery", role: "list" });
    this.counted = h("p", { className: "note counted" });
    this.end = h("div");
    this.element = h("div", { className: "galleries" }, h("div", { className: "filters" }, control("Show", "show", SHOW),
      control("Order", "order", ORDER), find, this.counted), this.list, this.end);
    new IntersectionObserver(([seen]) => seen.isIntersecting && this.more(), { rootMargin: "800px" }).observe(this.end);
  }

  update() {
    const { show, order, find } = this.settings;
    this.images = store.images.filter((one) => SHOW[show][1](one) && one.name.toLowerCase().includes(find)).sort(ORDER[order][1]);
    const key = JSON.stringify([this.images, store.state.model?.version]);
    if (key === this.key) return;
    this.key = key;
    const shown = Math.max(this.list.children.length, AT_ONCE);
    this.counted.textContent = this.images.length === store.images.length ? ""
      : `${this.images.length} of ${count(store.images.length, "image")}`;
    this.list.replaceChildren(...this.images.slice(0, shown).map((one) => h("div", { role: "listitem" }, this.card(one))));
    if (!this.images.length) this.list.append(h("p", { className: "note" }, "No image is like that."));
  }

  more() {
    if (!this.images || this.list.children.length >= this.images.length) return;
    const from = this.list.children.length;
    this.list.append(...this.images.slice(from, from + AT_ONCE).map((one) => h("div", { role: "listitem" }, this.card(one))));
  }
}

const MARKS = { given: "mask given", drawn: "drawn", corrected: "corrected" };

/** A small picture of an image with its own mask or the predicted one, its name and what is known of it; it leads to Draw. */
export function card(one, of) {
  const facts = [MARKS[one.mask], one.predicted && one.mask === "none" && "predicted", one.split === "test" && "test",
    one.dice != null && `Dice ${one.dice.toFixed(2)}`, one.objects != null && count(one.objects, "object")];
  const state = one.revision + (one.predicted ? store.state.model?.version : "");
  return h("a", { className: `card ${one.mask}`, href: `#${one.uploaded ? "look" : "draw"}/${one.id}` },
    h("img", { src: api.imageUrl(one.id, `thumbnail.jpg?of=${of}&r=${state}`), alt: "",
      loading: "lazy", decoding: "async" }),
    h("b", { title: one.name }, short(one.name)), h("span", null, facts.filter(Boolean).join(" · ") || `${one.width} × ${one.height}`));
}

let parts, gallery, findingsOf = "";

/** What changes with every mask. */
const version = () => store.state.folder + store.images.map((one) => one.revision).join();

export function build(section) {
  gallery = new Gallery((one) => card(one, one.mask === "none" && one.predicted ? "predicted" : "own"));
  parts = { head: h("div"), findings: h("div", { className: "findings" }), body: h("div", null, gallery.element) };
  section.append(parts.head, parts.findings, parts.body);
}

export function show() {
  update();
  if (store.state.folder && findingsOf !== version()) showFindings().catch(refused);
}

function advice({ images, masks, classes, model }) {
  const drawn = count(masks, "mask");
  if (!masks) return ["No image has a mask yet. Draw on four or more of them, then train.", "draw", "Draw the first mask"];
  if (model) return [`A model was trained${model.images ? ` on ${count(model.images, "image")}` : ""}. Look at what it finds in the others.`, "look",
    "Look at its masks"];
  if (masks < 4) return [`${drawn} so far. Draw on ${4 - masks} more: a few to learn from, and some to be tested on.`, "draw",
    "Draw the next one"];
  return [`${masks === images ? "Every image has a mask" : drawn + " to learn from"}, ${count(classes.length, "class", "classes")}. That is enough to train a model.`, "train", "Train a model"];
}

export function update() {
  const { state } = store;
  if (!parts || !state) return;
  const isEmpty = !state.folder || !state.images;
  parts.body.hidden = isEmpty;
  parts.findings.hidden = isEmpty;
  if (isEmpty) {
    parts.head.replaceChildren(empty("Which images?", state.folder ? `There is no image in ${state.name}.`
      : "Choose a folder with images. Masks beside them, or in a folder of their own, are found by themselves.",
      button("Choose a folder", chooseFolder, "primary")));
    return;
  }
  const [text, step, label] = advice(state);
  const figure = (name, value, small = "") => h("div", null, h("dt", null, name), h("dd", null, value, h("small", null, small)));
  const classes = state.classes.map((one) => h("span", { className: "chip" }, swatch(one.colour), one.name));
  const sizes = [...new Set(store.images.slice(0, 500).map((one) => `${one.width} × ${one.height}`))];
  const figures = h("dl", { className: "headline" },
    figure("Images", state.images.toLocaleString("en"), sizes.length === 1 ? sizes[0] : `${sizes.length} sizes`),
      figure("With a mask", state.masks.toLocaleString("en"), `${Math.round((100 * state.masks) / state.images)}%`),
    state.model && figure("Dice of the model", state.model.dice?.toFixed(2) ?? "–",
      state.model.low != null && `${state.model.low.toFixed(2)} – ${state.model.high.toFixed(2)}`));
  parts.head.replaceChildren(
    h("div", { className: "opening" },
      h("div", null, h("h1", { title: state.folder }, state.name), h("p", { className: "lead" }, text),
        h("p", { className: "actions" }, h("a", { className: "button primary", href: `#${step}` }, label),
          button("Choose another folder", chooseFolder, "quiet"))),
      figures),
    h("p", { className: "chips" }, classes, state.writer && button("Edit classes", () => editClasses(), "quiet")));
  gallery.update();
}

async function showFindings() {
  findingsOf = version();
  const findings = await api.get("findings").catch((refusal) => {
    parts.findings.replaceChildren(); // nothing is looked through any more
    throw refusal;
  });
  if (!Array.isArray(findings)) { // the files are still being read
    parts.findings.replaceChildren(h("p", { className: "good" }, "Every file is being looked through …"));
    setTimeout(() => showFindings().catch(refused), 2000);
    return;
  }
  const one = ({ severity, summary, fix, files }) => h("details", { className: `finding ${severity}` },
    h("summary", null, h("span", { className: "severity" }, severity), words(summary)),
    h("p", null, words(fix)), files.length > 0 && h("ul", null, files.slice(0, 20).map((name) => h("li", null, name)),
      files.length > 20 && h("li", null, `and ${files.length - 20} more`)));
  const title = findings.length ? h("h2", null, `${count(findings.length, "thing")} to know about this folder`)
    : h("p", { className: "good" }, "Every file was read, and nothing is wrong with them.");
  parts.findings.replaceChildren(title, ...findings.map(one));
}

/** Folders below the one that the server was started with, to choose from. */
export const chooseFolder = trying(async () => {
  if (!(await leave())) return; // what is drawn is of the folder that is open by now
  const list = h("ul", { className: "folders" });
  const here = h("p", { className: "over" });
  let chosen = "";
  const open = trying(async (path) => {
    const found = await api.get(`folders?path=${encodeURIComponent(path)}`);
    chosen = found.path;
    here.textContent = found.path === "." ? "" : found.path;
    list.replaceChildren(...[found.parent != null && { name: "↑ one up", path: found.parent }, ...found.folders].filter(Boolean).map((one) =>
      h("li", null, button(one.name, () => open(one.path), "quiet"),
        one.images != null && h("span", { className: "note" }, count(one.images, "image")))));
    if (!found.folders.length) list.append(h("li", { className: "note" }, "No folders in here."));
  });
  open("");
  const answer = await ask("Choose a folder", h("div", null, here, list), [["", "Cancel"], ["yes", "Open this folder", "primary"]]);
  if (!answer) return;
  store.state = await api.post("folder", { path: chosen });
  location.hash = "folder";
  location.reload();
});
