"""The looks of a timeline: its style, and the little that it does. Nothing is loaded from anywhere."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1c1e21; --soft: #62676f; --line: #e3e4e2; --stripe: #fafaf8;
  --ok: #2f7d5b; --ok-fill: #dcf0e6; --conflict: #9a6200; --conflict-fill: #fbecc8;
  --fail: #6b7078; --fail-fill: #e9eaec; --unknown: #6a4bc4; --unknown-fill: #e8e1fa;
  --alarm: #c8252d; --alarm-soft: #c8252d22; --focus: #1f6feb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131517; --card: #1b1e21; --ink: #e8e9ea; --soft: #9aa1a9; --line: #2d3135; --stripe: #1f2225;
    --ok: #6fcfa0; --ok-fill: #173a2b; --conflict: #f0bd5a; --conflict-fill: #40300f;
    --fail: #a2a8b0; --fail-fill: #2b2f34; --unknown: #b9a3f5; --unknown-fill: #2e2451;
    --alarm: #ff6b70; --alarm-soft: #ff6b7030; --focus: #6cb0ff;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 22px; margin: 0 0 2px; letter-spacing: -.01em; }
h1 .verdict { color: var(--alarm); }
h2 { font-size: 17px; margin: 0; line-height: 1.4; }
p { margin: 4px 0 0; }
.soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin-top: 20px;
  padding: 18px 20px 20px; }
.tag { display: inline-block; font-size: 12px; font-weight: 600; color: var(--alarm); background: var(--alarm-soft);
  border-radius: 99px; padding: 1px 10px; margin-bottom: 6px; }
code, .op, td, .where { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 18px; margin: 14px 0 10px; }
.choice { display: inline-flex; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.choice button { border: 0; background: none; color: var(--soft); font: inherit; font-size: 13px; padding: 4px 12px;
  cursor: pointer; }
.choice button + button { border-left: 1px solid var(--line); }
.choice button[aria-pressed=true] { background: var(--stripe); color: var(--ink); font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); }
.legend i { display: inline-block; width: 18px; height: 11px; border-radius: 3px; border: 1.5px solid;
  margin-right: 6px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; outline-offset: 2px; }
.lanes { position: relative; width: max-content; min-width: 100%; }
.lane { position: relative; border-top: 1px solid var(--line); }
.lane:first-child { border-top: 0; }
.lane:nth-child(even) { background: var(--stripe); }
.who { position: sticky; left: 0; z-index: 3; display: inline-flex; align-items: center; height: 100%; width: 104px;
  padding: 0 12px; font-size: 13px; color: var(--soft); background: inherit; border-right: 1px solid var(--line);
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.lane, .lane:nth-child(even) { background-color: var(--card); }
.lane:nth-child(even) { background-color: var(--stripe); }
.op { position: absolute; height: 28px; padding: 0 8px; border: 1.5px solid var(--edge); border-radius: 6px;
  background: var(--fill); color: var(--ink); font-size: 12px; line-height: 24px; text-align: left; cursor: pointer;
  white-space: nowrap; overflow: clip; left: calc(120px + var(--x) * 1px); width: calc(var(--w) * 1px);
  transition: left .25s, width .25s, opacity .15s; }
.op span { position: sticky; left: 114px; }
.by-time .op { left: calc(120px + var(--tx) * 1px); width: max(calc(var(--tw) * 1px), 9px); }
.op span { position: sticky; left: 114px; }
.by-time .op { padding: 0 4px; }
.ok { --edge: var(--ok); --fill: var(--ok-fill); }
.conflict { --edge: var(--conflict); --fill: var(--conflict-fill); }
.fail { --edge: var(--fail); --fill: var(--fail-fill); }
.unknown { --edge: var(--unknown); --fill: var(--unknown-fill); }
.open { border-right-style: dashed; border-top-right-radius: 0; border-bottom-right-radius: 0; }
.op.open { -webkit-mask-image: linear-gradient(to right, #000 calc(100% - 60px), #0002);
  mask-image: linear-gradient(to right, #000 calc(100% - 60px), #0002); }
.op.context { opacity: .6; }
.op.context:hover, .op.context:focus { opacity: 1; }
.op.shown { border-color: var(--alarm); border-width: 2px; line-height: 23px; font-weight: 600;
  box-shadow: 0 0 0 3px var(--alarm-soft); z-index: 1; }
.op.shown b { display: inline-block; min-width: 17px; height: 17px; line-height: 17px; margin-right: 6px;
  text-align: center; border-radius: 9px; background: var(--alarm); color: var(--card); font-size: 11px; }
.op:hover, .op.lit { z-index: 2; filter: brightness(1.08) saturate(1.2); }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; }
.op:focus-visible { z-index: 4; }
.only .context { display: none; }
.told { min-height: 74px; margin-top: 12px; padding: 10px 14px; border-radius: 8px; background: var(--stripe);
  border: 1px solid var(--line); font-size: 14px; }
.told p { margin: 0; }
.told .where { font-size: 12.5px; color: var(--soft); overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin-top: 14px; font-size: 13px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12px; padding: 4px 12px 4px 8px;
  border-bottom: 1px solid var(--line); }
td { padding: 5px 12px 5px 8px; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td:first-child { color: var(--alarm); font-weight: 700; }
tr.lit td { background: var(--alarm-soft); }
.wide { overflow-x: auto; }
details { margin-top: 24px; color: var(--soft); font-size: 14px; }
details p { margin-top: 8px; max-width: 80ch; }
summary { cursor: pointer; }
kbd { font: 12px ui-monospace, monospace; border: 1px solid var(--line); border-bottom-width: 2px; border-radius: 4px;
  padding: 0 5px; background: var(--card); }
@media (prefers-reduced-motion: reduce) { .op { transition: none; } }
@media print { .bar .choice, .told { display: none; } .scroll { overflow: visible; } }
"""

SCRIPT: Final = """
for (const card of document.querySelectorAll('.card')) {
  const told = card.querySelector('.told'), ops = [...card.querySelectorAll('.op')], hint = told.innerHTML;
  const rows = new Map([...card.querySelectorAll('tr[data-op]')].map(row => [row.dataset.op, row]));
  const light = (id, on) => {
    for (const op of ops) if (op.dataset.op === id) op.classList.toggle('lit', on);
    rows.get(id)?.classList.toggle('lit', on);
  };
  const tell = op => {
    told.replaceChildren();
    for (const [name, text] of [['', op.dataset.told], ['where', op.dataset.where]]) {
      const line = document.createElement('p');
      line.className = name; line.textContent = text; told.append(line);
    }
  };
  let kept = null;
  for (const op of ops) {
    op.addEventListener('mouseenter', () => { tell(op); light(op.dataset.op, true); });
    op.addEventListener('mouseleave', () => { light(op.dataset.op, false);
      if (kept) tell(kept); else told.innerHTML = hint; });
    op.addEventListener('focus', () => { kept = op; tell(op); light(op.dataset.op, true);
      for (const other of ops) other.tabIndex = other === op ? 0 : -1; });
    op.addEventListener('blur', () => light(op.dataset.op, false));
  }
  for (const [id, row] of rows) {
    row.addEventListener('mouseenter', () => light(id, true));
    row.addEventListener('mouseleave', () => light(id, false));
  }
  card.querySelector('.lanes').addEventListener('keydown', event => {
    const seen = ops.filter(op => op.offsetParent !== null), at = seen.indexOf(document.activeElement);
    if (at < 0) return;
    const lane = op => op.closest('.lane'), here = seen[at];
    const x = op => op.getBoundingClientRect().left;
    const beside = step => {
      const lanes = [...new Set(seen.map(lane))].sort((a, b) => a.offsetTop - b.offsetTop);
      const next = lanes[lanes.indexOf(lane(here)) + step];
      const far = op => Math.abs(x(op) - x(here));
      return next && seen.filter(op => lane(op) === next).sort((a, b) => far(a) - far(b))[0];
    };
    const shown = seen.filter(op => op.classList.contains('shown'));
    const to = { ArrowRight: seen[at + 1], ArrowLeft: seen[at - 1], Home: seen[0], End: seen.at(-1),
      ArrowDown: beside(1), ArrowUp: beside(-1),
      n: shown.find(op => seen.indexOf(op) > at) ?? shown[0],
      p: shown.filter(op => seen.indexOf(op) < at).at(-1) ?? shown.at(-1) }[event.key];
    if (to) { event.preventDefault(); to.focus(); to.scrollIntoView({ block: 'nearest', inline: 'nearest' }); }
  });
  for (const button of card.querySelectorAll('.choice button')) {
    button.addEventListener('click', () => {
      for (const other of button.parentElement.children) other.setAttribute('aria-pressed', other === button);
      card.classList.toggle(button.dataset.on ?? button.dataset.off, button.dataset.on !== undefined);
      card.querySelector('.op.shown')?.scrollIntoView({ block: 'nearest', inline: 'center' });
    });
  }
  const lefts = ops.filter(op => op.classList.contains('shown')).map(op => op.offsetLeft);
  if (lefts.length) card.querySelector('.scroll').scrollLeft = Math.max(Math.min(...lefts) - 180, 0);
}
"""

HOW_TO_READ: Final = """
<details><summary>How to read this</summary>
<p>Each lane is a process, each bar a call from its invocation to its answer. A call took effect at one moment
somewhere inside its bar; where bars overlap, either may have been first. A bar that fades out is open: it may have
taken effect at any later moment, or never.</p>
<p>The numbered bars are those that can't be put into an order in which every answer is right. The pale ones are what
else happened to the key meanwhile.</p>
<p>Hover or <kbd>Tab</kbd> to a bar for what was asked and told. <kbd>←</kbd> <kbd>→</kbd> go through the calls in
order, <kbd>↑</kbd> <kbd>↓</kbd> to other processes, <kbd>n</kbd> and <kbd>p</kbd> through the numbered ones.</p>
</details>
"""
