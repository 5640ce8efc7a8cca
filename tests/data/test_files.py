"""Text files as people's editors write them."""

import codecs

import pytest

from cnnjax.data import files
from cnnjax.errors import UserError

ENCODINGS = {
    "utf-8": b"", "utf-8-sig": b"", "utf-16": b"", "utf-32": b"", "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}
"""An encoding, and the mark that Python does not write for it."""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("marked", [True, False])
def test_text_is_read_with_any_byte_order_mark_or_none(tmp_path, encoding, marked):
    file = tmp_path / "a.txt"
    file.write_bytes((ENCODINGS[encoding] if marked else b"") + "Kätzchen\n".encode(encoding))
    assert files.read_text(file) == "Kätzchen\n"


@pytest.mark.parametrize("text", ["a\nb c\n", "a\r\nb c\r\n", "a\rb c", "\n\na  \n\t\n b c\t\n \n",
                                  "\ufeffa\n\ufeffb c"])
def test_lines_are_read_without_blanks_marks_and_other_line_ends(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert files.read_lines(tmp_path / "a.txt") == ["a", "b c"]


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea", None])
def test_what_is_no_text_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt: cannot be read as text"):
        files.read_text(tmp_path / "a.txt")
