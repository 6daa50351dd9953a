/** Correct: the model's masks worth mending, those mended, and training on with them. */
import { button, count, empty, h } from "./elements.js";
import { card, Gallery } from "./gallery.js";
import { isNew, store } from "./store.js";
import { isRunning, score } from "./training.js";

let parts, gallery;

export function build(section) {
  gallery = new Gallery((one) => card(one, one.mask === "none" ? "predicted" : "own"),
    { show: "predicted", order: "uncertainty", find: "" });
  parts = { empty: h("div"), score: h("div"), text: h("p", { className: "lead" }),
    on: h("a", { className: "button primary", href: "#train" }), body: h("div") };
  parts.body.append(parts.score, h("p", { className: "actions" }, parts.on, h("a", { className: "button", href: "#look" },
    "Look at them first")), gallery.element);
  section.append(h("h1", null, "Correct"), parts.text, parts.empty, parts.body);
}

export const show = () => update();

export function update() {
  if (!parts || !store.state) return;
  const { model } = store.state;
  const found = store.images.filter((one) => one.predicted);
  const fresh = store.images.filter(isNew).length;
  parts.body.hidden = !found.length;
  parts.text.textContent = !found.length ? "" : fresh
    ? `${count(fresh, "mask")} saved since the model was trained. Train on, and it learns from ${fresh === 1 ? "it" : "them"}.`
    : "Open one that looks wrong, mend its mask, save. A few corrections teach the model more than many new images.";
  parts.empty.replaceChildren(found.length ? "" : store.state.predicting ? empty("The model is at work",
    "Its masks appear here as it finds them.") : model ? empty("Nothing to correct yet", "Let the model find masks in your images first.",
    h("a", { className: "button primary", href: "#look" }, "Look")) : empty("No model yet",
    "After a first training you mend here what it gets wrong, and train on.",
    h("a", { className: "button primary", href: "#train" }, "Train a model")));
  if (!found.length) return;
  parts.score.replaceChildren(model ? score(model) : "");
  parts.on.textContent = isRunning() ? "Training runs" : `Train on with ${count(fresh, "correction")}`;
  parts.on.hidden = !fresh && !isRunning();
  gallery.update();
}
