// The chat view: a conversation, the composer, and an answer as it is written.

import { ask, call, get } from "./api.js";
import { announce, attempt, button, h, icon, plural, textArea, title } from "./dom.js";
import { AnswerTurn, ownTurn, remember, rememberedTurn } from "./turn.js";

// "remember that ..." is an order, "remember when we ...?" is not
const REMEMBER = /^(?:please\s+)?remember(?:\s+that\s+|\s*:\s*)(.*[^?\s])\s*$/is;

const STARTERS = ["Remember that ", "What do you know about me?", "Help me plan my week."];

/** Shows a conversation (`id` undefined: a new one) in `place`. */
export async function showChat(place, id, device) {
  const chat = new Chat(place, id, device);
  if (id) await chat.load();
  else chat.greet();
  return chat;
}

class Chat {
  constructor(place, id, device) {
    this.id = id;
    this.device = device;
    this.turns = h("ol", { class: "turns" });
    this.thread = h("div", { class: "thread", tabindex: "0", role: "region", "aria-label": "Messages" }, this.turns);
    this.heading = title(id ? "Conversation" : "New conversation");
    this.heading.classList.add("unseen");
    place.replaceChildren(h("div", { class: "chat" }, this.heading, this.thread, this.#composer()));
    if (matchMedia("(pointer: fine)").matches) requestAnimationFrame(() => this.question.focus());
  }

  async load() {
    const [{ turns }, feedback, { memories }] = await Promise.all([
      get(`/api/conversations/${this.id}`),
      get("/api/feedback"),
      get("/api/memories"),
    ]);
    for (const turn of turns) {
      if (turn.role === "user") this.turns.append(ownTurn(turn.text, turn.said_at));
      else this.turns.append(pastAnswer(turn, feedback, memories));
    }
    const first = turns.find((turn) => turn.role === "user");
    if (first) this.heading.textContent = first.text.slice(0, 60);
    this.#toEnd();
  }

  greet() {
    const known = this.device.memories;
    const starters = STARTERS.map((text) =>
      button(text.trim() + (text.endsWith(" ") ? " …" : ""), () => {
        this.question.value = text;
        this.question.focus();
        this.question.setSelectionRange(text.length, text.length);
        this.question.dispatchEvent(new Event("input"));
      }),
    );
    this.greeting = h(
      "div",
      { class: "greeting" },
      h("img", { src: "/page/mark.svg", alt: "", width: "44", height: "44" }),
      h("p", { class: "lead" }, "What is on your mind?"),
      h(
        "p",
        {},
        known
          ? `I answer with what I remember of yours: ${plural(known, "memory", "memories")}. `
          : "I know nothing about you yet; tell me something to remember. ",
        "Nothing you write here leaves this device.",
      ),
      h("div", { class: "starters" }, starters),
    );
    this.thread.prepend(this.greeting);
  }

  /** Ends what is running, when the view changes. */
  leave() {
    this.running?.abort();
  }

  #composer() {
    this.question = textArea({
      id: "question",
      name: "question",
      placeholder: "Write to Penchant",
      autocomplete: "off",
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.send = h("button", { class: "primary send", "aria-label": "Send", title: "Send" }, icon("send"));
    this.stop = h(
      "button",
      {
        type: "button",
        class: "send",
        "aria-label": "Stop the answer",
        title: "Stop",
        hidden: true,
        onclick: () => this.running?.abort(),
      },
      icon("stop"),
    );
    const submit = (event) => {
      event.preventDefault();
      const text = this.question.value.trim();
      if (text && !this.running) this.#say(text);
    };
    this.form = h(
      "form",
      { class: "composer", onsubmit: submit },
      h("label", { class: "unseen", for: "question" }, "Your message"),
      h("div", { class: "composer-box" }, this.question, this.send, this.stop),
      h(
        "p",
        { class: "meta only-wide" },
        "Enter sends, Shift + Enter starts a new line. “Remember that …” stores what follows.",
      ),
    );
    this.form.addEventListener("keydown", (event) => event.key === "Escape" && this.running?.abort());
    return this.form;
  }

  async #say(text) {
    const order = REMEMBER.exec(text);
    if (order) return this.#remember(order[1].trim());
    this.#clearComposer();
    const answer = new AnswerTurn();
    this.turns.append(ownTurn(text), answer.element);
    this.#toEnd();
    this.#run(true);
    announce("Penchant is answering.");
    try {
      await this.#stream(text, answer);
    } catch (error) {
      if (error.name === "AbortError") answer.stopped();
      else this.#failed(text, answer, error);
      announce(error.name === "AbortError" ? "Stopped." : "");
    }
    this.#run(false);
    this.#toEnd();
    window.dispatchEvent(new Event("conversations"));
  }

  /** Says what went wrong and gives the question back, so that it need not be typed again. */
  #failed(text, answer, error) {
    answer.fail(error.message);
    if (this.question.value) return;
    this.question.value = text;
    this.question.dispatchEvent(new Event("input"));
  }

  async #stream(text, answer) {
    const { signal } = this.running;
    if (!this.id) {
      this.id = (await call("POST", "/api/conversations")).id;
      history.replaceState(null, "", `#/chat/${this.id}`);
    }
    const pieces = ask(text, { conversation: this.id, signal });
    for await (const { text: piece, done } of pieces) {
      if (piece) answer.add(piece);
      if (done) {
        const { audit } = await get(`/api/turns/${done.turn}/audit`);
        answer.finish({ ...done, cited: audit.cited });
      }
      this.#follow();
    }
    announce(answer.text);
  }

  async #remember(text) {
    const statement = text[0].toUpperCase() + text.slice(1);
    const stored = await attempt(async () => {
      const item = await remember(statement);
      this.turns.append(rememberedTurn(item));
      announce(`Remembered: ${item.text}`);
    }, this.send);
    if (!stored) return;
    this.#clearComposer();
    this.#toEnd();
    window.dispatchEvent(new Event("status"));
  }

  #clearComposer() {
    this.greeting?.remove();
    this.question.value = "";
    this.question.dispatchEvent(new Event("input"));
  }

  #run(running) {
    const had = document.activeElement === this.stop || document.activeElement === this.send;
    this.running = running ? new AbortController() : null;
    this.send.hidden = running;
    this.stop.hidden = !running;
    if (had) (running ? this.stop : this.question).focus();
  }

  /** Keeps the end in sight, unless the reader has scrolled up. */
  #follow() {
    const { scrollHeight, scrollTop, clientHeight } = this.thread;
    if (scrollHeight - scrollTop - clientHeight < 160) this.#toEnd();
  }

  #toEnd() {
    this.thread.scrollTop = this.thread.scrollHeight;
  }
}

/** An answer of before. Its audit names memories by id: those that were forgotten since are left out. */
function pastAnswer({ id, text, audit }, { ratings, preferences }, memories) {
  const shown = audit.candidates.filter((one) => one.kept).map((one) => one.id);
  const kept = shown.flatMap((name) => {
    const item = memories.find((one) => `memory:${one.id}` === name);
    return item ? { id: name, text: item.text, said_at: item.said_at, kind: item.kind } : [];
  });
  const rating = ratings.findLast((one) => one.turn === id);
  const answer = new AnswerTurn();
  answer.text = text;
  answer.finish({
    turn: id,
    sources: [...kept, ...audit.profile],
    cited: audit.cited,
    rating: rating && (rating.up ? "up" : "down"),
    better: preferences.findLast((one) => one.rejected === text)?.chosen,
    stopped: audit.stopped,
  });
  return answer.element;
}
