// Refreshes the sync state while somebody looks, and shows times in the reader's own time zone.
(() => {
  "use strict";

  const INTERVAL_MS = 5000;
  const DOUBLE_CLICK_MS = 600;
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
  const poll = document.getElementById("poll");
  const notice = document.getElementById("notice");
  const lost = document.getElementById("no-contact");
  let timer = 0;

  const pad = (number) => String(number).padStart(2, "0");

  function localTime(date) {
    const now = new Date();
    const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
    if (date.toDateString() === now.toDateString()) return clock;
    const day = `${date.getDate()} ${MONTHS[date.getMonth()]}`;
    return date.getFullYear() === now.getFullYear()
      ? `${day} ${clock}`
      : `${day} ${date.getFullYear()} ${clock}`;
  }

  function localiseTimes() {
    for (const element of document.querySelectorAll("time[data-utc]")) {
      element.title = element.dateTime;
      element.textContent = localTime(new Date(element.dateTime));
      delete element.dataset.utc;
    }
  }

  function schedule() {
    clearTimeout(timer);
    if (document.visibilityState === "visible") timer = setTimeout(refresh, INTERVAL_MS);
  }

  function refresh() {
    clearTimeout(timer);
    htmx.trigger(poll, "refresh");
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
      const row = event.target.closest(".actions button")?.closest("li")?.id;
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

  document.addEventListener("htmx:before:request", (event) => {
    if (event.target !== poll) notice.replaceChildren();
  });

  document.addEventListener("htmx:before:response", (event) => {
    showContact(event.detail.ctx.response.status < 500);
  });

  // A failed poll is told by the chip alone, once, not by a notice every five seconds.
  document.addEventListener("htmx:before:swap", (event) => {
    if (event.target === poll && event.detail.ctx.response.status >= 400) event.preventDefault();
  });

  document.addEventListener("htmx:error", (event) => {
    showContact(false);
    if (event.target === poll) return;
    const text = document.createElement("p");
    text.textContent =
      "The ship's server did not answer. What you typed is still here: try again in a moment.";
    notice.replaceChildren(text);
  });

  document.addEventListener("htmx:finally:request", (event) => {
    if (event.target === poll) schedule();
  });

  document.addEventListener("htmx:after:swap", localiseTimes);

  localiseTimes();
  schedule();
})();
