"""Reads a written page as a browser would, and checks what every page promises."""

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "path", "circle", "use", "rect", "image"}


class Page(HTMLParser):
    """Collects text, tags and ids, and fails on tags that do not nest."""

    def __init__(self, html):
        super().__init__()
        self.html, self.text, self.tags, self.ids, self.open = html, "", [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text = f"{self.text} {data}"

    @property
    def words(self):
        return " ".join(self.text.split())


def check_promises(found):
    """Fail unless the page loads nothing, forbids what it does not need and has no dead link."""
    for _tag, attrs in found.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            target = attrs.get(name) or "#"
            assert target.startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in found.html
    assert not re.search(r"url\((?!#)", found.html)
    policy = next(a["content"] for t, a in found.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    script = re.search(r"<script>(.*?)</script>", found.html, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert len(found.ids) == len(set(found.ids))
    links = {a["href"][1:] for t, a in found.tags if t == "a"}
    assert links <= set(found.ids)
