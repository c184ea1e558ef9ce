// A model's text as elements: paragraphs, lists, code and emphasis. Nothing in it is ever read as HTML.

import { h } from "./dom.js";

const BLOCKS = /```[^\n]*\n([\s\S]*?)(?:```|$)/g;
const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*(?=\S)([^*\n]+)\*/g;
const BULLET = /^\s*[-*•]\s+/;
const NUMBERED = /^\s*\d+[.)]\s+/;

/** Elements for `text`. */
export function rendered(text) {
  const parts = [];
  let at = 0;
  for (const block of text.matchAll(BLOCKS)) {
    parts.push(...prose(text.slice(at, block.index)), h("pre", { tabindex: "0" }, h("code", {}, block[1])));
    at = block.index + block[0].length;
  }
  return [...parts, ...prose(text.slice(at))];
}

function prose(text) {
  return text
    .split(/\n\s*\n/)
    .filter((part) => part.trim())
    .flatMap((part) => paragraphOrList(part.trim().split("\n")));
}

function paragraphOrList(lines) {
  const elements = [];
  for (const line of lines) {
    const kind = BULLET.test(line) ? "ul" : NUMBERED.test(line) ? "ol" : "p";
    const last = elements.at(-1);
    const content = inline(line.replace(kind === "ul" ? BULLET : kind === "ol" ? NUMBERED : /^/, ""));
    if (kind === "p") {
      if (last?.tagName === "P") last.append("\n", ...content);
      else elements.push(h("p", {}, content));
    } else {
      const list =
        last?.tagName.toLowerCase() === kind ? last : h(kind, kind === "ol" ? { start: parseInt(line) } : {});
      if (list !== last) elements.push(list);
      list.append(h("li", {}, content));
    }
  }
  return elements;
}

function inline(line) {
  const nodes = [];
  let at = 0;
  for (const found of line.matchAll(INLINE)) {
    const [all, code, bold, italic] = found;
    nodes.push(line.slice(at, found.index));
    if (code) nodes.push(h("code", {}, code));
    else if (bold) nodes.push(h("strong", {}, bold));
    else nodes.push(h("em", {}, italic));
    at = found.index + all.length;
  }
  return [...nodes, line.slice(at)];
}
