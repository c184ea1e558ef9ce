// "What went into this answer": the audit of a turn, in words. The audit names memories by id; their words are
// fetched, so that a forgotten one shows as forgotten.

import { get } from "./api.js";
import { capital, h, number, openDialog, plural } from "./dom.js";
import { sourceLink, sourceName } from "./sources.js";

/** Fetches the audit of a turn and shows it in a panel. */
export async function openAudit(turn) {
  const [{ audit }, { memories }] = await Promise.all([get(`/api/turns/${turn}/audit`), get("/api/memories")]);
  const texts = new Map(memories.map((item) => [`memory:${item.id}`, item.text]));
  openDialog("What went into this answer", parts(audit, texts), { kind: "drawer wide" });
}

function parts(audit, texts) {
  const kept = audit.candidates.filter((one) => one.kept);
  const dropped = audit.candidates.filter((one) => !one.kept);
  const known = (one) => ({ ...one, text: texts.get(one.id) ?? "Forgotten since." });
  return [
    part(
      "How the question was understood",
      audit.query && h("p", {}, "Searched for: ", h("span", { class: "yours" }, audit.query)),
      h("p", { class: "meta" }, `${plan(audit.plan)}.`),
    ),
    part(
      `Shown to the model (${kept.length})`,
      kept.length
        ? h(
            "ol",
            { class: "sources" },
            kept.map((one) => evidence(known(one), audit.cited.includes(one.id))),
          )
        : h("p", { class: "meta" }, "None of your memories."),
    ),
    audit.profile.length > 0 &&
      part(
        "From your profile",
        h(
          "ul",
          { class: "sources" },
          audit.profile.map((line) =>
            h(
              "li",
              {},
              h("p", { class: "yours" }, line.text),
              h("p", { class: "meta" }, h("a", { href: sourceLink(line.id) }, sourceName(line.id))),
            ),
          ),
        ),
      ),
    dropped.length > 0 &&
      part(
        `Found and left out (${dropped.length})`,
        h(
          "ul",
          { class: "sources dropped" },
          dropped.map((one) => evidence(known(one))),
        ),
      ),
    tokens(audit.prompt_tokens),
    part(
      "Who answered",
      h(
        "dl",
        {},
        row("Model", h("code", {}, audit.model_sha256.slice(0, 16))),
        row(
          "Adapter",
          audit.adapters.length
            ? audit.adapters.map((one) =>
                h("div", {}, h("code", {}, one.sha256.slice(0, 16)), ` at ${number(one.scale)}`),
              )
            : "none",
        ),
        row(
          "Sampling",
          Object.entries(audit.sampling)
            .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`)
            .join(", "),
        ),
        row("Switched off", stagesOff(audit.stages)),
      ),
    ),
    part(
      "Time",
      h(
        "dl",
        {},
        Object.entries(audit.seconds).map(([stage, seconds]) => row(capital(stage), time(seconds))),
      ),
    ),
  ].filter(Boolean);
}

const part = (heading, ...content) => h("section", { class: "audit" }, h("h3", {}, heading), content);
const row = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
const time = (seconds) => (seconds < 1 ? `${number(seconds * 1000, 1)} ms` : `${number(seconds)} s`);

function plan({ sources, reason }) {
  const used = sources.filter((source) => source !== "none");
  return capital(
    `${reason || "answered"}: ${used.length ? `drew on ${used.join(" and ")}` : "answered without your data"}`,
  );
}

function stagesOff(stages) {
  const off = Object.keys(stages).filter((stage) => !stages[stage]);
  return off.length ? off.join(", ") : "nothing";
}

function evidence(one, cited) {
  return h(
    "li",
    {},
    h("p", { class: "yours" }, one.text),
    h(
      "p",
      { class: "meta" },
      h("a", { href: sourceLink(one.id) }, sourceName(one.id)),
      h("span", {}, one.why),
      h("span", {}, `similarity ${number(one.similarity)}`),
      cited && h("span", { class: "tag live" }, "the answer rests on it"),
    ),
  );
}

function tokens({ total, ...counts }) {
  const used = Object.entries(counts).filter(([, count]) => count);
  const bar = h(
    "div",
    { class: "parts", "aria-hidden": "true" },
    used.map(([, count]) => {
      const piece = h("i");
      piece.style.flexGrow = `${count}`;
      return piece;
    }),
  );
  return part(
    "What the model read",
    h("p", {}, `${plural(total ?? 0, "token")} in all.`),
    bar,
    h(
      "dl",
      {},
      used.map(([name, count]) => row(capital(name), `${count}`)),
    ),
  );
}
