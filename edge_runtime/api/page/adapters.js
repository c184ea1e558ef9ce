// The adapters: every version on this device, which one is live, roll back and switch off.

import { call, get } from "./api.js";
import { attempt, button, h, icon, notify, number, title, when } from "./dom.js";

/** Shows the versions, newest first. */
export async function showAdapters(place) {
  const { adapters } = await get("/api/adapters");
  const change = (path, said) => async (event) => {
    if (!(await attempt(() => call("POST", path), event.currentTarget))) return;
    notify(said);
    await showAdapters(place);
    place.querySelector("h1").focus();
  };
  const live = adapters.some((one) => one.live && one.held);
  place.replaceChildren(
    h(
      "div",
      { class: "page" },
      title("Adapters"),
      h(
        "p",
        { class: "lead" },
        adapters.length
          ? "Learnt from your own words, and used only for what it surely helps: drafts in your voice, answers to you."
          : "This device has no adapter yet.",
      ),
      adapters.length === 0 &&
        h(
          "p",
          {},
          "An adapter shifts the model towards how you write and what you prefer. In a terminal, ",
          h("code", {}, "penchant train"),
          " makes one from your memories and feedback; it stays here, encrypted.",
        ),
      adapters.length > 0 &&
        h(
          "ol",
          { class: "versions" },
          adapters.toReversed().map((one) => version(one, change)),
        ),
      explanation(),
      live &&
        h(
          "section",
          { class: "card" },
          h(
            "div",
            { class: "row" },
            h("p", {}, "Answer with the plain model. The versions stay, and you can go back to one."),
            button("Switch off", change("/api/adapters/off", "Switched off. The plain model answers now.")),
          ),
        ),
    ),
  );
}

function version(one, change) {
  const state =
    one.live && one.held
      ? h("span", { class: "tag live" }, "live")
      : !one.held && h("span", { class: "tag" }, "forgotten");
  const privacy =
    one.epsilon == null ? "no guarantee claimed; it never leaves this device" : `ε ${number(one.epsilon)}`;
  const use = button("Use this version", change(`/api/adapters/${one.id}/use`, `Version ${one.id} is live.`), {
    "aria-label": `Use this version: ${one.id}`,
  });
  return h(
    "li",
    { class: one.live && one.held ? "card live" : "card" },
    h("div", { class: "row" }, h("h2", {}, `Version ${one.id} `, state), one.held && !one.live && use),
    one.note && h("p", {}, one.note),
    h(
      "dl",
      {},
      h("dt", {}, "Used for"),
      h("dd", {}, one.serves.join(" and ")),
      h("dt", {}, "Installed"),
      h("dd", {}, when(one.installed_at, { hour: true })),
      h("dt", {}, "Privacy of its training"),
      h("dd", {}, privacy),
      h("dt", {}, "Digest"),
      h("dd", {}, h("code", {}, one.sha256.slice(0, 16))),
      h("dt", {}, "For the model"),
      h("dd", {}, h("code", {}, one.base_sha256.slice(0, 16))),
      !one.held && [h("dt", {}, "State"), h("dd", {}, "Its numbers were deleted when you had something forgotten.")],
    ),
  );
}

function explanation() {
  return h(
    "details",
    { class: "card" },
    h("summary", {}, "What is private here", icon("more")),
    h(
      "ol",
      {},
      h(
        "li",
        {},
        "What can leave is always private: noised sums, if you take part. Their ε hides you as a person.",
      ),
      h(
        "li",
        {},
        "What stays is private if you ask. An adapter lies here encrypted, beside the words it learnt from, and may ",
        "repeat them. ",
        h("code", {}, "penchant train --epsilon 8"),
        " hides each text in noise, ",
        h("code", {}, "--unit conversation"),
        " each conversation; neither hides you as a person. A smaller ε hides more, and teaches less.",
      ),
    ),
  );
}
