// Turns a list of options into an input that searches all of them on the server (WAI-ARIA: editable combobox).
(() => {
  "use strict";

  const WAIT_MS = 150;
  let count = 0;

  function enhance(box) {
    const select = box.querySelector("select");
    if (!select || box.dataset.ready) return;
    box.dataset.ready = "true";

    const input = document.createElement("input");
    const list = document.createElement("ul");
    const note = document.createElement("p");
    const id = select.id;
    select.id = `${id}-value`;
    select.hidden = true;
    input.id = id;
    input.type = "text";
    input.autocomplete = "off";
    input.spellcheck = false;
    list.id = `choices-${(count += 1)}`;
    list.hidden = true;
    note.className = "choice-note";
    note.hidden = true;
    note.setAttribute("role", "status");
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", box.dataset.list);
    const states = { role: "combobox", "aria-expanded": "false", "aria-controls": list.id, "aria-autocomplete": "list" };
    for (const [name, value] of Object.entries(states)) input.setAttribute(name, value);
    for (const name of ["aria-required", "aria-invalid", "aria-describedby", "autofocus"]) {
      if (select.hasAttribute(name)) input.setAttribute(name, select.getAttribute(name));
    }
    select.after(input, list, note);
    if (select.hasAttribute("autofocus")) input.focus();

    const blank = [...select.options].find((option) => option.value === "");
    let active = -1;
    let typed = false;
    let timer = 0;
    let asked = 0;
    let accepting = null;

    const chosen = () => select.selectedOptions[0];
    const items = () => [...list.children];
    const isOpen = () => !list.hidden;

    function show() {
      const option = chosen();
      const isBlank = !option || option.value === "";
      input.value = isBlank ? "" : option.textContent.trim();
      input.placeholder = blank ? blank.textContent.trim() : "";
      typed = false;
    }

    function close() {
      clearTimeout(timer);
      timer = 0;
      asked += 1;
      list.hidden = note.hidden = true;
      input.setAttribute("aria-expanded", "false");
      mark(-1);
    }

    function mark(at) {
      active = at;
      items().forEach((item, place) => item.classList.toggle("is-active", place === at));
      const item = items()[at];
      if (item) {
        input.setAttribute("aria-activedescendant", item.id);
        item.scrollIntoView({ block: "nearest" });
      } else input.removeAttribute("aria-activedescendant");
    }

    function choose(value, text) {
      if (![...select.options].some((option) => option.value === value)) select.add(new Option(text, value));
      const isNew = select.value !== value;
      select.value = value;
      show();
      close();
      if (isNew) {
        for (const kind of ["input", "change"]) select.dispatchEvent(new Event(kind, { bubbles: true }));
      }
    }

    function fill(options, hasMore) {
      list.replaceChildren(
        ...options.map(({ value, text }, place) => {
          const item = document.createElement("li");
          item.id = `${list.id}-${place}`;
          item.setAttribute("role", "option");
          item.setAttribute("aria-selected", String(value === select.value));
          item.dataset.value = value;
          item.textContent = text;
          return item;
        }),
      );
      list.hidden = options.length === 0;
      input.setAttribute("aria-expanded", String(options.length > 0));
      note.textContent = options.length === 0 ? box.dataset.none : hasMore ? box.dataset.more : "";
      note.hidden = note.textContent === "";
      mark(typed && input.value.trim() ? Math.min(0, options.length - 1) : options.findIndex(({ value }) => value === select.value));
    }

    // What the page has brought along, for when the server does not answer.
    function offline(q) {
      const has = (text) => text.toLocaleLowerCase().includes(q.toLocaleLowerCase());
      const own = [...select.options].map((option) => ({ value: option.value, text: option.textContent.trim() }));
      return own.filter(({ text }) => has(text));
    }

    async function search() {
      clearTimeout(timer);
      timer = 0;
      const q = typed ? input.value.trim() : "";
      const turn = (asked += 1);
      const url = new URL(box.dataset.choices, location.href);
      url.searchParams.set("q", q);
      if (!q && select.value) url.searchParams.append("present", select.value);
      let found;
      try {
        const answer = await fetch(url, { headers: { Accept: "application/json" } });
        if (!answer.ok) throw new Error(answer.statusText);
        found = await answer.json();
      } catch {
        found = { options: offline(q), hasMore: false };
      }
      if (turn !== asked) return;
      const first = [...select.options].filter((option) => !q && /^-?$/.test(option.value));
      const general = first.map((option) => ({ value: option.value, text: option.textContent.trim() }));
      const rest = found.options.filter(({ value }) => !general.some((each) => each.value === value));
      fill([...general, ...rest], found.hasMore);
    }

    // As in a plain list: what begins with the typed text is chosen, and what alone has it.
    function meant(options) {
      const q = input.value.trim().toLocaleLowerCase();
      const begins = options.find(({ text }) => text.toLocaleLowerCase().startsWith(q));
      return begins ?? (options.length === 1 ? options[0] : undefined);
    }

    async function accept() {
      const item = isOpen() && !timer ? items()[active] : undefined;
      const found = item
        ? { value: item.dataset.value, text: item.textContent }
        : meant(offline("").filter(({ value }) => value !== ""));
      if (found) {
        choose(found.value, found.text);
        return;
      }
      await search();
      const late = meant(items().map((each) => ({ value: each.dataset.value, text: each.textContent })));
      if (late) choose(late.value, late.text);
      else {
        show();
        close();
      }
    }

    function settle() {
      if (accepting) return;
      // An emptied input means no choice, where there may be none; any other text without a choice means nothing.
      if (typed && input.value.trim() === "" && blank) choose("", blank.textContent);
      else {
        show();
        close();
      }
    }

    input.addEventListener("input", (event) => {
      event.stopPropagation(); // the form has not changed yet
      typed = true;
      clearTimeout(timer);
      timer = setTimeout(search, WAIT_MS);
    });
    input.addEventListener("click", () => {
      if (!isOpen()) search();
    });
    input.addEventListener("focus", () => input.select());
    input.addEventListener("blur", settle);
    input.addEventListener("keydown", async (event) => {
      const last = items().length - 1;
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        if (!isOpen()) await search();
        else if (event.key === "ArrowDown") mark(active >= last ? 0 : active + 1);
        else mark(active <= 0 ? last : active - 1);
      } else if (event.key === "Enter" && (isOpen() || typed)) {
        event.preventDefault();
        if (!isOpen() || timer) await search();
        const item = items()[active];
        if (item) choose(item.dataset.value, item.textContent);
      } else if (event.key === "Tab" && typed && input.value.trim()) {
        accepting = accept().finally(() => {
          accepting = null;
        });
      } else if (event.key === "Escape" && (isOpen() || typed)) {
        event.preventDefault();
        show();
        close();
      }
    });
    // Before the input loses the focus.
    list.addEventListener("pointerdown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => {
      const item = event.target.closest("[role=option]");
      if (item) choose(item.dataset.value, item.textContent);
    });
    select.addEventListener("arus:show", show);
    // A form is sent with what was typed last, even if the server still searches for it.
    select.form?.addEventListener(
      "submit",
      (event) => {
        if (!accepting) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        const { target, submitter } = event;
        accepting.then(() => target.requestSubmit(submitter));
      },
      true,
    );
    show();
  }

  // Sets the value of a list whose option is perhaps not on the page, as when earlier input is restored.
  window.arusChoose = async (select, value) => {
    const box = select.closest("[data-choices]");
    if (![...select.options].some((option) => option.value === value)) {
      select.add(new Option("…", value));
      const url = new URL(box.dataset.choices, location.href);
      url.searchParams.append("present", value);
      fetch(url, { headers: { Accept: "application/json" } })
        .then((answer) => answer.json())
        .then(({ options }) => {
          const found = options.find((each) => each.value === value);
          const option = [...select.options].find((each) => each.value === value);
          if (found) option.textContent = found.text;
          select.dispatchEvent(new Event("arus:show"));
        })
        .catch(() => {}); // the choice stands, without its name
    }
    select.value = value;
    select.dispatchEvent(new Event("arus:show"));
  };

  const enhanceAll = () => document.querySelectorAll("[data-choices]").forEach(enhance);
  new MutationObserver(enhanceAll).observe(document.documentElement, { childList: true, subtree: true });
  enhanceAll();
  // A browser may restore the chosen options of a page that one comes back to.
  addEventListener("pageshow", () => {
    for (const select of document.querySelectorAll("[data-choices] > select")) select.dispatchEvent(new Event("arus:show"));
  });
})();
