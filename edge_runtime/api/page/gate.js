// The screens in front of everything else: no link, a link that is over, a device that does not answer, a lock.

import { call } from "./api.js";
import { actions, button, field, h, icon, title } from "./dom.js";

/** Fills `place` with one screen: a heading that takes the focus, and what it says. */
function screen(place, heading, parts) {
  const head = title(heading);
  place.replaceChildren(
    h(
      "main",
      { class: "gate-card" },
      h("img", { src: "/page/mark.svg", alt: "", width: "44", height: "44" }),
      head,
      parts,
    ),
  );
  head.focus();
}

export function showNoLink(place) {
  screen(place, "Open Penchant with its own link", [
    h(
      "p",
      {},
      "This page belongs to you alone, so it opens only with the link that this device prints. In a terminal, run",
    ),
    h("pre", { tabindex: "0" }, h("code", {}, "penchant serve")),
    h("p", {}, "and open the link it shows. Nothing was sent anywhere."),
  ]);
}

export function showRefused(place) {
  screen(place, "This link is over", [
    h(
      "p",
      {},
      "Penchant was started anew since this page was opened. Take the link from the terminal where it runs, or run",
    ),
    h("pre", { tabindex: "0" }, h("code", {}, "penchant serve")),
    h("p", {}, "and open the link it shows."),
  ]);
}

export function showUnreachable(place, message, retry) {
  screen(place, "Penchant is not running", [
    h("p", {}, message),
    actions(button("Try again", retry, { kind: "primary" })),
  ]);
}

/** The lock. `opened` is called when the passphrase was right. */
export function showLocked(place, opened) {
  const passphrase = h("input", { type: "password", autocomplete: "current-password", required: true });
  const problem = h("p", { class: "problem", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    const control = event.submitter;
    control.disabled = true;
    problem.replaceChildren();
    try {
      await call("POST", "/api/unlock", { passphrase: passphrase.value });
      passphrase.value = "";
      await opened();
    } catch (error) {
      problem.replaceChildren(icon("alert"), error.message);
      passphrase.select();
    } finally {
      control.disabled = false;
    }
  };
  screen(place, "Locked", [
    h("p", {}, "Your memories are encrypted and closed. Nothing can be read until you open them."),
    h(
      "form",
      { onsubmit: submit },
      h("input", { type: "text", autocomplete: "username", value: "owner", hidden: true }),
      field("Passphrase", passphrase),
      problem,
      actions(h("button", { class: "primary" }, "Unlock")),
    ),
  ]);
  passphrase.focus();
}
