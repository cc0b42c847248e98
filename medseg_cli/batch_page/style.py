"""Looks of the page: the table of cases and the window that shows one of them."""

from __future__ import annotations

from medseg_cli.page_style import BASE

CSS = (
    BASE
    + """
:root { --flagged: #8a5a00; --failed: #b3261e; --absent: #5b4bb0; --skipped: #5c6876; --ok: #1d7a46; }
@media (prefers-color-scheme: dark) { :root {
  --flagged: #f0c674; --failed: #ff8a80; --absent: #b8aefc; --skipped: #a3aebb; --ok: #6cc894; } }
main { max-width: 1500px; }
[hidden] { display: none !important; }
button, input, select { font: inherit; color: inherit; }
button, input[type=search] { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
button { cursor: pointer; padding: 6px 12px; } button:hover:not(:disabled) { border-color: var(--mine); }
button:disabled { opacity: 0.45; cursor: default; }
button[aria-pressed=true] { border-color: var(--mine); background: var(--mine-soft); }
:focus-visible { outline: 2px solid var(--mine); outline-offset: 2px; }
a { color: var(--mine); }
.counts { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 22px; }
.counts button { padding: 10px 18px 12px; border-radius: 10px; text-align: left; box-shadow: var(--shadow); }
.counts b { display: block; font-size: 26px; line-height: 1.15; font-variant-numeric: tabular-nums; }
.facts { margin-top: 18px; } .facts summary { cursor: pointer; color: var(--soft); }
.facts dl { padding: 14px 16px; margin-top: 8px; }
.find { display: flex; flex-wrap: wrap; gap: 12px; align-items: center; margin: 26px 0 10px; }
.find input { padding: 8px 12px; width: min(420px, 100%); }

.status { display: inline-block; font-size: 12.5px; font-weight: 650; padding: 1px 9px; border-radius: 99px;
  border: 1px solid currentColor; white-space: nowrap; }
.status::before { margin-right: 5px; }
.flagged { color: var(--flagged); } .status.flagged::before { content: "\\2691"; }
.failed { color: var(--failed); } .status.failed::before { content: "\\2715"; }
.absent { color: var(--absent); } .status.absent::before { content: "\\2205"; }
.skipped { color: var(--skipped); } .status.skipped::before { content: "\\2013"; }
.ok { color: var(--ok); } .status.ok::before { content: "\\2713"; }

.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card);
  box-shadow: var(--shadow); }
.cases, .cases thead, .cases tbody { display: block; } .cases { min-width: var(--least); font-size: 14px; }
.cases tr { display: grid; grid-template-columns: var(--columns); align-items: center; column-gap: 10px;
  padding: 0 14px; border-bottom: 1px solid var(--line); }
.cases tbody tr { content-visibility: auto; contain-intrinsic-size: auto 76px; min-height: 76px; cursor: pointer; }
.cases tbody tr:last-child { border-bottom: 0; }
.cases tbody tr:hover, .cases tbody tr:focus-within { background: var(--mine-soft); }
.cases th, .cases td { display: block; padding: 6px 0; text-align: left; font-weight: inherit; min-width: 0;
  overflow-wrap: anywhere; }
.cases .number { text-align: right; font-variant-numeric: tabular-nums; }
.cases thead { border-bottom: 1px solid var(--line); }
.cases th button { border: 0; background: none; padding: 6px 0; font-size: 13px; font-weight: 600; color: var(--soft);
  text-align: inherit; width: 100%; }
.cases th[aria-sort=ascending] button::after { content: " \\2191"; }
.cases th[aria-sort=descending] button::after { content: " \\2193"; }
.cases td a { font-weight: 600; text-decoration: none; } .cases td a:hover { text-decoration: underline; }
.thumb { width: 84px; height: 64px; border-radius: 6px; background: #101010; display: flex; align-items: center;
  justify-content: center; overflow: hidden; color: #9aa4af; font-size: 11px; text-align: center; }
.thumb img { max-width: 100%; max-height: 100%; display: block; }
.more { color: var(--soft); font-size: 13px; }
.nothing { padding: 22px; color: var(--soft); }
.note { font-size: 13px; color: var(--soft); margin-top: 14px; }

dialog { border: 0; padding: 0; margin: 0; width: 100vw; height: 100vh; max-width: none; max-height: none;
  background: var(--paper); color: var(--ink); overflow: hidden; }
dialog[open] { display: grid; grid-template: auto 1fr / minmax(0, 1fr) 430px; }
dialog.words[open] { grid-template: auto 1fr / minmax(0, 1fr); } dialog.words .stage { display: none; }
dialog.words .side { padding: 4px 24px 40px; border: 0; } dialog.words .side > * { max-width: 900px; }
.side:focus-visible { outline: none; }
.bar { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 10px; align-items: center; padding: 10px 16px;
  border-bottom: 1px solid var(--line); background: var(--card); }
.bar h2 { margin: 0; font-size: 17px; flex: 1 1 240px; overflow-wrap: anywhere; }
.stage { display: flex; flex-direction: column; min-height: 0; background: #000; color: #e6eaf0; }
.tools { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; padding: 8px 14px; font-size: 13.5px;
  background: #10151b; --mine: #6db3f2; --mine-soft: #6db3f233; --card: #181f27; --line: #2b3540; }
.tools button { padding: 4px 10px; } .tools label { display: flex; gap: 8px; align-items: center; }
.tools input[type=range] { width: 110px; accent-color: var(--mine); } .choices { display: flex; gap: 4px; }
.screen { position: relative; flex: 1; min-height: 0; } .screen canvas { position: absolute; inset: 0; width: 100%;
  height: 100%; display: block; outline-offset: -2px; }
.screen img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.message { position: absolute; inset: 0 0 auto 0; margin: 14px; padding: 10px 14px; border-radius: 8px; font-size: 14px;
  background: #10151be8; color: #e6eaf0; border: 1px solid #2b3540; white-space: pre-line; }
.where { padding: 6px 14px; font-size: 13px; min-height: 31px; background: #10151b; color: #a3aebb;
  font-variant-numeric: tabular-nums; }
.side { overflow-y: auto; padding: 4px 18px 40px; border-left: 1px solid var(--line); background: var(--paper); }
.side h3 { font-size: 14px; margin: 22px 0 8px; } .side h3:first-child { margin-top: 14px; }
.side p { font-size: 13.5px; }
.side dl { font-size: 13px; gap: 3px 14px; grid-template-columns: minmax(0, max-content) minmax(0, 1fr); }
.side dl dl { padding-left: 10px; border-left: 2px solid var(--line); }
.side dd { font-variant-numeric: tabular-nums; }
.side summary { cursor: pointer; font-size: 13.5px; padding: 4px 0; }
.side details > dl { margin: 4px 0 10px; }
.box { border: 1px solid currentColor; border-radius: 8px; padding: 8px 12px; margin: 8px 0; font-size: 13.5px; }
.box p { margin: 2px 0; } .box .soft { color: var(--ink); }
.legend { list-style: none; margin: 0; padding: 0; font-size: 13.5px; }
.legend li { display: flex; gap: 9px; align-items: center; padding: 2px 0; }
.legend label { display: flex; gap: 9px; align-items: center; flex: 1; min-width: 0; overflow-wrap: anywhere; }
.legend b { width: 13px; height: 13px; border-radius: 3px; flex: none; box-shadow: 0 0 0 1px var(--faint); }
.legend .amount { font-variant-numeric: tabular-nums; color: var(--soft); }
.why { color: var(--soft); font-style: italic; }
kbd { font: 12px ui-monospace, Menlo, Consolas, monospace; border: 1px solid var(--line); border-radius: 4px;
  padding: 0 5px; background: var(--card); }
@media (max-width: 900px) { dialog[open] { grid-template: auto 62vh auto / 1fr; overflow-y: auto; }
  .side { overflow: visible; border-left: 0; } }
@media print { .find, .counts button { box-shadow: none; } .cases tbody tr { content-visibility: visible; } }
"""
)
