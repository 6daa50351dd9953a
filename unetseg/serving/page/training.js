/** Train: how long, what will be done, and how it goes. */
import * as api from "./api.js";
import { curve } from "./chart.js";
import { button, count, duration, empty, h, say } from "./elements.js";
import { isNew, refreshSoon, store, trying } from "./store.js";

const SHORTEST = 60, LONGEST = 7200; // seconds

let parts, planned = 0;

/** Seconds of a place on the slider, which is logarithmic, as a round number. */
function budget() {
  const seconds = 2 ** Number(parts.slider.value);
  const unit = [[60, 1], [120, 10], [600, 60], [3600, 300], [Infinity, 900]].find(([below]) => seconds < below)[1];
  return Math.round(seconds / unit) * unit;
}

export function build(section) {
  parts = {
    slider: h("input", { type: "range", id: "budget", min: Math.log2(SHORTEST), max: Math.log2(LONGEST), step: "any",
      value: Math.log2(300), oninput: showPlan, "aria-label": "Time to train" }),
    chosen: h("output", { htmlFor: "budget" }), plan: h("ul", { className: "plan" }), summary: h("summary", null, "What will be done"),
    warnings: h("div"), start: button("Start training", trying(() => start(false)), "primary"),
    on: button("Train on", trying(() => start(true)), "primary"), resume: button("Go on with the stopped one",
      trying(() => api.post("train/resume"))), stop: button("Stop and keep", trying(stop)),
    now: h("div", { className: "now" }), bar: h("progress", { max: 1, value: 0, "aria-label": "How much of the time is used" }),
    charts: h("div", { className: "pair" }), previews: h("div", { className: "previews" }),
    score: h("div"), setup: h("div", { className: "setup" }), empty: h("div"), run: h("div", { className: "run" }),
  };
  parts.setup.append(
    h("div", { className: "budget" }, h("div", { className: "row" }, h("h2", null, "How long may it take?"), parts.chosen), parts.slider,
      h("div", { className: "row note" }, h("span", null, "1 min"), h("span", null, "10 min"), h("span", null, "2 h"))),
    parts.warnings, h("p", { className: "actions" }, parts.on, parts.start, parts.resume),
    h("details", null, parts.summary, parts.plan));
  parts.run.append(parts.now, parts.bar, h("p", { className: "actions" }, parts.stop), parts.charts, parts.previews);
  section.append(h("h1", null, "Train"), parts.empty, parts.score, parts.setup, parts.run);
}

export function show() {
  update();
  showPlan();
}

export const isRunning = () => ["running", "stopping"].includes(store.state?.training?.status);

function showPlan() {
  const seconds = budget();
  parts.chosen.textContent = duration(seconds);
  parts.slider.ariaValueText = duration(seconds);
  clearTimeout(planned);
  planned = setTimeout(trying(async () => {
    if (parts.setup.hidden) return;
    parts.summary.textContent = "The plan is being made …";
    const { words, warnings, parameters, crops, batch, tried } = await api.get(`plan?budget=${seconds}`);
    const size = parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} million` : parameters.toLocaleString("en");
    const network = tried ? "A U-Net as large as the time allows, which a few trial steps find out," : `A U-Net of ${size} weights,`;
    parts.summary.textContent = `${network} shown ${batch} pieces of ${crops} × ${crops} pixels at a time`;
    parts.plan.replaceChildren(...words.map((line) => h("li", null, line)));
    parts.warnings.replaceChildren(...warnings.map((line) => h("p", { className: "warning" }, line)));
  }), 300);
}

async function start(fromPresent) {
  store.epochs = [];
  store.progress = null;
  store.state.training = await api.post("train", { budget: budget(), from_present: fromPresent });
  say("Training has started.");
  update();
  scrollTo({ top: 0 });
}

async function stop() {
  parts.stop.disabled = true;
  await api.post("train/stop");
  refreshSoon();
}

/** The score and what it means, beside the one before. */
export function score(model) {
  const shown = (dice) => dice?.toFixed(2) ?? "–";
  const figure = (name, { dice, low, high }) => {
    const bar = h("div", { className: "meter", role: "img", "aria-label": `${name}: Dice ${shown(dice)}` }, h("i"));
    bar.firstChild.style.width = `${100 * dice}%`;
    return h("div", null, h("dt", null, name), h("dd", null, shown(dice),
      low != null && h("small", null, `${low.toFixed(2)} – ${high.toFixed(2)}`)), bar);
  };
  const { before } = model;
  const isWide = model.low != null && model.high - model.low > 0.1;
  const change = Number(shown(model.dice)) - Number(shown(before?.dice)); // as they are shown
  const verdict = before && !Number.isNaN(change) && (Math.abs(change) < 0.005 ? "as good as before" : change > 0 ? `better by ${change.toFixed(2)}`
    : `worse by ${(-change).toFixed(2)}`);
  return h("div", { className: "score" },
    h("dl", { className: "headline" }, before && figure("Dice before", before), figure(before ? "Dice now" : "Dice", model),
      verdict && h("div", null, h("dt", null, "In short"), h("dd", { className: "verdict" }, verdict))),
    h("p", { className: "note" }, "Measured on masks that were held out from training. ",
      "Dice is how far the model’s mask and the drawn one overlap: 1 is all of it, 0 is nothing.", isWide && " The range is wide, ",
      isWide && "because there are few such images: more masks make it sure."));
}

export function update() {
  const { state } = store;
  if (!parts || !state) return;
  const { training, model, masks, writer } = state;
  const running = isRunning();
  const fresh = store.images.filter(isNew).length;
  const can = masks > 1;
  parts.empty.replaceChildren(can || running ? "" : empty("Masks come first", masks
    ? "One image has a mask. Draw at least on one more; four make a first model worth looking at."
    : "A model learns from masks that you draw. Four images are enough for a first one.",
    h("a", { className: "button primary", href: "#draw" }, "Draw a mask")));
  parts.setup.hidden = !can || running;
  parts.run.hidden = !running && !store.epochs.length;
  parts.score.replaceChildren(model && !running ? score(model) : "");
  parts.bar.hidden = parts.stop.hidden = !running;
  parts.stop.disabled = training?.status === "stopping" || !writer;
  parts.start.className = model ? "" : "primary";
  parts.start.textContent = model ? "Start anew" : "Start training";
  parts.on.hidden = !model;
  parts.on.textContent = fresh ? `Train on with ${count(fresh, "new mask")}` : "Train on";
  parts.resume.hidden = !state.resumable;
  for (const control of [parts.start, parts.on, parts.resume, parts.slider]) control.disabled = !writer;
  showRun(running);
}

function showRun(running) {
  const { training } = store.state;
  const total = training?.budget ?? 1;
  const share = Math.min(store.progress?.share ?? training?.share ?? 0, 1); // with what was before a stop
  parts.bar.value = share;
  const left = total * (1 - share);
  const text = training?.status === "stopping" ? "Stopping: the model is kept …" : !store.progress?.step && running
    ? "Getting ready: images are read, the batch is chosen …" : "";
  const epoch = store.progress?.epoch ?? training?.epoch;
  const dice = store.epochs.findLast((one) => one.val_dice != null)?.val_dice;
  const figure = (name, value) => value != null && h("div", null, h("dt", null, name), h("dd", null, value));
  const figures = h("dl", { className: "headline" }, figure("Time left", duration(left)), figure("Dice so far", dice?.toFixed(2)),
    figure("Epoch", epoch || null));
  parts.now.replaceChildren(!running ? h("h2", null, "How it went") : text ? h("p", { className: "lead" }, text) : figures);
  const points = (key) => store.epochs.filter((one) => one[key] != null).map((one) => [one.seconds, one[key]]);
  const chart = (title, lines, top) => h("figure", null, h("figcaption", null, h("b", null, title)), curve(title, lines, total, top));
  parts.charts.replaceChildren(...(store.epochs.length ? [chart("Dice on images held out", [{ style: "line", points: points("val_dice") }],
    1), chart("Loss", [{ style: "loss", points: points("train_loss") }])] : []));
  const pictures = store.epochs.filter((one) => one.preview).slice(-2).reverse(); // the newest first
  const shown = pictures.map((one) => one.preview).join();
  if (parts.previews.dataset.shown === shown) return;
  parts.previews.dataset.shown = shown;
  parts.previews.replaceChildren(...pictures.map((one) => h("figure", null, h("img",
    { src: one.preview, alt: `Images held out and what the model finds in them after ${duration(one.seconds)}` }),
    h("figcaption", null, `after ${duration(one.seconds)}`))));
}

/** What the server tells of a training. */
export const events = {
  training(progress) {
    store.progress = progress;
    if (store.state) store.state.training = progress; // all that is known
    say(`Training: ${Math.round(100 * progress.share)} percent of the time is used.`, 15000);
    update();
  },
  epoch(epoch) {
    if (store.epochs.at(-1)?.run !== epoch.run) store.epochs = []; // another training's
    if (store.epochs.some((one) => one.step === epoch.step)) return;
    if (store.epochs.at(-1)?.step > epoch.step) store.epochs = [];
    store.epochs.push(epoch);
    update();
  },
  trained({ dice }) {
    say(`The training is finished: Dice ${dice?.toFixed(2) ?? "–"}.`);
    refreshSoon();
  },
};
