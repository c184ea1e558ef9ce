// "What has left this device": the ledger, the privacy spent, and what the owner allows.

import { call, get } from "./api.js";
import { attempt, field, form, h, icon, notify, number, plural, title, when } from "./dom.js";

/** Shows the ledger and the settings for sharing. */
export async function showLedger(place) {
  const { entries, epsilon, settings } = await get("/api/ledger");
  place.replaceChildren(
    h(
      "div",
      { class: "page" },
      title("What has left this device"),
      lead(entries),
      entries.length > 0 && spent(epsilon, settings),
      entries.length > 0 && table(entries),
      sharing(settings, () => showLedger(place).then(() => place.querySelector("#share")?.focus())),
      explanation(),
    ),
  );
}

function lead(entries) {
  if (!entries.length) return h("p", { class: "lead all-clear" }, icon("check"), "Nothing has left this device.");
  const bytes = entries.reduce((sum, entry) => sum + entry.size_bytes, 0);
  return h(
    "p",
    { class: "lead" },
    `${plural(entries.length, "contribution")}, ${size(bytes)} in all: noised numbers, never your words.`,
  );
}

function spent(epsilon, settings) {
  const budget = settings.epsilon_budget;
  const known = typeof epsilon === "number";
  const text = known ? `${number(epsilon)} of ${number(budget)}` : "no limit can be stated";
  const part = known ? Math.min(epsilon / Math.max(budget, 1e-9), 1) : 1;
  const fill = h("div", { class: part > 0.85 ? "fill high" : "fill" });
  fill.style.inlineSize = `${part * 100}%`;
  return h(
    "section",
    { class: "card", "aria-labelledby": "spent" },
    h("div", { class: "row" }, h("h2", { id: "spent" }, "Privacy spent"), h("p", { class: "figure" }, "ε ", text)),
    h(
      "div",
      {
        class: "bar",
        role: "meter",
        "aria-labelledby": "spent",
        "aria-valuemin": "0",
        "aria-valuemax": `${budget}`,
        "aria-valuenow": `${known ? Math.min(epsilon, budget) : budget}`,
        "aria-valuetext": `epsilon ${text}`,
      },
      fill,
    ),
    h(
      "p",
      {},
      known
        ? [
            "Whoever sees every sum these contributions went into can shift their odds that you took part by a factor ",
            `of ${odds(epsilon)} at most. The budget you set caps that factor at ${odds(budget)}; this device refuses `,
            "any round that would go beyond it.",
          ]
        : "At least one contribution carried no noise, so no bound holds for it.",
    ),
    h(
      "p",
      { class: "meta" },
      `The bound may fail with a chance of at most 1 in ${number(1 / settings.delta, 0)} (delta).`,
    ),
  );
}

const odds = (epsilon) => (epsilon > 14 ? "more than a million" : number(Math.exp(epsilon), epsilon < 3 ? 1 : 0));

function table(entries) {
  const cell = (label, ...content) => h("td", { "data-label": label }, content);
  return h(
    "section",
    { class: "card", "aria-labelledby": "entries" },
    h("h2", { id: "entries" }, "Every contribution"),
    h(
      "table",
      { class: "stacking" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["When", "What", "Size", "People", "Noise"].map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        entries
          .toReversed()
          .map((entry) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, when(entry.written, { hour: true })),
              cell(
                "What",
                h("span", {}, KINDS[entry.kind] ?? entry.kind, h("small", {}, `${entry.run_id}, round ${entry.round}`)),
              ),
              cell("Size", size(entry.size_bytes)),
              cell("People", `${entry.roster_size}`),
              cell("Noise", entry.noise_multiplier == null ? "none" : number(entry.noise_multiplier)),
            ),
          ),
      ),
    ),
  );
}

const KINDS = {
  shared: "for the shared adapter",
  bases: "for the preference bases",
};

function size(bytes) {
  if (bytes < 1000) return plural(bytes, "byte");
  return bytes < 1e6 ? `${number(bytes / 1000, 1)} kB` : `${number(bytes / 1e6, 1)} MB`;
}

function sharing(settings, redraw) {
  const share = h("input", { type: "checkbox", role: "switch", id: "share", checked: settings.share });
  share.addEventListener("change", async () => {
    const changed = await attempt(() => call("PATCH", "/api/settings", { share: share.checked }), share);
    if (!changed) share.checked = !share.checked;
    else notify(share.checked ? "This device may take part in rounds now." : "This device takes part in nothing now.");
  });
  const budget = h("input", {
    type: "number",
    min: "0",
    max: "1000",
    step: "any",
    required: true,
    value: settings.epsilon_budget,
  });
  const people = h("input", { type: "number", min: "2", step: "1", required: true, value: settings.minimum_roster });
  const save = async () => {
    const changes = { epsilon_budget: Number(budget.value), minimum_roster: Number(people.value) };
    await call("PATCH", "/api/settings", changes);
    notify("Saved.");
    await redraw();
  };
  return h(
    "section",
    { class: "card", "aria-labelledby": "sharing" },
    h("h2", { id: "sharing" }, "What you allow"),
    h(
      "label",
      { class: "switch" },
      share,
      h(
        "span",
        {},
        "Take part in rounds",
        h("small", {}, "Off: nothing ever leaves. On: noised sums may, within the limits below."),
      ),
    ),
    form(
      "row settings",
      save,
      field("Privacy budget (epsilon)", budget, "Lower is more private."),
      field("Fewest people in a round", people, "Smaller rounds are refused."),
      h("button", {}, "Save"),
    ),
  );
}

function explanation() {
  return h(
    "details",
    { class: "card" },
    h("summary", {}, "How a contribution is made", icon("more")),
    h(
      "ol",
      {},
      [
        "This device trains on your words and turns what it learnt into a short list of numbers.",
        "The list is cut to a fixed length, so nobody weighs more than anybody else.",
        "Random noise is added, and masks that cancel out only when everybody’s lists are added up.",
        "The server sees the sum of all lists. It cannot read yours.",
        "Nothing else leaves: memories and adapters stay.",
      ].map((text) => h("li", {}, text)),
    ),
  );
}
