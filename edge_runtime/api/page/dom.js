// What every view builds with: elements, icons, dates, dialogs, announcements. Text only ever becomes text nodes.

/** An element. `attributes`: `on...` are listeners, booleans set or leave out; children: nodes, text, null. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/page/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

export const button = (label, onclick, { kind = "", sign, ...rest } = {}) =>
  h("button", { type: "button", class: kind, onclick, ...rest }, sign && icon(sign), label);

/** A button that shows only its icon; `label` is its name. */
export const iconButton = (label, sign, onclick, rest = {}) =>
  h(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...rest },
    icon(sign),
  );

const DAY = { day: "numeric", month: "long", year: "numeric" };

/** A `<time>` for an ISO date or time, shown as a day, with the hour if `hour`. */
export function when(iso, { hour = false } = {}) {
  const whole = iso.length > 10;
  const date = new Date(whole ? iso : `${iso}T00:00`);
  if (Number.isNaN(date.getTime())) return h("span", {}, iso);
  const options = hour && whole ? { ...DAY, hour: "2-digit", minute: "2-digit" } : DAY;
  return h("time", { datetime: iso }, date.toLocaleString("en-GB", options));
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** "lives_in" as a person writes it at the start of a line. */
export const capital = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

/** A number with at most `digits` decimals, without trailing zeros. */
export const number = (value, digits = 2) => value.toLocaleString("en", { maximumFractionDigits: digits });

let lastAnnounced = "";

/** Read out by a screen reader when it has finished what it says. */
export function announce(text) {
  // the same text twice would not be read: a space makes it new
  lastAnnounced = text === lastAnnounced ? `${text}\u00a0` : text;
  document.getElementById("announcer").textContent = lastAnnounced;
}

/** A line at the top of the page; an error stays until it is closed, a confirmation for six seconds. */
export function notify(text, { error = false } = {}) {
  const line = h(
    "div",
    { class: error ? "notice error" : "notice", role: error ? "alert" : "status" },
    icon(error ? "alert" : "check"),
    h("p", {}, text),
    iconButton("Close this message", "close", () => line.remove()),
  );
  // behind an open dialog nothing can be read or closed: there the line belongs to the dialog
  const dialog = [...document.querySelectorAll("dialog[open] .dialog-body")].at(-1);
  document.querySelectorAll(".notice").forEach((old) => old.remove());
  (dialog ?? document.getElementById("notices")).append(line);
  if (!error) setTimeout(() => line.remove(), 6000);
}

/** Runs `work`; says what went wrong if it fails. Meanwhile `control` does nothing, but keeps the focus, which a
 *  disabled control would lose. Whether it succeeded. */
export async function attempt(work, control) {
  if (control?.ariaBusy === "true") return false;
  if (control) control.ariaBusy = "true";
  try {
    await work();
    return true;
  } catch (error) {
    notify(error.message, { error: true });
    return false;
  } finally {
    if (control) control.ariaBusy = null;
  }
}

/** A form whose submission does `work` and says what went wrong if that fails. */
export function form(kind, work, ...children) {
  const submit = (event) => {
    event.preventDefault();
    attempt(work, event.submitter);
  };
  return h("form", { class: kind, onsubmit: submit }, children);
}

/** A line of text that must not be empty. */
export const textInput = (attributes) =>
  h("input", { type: "text", autocomplete: "off", required: true, ...attributes });

export const actions = (...children) => h("div", { class: "actions" }, children);

/** The end of a form that changes something. */
export const saveOrCancel = (cancel) => actions(h("button", { class: "primary" }, "Save"), button("Cancel", cancel));

let dialogs = 0;

/** Opens a modal dialog and returns it; closing gives the focus back to what had it, or to the view's heading. */
export function openDialog(title, content, { kind = "" } = {}) {
  const opener = document.activeElement;
  const id = `dialog-${++dialogs}`;
  const dialog = h(
    "dialog",
    { class: kind, "aria-labelledby": id },
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id, tabindex: "-1" }, title),
      iconButton("Close", "close", () => dialog.close()),
    ),
    h("div", { class: "dialog-body" }, content),
  );
  // a drawer closes when one taps beside it; a dialog does not, since it may hold something typed
  if (kind === "drawer") dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    const target = opener?.isConnected && opener !== document.body ? opener : document.querySelector("main h1");
    target?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A heading that a view change moves the focus to. */
export const title = (text) => h("h1", { tabindex: "-1" }, text);

/** Label and control, one under the other. */
export function field(label, control, hint) {
  control.id ||= `field-${++dialogs}`;
  const line = hint && h("small", { id: `${control.id}-hint` }, hint);
  if (line) control.setAttribute("aria-describedby", line.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, line);
}

/** A text area that grows with its text. */
export function textArea(attributes) {
  const area = h("textarea", { rows: "1", ...attributes });
  const grow = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  area.addEventListener("input", grow);
  requestAnimationFrame(grow);
  return area;
}
