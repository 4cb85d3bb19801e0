"""Text in any encoding that can be determined, and an error on one line otherwise."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdetr.errors import ConfigError, DatasetError
from rtdetr.text_files import decode_text, read_json, read_text

MARKED = {
    "utf-8-sig": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def encoded(text, encoding):
    return text.encode(encoding) if encoding == "utf-8-sig" else MARKED[encoding] + text.encode(encoding)


def decoded(content, **options):
    return decode_text(content, source="a.txt", error=DatasetError, **options)


TEXTS = ["", "0", "0 0.5 0.5 1 1\r\n1 0.5 0.5 1 1\r", "名前: [猫, 犬]\n", "кот\nпёс\n", "\U0001f431\n", "a\u2028b"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_decides(text, encoding):
    assert decoded(encoded(text, encoding)) == text
    assert decoded(encoded(text, encoding), declared="latin-1") == text


@pytest.mark.parametrize("text", TEXTS)
def test_utf8_without_a_mark(text):
    assert decoded(text.encode()) == text


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["0 0.5 0.5 1 1", "0 0.5 0.5 1 1\r\n", "ab", "names: [猫, 犬]\n", "кот\nпёс\n", "汽车\n行人\n"]
)
def test_utf16_without_a_mark_if_unambiguous(text, order):
    assert decoded(text.encode(order)) == text


UNCERTAIN = {
    "Latin-1": ("été".encode("latin-1"), "tried UTF-8, but byte 1 in line 1 is invalid"),
    "line": (b"a\r\nb\r\n\xe9", "tried UTF-8, but byte 7 in line 3 is invalid"),
    "GBK": ("汽车".encode("gbk"), "tried UTF-8, but"),
    "cut": ("猫".encode()[:2], "tried UTF-8, but"),
    "half of UTF-16": (
        codecs.BOM_UTF16_LE + b"a\0b",
        "tried UTF-16-LE (its byte-order mark), but byte 5 in line 1 ",
    ),
    "mark of UTF-8": (codecs.BOM_UTF8 + b"a\xff", "tried UTF-8 (its byte-order mark), but byte 5"),
    "zero byte": (b"train/a.png\0\n", "got zero bytes; tried UTF-8 and UTF-16"),
    "zero bytes in even places": (b"abc\0def\0", "got zero bytes"),
    "zeros": (b"\0\0\0\0", "got zero bytes"),
    "zero behind a mark": (codecs.BOM_UTF8 + b"a\0", "got zero bytes; tried UTF-8"),
    "one letter that may be another": ("一".encode("utf-16-le"), "got zero bytes"),
    "two readings": ("猫\n".encode("utf-16-le"), "got zero bytes"),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_ambiguous_text_is_refused_with_file_and_encoding(case):
    content, problem = UNCERTAIN[case]
    with pytest.raises(DatasetError) as caught:
        decoded(content)
    message = str(caught.value)
    assert message.startswith("a.txt: expected text") and problem in message and "\n" not in message
    assert message.endswith("Save the file as UTF-8")


def test_a_declared_encoding_counts_without_a_mark():
    assert decoded("été".encode("latin-1"), declared="latin-1") == "été"
    assert decoded("猫".encode("gb18030"), declared="gb18030") == "猫"
    assert decoded("ab".encode("utf-16-le"), declared="latin-1") == "ab"
    with pytest.raises(DatasetError, match=r"tried GB18030 \(the encoding it declares\), but byte 1"):
        decoded(b"\xff\xff", declared="gb18030")


def test_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"a\r\nb\rc")
    assert read_text(tmp_path / "a.txt", what="list", error=ConfigError).splitlines() == ["a", "b", "c"]
    assert read_text(str(tmp_path / "a.txt"), what="list", error=ConfigError) == "a\r\nb\rc"
    for path, reason in ((tmp_path / "b.txt", "No such file"), (tmp_path, "Is a directory"), ("a\0b", "null byte")):
        with pytest.raises(ConfigError, match=f"^cannot read the list .*{reason}"):
            read_text(path, what="list", error=ConfigError)


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=24)
    | st.lists(st.sampled_from([b"\0", b"a", b"\n", b"\xe9", b"0", *MARKED.values()]), max_size=12).map(b"".join),
    declared=st.sampled_from([None, "latin-1", "gb18030", "shift_jis"]),
)
def test_any_bytes_are_read_or_refused(content, declared):
    message = ""
    try:
        text = decoded(content, declared=declared)
    except DatasetError as caught:
        message = str(caught)
    assert "\n" not in message
    if message:
        return
    assert "\0" not in text
    assert any(
        text.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
    ) or (declared is not None and text.encode(declared) in content)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=20))
def test_any_text_is_read_back(text):
    assert decoded(text.encode()) == text
    for encoding in MARKED:
        assert decoded(encoded(text, encoding)) == text


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.text("0123456789.,- eé猫\r\n", max_size=12), max_size=4),
    order=st.sampled_from(["utf-16-le", "utf-16-be"]),
)
def test_text_in_utf16_without_a_mark_is_never_read_as_another(rows, order):
    text = "\n".join([*rows, ""])  # without any line end, or other zero byte, Chinese may be taken for UTF-8
    try:
        assert decoded(text.encode(order)) == text
    except DatasetError:
        assert not text.isascii() or text == "\n"


def test_json_is_read_or_refused_with_the_file(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(codecs.BOM_UTF8 + b'{"a": [1]}')
    assert read_json(file, what="record", error=ConfigError) == {"a": [1]}
    for content in (b"{", b"[" * 200_000):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.json contains invalid JSON"):
            read_json(file, what="record", error=ConfigError)
    with pytest.raises(ConfigError, match="cannot read the record"):
        read_json(tmp_path / "absent.json", what="record", error=ConfigError)
