// The memories: add, search, edit, forget one with a receipt, forget everything behind a typed confirmation.

import { call, get } from "./api.js";
import {
  actions,
  announce,
  attempt,
  button,
  field,
  form,
  h,
  icon,
  notify,
  openDialog,
  plural,
  saveOrCancel,
  textArea,
  when,
} from "./dom.js";

const PAGE = 50;

/** Fills `place` with the memories; `only`: the id of the one to show. */
export async function showMemories(place, only) {
  const view = new Memories(place, only);
  await view.refresh();
}

class Memories {
  constructor(place, only) {
    this.only = only;
    this.query = "";
    this.shown = PAGE;
    this.count = h("p", { class: "meta", role: "status" });
    this.list = h("ul", { class: "memories" });
    this.more = button("Show more", () => {
      this.shown += PAGE;
      const next = this.list.children.length;
      this.#list();
      this.list.children[next]?.querySelector("button")?.focus();
    });
    place.replaceChildren(this.#adder(), this.#search(), this.count, this.list, this.more, this.#danger());
  }

  async refresh() {
    const query = this.query ? `?query=${encodeURIComponent(this.query)}&k=${PAGE}` : "";
    const { memories } = await get(`/api/memories${query}`);
    const one = this.only && memories.filter((item) => `${item.id}` === this.only);
    this.items = one ?? (this.query ? memories : memories.toSorted((a, b) => later(a, b)));
    this.#list();
  }

  #list() {
    const items = this.items.slice(0, this.shown);
    this.list.replaceChildren(...items.map((item) => this.#entry(item)));
    this.more.hidden = this.items.length <= this.shown;
    const count = plural(this.items.length, "memory", "memories");
    if (this.only && !this.items.length) this.count.textContent = "This memory is not here any more.";
    else if (this.only) this.count.textContent = "One memory";
    else if (this.query) this.count.textContent = this.items.length ? `${count} found` : "No memory fits these words.";
    else this.count.textContent = this.items.length ? count : "I remember nothing yet.";
    if (this.only) this.count.append(" · ", h("a", { href: "#/about/memories" }, "Show all"));
  }

  #entry(item) {
    const entry = h("li", {});
    const show = () => {
      const name = (verb) => ({ kind: "quiet", "aria-label": `${verb}: ${item.text.slice(0, 60)}` });
      const edit = button("Edit", () => this.#edit(item, entry, show), { sign: "pencil", ...name("Edit") });
      const forget = button("Forget", () => this.#confirmForget(item), { sign: "bin", ...name("Forget") });
      entry.replaceChildren(
        item.cue ? h("p", { class: "meta" }, `In answer to: ${item.cue}`) : "",
        h("p", { class: "yours" }, item.text),
        h("div", { class: "row" }, h("p", { class: "meta" }, facts(item)), h("div", { class: "tools" }, edit, forget)),
      );
      return edit;
    };
    show();
    return entry;
  }

  #edit(item, entry, show) {
    const text = textArea({ value: item.text, required: true });
    const save = async () => {
      Object.assign(item, await call("PATCH", `/api/memories/${item.id}`, { text: text.value.trim() }));
      show().focus();
      notify("Changed. Answers use the new words from now on.");
    };
    const cancel = saveOrCancel(() => show().focus());
    entry.replaceChildren(form("inline-form", save, field("What I should remember", text), cancel));
    text.focus();
  }

  #confirmForget(item) {
    const go = button(
      "Forget it",
      () =>
        attempt(async () => {
          const receipt = await call("DELETE", `/api/memories/${item.id}`);
          dialog.close();
          await this.#forgotten(receipt, "Forgotten");
        }, go),
      { kind: "danger" },
    );
    const dialog = openDialog("Forget this memory?", [
      h("p", { class: "yours" }, item.text),
      h(
        "p",
        {},
        "It is deleted from this device with all that was made of it: profile entries, chats that repeat it, ",
        "and every adapter, since none can say what it learnt from. This cannot be undone.",
      ),
      actions(
        go,
        button("Keep it", () => dialog.close()),
      ),
    ]);
  }

  #confirmEverything() {
    const words = "forget everything";
    const typed = h("input", { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    const go = h("button", { class: "danger", disabled: true }, "Forget everything");
    typed.addEventListener("input", () => (go.disabled = typed.value.trim().toLowerCase() !== words));
    const forget = async () => {
      const receipt = await call("DELETE", "/api/memories?everything=true");
      dialog.close();
      await this.#forgotten(receipt, "Everything is forgotten");
    };
    const warning = [
      "All memories, your profile, conversations, feedback and adapters are deleted from this device. Nobody can ",
      "bring them back. The record of what has left this device stays.",
    ];
    const keep = button("Keep everything", () => dialog.close());
    const label = field(`Type “${words}” to go on`, typed);
    const dialog = openDialog("Forget everything?", form("", forget, h("p", {}, warning), label, actions(go, keep)));
    typed.focus();
  }

  async #forgotten(receipt, heading) {
    await this.refresh();
    openDialog(heading, receiptParts(receipt));
    window.dispatchEvent(new Event("status"));
    window.dispatchEvent(new Event("conversations"));
  }

  #adder() {
    const text = textArea({ required: true, placeholder: "I am allergic to walnuts." });
    const date = h("input", { type: "date", max: new Date().toISOString().slice(0, 10) });
    const add = async () => {
      const body = { text: text.value.trim(), said_at: date.value || null };
      const item = await call("POST", "/api/memories", body);
      text.value = "";
      text.dispatchEvent(new Event("input"));
      text.focus();
      await this.refresh();
      announce(`Remembered: ${item.text}`);
      window.dispatchEvent(new Event("status"));
    };
    return form(
      "card adder",
      add,
      field("Something to remember", text),
      h(
        "div",
        { class: "row" },
        field("Since when (today if empty)", date),
        h("button", { class: "primary" }, "Remember"),
      ),
    );
  }

  #search() {
    const input = h("input", { type: "search", autocomplete: "off", placeholder: "Words or a question" });
    const run = () => {
      this.query = input.value.trim();
      this.only = undefined;
      this.shown = PAGE;
      return this.refresh();
    };
    // emptying the box with its own cross shows everything again
    input.addEventListener("input", () => input.value || attempt(run));
    return h(
      "search",
      {},
      form("search", run, field("Search your memories", input), h("button", {}, icon("search"), "Search")),
    );
  }

  #danger() {
    return h(
      "section",
      { class: "card danger-zone" },
      h("h2", {}, "Forget everything"),
      h("p", {}, "Deletes all that this device has learnt from you, at once and for good."),
      button("Forget everything …", () => this.#confirmEverything(), { kind: "danger" }),
    );
  }
}

const later = (a, b) => b.said_at.localeCompare(a.said_at) || b.id - a.id;

const ORIGINS = { me: "you told me", chat: "from a chat", profile: "from your profile" };

function facts(item) {
  const over = item.valid_until;
  return [
    h("span", {}, when(item.said_at), over ? [" until ", when(over)] : ""),
    over && h("span", { class: "tag" }, "no longer holds"),
    item.speaker && h("span", {}, `said by ${item.speaker}`),
    h("span", {}, item.document ? "from a document" : (ORIGINS[item.source] ?? `from ${item.source}`)),
  ];
}

/** A receipt in words: what was removed, by count. It never says what the words were. */
function receiptParts(receipt) {
  const removed = Object.entries(receipt.removed).filter(([, count]) => count);
  const swept = receipt.log_emptied && receipt.key_rotated;
  return [
    h("p", {}, "This is your receipt. It counts what was removed and keeps none of it."),
    h(
      "dl",
      {},
      h("dt", {}, "When"),
      h("dd", {}, when(receipt.forgotten_at, { hour: true })),
      removed.flatMap(([part, count]) => [
        h("dt", {}, PARTS[part] ?? part),
        h("dd", {}, `${count.toLocaleString("en")} removed`),
      ]),
    ),
    swept
      ? h(
          "p",
          { class: "good" },
          icon("check"),
          "Overwritten, and the file has a new key: no older copy of it opens with that.",
        )
      : h(
          "p",
          { class: "problem" },
          icon("alert"),
          "Another program had the device open. The rest of the clean-up follows when it is opened alone.",
        ),
    receipt.bundles_elsewhere > 0 &&
      h(
        "p",
        { class: "problem" },
        icon("alert"),
        `${plural(receipt.bundles_elsewhere, "bundle")} exported before may still hold it; delete what you can spare.`,
      ),
  ].filter(Boolean);
}

const PARTS = {
  memories: "Memories",
  "profile entries": "Profile entries",
  "conversation turns": "Messages in chats",
  feedback: "Feedback",
  learnt: "Adapters and weights",
};
