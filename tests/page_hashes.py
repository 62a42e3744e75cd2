"""The Content-Security-Policy of dashboard.html: it names the hashes of the page's one style and one script, which this writes into the page.

    python3 tests/page_hashes.py     after a change of dashboard.html

The Makefile takes the policy from the page (it needs no tool for that, so a cross-build is as any other); tests/tidy.py fails while the two do not fit.
"""
import base64
import hashlib
import os
import re
import sys

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dashboard.html")
LIMIT = 40000  # bytes of the page
META = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")([^"\n]*)(">)')


def policy(page):
    """What the page's policy has to be. frame-ancestors cannot stand in a page: the Makefile adds it for the field of the answer."""
    def hashed(tag):
        parts = re.findall("<%s>(.*?)</%s>" % (tag, tag), page, re.S)
        assert len(parts) == 1, "dashboard.html: one <%s> without attributes, not %d" % (tag, len(parts))
        return "'sha256-%s'" % base64.b64encode(hashlib.sha256(parts[0].encode()).digest()).decode()

    return ("default-src 'none'; script-src %s; style-src %s; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'" % (hashed("script"), hashed("style")))


def wrong(page):
    """What is wrong with the page, as a list of sentences."""
    found = META.findall(page)
    texts = []
    if len(found) != 1 or found[0][1] != policy(page):
        texts.append("the policy of dashboard.html does not fit its script and style: python3 tests/page_hashes.py writes it")
    if len(page.encode()) >= LIMIT:
        texts.append("dashboard.html has %d bytes, its limit is %d" % (len(page.encode()), LIMIT))
    for what, pattern in (("an inline handler", r"<[a-z][^>]*\son[a-z]+\s*="), ("an inline style", r"<[a-z][^>]*\sstyle\s*="),
                          ("markup made of data", r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|srcdoc)\b"),
                          ("an address of elsewhere", r"(?:src|href|action)\s*=\s*[\"'](?!#)")):
        if re.search(pattern, page):
            texts.append("dashboard.html has %s" % what)
    return texts


def main():
    with open(PAGE, encoding="utf-8") as f:
        page = f.read()
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(META.sub(lambda m: m.group(1) + policy(page) + m.group(3), page))
    with open(PAGE, encoding="utf-8") as f:
        texts = wrong(f.read())
    print("\n".join(texts) or "dashboard.html: the policy fits, %d bytes" % os.path.getsize(PAGE))
    return 1 if texts else 0


if __name__ == "__main__":
    sys.exit(main())
