// Where an answer's material comes from: names of source ids, links to them, the list under an answer.

import { h, when } from "./dom.js";

const NAMES = {
  memory: "Memory",
  document: "Document",
  attribute: "Profile",
  summary: "Profile summary",
  profile: "Profile",
  rule: "Your rule",
};

/** "memory:12" as a person reads it. */
export function sourceName(id) {
  const [kind, rest] = id.split(":");
  return `${NAMES[kind] ?? kind}${kind === "memory" ? ` ${rest}` : ""}`;
}

/** The view that shows this source. */
export function sourceLink(id) {
  const [kind, rest] = id.split(":");
  return kind === "memory" ? `#/about/memories/${rest}` : "#/about";
}

/** What the model was shown for an answer; `cited` are the ids that the answer rests on. */
export function sourceList(sources, cited) {
  return h(
    "ol",
    { class: "sources" },
    sources.map((source) =>
      h(
        "li",
        {},
        h("p", { class: "yours" }, source.text),
        h(
          "p",
          { class: "meta" },
          h("a", { href: sourceLink(source.id) }, sourceName(source.id)),
          source.said_at && h("span", {}, when(source.said_at)),
          source.kind === "passage" && h("span", {}, "from a document"),
          cited.includes(source.id) && h("span", { class: "tag live" }, "the answer rests on it"),
        ),
      ),
    ),
  );
}
