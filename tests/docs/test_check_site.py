"""A dead link of a built site is found, whatever it is: no file, no anchor, a place outside."""

from tools.check_site import check


def test_dead_links_are_told_and_living_ones_are_not(tmp_path):
    site = tmp_path / "site"
    (site / "deep").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("not of the site")
    (site / "a b.png").write_bytes(b"")
    (site / "deep" / "other.html").write_text('<h2 id="here">x</h2> <a href="../index.html">up</a>')
    (site / "index.html").write_text(
        '<a href="deep/other.html#here">1</a> <a href="#">2</a> <img src="a%20b.png"> <a href="https://x.org/y">3</a>'
        '<a href="deep/other.html#there">4</a> <a href="gone.html">5</a> <a href="../outside.txt">6</a>'
        '<a href="deep">7</a>'
    )
    pages, links, dead = check(site)
    assert (pages, links) == (2, 7)
    assert dead == [f"index.html: {link}" for link in ("../outside.txt", "deep", "deep/other.html#there", "gone.html")]
