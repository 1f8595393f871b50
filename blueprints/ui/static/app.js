// Refreshes what a page shows while somebody looks, and keeps what is typed until the ship's server has it.
(() => {
  "use strict";

  const INTERVAL_MS = 5000;
  const DOUBLE_CLICK_MS = 600;
  const poll = document.getElementById("poll");
  const notice = document.getElementById("notice");
  const lost = document.getElementById("no-contact");
  let timer = 0;

  // --- the poll ---------------------------------------------------------------------------------

  function schedule() {
    clearTimeout(timer);
    if (poll && document.visibilityState === "visible") timer = setTimeout(refresh, INTERVAL_MS);
  }

  function refresh() {
    clearTimeout(timer);
    if (poll) htmx.trigger(poll, "refresh");
  }

  function showContact(inContact) {
    lost.hidden = inContact;
    document.documentElement.classList.toggle("out-of-contact", !inContact);
  }

  // The second click of a double click may meet the button that has come in place of the first.
  let last = { row: "", at: 0 };
  document.addEventListener(
    "click",
    (event) => {
      const row = event.target.closest(".actions button")?.closest("[data-row]")?.id;
      const byPointer = event.detail > 0;
      if (!row || !byPointer) return;
      if (row === last.row && event.timeStamp - last.at < DOUBLE_CLICK_MS) event.preventDefault();
      else last = { row, at: event.timeStamp };
    },
    true,
  );

  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") refresh();
    else clearTimeout(timer);
  });

  document.addEventListener("htmx:before:response", (event) => {
    showContact(event.detail.ctx.response.status < 500);
  });

  // A failed poll is told by the chip alone, once, not by a notice every five seconds.
  document.addEventListener("htmx:before:swap", (event) => {
    if (event.target === poll && event.detail.ctx.response.status >= 400) event.preventDefault();
  });

  document.addEventListener("htmx:finally:request", (event) => {
    if (event.target === poll) schedule();
  });

  // --- notices ----------------------------------------------------------------------------------

  function say(text, label, action) {
    const said = document.createElement("p");
    const button = document.createElement("button");
    said.textContent = `${text} `;
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => {
      notice.replaceChildren();
      action();
    });
    said.append(button);
    notice.replaceChildren(said);
  }

  document.addEventListener("htmx:before:request", (event) => {
    if (event.target !== poll) notice.replaceChildren();
  });

  document.addEventListener("htmx:error", (event) => {
    showContact(false);
    const form = event.target;
    if (form === poll) return;
    say(notice.dataset.lost, notice.dataset.again, () => {
      if (form.isConnected && form.requestSubmit) form.requestSubmit();
    });
  });

  // --- what was typed ---------------------------------------------------------------------------

  const nameOf = (form) => `arus ${location.pathname} ${form.dataset.keep}`;

  function stored(form) {
    try {
      return JSON.parse(sessionStorage.getItem(nameOf(form)));
    } catch {
      return null; // a browser that keeps nothing, or something that isn't ours
    }
  }

  function store(form, value) {
    try {
      if (value) sessionStorage.setItem(nameOf(form), JSON.stringify(value));
      else sessionStorage.removeItem(nameOf(form));
    } catch {
      // a browser that keeps nothing
    }
  }

  // Hidden inputs too: the key that makes a retry safe, and the version that the form was opened with.
  const fieldsOf = (form) => [...form.elements].filter((field) => field.name && field.type !== "submit");
  const valueOf = (field) =>
    field.type === "checkbox" || field.type === "radio" ? `${field.value} ${field.checked}` : field.value;
  const read = (form) => fieldsOf(form).map((field) => [field.name, valueOf(field)]);
  const visible = (values, form) => {
    const hidden = new Set(fieldsOf(form).filter((field) => field.type === "hidden").map((field) => field.name));
    return JSON.stringify(values.filter(([name]) => !hidden.has(name)));
  };

  function restore(form) {
    const kept = stored(form);
    const fields = fieldsOf(form);
    if (!kept || kept.length !== fields.length || kept.some(([name], at) => name !== fields[at].name)) return;
    if (visible(kept, form) === visible(read(form), form)) return;
    const before = read(form);
    write(form, kept);
    const fold = form.closest("details");
    if (fold) fold.open = true;
    say(notice.dataset.restored, notice.dataset.discard, () => {
      store(form, null);
      write(form, before);
    });
  }

  function write(form, values) {
    fieldsOf(form).forEach((field, at) => {
      const value = values[at][1];
      if (field.type === "checkbox" || field.type === "radio") field.checked = value.endsWith(" true");
      else if (field.closest("[data-choices]") && field.tagName === "SELECT") window.arusChoose(field, value);
      else field.value = value;
    });
  }

  document.addEventListener("input", (event) => {
    const form = event.target.form;
    if (form?.dataset.keep) store(form, read(form));
  });

  document.addEventListener("htmx:after:request", (event) => {
    const form = event.target;
    if (form.dataset?.keep && event.detail.ctx.response.status < 400) store(form, null);
  });

  document.addEventListener("click", (event) => {
    const form = event.target.closest("[data-leave]")?.closest("form");
    if (form) store(form, null);
  });

  for (const form of document.querySelectorAll("form[data-keep]")) restore(form);

  schedule();
})();
