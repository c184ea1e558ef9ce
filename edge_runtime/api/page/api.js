// The local API: one function for requests, one for a streamed answer. The token never enters a URL.

const TOKEN = "penchant-token";

export class ApiError extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }

  get locked() {
    return this.status === 423 || this.code === "locked";
  }

  get refused() {
    return this.status === 401;
  }
}

/** Moves the token of the link (`#token=...`) into this tab's storage and out of the address bar. */
export function takeToken() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (found) {
    sessionStorage.setItem(TOKEN, decodeURIComponent(found[1]));
    history.replaceState(null, "", `${location.pathname}#/chat`);
  }
  return sessionStorage.getItem(TOKEN);
}

export function dropToken() {
  sessionStorage.removeItem(TOKEN);
}

let onGateChange = () => {};

/** `handler(error)` is called when the device turns out to be locked or the token refused. */
export function watchGate(handler) {
  onGateChange = handler;
}

async function send(method, path, body, signal) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("Penchant does not answer. Start it again with `penchant serve` and open the link it prints.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  let stated = {};
  try {
    stated = (await response.json()).error ?? {};
  } catch {
    // not JSON: the status alone has to do
  }
  const error = new ApiError(
    [stated.message || `The device could not do that (error ${response.status}).`, comeBack(response)].join(" ").trim(),
    response.status,
    stated.code ?? "",
  );
  // a wrong passphrase is no reason to throw the link away
  if (error.locked || (error.refused && !response.url.endsWith("/api/unlock"))) onGateChange(error);
  return error;
}

function comeBack(response) {
  if (response.status !== 429) return "";
  const seconds = Number(response.headers.get("Retry-After"));
  return seconds > 1 ? `Try again in ${seconds} seconds.` : "Try again in a moment.";
}

/** One request; the parsed JSON of the answer. */
export async function call(method, path, body) {
  const response = await send(method, path, body);
  return response.status === 204 ? null : response.json();
}

export const get = (path) => call("GET", path);

/** Streams the answer to `question`: yields `{ text }` for every piece, then `{ done }` with what the server
 *  says about the answer (conversation, turn, sources). */
export async function* ask(question, { conversation, signal }) {
  const body = {
    model: "penchant",
    stream: true,
    messages: [{ role: "user", content: question }],
    penchant: { conversation },
  };
  const response = await send("POST", "/v1/chat/completions", body, signal);
  let done = {};
  for await (const data of serverEvents(response.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, 500, chunk.error.code ?? "");
    if (chunk.penchant) done = { ...done, ...chunk.penchant };
    const text = chunk.choices?.[0]?.delta?.content;
    if (text) yield { text };
  }
  yield { done };
}

/** The `data:` of every server-sent event in a byte stream. */
async function* serverEvents(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer = (buffer + value).replaceAll("\r\n", "\n");
      for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
        const lines = buffer.slice(0, end).split("\n");
        buffer = buffer.slice(end + 2);
        const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        if (data.length) yield data.join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
