/** What the server is asked: JSON in and out, refusals with their fix, and its stream of events. */

const ROOT = new URL("api/", document.baseURI);

/** The server said no: `status` is of HTTP, 0 where it was not reached. */
export class Refusal extends Error {
  constructor(status, { message, fix = "" }) {
    super(message);
    this.status = status;
    this.fix = fix;
  }
}

export const url = (path) => new URL(path, ROOT).href;
const path = (id, rest) => `images/${encodeURIComponent(id)}/${rest}`;
export const imageUrl = (id, rest) => url(path(id, rest));

async function send(method, path, body, type, accept) {
  const headers = {};
  if (type) headers["Content-Type"] = type;
  if (accept) headers.Accept = accept;
  let answer;
  try {
    answer = await fetch(url(path), { method, headers, body });
  } catch {
    throw new Refusal(0, { message: "The server was not reached.", fix: "Is `unetseg app` still running?" });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, said.error ?? { message: `The server answered ${answer.status}.` });
}

const json = async (method, path, value) =>
  (await send(method, path, value && JSON.stringify(value), value && "application/json")).json();

export const get = (path) => json("GET", path);
export const post = (path, value = {}) => json("POST", path, value);
export const putClasses = (classes) => json("PUT", "classes", classes);

const query = (values) => new URLSearchParams(values).toString();

export const info = (id) => get(path(id, "info"));
export const objects = (id) => get(path(id, "objects"));
/** Class indexes, row by row: not as a picture, for some browsers change what is read from a canvas. */
export async function mask(id, of, { x, y, width, height }) {
  const answer = await send("GET", path(id, `mask.png?${query({ of, x, y, width, height })}`), undefined, "", "application/octet-stream");
  return new Uint8Array(await answer.arrayBuffer());
}
export const removeMask = (id, revision) => json("DELETE", path(id, `mask?${query({ revision })}`));
/** Class indexes as `mask` gives them, deflated. */
export async function putMask(id, { x, y, width, height, pixels }, revision) {
  const packed = new Blob([pixels]).stream().pipeThrough(new CompressionStream("deflate"));
  const body = await new Response(packed).arrayBuffer();
  return (await send("PUT", path(id, `mask.png?${query({ x, y, width, height, revision })}`), body, "application/octet-stream")).json();
}
export async function upload(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  return (await send("POST", "uploads", form)).json();
}

/** Listens to the server's events while the page is in sight: a browser has six connections to a server for all of its
 * tabs. A stream that breaks is opened again, ever more slowly. */
export function listen(handlers, onconnection) {
  let wait = 1000, again = 0, source = null;
  const open = () => {
    clearTimeout(again);
    source?.close();
    if (document.hidden) return;
    source = new EventSource(url("events"));
    source.onopen = () => { wait = 1000; onconnection(true); };
    source.onerror = () => {
      source.close();
      onconnection(false);
      again = setTimeout(open, wait);
      wait = Math.min(2 * wait, 15000);
    };
    for (const [name, handle] of Object.entries(handlers))
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  };
  document.addEventListener("visibilitychange", open);
  open();
}
