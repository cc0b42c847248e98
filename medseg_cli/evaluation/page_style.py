"""Looks of the report: colours for light and dark, and tables that sort by a click. Nothing is fetched."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark;
  --ink: #1b2430; --soft: #5c6876; --faint: #8a95a3; --paper: #f6f7f9; --card: #ffffff; --line: #dfe4ea;
  --mine: #1769aa; --mine-soft: #1769aa33; --other: #b4540a; --other-soft: #b4540a2b;
  --good: #1d7a46; --bad: #b3261e; --warn: #8a5a00; --warn-paper: #fff4dc;
  --shadow: 0 1px 2px #1b243014, 0 4px 14px #1b24300d; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6eaf0; --soft: #a3aebb; --faint: #76828f; --paper: #10151b; --card: #181f27; --line: #2b3540;
  --mine: #6db3f2; --mine-soft: #6db3f233; --other: #f2a65e; --other-soft: #f2a65e2b;
  --good: #6cc894; --bad: #ff8a80; --warn: #f0c674; --warn-paper: #33290f; --shadow: none; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; letter-spacing: -0.005em; }
p { margin: 8px 0; } .soft { color: var(--soft); } small { color: var(--soft); }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin-top: 22px; }
.card, .panel { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  box-shadow: var(--shadow); }
.card { padding: 14px 16px; } .card b { display: block; font-size: 26px; line-height: 1.2; font-weight: 650;
  font-variant-numeric: tabular-nums; letter-spacing: -0.02em; } .card .soft { font-size: 13px; }
.panel { padding: 14px 16px; overflow-x: auto; } 
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 14px; }
.warn { background: var(--warn-paper); color: var(--warn); border: 1px solid currentColor; border-radius: 10px;
  padding: 10px 16px; margin-top: 18px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover td { background: var(--mine-soft); }
th.text, td.text { text-align: left; } td.wrap { white-space: normal; min-width: 16em; text-align: left; }
table.sortable th { cursor: pointer; user-select: none; } th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
.scroll { max-height: 560px; overflow: auto; } .scroll thead th { position: sticky; top: 0; background: var(--card); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  box-shadow: var(--shadow); } figure .view { background: #181818; display: flex; height: 260px; align-items: center;
  justify-content: center; } figure img { max-width: 100%; max-height: 260px; display: block; }
figcaption { padding: 10px 12px; font-size: 13px; overflow-wrap: anywhere; } figcaption b { font-size: 14px; }
.key { display: inline-block; width: 16px; height: 4px; border-radius: 2px; margin: 0 4px 3px 10px;
  box-shadow: 0 0 0 1px var(--faint); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; }
svg text.name { fill: var(--ink); font-size: 13px; } svg .grid { stroke: var(--line); stroke-width: 1; }
svg .box { fill: var(--mine-soft); stroke: var(--mine); }
svg .box.other { fill: var(--other-soft); stroke: var(--other); }
svg .whisker, svg .median { stroke: var(--mine); stroke-width: 1.4; } svg .median { stroke-width: 2.4; }
svg .whisker.other, svg .median.other { stroke: var(--other); }
svg .dot { fill: var(--mine); fill-opacity: 0.45; } svg .dot.other { fill: var(--other); }
svg .dot:hover { fill-opacity: 1; } svg .bias { stroke: var(--mine); stroke-width: 1.6; }
svg .limit { stroke: var(--mine); stroke-width: 1.2; stroke-dasharray: 6 5; }
svg .zero { stroke: var(--faint); stroke-dasharray: 2 4; }
.better { color: var(--good); } .worse { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { background: #fff; } .scroll { max-height: none; } figure, .panel { break-inside: avoid; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => { const text = row.cells[column].textContent.trim().replace("−", "-");
      return text === "–" || text === "" ? null : isNaN(text) ? text : Number(text); };
    const body = table.tBodies[0];
    const order = (a, b) => { const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? sign : -sign; };
    body.append(...[...body.rows].sort(order));
  }));
}
"""
