// "What I know about you": the profile (summary, attributes, rules, questions) and the memories.

import { call, get } from "./api.js";
import {
  actions,
  attempt,
  button,
  capital,
  field,
  form,
  h,
  icon,
  iconButton,
  notify,
  openDialog,
  plural,
  saveOrCancel,
  textArea,
  textInput,
  title,
  when,
} from "./dom.js";
import { showMemories } from "./memories.js";

/** Shows the profile, or with `tab` "memories" the memories (`id`: only this one). */
export async function showAbout(place, tab, id) {
  const memories = tab === "memories";
  const link = (text, hash, on) => h("a", { href: hash, "aria-current": on ? "page" : null }, text);
  const content = h("div", { class: "stack" });
  place.replaceChildren(
    h(
      "div",
      { class: "page" },
      title("What I know about you"),
      h(
        "p",
        { class: "lead" },
        "All of it is here, kept encrypted on this device. You can change or delete every line.",
      ),
      h(
        "nav",
        { class: "tabs", "aria-label": "What I know about you" },
        link("Profile", "#/about", !memories),
        link("Memories", "#/about/memories", memories),
      ),
      content,
    ),
  );
  if (memories) await showMemories(content, id);
  else await showProfile(content);
}

async function showProfile(place) {
  const profile = await get("/api/profile");
  const redraw = async (focus) => {
    await showProfile(place);
    place.querySelector(focus)?.focus();
  };
  place.replaceChildren(
    summaryCard(profile.summary, redraw),
    questionCard(profile.questions, redraw),
    attributesCard(profile.attributes, redraw),
    rulesCard(profile.rules, redraw),
  );
}

const card = (id, heading, ...content) =>
  h(
    "section",
    { class: "card", id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title`, tabindex: "-1" }, heading),
    content,
  );

function summaryCard(summary, redraw) {
  const section = card("summary", "In short");
  const heading = section.firstChild;
  const show = () => {
    const edit = button(summary ? "Edit" : "Write it yourself", () => change(), { kind: "quiet", sign: "pencil" });
    section.replaceChildren(
      heading,
      summary
        ? h("p", { class: summary.by === "you" ? "yours" : "" }, summary.text)
        : h("p", {}, "There is no summary yet. I write one when the device is idle and I know enough."),
      h("div", { class: "row" }, summary ? h("p", { class: "meta" }, origin(summary)) : h("span"), edit),
    );
    return edit;
  };
  const change = () => {
    const text = textArea({ value: summary?.text ?? "", required: true });
    const save = async () => {
      await call("PUT", "/api/profile/summary", { text: text.value.trim() });
      await redraw("#summary button");
    };
    const label = field("You in a few sentences", text, "Your own words stand; I do not write over them.");
    section.replaceChildren(
      heading,
      form(
        "inline-form",
        save,
        label,
        saveOrCancel(() => show().focus()),
      ),
    );
    text.focus();
  };
  show();
  return section;
}

const origin = (summary) => [
  h(
    "span",
    {},
    summary.by === "you" ? "written by you, " : "written by the model on this device, ",
    when(summary.written_at),
  ),
  summary.memory_ids?.length && h("span", {}, `from ${plural(summary.memory_ids.length, "memory", "memories")}`),
  summary.stale && h("span", { class: "tag" }, "older than your latest memories"),
];

function questionCard(questions, redraw) {
  if (!questions.length) return "";
  const section = card("questions", "A question for you");
  const heading = section.firstChild;
  const show = (index) => {
    const question = questions[index % questions.length];
    const answer = textInput();
    const submit = async () => {
      await call("POST", `/api/profile/questions/${question.id}`, { text: answer.value.trim() });
      notify("Thank you. It is in your profile.");
      window.dispatchEvent(new Event("status"));
      await redraw("#questions input, #attributes h2");
    };
    const skip = questions.length > 1 && button("Another question", () => show(index + 1).focus(), { kind: "quiet" });
    const buttons = actions(h("button", {}, "Answer"), skip);
    section.replaceChildren(heading, form("inline-form", submit, field(question.text, answer), buttons));
    return answer;
  };
  show(0);
  return section;
}

function attributesCard(attributes, redraw) {
  const current = attributes.filter((one) => !one.until);
  const past = attributes.filter((one) => one.until);
  const list = (some) =>
    h(
      "ul",
      { class: "facts" },
      some.map((one) => attributeEntry(one, redraw)),
    );
  const name = textInput({ placeholder: "lives in" });
  const value = textInput({ placeholder: "Lyon" });
  const add = async () => {
    await call("PUT", "/api/profile/attributes", { name: name.value.trim(), value: value.value.trim() });
    await redraw("#attributes input");
  };
  return card(
    "attributes",
    "Facts",
    current.length ? list(current) : h("p", {}, "No facts yet. Add one, or tell me things in a chat."),
    past.length > 0 && h("details", {}, h("summary", {}, icon("more"), `Earlier (${past.length})`), list(past)),
    form("adder row", add, field("Fact", name), field("Value", value), h("button", {}, icon("plus"), "Add")),
  );
}

function attributeEntry(one, redraw) {
  const name = capital(one.name);
  const change = () => changeAttribute(one, redraw);
  const remove = iconButton(`Remove ${name}: ${one.value}`, "bin", () =>
    attempt(async () => {
      await call("DELETE", `/api/profile/attributes/${one.id}`);
      notify(`Removed. I will not conclude “${name}: ${one.value}” again.`);
      await redraw("#attributes h2");
    }, remove),
  );
  return h(
    "li",
    {},
    h(
      "div",
      {},
      h("p", { class: "fact" }, h("span", { class: "name" }, name), h("span", { class: "yours" }, one.value)),
      h(
        "p",
        { class: "meta" },
        h("span", {}, certainty(one)),
        one.since && h("span", {}, "since ", when(one.since)),
        one.until && h("span", {}, "until ", when(one.until)),
        (one.memory_ids ?? []).slice(0, 3).map((id) => h("a", { href: `#/about/memories/${id}` }, `Memory ${id}`)),
      ),
    ),
    h("div", { class: "tools" }, iconButton(`Change ${name}: ${one.value}`, "pencil", change), remove),
  );
}

function certainty(one) {
  if (one.source === "you") return "certain: you said so";
  const percent = `${Math.round(one.probability * 100)} %`;
  const word = one.probability >= 0.9 ? "almost certain" : one.probability >= 0.7 ? "likely" : "perhaps";
  return `${word}, ${percent}`;
}

function changeAttribute(one, redraw) {
  const value = textInput({ value: one.value });
  const save = async () => {
    await replaceAttribute(one, value.value.trim());
    dialog.close();
    await redraw("#attributes h2");
  };
  const label = field(capital(one.name), value, "What you say counts as certain.");
  const dialog = openDialog(
    "Change a fact",
    form(
      "",
      save,
      label,
      saveOrCancel(() => dialog.close()),
    ),
  );
  value.focus();
}

/** The new value in place of the old. Where only one holds at a time, the device ends the old one itself; of several
 *  that hold together, the old one has to go. */
async function replaceAttribute(old, value) {
  await call("PUT", "/api/profile/attributes", { name: old.name, value });
  if (value === old.value) return;
  const { attributes } = await get("/api/profile");
  if (attributes.some((one) => one.id === old.id && one.value === old.value && !one.until))
    await call("DELETE", `/api/profile/attributes/${old.id}`);
}

function rulesCard(rules, redraw) {
  const text = textInput({ placeholder: "Answer in short sentences." });
  const add = async () => {
    await call("POST", "/api/profile/rules", { text: text.value.trim() });
    await redraw("#rules .adder input");
  };
  return card(
    "rules",
    "Your rules",
    h("p", {}, "I follow these in every answer while they are switched on."),
    rules.length > 0 &&
      h(
        "ul",
        { class: "facts" },
        rules.map((rule) => ruleEntry(rule, redraw)),
      ),
    form("adder row", add, field("New rule", text), h("button", {}, icon("plus"), "Add")),
  );
}

function ruleEntry(rule, redraw) {
  const change = async () => {
    const active = toggle.checked;
    const body = { text: rule.text, active };
    if (!(await attempt(() => call("PATCH", `/api/profile/rules/${rule.id}`, body)))) toggle.checked = !active;
  };
  const toggle = h("input", { type: "checkbox", role: "switch", checked: rule.active, onchange: change });
  const remove = iconButton(`Remove the rule: ${rule.text}`, "bin", () =>
    attempt(async () => {
      await call("DELETE", `/api/profile/rules/${rule.id}`);
      await redraw("#rules h2");
    }, remove),
  );
  return h(
    "li",
    {},
    h("label", { class: "switch" }, toggle, h("span", { class: "yours" }, rule.text)),
    h(
      "div",
      { class: "tools" },
      iconButton(`Change the rule: ${rule.text}`, "pencil", () => changeRule(rule, redraw)),
      remove,
    ),
  );
}

function changeRule(rule, redraw) {
  const text = textArea({ value: rule.text, required: true });
  const save = async () => {
    await call("PATCH", `/api/profile/rules/${rule.id}`, { text: text.value.trim(), active: rule.active });
    dialog.close();
    await redraw("#rules h2");
  };
  const dialog = openDialog(
    "Change a rule",
    form(
      "",
      save,
      field("Rule", text),
      saveOrCancel(() => dialog.close()),
    ),
  );
  text.focus();
}
