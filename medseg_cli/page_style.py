"""Looks that our HTML pages share: colours for light and dark, text, cards, boxes. Nothing is fetched."""

from __future__ import annotations

BASE = """
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
.warn { background: var(--warn-paper); color: var(--warn); border: 1px solid currentColor; border-radius: 10px;
  padding: 10px 16px; margin-top: 18px; }
.key { display: inline-block; width: 16px; height: 4px; border-radius: 2px; margin: 0 4px 3px 10px;
  box-shadow: 0 0 0 1px var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""
