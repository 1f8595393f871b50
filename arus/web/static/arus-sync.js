// The sync page while somebody looks: one small request every five seconds, and the charts of the last day.
(() => {
  "use strict";

  const INTERVAL_MS = 5000;
  const MINUTE_MS = 60000;
  const DAY_MS = 24 * 60 * MINUTE_MS;
  const HEIGHT = 190;
  const language = document.documentElement.lang || undefined;

  function localiseTimes(root) {
    const now = new Date();
    for (const element of root.querySelectorAll("time[data-arus-utc]")) {
      const moment = new Date(element.dateTime);
      const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
      if (moment.toDateString() !== now.toDateString()) Object.assign(options, { day: "numeric", month: "short" });
      if (moment.getFullYear() !== now.getFullYear()) options.year = "numeric";
      element.title = element.textContent;
      element.textContent = moment.toLocaleString(language, options);
      element.removeAttribute("data-arus-utc");
    }
  }

  localiseTimes(document);
  const page = document.querySelector("[data-arus-live]");
  if (!page) return;

  const zone = page.dataset.arusZone || undefined;
  const lost = page.querySelector("[data-arus-lost]");
  const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  const figure = new Intl.NumberFormat(language);

  // --- charts ------------------------------------------------------------------------------------

  const samples = new Map();
  const charts = [];
  let now = Date.now();
  let depth = 0;

  // What waits stays as it was until the next sample; what was delivered is of its own minute alone.
  const SERIES = {
    depth() {
      const times = [];
      const values = [];
      let last = null;
      for (const [minute, sample] of [...samples].sort((a, b) => a[0] - b[0])) {
        last = sample.depth;
        times.push(Math.max(minute + MINUTE_MS, now - DAY_MS) / 1000);
        values.push(last);
      }
      // equal times would be drawn as a spike: of those before the day only the last counts
      const first = times.findLastIndex((time) => time <= (now - DAY_MS) / 1000);
      if (first > 0) {
        times.splice(0, first);
        values.splice(0, first);
      }
      if (times.length && times[times.length - 1] < now / 1000) {
        times.push(now / 1000);
        values.push(depth);
      }
      return [times, values];
    },
    published() {
      const times = [];
      const values = [];
      const begin = Math.floor((now - DAY_MS) / MINUTE_MS) * MINUTE_MS;
      for (const [minute, sample] of [...samples].sort((a, b) => a[0] - b[0])) {
        if (minute < begin || !sample.published) continue;
        times.push(minute / 1000);
        values.push(sample.published);
      }
      return [times, values];
    },
  };

  function colour(name) {
    // Variables may be light-dark(): only a computed colour is one that a canvas takes.
    const probe = document.createElement("span");
    probe.className = `arus-colour-${name}`;
    page.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  function options(element) {
    const ink = colour("muted");
    const line = colour("line");
    const busy = colour("busy");
    const wide = { depth: uPlot.paths.stepped({ align: 1 }), published: uPlot.paths.bars({ size: [0.6, 12, 2] }) };
    const name = element.dataset.arusChart;
    const grid = { stroke: line, width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif" };
    return {
      width: element.clientWidth,
      height: HEIGHT,
      ...(zone && { tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), zone) }),
      scales: {
        x: { range: () => [(now - DAY_MS) / 1000, now / 1000] },
        y: { range: (_plot, _low, high) => [0, Math.max(4, Math.ceil(high * 1.1))] },
      },
      axes: [
        { ...axis, space: 70, values: (_plot, ticks) => ticks.map((tick) => clock.format(tick * 1000)) },
        {
          ...axis,
          size: 56,
          incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6],
          values: (_plot, ticks) => ticks.map((tick) => figure.format(tick)),
        },
      ],
      series: [
        { label: element.dataset.time, value: (_plot, at) => (at === null ? "–" : clock.format(at * 1000)) },
        {
          label: element.dataset.label,
          stroke: busy,
          fill: name === "published" ? busy : undefined,
          width: name === "published" ? 0 : 2,
          paths: wide[name],
          points: { show: false },
          value: (_plot, count) => (count === null ? "–" : figure.format(count)),
        },
      ],
      cursor: { drag: { x: false, y: false }, points: { show: name === "depth" } },
    };
  }

  function draw() {
    for (const chart of charts) chart.plot.destroy();
    charts.length = 0;
    if (typeof uPlot === "undefined") return;
    for (const element of page.querySelectorAll("[data-arus-chart]")) {
      const data = SERIES[element.dataset.arusChart]();
      charts.push({ element, plot: new uPlot(options(element), data, element) });
    }
  }

  function redraw() {
    for (const { element, plot } of charts) plot.setData(SERIES[element.dataset.arusChart]());
  }

  let resizing = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => {
      for (const { element, plot } of charts) plot.setSize({ width: element.clientWidth, height: HEIGHT });
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // --- the poll ----------------------------------------------------------------------------------

  let timer = 0;
  let asking = false;

  const parts = () => document.querySelectorAll("[data-arus-part]");

  function renew(name, html, digest) {
    for (const part of parts()) {
      if (part.dataset.arusPart !== name) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
      part.innerHTML = html;
      part.dataset.arusDigest = digest;
      localiseTimes(part);
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    }
  }

  async function refresh() {
    clearTimeout(timer);
    if (asking) return;
    asking = true;
    const wanted = new URLSearchParams();
    for (const part of parts()) wanted.set(part.dataset.arusPart, part.dataset.arusDigest);
    const newest = Math.max(0, ...samples.keys());
    wanted.set("after", String(newest));
    try {
      const answer = await fetch(`${page.dataset.arusLive}?${wanted}`, {
        headers: { Accept: "application/json" },
        cache: "no-store",
        credentials: "same-origin",
        signal: AbortSignal.timeout(15000),
      });
      if (answer.redirected) return location.reload(); // to whatever the application asks for: a login
      if (!answer.ok) throw new Error(String(answer.status));
      const news = await answer.json();
      for (const [name, html] of Object.entries(news.parts)) renew(name, html, news.digests[name]);
      for (const [minute, waiting, published] of news.samples) samples.set(minute, { depth: waiting, published });
      now = news.now;
      depth = news.depth;
      if (charts.length) redraw();
      else draw();
      lost.hidden = true;
    } catch {
      // Without an answer there is nothing to do but say so and go on asking.
      lost.hidden = false;
    }
    asking = false;
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (document.visibilityState === "visible") timer = setTimeout(refresh, INTERVAL_MS);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") refresh();
    else clearTimeout(timer);
  });

  refresh();
})();
