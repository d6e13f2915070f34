"""Bytes that would hurt further in are refused at the door, and nothing else is."""

import json
import time

import pytest

from apps.core.doors import check_text, read_json
from apps.core.errors import Malformed

QUICKLY_SECONDS = 0.5


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, -3, true, false, null, "x"]}', {"a": [1, 2.5, -3, True, False, None, "x"]}),
        (b'"\\ud83d\\ude00"', "😀"),
        ("ü 😀 \u2028".join('""').encode(), "ü 😀 \u2028"),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1e308", 1e308),
        (b"0.1", 0.1),
        (b'" \\\\u0000 "', " \\u0000 "),
        (b"[" * 64 + b"]" * 64, None),
        (b"[" + b"[]," * 500 + b"[]]", None),
        (b"  {}  ", {}),
    ],
)  # fmt: skip
def test_ordinary_json_is_read(body, value):
    parsed = read_json(body)

    assert value is None or parsed == value


@pytest.mark.parametrize("value", ["1", "{}", '""', '{"a": 1}', "1.5"])
def test_json_with_too_many_values_is_refused_before_it_is_parsed(value):
    body = f"[{', '.join([value] * 150_000)}]".encode()

    began = time.process_time()
    with pytest.raises(Malformed):
        read_json(body)

    assert time.process_time() - began < QUICKLY_SECONDS


@pytest.mark.parametrize("text", ["a, b" * 500_000, '", ' * 500_000, "\\," * 500_000])
def test_a_long_text_may_hold_as_many_commas_as_it_likes(text):
    assert read_json(json.dumps({"text": text}).encode()) == {"text": text}


@pytest.mark.parametrize("body", [b'"\\,' * 1_000_000, b'["' + b'\\",' * 1_000_000, b'"' + b"\\," * 1_400_000])
def test_strings_that_never_end_are_refused_quickly(body):
    began = time.process_time()
    with pytest.raises(Malformed):
        read_json(body)

    assert time.process_time() - began < QUICKLY_SECONDS


@pytest.mark.parametrize("depth", [65, 66, 1_000, 100_000])
@pytest.mark.parametrize("kind", ["list", "object", "mixed", "hidden"])
def test_json_that_is_nested_too_deep_is_refused(depth, kind):
    opening, closing = {
        "list": ("[", "]"), "object": ('{"a":', "}"), "mixed": ('[{"a":', "}]"), "hidden": ('{"a": 1, "b": [1, ', "]}"),
    }[kind]  # fmt: skip

    with pytest.raises(Malformed):
        read_json((opening * depth + "1" + closing * depth).encode())


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_nesting_that_never_closes_is_refused(depth):
    with pytest.raises(Malformed):
        read_json(b"[" * depth)


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 5_000, "-" + "1" * 5_000, "0." + "1" * 5_000,
     "1e1000000000", "9223372036854775808", "-9223372036854775809", "1e309", "1E+4000", "0x10", "01", "+1", ".5", "1."],
)  # fmt: skip
@pytest.mark.parametrize("place", ["{}", "[{}]", '{{"a": {}}}', '{{"a": [1, {{"b": {}}}]}}'])
def test_numbers_that_no_database_or_reader_holds_are_refused(number, place):
    with pytest.raises(Malformed):
        read_json(place.format(number).encode())


@pytest.mark.parametrize(
    "body",
    [
        b'"a\\u0000b"', b'{"a\\u0000": 1}', b'{"a": ["\\u0000"]}', b'"a\x00b"', b"\x00",
        b'{"a": {"b": {"\\u0000": 1}}}',
        b'"\\ud800"', b'"\\udfff x"', b'"\\ude00\\ud83d"', b'{"\\ud800": 1}', b'[["\\uDBFF"]]', b'"\\ud800\\u0041"',
    ],
)  # fmt: skip
def test_nul_and_half_surrogate_pairs_are_refused_anywhere(body):
    with pytest.raises(Malformed):
        read_json(body)


@pytest.mark.parametrize(
    "body", [b'"\xed\xa0\x80"', b'"\xff"', b'"\xc3\x28"', b'"\xf0\x9f\x98"', b'"\xc0\x80"', b'"caf\xe9"']
)
def test_bytes_that_are_not_utf_8_are_refused(body):
    with pytest.raises(Malformed):
        read_json(body)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(encoding):
    with pytest.raises(Malformed):
        read_json('{"name": "ümlaut +"}'.encode(encoding))


@pytest.mark.parametrize(
    "body",
    [b'{"org": "a", "org": "b"}', b'{"a": {"role": 1, "role": 1}}', b'[{"a": 1, "\\u0061": 2}]'],
)  # fmt: skip
def test_a_name_given_twice_in_one_object_is_refused(body):
    with pytest.raises(Malformed):
        read_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"{}{}",
        b"{'a': 1}",
        b"[1,]",
        b"nul",
        b"// x\n1",
        b'{"a" 1}',
        b"undefined",
        b'"\x01"',
        b'"a\nb"',
    ],
)
def test_what_is_no_json_is_refused(body):
    with pytest.raises(Malformed):
        read_json(body)


def test_a_refusal_does_not_repeat_what_was_sent():
    with pytest.raises(Malformed) as refused:
        read_json(b'{"password": "hunter2hunter2", "a": NaN, "password": 1}')

    assert "hunter2" not in refused.value.message


def test_texts_are_checked_wherever_they_are():
    check_text({"a": ["fine", {"b": "ü"}], "c": (1, None)})

    for value in ("\x00", ["\ud800"], {"a": {"b": ["\udfff"]}}, {"\x00": 1}, ("\x00",)):
        with pytest.raises(Malformed):
            check_text(value)
