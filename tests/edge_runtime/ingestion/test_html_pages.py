"""Saved pages: what is seen, under its headings, in its encoding."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.ingestion.html_pages import read_html, text_of_html

PAGE = """<!doctype html><html><head><meta charset="iso-8859-1"><title>Kilns &amp; glazes</title><style>p {}</style>
<body><nav>Menu</nav><h1>Kilns &amp; glazes</h1><p>Hot <b>and</b>
 bright.<br>caf\xe9</p><script>if (a < b) {}</script><h2>Shelves</h2><ul><li>one<li>two</ul><pre>x
y</pre><footer>Imprint</footer></body></html>"""


def test_a_page_is_read_under_its_headings(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(PAGE.encode("latin-1"))
    found = list(read_html(path))
    assert [section.cue for section in found] == ["Kilns & glazes", "Kilns & glazes > Shelves"]
    assert found[0].text == "Hot and bright.\ncafé" and found[1].text == "- one\n- two\n\nx\ny"
    assert {section.speaker for section in found} == {"Kilns & glazes"}


def test_html_of_a_mail_without_what_it_quotes() -> None:
    html = "<div>Yes, <i>Friday</i>.</div><blockquote><p>Shall we meet?</p></blockquote><h2>PS</h2>Bring tea"
    assert text_of_html(html, quotes=False) == "Yes, Friday.\n\nPS\n\nBring tea"
    assert "Shall we meet?" in text_of_html(html)


def test_broken_markup_is_read_as_far_as_it_goes() -> None:
    assert text_of_html("<p>one<p>two</div></span><b>three") == "one\n\ntwo\n\nthree"
