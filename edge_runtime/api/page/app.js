// The shell: token, lock, status, and which view is shown. The address after `#` names the view.

import { showAbout } from "./about.js";
import { showAdapters } from "./adapters.js";
import { call, dropToken, get, takeToken, watchGate } from "./api.js";
import { showChat } from "./chat.js";
import { openConversations, showConversations } from "./conversations.js";
import { attempt, button, h, icon, plural } from "./dom.js";
import { showLocked, showNoLink, showRefused, showUnreachable } from "./gate.js";
import { showLedger } from "./ledger.js";

const shell = document.getElementById("shell");
const gate = document.getElementById("gate");
const main = document.getElementById("main");

let device = null; // what /api/status said last
let open = null; // the chat that is shown, if it is one

const VIEWS = {
  chat: (place, id) => showChat(place, id, device),
  about: showAbout,
  left: showLedger,
  adapters: showAdapters,
};

/** Asks the device how it is and shows the page, or the screen that stands in front of it. */
async function start() {
  if (!takeToken()) return behind(showNoLink);
  try {
    device = await get("/api/status");
  } catch (error) {
    if (!error.refused && !error.locked) behind((place) => showUnreachable(place, error.message, start));
    return;
  }
  if (device.locked) return lock();
  gate.hidden = true;
  shell.hidden = false;
  showStatus();
  await route();
}

/** Puts a screen before the page; what the page showed is taken away, since it may not be seen any more. */
function behind(show) {
  open?.leave();
  open = null;
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  shell.hidden = true;
  main.replaceChildren();
  document.getElementById("history").replaceChildren();
  document.getElementById("announcer").replaceChildren();
  document.getElementById("notices").replaceChildren();
  document.title = "Penchant";
  gate.hidden = false;
  show(gate);
}

const lock = () => behind((place) => showLocked(place, start));

watchGate((error) => {
  if (error.locked) return lock();
  dropToken();
  behind(showRefused);
});

/** Shows the view that the address names, and moves the focus to its heading. */
async function route() {
  if (shell.hidden) return;
  const [view, ...rest] = location.hash.replace(/^#\//, "").split("/");
  const known = view in VIEWS ? view : "chat";
  open?.leave();
  open = null;
  for (const link of document.querySelectorAll("[data-view]"))
    link.setAttribute("aria-current", link.dataset.view === known ? "page" : "false");
  document.getElementById("notices").replaceChildren();
  // each view has a place of its own: one that is still being fetched when the next is asked for is not shown
  const place = h("div", { class: "view" });
  main.replaceChildren(place);
  main.scrollTop = 0;
  try {
    const shown = await VIEWS[known](place, ...rest);
    if (!place.isConnected) return;
    if (known === "chat") open = shown;
  } catch (error) {
    place.replaceChildren(
      h(
        "div",
        { class: "page" },
        h("h1", { tabindex: "-1" }, "This did not work"),
        h("p", { class: "problem", role: "alert" }, icon("alert"), error.message),
        button("Try again", route),
      ),
    );
  }
  if (!place.isConnected) return;
  const heading = main.querySelector("h1");
  document.title = `${heading?.textContent ?? ""} · Penchant`;
  if (!main.contains(document.activeElement)) heading?.focus();
  listConversations();
}

function listConversations() {
  if (shell.hidden) return;
  const place = document.getElementById("history");
  return showConversations(place, open?.id).catch(() => place.replaceChildren());
}

function showStatus() {
  const known = device.memories == null ? "Memories" : plural(device.memories, "memory", "memories");
  const lines = [
    h("p", { class: "state" }, h("span", { class: "dot" }), "On this device only"),
    h("p", { class: "meta only-wide" }, h("span", {}, device.model.name), h("a", { href: "#/about/memories" }, known)),
    device.has_passphrase &&
      button("Lock", (event) => attempt(async () => (await call("POST", "/api/lock"), lock()), event.currentTarget), {
        kind: "quiet",
        sign: "lock",
      }),
  ];
  document.getElementById("status").replaceChildren(...lines.filter(Boolean));
}

window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) return start();
  if (location.hash.startsWith("#/")) route();
});
window.addEventListener("conversations", listConversations);
window.addEventListener("status", async () => {
  if (shell.hidden) return;
  device = await get("/api/status").catch(() => device);
  if (!device.locked) showStatus();
});
document
  .getElementById("open-conversations")
  .addEventListener("click", (event) => attempt(() => openConversations(open?.id), event.currentTarget));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  (document.querySelector("main h1") ?? main).focus();
});
// "New" while a new conversation is shown leaves the address as it is, and still means to begin anew
document.addEventListener("click", (event) => {
  if (event.target.closest('a[href="#/chat"]') && location.hash === "#/chat") route();
});

start();
