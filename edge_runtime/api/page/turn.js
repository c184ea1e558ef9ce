// One turn of a conversation: what the owner said, or an answer with its sources and the tools to judge it.

import { call } from "./api.js";
import { openAudit } from "./audit.js";
import {
  actions,
  announce,
  attempt,
  button,
  field,
  form,
  h,
  icon,
  iconButton,
  notify,
  plural,
  saveOrCancel,
  textArea,
  textInput,
  when,
} from "./dom.js";
import { sourceList } from "./sources.js";
import { rendered } from "./text.js";

const STOPPED = "You stopped this answer.";

/** Stores `text` as a memory; the memory. */
export const remember = (text) => call("POST", "/api/memories", { text });

/** What the owner said, with a button that remembers it. */
export function ownTurn(text, saidAt) {
  const keep = button("Remember this", () => attempt(async () => kept(await remember(text)), keep), {
    kind: "quiet",
    sign: "keep",
  });
  const kept = (item) => {
    const link = h("a", { href: `#/about/memories/${item.id}` }, icon("check"), "Remembered");
    keep.replaceWith(link);
    link.focus();
  };
  const tools = h(
    "div",
    { class: "tools" },
    keep,
    saidAt && h("span", { class: "meta" }, when(saidAt, { hour: true })),
  );
  return h("li", { class: "turn own" }, h("h2", { class: "unseen" }, "You"), h("p", { class: "yours" }, text), tools);
}

/** A line that says what was remembered without asking the model. */
export function rememberedTurn(item) {
  return h(
    "li",
    { class: "turn aside" },
    icon("keep"),
    h("p", {}, "Remembered: ", h("span", { class: "yours" }, item.text), " "),
    h("a", { href: `#/about/memories/${item.id}` }, "Edit or forget"),
  );
}

/** An answer. `add(piece)` while it streams; `finish(...)`, `stopped()` or `fail(message)` ends it. */
export class AnswerTurn {
  constructor() {
    this.text = "";
    this.body = h("div", { class: "answer-text" }, waiting());
    this.foot = h("div", { class: "answer-foot" });
    this.element = h(
      "li",
      { class: "turn answer", "aria-busy": "true" },
      h("h2", { class: "unseen" }, "Penchant"),
      this.body,
      this.foot,
    );
  }

  add(piece) {
    this.text += piece;
    if (this.painting) return;
    this.painting = requestAnimationFrame(() => this.#paint());
  }

  /** `cited`: ids of the sources it rests on; `rating`: "up", "down" or null; `better`: the owner's own version;
   *  `stopped`: it was broken off. */
  finish({ turn, sources, cited, rating = null, better = null, stopped = false }) {
    this.#end();
    this.foot.replaceChildren(
      stopped ? h("p", { class: "meta" }, STOPPED) : "",
      sourcesUnder(sources, cited),
      ...this.#tools(turn, rating),
    );
    if (better) this.#showBetter(better);
  }

  stopped() {
    this.#end();
    this.foot.replaceChildren(h("p", { class: "meta" }, STOPPED));
  }

  fail(message) {
    this.#end();
    this.foot.replaceChildren(h("p", { class: "problem", role: "alert" }, icon("alert"), message));
  }

  #end() {
    this.element.removeAttribute("aria-busy");
    cancelAnimationFrame(this.painting);
    this.#paint();
  }

  #paint() {
    this.painting = 0;
    this.body.replaceChildren(...rendered(this.text));
  }

  #tools(turn, rating) {
    const forms = h("div");
    const thumbs = ["up", "down"].map((way) =>
      iconButton(way === "up" ? "Good answer" : "Bad answer", way, (event) => rate(way, event.currentTarget), {
        "aria-pressed": `${rating === way}`,
      }),
    );
    const rate = (way, control) =>
      attempt(async () => {
        await call("POST", "/api/feedback", { turn, thumbs: way });
        thumbs.forEach((thumb) => thumb.setAttribute("aria-pressed", `${thumb === control}`));
        forms.replaceChildren(way === "down" ? noteForm(turn) : "");
        announce(way === "up" ? "Noted: a good answer." : "Noted: not a good answer.");
      }, control);
    const improve = button(
      "Write a better answer",
      () => forms.replaceChildren(this.#betterForm(turn, forms, improve)),
      {
        kind: "quiet",
        sign: "pencil",
      },
    );
    const inside = button("What went into this", () => attempt(() => openAudit(turn), inside), {
      kind: "quiet",
      sign: "inside",
    });
    return [h("div", { class: "tools" }, thumbs, improve, inside), forms];
  }

  #betterForm(turn, forms, opener) {
    const text = textArea({ value: this.better?.textContent ?? this.text.trim(), required: true });
    const close = () => {
      forms.replaceChildren();
      opener.focus();
    };
    const save = async () => {
      const better = text.value.trim();
      await call("POST", "/api/feedback", { turn, better });
      this.#showBetter(better);
      notify("Saved. The next adapter learns from your version.");
      close();
    };
    requestAnimationFrame(() => {
      text.focus();
      text.form.scrollIntoView({ block: "nearest" });
    });
    return form("inline-form", save, field("The answer you would have liked", text), saveOrCancel(close));
  }

  #showBetter(text) {
    this.element.querySelector(".better")?.remove();
    this.better = h("p", { class: "yours" }, text);
    this.foot.before(h("div", { class: "better" }, h("h3", {}, "Your version"), this.better));
  }
}

function sourcesUnder(sources, cited) {
  if (!sources.length) return h("p", { class: "meta" }, "Nothing of yours was used for this answer.");
  return h(
    "details",
    { class: "answer-sources" },
    h("summary", {}, icon("quote"), plural(sources.length, "source"), icon("more")),
    sourceList(sources, cited),
  );
}

function noteForm(turn) {
  const note = textInput();
  const keep = async () => {
    await call("POST", "/api/feedback", { turn, thumbs: "down", note: note.value.trim() });
    whole.remove();
    notify("Your note is kept with the answer, on this device.");
  };
  const whole = form(
    "inline-form",
    keep,
    field("What was wrong? (optional)", note),
    actions(h("button", {}, "Keep this note")),
  );
  return whole;
}

const waiting = () => h("span", { class: "waiting" }, h("i"), h("i"));
