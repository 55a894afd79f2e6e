"""The report's style sheet: one column, light or dark as the reader's system is."""

SHEET = """
:root {
  color-scheme: light dark;
  --sans: system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans",Arial,sans-serif;
  --mono: ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; --page: #f7f7f5; --surface: #fff;
  --ink: #1c1f24; --muted: #626a76; --line: #e2e3e0; --series0: #2563d9; --series1: #d9822b;
  --series2: #9aa1ab; --series3: #3f8f6b; --pass: #197a48; --fail: #b93227; --open: #96690a;
  --tint: #eef3fd;
}
@media (prefers-color-scheme:dark) {
  :root {
    --page: #14161a; --surface: #1c1f25; --ink: #e8eaed; --muted: #9aa3af; --line: #31353d;
    --series0: #7ba6ff; --series1: #f0a45d; --series2: #7d8591; --series3: #6cc39b;
    --pass: #5fd394; --fail: #ff8a7d; --open: #e6b84a; --tint: #222a3a;
  }
}
* { box-sizing: border-box }
html { scroll-behavior: smooth; scroll-padding-top: 64px }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.6 var(--sans) }
main, header>div, nav>div, footer { max-width: 980px; margin: 0 auto; padding: 0 24px }
header { padding: 52px 0 28px }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 8px }
h2 { font-size: 23px; letter-spacing: -.01em; margin: 0 0 10px }
h3 { font-size: 16px; margin: 32px 0 10px }
p { max-width: 72ch; margin: 0 0 14px }
.lead { font-size: 18px; color: var(--muted); margin: 0 }
nav {
  position: sticky; top: 0; z-index: 2; background: var(--page);
  border-block: 1px solid var(--line);
}
nav>div { display: flex; gap: 22px; overflow-x: auto }
nav a {
  color: var(--muted); text-decoration: none; font-size: 14px; padding: 11px 0;
  white-space: nowrap;
}
nav a:hover { color: var(--ink) }
section { padding: 44px 0 28px }
section+section { border-top: 1px solid var(--line) }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit,minmax(255px,1fr)); gap: 14px;
  margin: 20px 0;
}
.card {
  background: var(--surface); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px;
}
.card .name {
  font-size: 14px; color: var(--muted); display: flex; justify-content: space-between; gap: 8px;
}
.card .value {
  font-size: 28px; line-height: 1.3; font-weight: 650; letter-spacing: -.02em; margin: 4px 0;
}
.card .note { font-size: 13.5px; line-height: 1.45; color: var(--muted) }
.card.missing .value { font-size: 20px; font-weight: 400; color: var(--muted) }
.badge { font-weight: 650; white-space: nowrap }
.badge.pass { color: var(--pass) }
.badge.fail { color: var(--fail) }
.badge.open { color: var(--open) }
.badge.missing { color: var(--muted) }
figure { margin: 18px 0 26px }
figcaption {
  font-size: 14px; line-height: 1.5; color: var(--muted); max-width: 80ch; margin-top: 10px;
}
.panel {
  background: var(--surface); border: 1px solid var(--line); border-radius: 12px; padding: 16px;
  overflow-x: auto;
}
.charts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit,minmax(300px,1fr)) }
svg.chart, svg.flow { display: block; width: 100%; height: auto }
svg.flow { min-width: 640px }
svg.chart * { stroke-linejoin: round; stroke-linecap: butt }
.absent {
  color: var(--muted); border: 1px dashed var(--line); border-radius: 12px; padding: 18px;
  max-width: none;
}
.grid { display: grid; gap: 6px; align-items: center; min-width: 560px }
.grid .head {
  font-size: 13px; line-height: 1.3; color: var(--muted); text-align: center; align-self: end;
}
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px }
.code {
  display: grid; grid-template-columns: 132px 104px 1fr; gap: 16px; align-items: center;
  padding: 12px 0; min-width: 640px;
}
.code+.code { border-top: 1px solid var(--line) }
.code b { font-size: 17px }
.code .small { font-size: 13px; line-height: 1.4; color: var(--muted) }
.pairs { display: grid; grid-template-columns: repeat(4,1fr); gap: 14px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px }
.meter { height: 6px; border-radius: 3px; background: var(--line); margin: 5px 0 }
.meter i { display: block; height: 100%; border-radius: 3px; background: var(--series0) }
.overview {
  display: grid; grid-template-columns: minmax(240px,330px) 1fr; gap: 28px; align-items: center;
}
.compass { width: 100%; height: auto; display: block }
.compass .ring { fill: none; stroke: var(--line) }
.compass .arrow { stroke: var(--series0); stroke-width: 4; fill: none; stroke-linecap: round }
.compass .tip, .compass .dot { fill: var(--series0); stroke: none }
.compass .faint { opacity: .18 }
.compass .spread { fill: var(--series0); opacity: .16 }
.compass text { font: 600 11px var(--sans); fill: var(--ink); text-anchor: middle }
table { border-collapse: collapse; width: 100%; min-width: 620px; font-size: 14.5px }
th, td {
  text-align: left; padding: 9px 14px 9px 0; border-bottom: 1px solid var(--line);
  vertical-align: top;
}
th { font-weight: 600; color: var(--muted); font-size: 13px }
tr:last-child td { border-bottom: 0 }
td { font-variant-numeric: tabular-nums }
td b, td .badge { white-space: nowrap }
.count { color: var(--muted); font-size: 13px; white-space: nowrap }
.time {
  display: grid; grid-template-columns: minmax(80px,auto) 1fr auto; gap: 6px 14px;
  align-items: center; font-size: 14px;
}
.time .meter { height: 12px; margin: 0; border-radius: 4px; background: none }
.time .meter i { border-radius: 4px }
.time .meter+span { text-align: right; color: var(--muted); white-space: nowrap }
.films { display: grid; grid-template-columns: repeat(auto-fit,minmax(240px,340px)); gap: 22px }
.films figure { margin: 0 }
code, pre { font-family: var(--mono); font-size: 13px }
pre { overflow-x: auto; margin: 0; padding: 4px 2px 12px }
.command {
  background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  padding: 11px 14px; overflow-x: auto; white-space: pre; max-width: none;
}
details {
  border: 1px solid var(--line); border-radius: 10px; background: var(--surface); margin: 10px 0;
  padding: 0 16px;
}
summary { cursor: pointer; padding: 11px 0; font-weight: 600; font-size: 15px }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; font-size: 14.5px;
  margin: 0 0 18px;
}
dt { color: var(--muted) }
dd { margin: 0; overflow-wrap: anywhere }
footer { padding-block: 28px 48px; color: var(--muted); font-size: 13.5px }
@media (max-width:640px) {
  .overview { grid-template-columns: 1fr }
  h1 { font-size: 27px }
}
@media print {
  nav { display: none }
  figure, .card { break-inside: avoid }
}
"""
