"""The style sheet of a dataset card: one column, light or dark as the reader's system is."""

SHEET = """
:root {
  color-scheme: light dark;
  --sans: system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans",Arial,sans-serif;
  --mono: ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
  --page: #f6f6f4; --surface: #fff; --ink: #1b1e23; --muted: #636b77; --line: #e1e2df;
  --bar: #2f6bdb; --span: #e9effc; --error: #b3261e; --warning: #8f5f00; --note: #4a5bb5;
  --error-tint: #fdeceb; --warning-tint: #fdf3dc; --note-tint: #eceffb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131519; --surface: #1b1e24; --ink: #e7e9ec; --muted: #99a2ae; --line: #30343c;
    --bar: #7aa5fb; --span: #262f42; --error: #ff9489; --warning: #e9bc55; --note: #a9b6ff;
    --error-tint: #3a1f1e; --warning-tint: #352a12; --note-tint: #22273f;
  }
}
* { box-sizing: border-box }
html { scroll-behavior: smooth; scroll-padding-top: 60px }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 var(--sans) }
header, main, footer, nav>div { max-width: 1120px; margin: 0 auto; padding: 0 24px }
header { padding-block: 48px 24px }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 6px; overflow-wrap: anywhere }
h2 { font-size: 22px; letter-spacing: -.01em; margin: 0 0 6px }
h4 { font-size: 13.5px; margin: 0 0 8px; font-weight: 600 }
p { margin: 0 0 18px; color: var(--muted); max-width: 76ch; font-size: 15px }
.lead { font-size: 17px; margin: 0 }
nav { position: sticky; top: 0; z-index: 2; background: var(--page); border-block: 1px solid var(--line) }
nav>div { display: flex; gap: 22px; overflow-x: auto }
nav a { color: var(--muted); text-decoration: none; font-size: 14px; padding: 10px 0; white-space: nowrap }
nav a:hover { color: var(--ink) }
section { padding: 36px 0 20px }
section+section { border-top: 1px solid var(--line) }
.facts { display: grid; grid-template-columns: repeat(auto-fit,minmax(150px,1fr)); gap: 12px; margin-top: 26px }
.fact { background: var(--surface); border: 1px solid var(--line); border-radius: 12px; padding: 13px 16px }
.fact b { display: block; font-size: 25px; line-height: 1.3; font-weight: 650; letter-spacing: -.02em }
.fact span { font-size: 13px; color: var(--muted); display: block; line-height: 1.4 }
.findings { list-style: none; margin: 0; padding: 0; display: grid; gap: 8px }
.findings li {
  display: grid; grid-template-columns: 84px 1fr; gap: 14px; align-items: baseline; font-size: 14.5px;
  background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px;
  overflow-wrap: anywhere;
}
.level { font-size: 12.5px; font-weight: 650; border-radius: 6px; padding: 2px 0; text-align: center }
.level.error { color: var(--error); background: var(--error-tint) }
.level.warning { color: var(--warning); background: var(--warning-tint) }
.level.note { color: var(--note); background: var(--note-tint) }
.sheets { display: grid; grid-template-columns: repeat(auto-fill,minmax(320px,1fr)); gap: 22px 18px }
.sheets.wide { grid-template-columns: 1fr }
figure { margin: 0; min-width: 0 }
figcaption { font-size: 13.5px; line-height: 1.4; color: var(--muted); margin-top: 7px; overflow-wrap: anywhere }
figcaption b { color: var(--ink); font-weight: 600 }
.strip { display: grid; gap: 3px; border-radius: 8px; overflow: hidden; align-items: stretch }
img { display: block; width: 100%; height: 100%; object-fit: cover; background: var(--line) }
img.tiny { image-rendering: pixelated }
.broken {
  min-height: 90px; display: grid; place-items: center; font-size: 13px; color: var(--error);
  background: var(--error-tint);
}
.charts { display: grid; grid-template-columns: repeat(auto-fill,minmax(225px,1fr)); gap: 14px }
.charts.apart { margin-top: 22px }
.chart {
  background: var(--surface); border: 1px solid var(--line); border-radius: 12px; padding: 13px 15px;
  min-width: 0;
}
.chart svg { display: block; width: 100%; height: 64px; border-bottom: 1px solid var(--line) }
.span { fill: var(--span) }
.bar { fill: var(--bar) }
.axis, .numbers { color: var(--muted); font-size: 12px }
.axis { display: flex; justify-content: space-between }
.numbers {
  display: grid; grid-template-columns: 1fr 1fr; gap: 0 12px; margin-top: 8px;
  font-variant-numeric: tabular-nums;
}
.numbers b { color: var(--ink); font-weight: 600 }
.beyond { color: var(--warning); grid-column: 1 / -1 }
.texts { display: grid; grid-template-columns: auto 1fr; gap: 7px 14px; font-size: 14.5px; align-items: center }
.texts .count { text-align: right; color: var(--muted); font-variant-numeric: tabular-nums }
.texts .text { position: relative; padding: 3px 10px; overflow-wrap: anywhere }
.texts i { position: absolute; inset: 0 auto 0 0; background: var(--span); border-radius: 6px }
.texts .text span { position: relative }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--muted); font-size: 13px; white-space: nowrap }
td.number, th.number { text-align: right; white-space: nowrap }
tr:last-child td { border-bottom: 0 }
details {
  border: 1px solid var(--line); border-radius: 10px; background: var(--surface); margin-top: 14px;
  padding: 0 16px;
}
summary { cursor: pointer; padding: 10px 0; font-weight: 600; font-size: 14.5px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 18px; font-size: 14.5px; margin: 0 0 18px }
dt { color: var(--muted) }
dd { margin: 0; overflow-wrap: anywhere }
code { font-family: var(--mono); font-size: 13px }
footer { padding-block: 22px 48px; color: var(--muted); font-size: 13.5px }
@media (max-width: 600px) {
  h1 { font-size: 26px }
  .findings li { grid-template-columns: 1fr; gap: 6px }
  .level { justify-self: start; padding: 2px 10px }
  dl { grid-template-columns: 1fr }
  dd { margin-bottom: 8px }
}
@media print {
  nav { display: none }
  figure, .chart, .fact { break-inside: avoid }
}
"""
