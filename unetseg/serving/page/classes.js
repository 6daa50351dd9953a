/** The classes: named and coloured while there is no mask, appended later. */
import { putClasses } from "./api.js";
import { ask, button, h } from "./elements.js";
import { refresh, store, trying } from "./store.js";

// Okabe & Ito 2008, told apart by the colour-blind
const COLOURS = ["#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];

const hex = (rgb) => `#${rgb.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

export const editClasses = trying(async () => {
  const isFixed = store.state.masks > 0;
  const list = h("div", { className: "class-list" });
  const row = (name, colour, fixed) => h("div", { className: "row" },
    h("input", { type: "color", value: colour, "aria-label": `Colour of ${name || "the new class"}`, disabled: fixed }),
    h("input", { type: "text", value: name, "aria-label": "Name of the class", required: true, disabled: fixed, maxLength: 60 }));
  list.append(...store.state.classes.map((one) => row(one.name, hex(one.colour), isFixed)));
  const add = () => {
    list.append(row("", COLOURS[list.children.length % COLOURS.length], false));
    list.lastChild.lastChild.focus();
  };
  const text = isFixed ? "There are masks already: their classes stay, new ones can be added."
    : "What the pixels of a mask can be. The first one is the background, unless another is called so.";
  const answer = await ask("Classes", h("div", null, h("p", { className: "note" }, text), list, button("Add a class", add, "quiet")),
    [["", "Cancel"], ["yes", "Save", "primary"]]);
  if (!answer) return;
  const named = [...list.children].map((one) => ({ name: one.lastChild.value.trim(), colour: rgb(one.firstChild.value) }));
  await putClasses(named.filter((one) => one.name));
  await refresh();
});
