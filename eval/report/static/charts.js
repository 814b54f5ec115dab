"use strict";
// Draws every figure of a page when it comes into view, when there is time, or when the page is printed, in the colours
// of the style sheet, and again when those change.
(() => {
  const PAPER = 680;  // pixels of a printed page's width
  const read = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const painted = (value) => {
    if (typeof value === "string") return value.startsWith("var(") ? read(value.slice(4, -1)) : value;
    if (Array.isArray(value)) return value.map(painted);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, painted(one)]));
    }
    return value;
  };
  const axis = (given) => ({
    gridcolor: read("--line"), zerolinecolor: read("--line"), linecolor: read("--line"), automargin: true, ...given, title: { font: { size: 13 }, ...given?.title },
  });
  const draw = (place, width) => {
    const source = document.querySelector(`script.figure[data-for="${place.id}"]`);
    const { data, layout } = painted(JSON.parse(source.textContent));
    const axes = data.some((one) => one.type === "sankey") ? {} : { xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) };
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    Plotly.react(place, data, {
      ...layout, ...axes, height: Number(place.dataset.height), ...(width ? { width, autosize: false } : { autosize: true }), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: read("--ink") }, margin: { l: 60, r: 20, t: 32, b: 44 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } }, transition: { duration: still || width ? 0 : 200 },
    }, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"], showSendToCloud: false });
    place.dataset.drawn = "yes";
  };
  const watcher = new IntersectionObserver((entries) => entries.filter((one) => one.isIntersecting).forEach((one) => {
    watcher.unobserve(one.target);
    draw(one.target);
  }), { rootMargin: "400px" });
  const all = (selector, width) => document.querySelectorAll(selector).forEach((place) => {
    watcher.unobserve(place);
    draw(place, width);
  });
  document.querySelectorAll(".chart").forEach((place) => {
    delete place.dataset.drawn;  // of a saved page
    watcher.observe(place);
  });
  const rest = () => {  // so that a page that is saved or photographed as a whole has them all
    const next = document.querySelector(".chart:not([data-drawn])");
    if (next === null) return;
    all(`#${CSS.escape(next.id)}`);
    later(rest);
  };
  const later = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
  later(rest);
  const print = (printing) => all(".chart", printing ? PAPER : undefined);
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (event) => print(event.matches));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all(".chart[data-drawn]"));
})();
