"""The style of the page: light and dark, narrow screens, print."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1e;--faint:#5d5d63;--line:#d5d5da;--tint:#f1f1f4}
@media (prefers-color-scheme:dark){:root{--paper:#17171a;--ink:#ececef;--faint:#a3a3ab;--line:#3b3b42;--tint:#232328}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:80rem;padding:1.2rem;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .8rem}h2{font-size:1.1rem;margin:2rem 0 .6rem}
p,ol{max-width:46rem}code,pre{font:.86em/1.4 ui-monospace,monospace}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
.wide svg{display:block;min-width:46rem;width:100%;height:auto}
.wide img{display:block;max-width:none}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .45rem;text-align:right;white-space:nowrap;vertical-align:top;background:var(--paper)}
thead th{white-space:normal;vertical-align:bottom}
th:first-child{text-align:left;font-weight:400;position:sticky;left:0}
thead th,thead th:first-child,th.budget:first-child{font-weight:600}
th.budget:first-child{border-top:2px solid var(--line);padding-top:.6rem}
tr.sampler>*{background:var(--tint)}tr.sampler>*,tr.sampler>*:first-child{font-weight:600}
th small{display:block;color:var(--faint);font-weight:400}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;font-size:.86rem}
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}ol{font-size:.86rem;padding-left:1.6rem}
@media (max-width:34rem){body{padding:.8rem}th:first-child{min-width:9.5rem;white-space:normal;overflow-wrap:anywhere}
 dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
@media print{:root{--paper:#fff;--ink:#000;--faint:#444;--line:#999;--tint:#eee}
 body{max-width:none;padding:0;font-size:10pt}.wide{overflow:visible;border:0}.wide svg{min-width:0}
 .wide img{max-width:100%;max-height:95vh}table{font-size:7pt}th,td{padding:.15rem .25rem;white-space:normal}
 th:first-child{white-space:nowrap}h2,th.budget{break-after:avoid}tr,.wide img{break-inside:avoid}
 tr.sampler>*{print-color-adjust:exact}}
"""
