// The list of conversations: in the side column where there is room, in a drawer where there is not.

import { call, get } from "./api.js";
import { actions, attempt, button, h, icon, iconButton, openDialog, plural, when } from "./dom.js";

/** Fills `place` with the list; `current` is the id of the open conversation. */
export async function showConversations(place, current) {
  const { conversations } = await get("/api/conversations");
  const newest = conversations.filter((one) => one.turns).sort((a, b) => b.last_at.localeCompare(a.last_at));
  place.replaceChildren(
    h(
      "div",
      { class: "history-head" },
      h("h2", {}, "Conversations"),
      h("a", { class: "button", href: "#/chat" }, icon("plus"), "New"),
    ),
    newest.length
      ? h(
          "ul",
          {},
          newest.map((one) => entry(one, current)),
        )
      : h("p", { class: "meta" }, "None yet. They are kept encrypted on this device."),
  );
}

function entry(one, current) {
  const remove = iconButton(`Delete “${one.title}”`, "bin", () => confirmDelete(one, current));
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#/chat/${one.id}`, "aria-current": one.id === current ? "page" : null },
      h("span", { class: "clip" }, one.title || "Without a title"),
      h("small", {}, when(one.last_at)),
    ),
    remove,
  );
}

function confirmDelete(one, current) {
  const go = button(
    "Delete",
    async () => {
      if (!(await attempt(() => call("DELETE", `/api/conversations/${one.id}`), go))) return;
      dialog.close();
      document.querySelector("dialog.drawer")?.close();
      if (one.id === current) location.hash = "#/chat";
      else window.dispatchEvent(new Event("conversations"));
      document.querySelector("main h1")?.focus();
    },
    { kind: "danger" },
  );
  const dialog = openDialog("Delete this conversation?", [
    h("p", { class: "yours" }, one.title),
    h(
      "p",
      {},
      `${plural(one.turns, "message")} will be deleted. What you asked me to remember stays until you forget it.`,
    ),
    actions(
      go,
      button("Keep it", () => dialog.close()),
    ),
  ]);
}

/** The same list in a drawer. */
export async function openConversations(current) {
  const place = h("nav", { class: "history", "aria-label": "Conversations" });
  await showConversations(place, current);
  const drawer = openDialog("Your conversations", place, { kind: "drawer" });
  place.addEventListener("click", (event) => event.target.closest("a") && drawer.close());
}
