/** A curve as SVG, in the colours of the page. */

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 200, 40, 14, 12, 28];

function svg(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** Round numbers between two others, about four. */
function ticks(low, high) {
  const raw = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * power >= raw) * power;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

/** `lines`: {style, points: [seconds, value]}; `budget`: how far the axis goes, in seconds. */
export function curve(title, lines, budget, top = null) {
  const points = lines.flatMap((line) => line.points);
  const [unit, name] = budget < 180 ? [1, "s"] : budget < 7200 ? [60, "min"] : [3600, "h"];
  const end = Math.max(budget, ...points.map(([x]) => x));
  const most = top ?? (Math.max(...points.map(([, y]) => y), 0) || 1);
  const [, step] = ticks(0, most);
  const high = Math.ceil(most / step - 1e-9) * step;
  const x = (seconds) => LEFT + (seconds / end) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (Math.min(value, high) / high) * (HEIGHT - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `${title}: ${points.length ? `now ${points.at(-1)[1].toFixed(3)}` : "nothing yet"}`, class: "chart" });
  for (const value of ticks(0, high)) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    picture.append(svg("text", { x: LEFT - 7, y: y(value) + 4, "text-anchor": "end" }, value));
  }
  for (const value of ticks(0, end / unit)) picture.append(svg("text", { x: x(value * unit), y: HEIGHT - 9, "text-anchor": "middle" },
    value ? value : `0 ${name}`));
  for (const { style, points: each } of lines) {
    if (each.length > 1) picture.append(svg("polyline", { class: style, points: each.map(([at,
      value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
    if (each.length) picture.append(svg("circle", { class: style, cx: x(each.at(-1)[0]), cy: y(each.at(-1)[1]), r: 3.5 }));
  }
  return picture;
}
