import struct
from xml.etree import ElementTree as ET

import pytest

from full_disk import room_for
from safetypin.artifacts import UserError
from safetypin.report._picture import DPI, Picture
from safetypin.report._style import STRONG


def one_line(figure):
    figure.add_axes((0.1, 0.1, 0.8, 0.8)).plot([0, 1], [0, 1], color=STRONG)


PICTURE = Picture(name="line", title="a < b", width=3.0, height=2.0, draw=one_line)


def test_a_picture_is_saved_as_png_and_svg_of_its_size(tmp_path):
    png, svg = PICTURE.save(tmp_path / "figures")
    assert [path.name for path in (png, svg)] == ["line.png", "line.svg"]
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert (width, height) == (3 * DPI, 2 * DPI)
    assert ET.parse(svg).getroot().get("width") == "216pt"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "figures"]


def test_a_saved_picture_is_on_white_and_has_its_own_colours(tmp_path):
    _, svg = PICTURE.save(tmp_path)
    text = svg.read_text(encoding="utf-8")
    assert "fill: #ffffff" in text
    assert STRONG in text
    assert "var(--" not in text


def test_saving_again_gives_the_same_bytes(tmp_path):
    first = [path.read_bytes() for path in PICTURE.save(tmp_path)]
    assert [path.read_bytes() for path in PICTURE.save(tmp_path)] == first


def test_inline_it_takes_the_colours_of_the_page_and_says_what_it_is():
    svg = PICTURE.inline()
    assert "var(--strong)" in svg
    assert STRONG not in svg
    assert ET.fromstring(svg).find("{*}title").text == "a < b"


def test_a_failed_drawing_leaves_no_file(tmp_path):
    def fail(figure):
        raise RuntimeError("no")

    broken = Picture(name="broken", title="", width=1.0, height=1.0, draw=fail)
    with pytest.raises(RuntimeError, match="no"):
        broken.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def scattered(figure):
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.plot(range(2_000), [x * 7919 % 1_000 for x in range(2_000)], linestyle="none", marker=".")


@pytest.mark.parametrize("write", [Picture.save, Picture.publish])
def test_a_picture_on_a_really_full_disk_leaves_no_half_file_and_says_so(tmp_path, write):
    picture = Picture(name="dots", title="", width=1.0, height=1.0, draw=scattered)
    for room in (0, 500):
        with pytest.raises(UserError, match=r"the disk is full: .*dots\.png"), room_for(room):
            write(picture, tmp_path)
        assert list(tmp_path.iterdir()) == []
    whole = {path.name: path.read_bytes() for path in picture.save(tmp_path)}
    room = len(whole["dots.png"])
    assert room < len(whole["dots.svg"])
    with pytest.raises(UserError, match=r"the disk is full: .*dots\.svg"), room_for(room):
        write(picture, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
