"""The pictures in a real browser: its own measure of every text, not ours."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from prov4ml.overview import picture
from prov4ml.picture import Box, Picture, Sparkline
from prov4ml.provdm import Document, Element
from prov4ml.testing.samples import ODD, samples
from prov4ml_sinks.svg import Svg

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"></head><body><script>
const pictures = %s, found = {};
for (const [name, source] of Object.entries(pictures)) {
  const parsed = new DOMParser().parseFromString(source, 'image/svg+xml');
  const wrong = parsed.querySelector('parsererror');
  if (wrong) { found[name] = {error: wrong.textContent}; continue; }
  const svg = document.body.appendChild(document.adoptNode(parsed.documentElement));
  const view = svg.viewBox.baseVal, slack = 0.6, outside = [], over = [], beyond = [];
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBBox()]);
  for (const [text, b] of texts)
    if (b.x < 0 || b.y < 0 || b.x + b.width > view.width || b.y + b.height > view.height)
      outside.push(text);
  texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([two, b]) => {
    if (a.x + slack < b.x + b.width && b.x + slack < a.x + a.width &&
        a.y + slack < b.y + b.height && b.y + slack < a.y + a.height) over.push([one, two]);
  }));
  for (const g of svg.querySelectorAll('g')) {
    const frame = [...g.children].find(c => c.tagName === 'rect');
    if (!frame) continue;
    const r = frame.getBBox();
    for (const t of g.querySelectorAll('text')) {
      const b = t.getBBox();
      if (b.x < r.x || b.x + b.width > r.x + r.width ||
          b.y < r.y || b.y + b.height > r.y + r.height)
        beyond.push(t.textContent);
    }
  }
  found[name] = {texts: texts.length, outside, over, beyond};
  svg.remove();
}
document.body.innerHTML = '<pre></pre>';
document.body.firstChild.textContent = JSON.stringify(found);
</script></body></html>
"""

SCRIPTS = {
    "cjk": "訓練データ検証用の非常に長い名前" * 4,
    "arabic": "مجموعة بيانات التدريب " * 6,
    "hebrew": "שלום עולם " * 9,
    "hindi": "प्रशिक्षण डेटा " * 8,
    "thai": "ข้อมูลการฝึก" * 8,
    "ligature": "\ufdfd" * 30,
    "cuneiform": "\U00012031\U0001242b" * 30,
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1eb\U0001f1f7" * 20,
    "zalgo": ("e" + "\u0301\u0316" * 20) * 60,
    "wide": "W@%MÆŒǄ" * 40,
    "math": "𝓦𝔚∭⨌⸻" * 30,
    "odd": ODD,
}


def named(name: str) -> Picture:
    """A picture in which everything is called the same."""
    lines = (name, f"{name} · {name}")
    box = Box("e", "entity", name, note=name, lines=lines, alert=name, tooltip=name)
    curve = Box("c", "entity", name, lines=lines, sparklines=(Sparkline(name, (1.0, 2.0), name),))
    run = Box("run", "activity", name, note=name, lines=lines, tone="bad")
    agent = Box("agent", "agent", name)
    return Picture(name, f"{name} · {name}", agent, (box,), (run,), (curve,), (), name, "bad")


def render(drawing: Picture | None) -> str:
    document = Document("run_0", {}, lambda: iter([Element("entity", "ex:a")]), drawing)
    return b"".join(Svg().render(document)).decode()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")
def test_every_text_keeps_its_place(tmp_path: Path) -> None:
    """No text is outside the canvas, over another text or beyond its box, in any picture."""
    assert CHROMIUM is not None
    pictures = {name: render(picture(make())) for name, make in samples().items()}
    pictures |= {f"script {name}": render(named(text)) for name, text in SCRIPTS.items()}
    pictures["not a run"] = render(None)
    page = tmp_path / "page.html"
    page.write_text(PAGE % json.dumps(pictures).replace("</", "<\\/"), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    options += " --disable-background-networking --disable-component-update --disable-sync"
    done = subprocess.run(
        [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        timeout=180,
        check=True,
    )
    dumped = re.search(r"<pre>(.*)</pre>", done.stdout.decode(), re.DOTALL)
    assert dumped is not None, done.stderr[-2000:]
    found = json.loads(html.unescape(dumped[1]))
    assert found.keys() == pictures.keys()
    for name, result in found.items():
        assert "error" not in result, (name, result)
        assert result["texts"] > 5, name
        assert (result["outside"], result["over"], result["beyond"]) == ([], [], []), name
