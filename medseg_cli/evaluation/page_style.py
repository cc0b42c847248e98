"""Looks of the report: those of every page, and tables that sort by a click. Nothing is fetched."""

from __future__ import annotations

from medseg_cli.page_style import BASE

CSS = (
    BASE
    + """
.panel { padding: 14px 16px; overflow-x: auto; } 
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 14px; }
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
@media print { body { background: #fff; } .scroll { max-height: none; } figure, .panel { break-inside: avoid; } }
"""
)

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
