/** The page: five steps, of which one is shown, and what all of them share. */
import * as api from "./api.js";
import * as correcting from "./correcting.js";
import * as drawing from "./drawing.js";
import { ask, clearNotice, count, h, isTyping, notice, say } from "./elements.js";
import * as gallery from "./gallery.js";
import { changed, isNew, refresh, refreshSoon, refused, store, watch } from "./store.js";
import * as training from "./training.js";
import * as viewer from "./viewer.js";

const STEPS = { folder: ["Folder", gallery], draw: ["Draw", drawing], train: ["Train", training], look: ["Look", viewer],
  correct: ["Correct", correcting] };
let now = null;

/** What stands under the name of each step: how far it is. */
function standing(name) {
  const { images, masks, model, training: run } = store.state;
  const predicted = store.images.filter((one) => one.predicted).length;
  const fresh = store.images.filter(isNew).length;
  return {
    folder: count(images, "image"), draw: masks ? count(masks, "mask") : "no mask yet",
    train: training.isRunning() ? `${Math.round(100 * (store.progress?.share ?? run.seconds / run.budget))}%` : model
      ? `Dice ${model.dice?.toFixed(2) ?? "–"}` : "no model yet",
    look: predicted ? `${count(predicted, "image")} done` : "nothing yet", correct: model && fresh ? `${fresh} new` : "nothing yet",
  }[name];
}

function showSteps() {
  if (!store.state) return;
  document.querySelector("#where").textContent = store.state.name || "choose a folder";
  for (const [i, name] of Object.keys(STEPS).entries()) {
    const link = document.querySelector("#steps").children[i].firstChild;
    link.lastChild.textContent = standing(name);
    if (name === now) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  }
}

/** Shows the step in the address, "#draw/ID": the one before may refuse to be left. */
async function route() {
  const [name, id] = location.hash.slice(1).split("/");
  const to = name in STEPS ? name : "folder";
  if (now && now !== to && STEPS[now][1].leave && !(await STEPS[now][1].leave())) {
    history.replaceState(null, "", `#${now}`);
    return;
  }
  if (now !== to) {
    for (const each of Object.keys(STEPS)) document.querySelector(`#${each}`).hidden = each !== to;
    scrollTo(0, 0);
  }
  now = to;
  document.title = `${STEPS[to][0]} · ${store.state.name || "unetseg"}`;
  document.body.dataset.step = to;
  showSteps();
  await STEPS[to][1].show(id && decodeURIComponent(id), location.hash.endsWith("/model"));
}

function showShortcuts() {
  const keys = [...drawing.KEYS, ["Alt 1 … 5", "the five steps"], ["?", "this list"]];
  ask("Keyboard", h("dl", { className: "facts keys" }, keys.map(([key, text]) => [h("dt", null, key), h("dd", null, text)])),
    [["", "Close", "primary"]]);
}

function switchTheme() {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const shown = document.documentElement.dataset.theme ?? (isDark ? "dark" : "light");
  document.documentElement.dataset.theme = shown === "dark" ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
}

function key(event) {
  if (isTyping(event)) return;
  if (event.key === "?") showShortcuts();
  const step = event.altKey && Object.keys(STEPS)[event.code.replace("Digit", "") - 1];
  if (!step) return;
  event.preventDefault();
  location.hash = step;
}

let failure = 0;

function showFailure() {
  const { number = 0, message, fix } = store.state?.failed ?? {};
  if (number && number !== failure) notice("failed", message, fix);
  failure = number;
}

const events = {
  ...training.events, ...viewer.events,
  failed() { refreshSoon(); }, // the state tells what, also to a tab that was out of sight
  stopped() { say("Stopped; the model so far is kept."); refreshSoon(); },
  changed({ id }) { drawing.wasChanged(id); },
};
const handlers = Object.fromEntries(Object.entries(events).map(([name, handle]) => [name, (data) => {
  if (!store.state) return;
  handle(data);
  if (["changed", "predicted"].includes(name)) refreshSoon();
  showSteps();
}]));

async function start() {
  if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
  document.querySelector("#theme").onclick = switchTheme;
  document.querySelector("#help").onclick = showShortcuts;
  document.querySelector("#where").onclick = gallery.chooseFolder;
  document.querySelector("#steps").append(...Object.entries(STEPS).map(([name, [label]]) => h("li", null,
    h("a", { href: `#${name}` }, h("b", null, label), h("span")))));
  for (const [name, [, step]] of Object.entries(STEPS)) step.build(document.querySelector(`#${name}`));
  document.addEventListener("keydown", key);
  await refresh();
  watch(() => { showSteps(); showFailure(); STEPS[now]?.[1].update(); });
  addEventListener("hashchange", () => route().catch(refused));
  api.listen(handlers, (isOpen) => {
    if (!isOpen) return notice("lost", "The connection to the server is lost.", "Trying again by itself. Is `unetseg app` still running?",
      [], "calm");
    clearNotice("lost");
    drawing.wasChanged(); // while nothing was heard
    return refreshSoon();
  });
  setInterval(() => document.hidden || refresh().catch(() => {}), 25000); // who is silent for a minute lets others draw
  document.addEventListener("visibilitychange", () => document.hidden || refreshSoon());
  await route();
  changed();
}

start().catch(refused);
