/** Elements of the page: made, shown and asked with. */

/** An element: properties by name ("onclick" listens, "aria-…" is an attribute), then what is in it. */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter((child) => child != null && child !== false));
  return element;
}

/** A picture from the symbols of index.html. */
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export const button = (label, onclick, kind = "") =>
  h("button", { type: "button", className: kind, onclick }, label);

export const iconButton = (name, label, onclick, kind = "") =>
  h("button", { type: "button", className: `icon ${kind}`, title: label, "aria-label": label, onclick }, icon(name));

/** A list of choices under its name; `choices` are [value, label]. */
export const select = (label, choices, onchange) =>
  h("label", { className: "field" }, h("span", null, label),
    h("select", { onchange: (event) => onchange(event.target.value) },
      choices.map(([value, text]) => h("option", { value }, text))));

export function swatch(rgb) {
  const element = h("i", { className: "swatch" });
  element.style.backgroundColor = `rgb(${rgb.join(" ")})`;
  return element;
}

/** Nothing here yet, and what to do next. */
export const empty = (title, text, ...actions) =>
  h("div", { className: "empty" }, h("h2", null, title), h("p", null, text), h("p", { className: "actions" }, actions));

/** A file's name without its folders. */
export const short = (name) => name.split("/").at(-1);

export const count = (n, noun, many = `${noun}s`) => `${n.toLocaleString("en")} ${n === 1 ? noun : many}`;

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1).replace(".0", "")} h`;
}

/** Text in which `this` is code. */
export const words = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", null, part) : part));

/** A dialog over the page; resolves with the value of what was chosen, "" when it is closed. */
export function ask(title, content, choices) {
  const dialog = h("dialog", { "aria-label": title },
    h("form", { method: "dialog" }, h("h2", null, title), content,
      h("p", { className: "actions" }, choices.map(([value, label, kind = ""]) =>
        h("button", { value, className: kind, formNoValidate: value === "" }, label)))));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue);
  }));
}

/** Whether a key is meant for the field or dialog that has it. */
export const isTyping = ({ target }) => target.matches("input:not([type=range], [type=radio]), select, dialog *");

let spoken = 0;
/** Tells a screen reader, at most once in `pause` milliseconds. */
export function say(text, pause = 0) {
  if (Date.now() - spoken < pause) return;
  spoken = Date.now();
  document.querySelector("#live").textContent = text;
}

/** A notice on top of the page, with the fix; another of the same key takes its place. */
export function notice(key, text, fix = "", actions = [], kind = "error") {
  clearNotice(key);
  const close = h("button", { type: "button", className: "quiet", onclick: () => clearNotice(key) }, "Close");
  const box = h("div", { className: `notice ${kind}`, role: kind === "error" ? "alert" : "status" },
    h("div", null, h("b", null, words(text)), " ", words(fix)), h("p", { className: "actions" }, actions, close));
  box.dataset.key = key;
  document.querySelector("#notices").append(box);
}

export function clearNotice(key) {
  for (const box of document.querySelectorAll("#notices > div")) if (box.dataset.key === key) box.remove();
}
